"""Each learning algorithm against its closed form, on networks that see single pixels."""

import copy
import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from verglas.batch import Labelled, Unlabelled
from verglas.errors import InputError
from verglas.losses import Loss, bce, bernoulli_entropy, ge_binomial, masked_mean, non_negative_pu
from verglas.ssl import Algorithm, make_algorithm
from verglas.ssl._base import Consistent, belief_of, ramp, together
from verglas.ssl.fixmatch import MASKS, FixMatch, disagreement, kept
from verglas.ssl.mean_teacher import MeanTeacher
from verglas.ssl.pu import RISKS, PositiveUnlabelled
from verglas.ssl.self_training import SelfTraining
from verglas.ssl.soft_teacher import SoftTeacher
from verglas.ssl.thresholds import MEMORY, Fixed, Quantile
from verglas.ssl.unimatch import UniMatch

B, SIDE = 3, 12

STUDENT, TEACHER = (-2.0, -2.0), (-3.0, -2.5)
"""Slope and bias."""


class Pixelwise(nn.Module):
    """A network that sees one pixel at a time: dark is a particle."""

    def __init__(self, slope: float, bias: float) -> None:
        super().__init__()
        self.slope, self.bias = nn.Parameter(torch.tensor(slope)), nn.Parameter(torch.tensor(bias))

    def forward(self, image: Tensor) -> Tensor:
        return self.decode(self.encode(image))

    def encode(self, image: Tensor) -> list[Tensor]:
        return [image]

    def decode(self, features: list[Tensor]) -> Tensor:
        return self.slope * features[0] + self.bias


class Channels(nn.Module):
    """A network with two levels of features, which keeps those it was last asked to decode."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first, self.second, self.head = nn.Conv2d(1, 32, 1), nn.Conv2d(32, 48, 1), nn.Conv2d(80, 1, 1)
        self.decoded: list[Tensor] = []

    def forward(self, image: Tensor) -> Tensor:
        return self.decode(self.encode(image))

    def encode(self, image: Tensor) -> list[Tensor]:
        fine = self.first(image)
        return [fine, self.second(functional.avg_pool2d(fine, 2))]

    def decode(self, features: list[Tensor]) -> Tensor:
        self.decoded = [level.detach() for level in features]
        fine, coarse = features
        return self.head(torch.cat([fine, functional.interpolate(coarse, scale_factor=2.0)], 1))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def scene(seed: int) -> tuple[Tensor, Tensor]:
    """Dark squares in noise, and where they are."""
    generator = seeded(seed)
    target = torch.zeros(B, 1, SIDE, SIDE)
    for tile in target:
        row, column = torch.randint(0, SIDE - 4, (2,), generator=generator).tolist()
        tile[0, row : row + 4, column : column + 4] = 1
    return 0.5 * torch.randn(target.shape, generator=generator) - 2 * target, target


def labelled(seed: int = 0) -> Labelled:
    image, target = scene(seed)
    known = torch.rand(target.shape, generator=seeded(seed)) < 0.8
    return Labelled(image, target, known, torch.zeros_like(known))


def clicked(seed: int = 0) -> Labelled:
    """Tiles of which half of the particle is labelled, and all else unlabelled."""
    image, target = scene(seed)
    click = target * (torch.arange(SIDE) % 2)
    valid = torch.rand(target.shape, generator=seeded(seed)) < 0.9
    return Labelled(image, click, valid & (click == 1), valid & (click == 0))


def unlabelled(views: int = 1, seed: int = 50, *, noise: float = 0.3, mix: float = 0.3) -> Unlabelled:
    """Tiles and strong views; of each view its own share ``mix`` is mixed."""
    weak, _ = scene(seed)
    generator = seeded(seed)
    strong = weak + noise * torch.randn(views, *weak.shape, generator=generator)
    mixed = torch.rand(strong.shape, generator=generator) < mix
    valid = torch.rand(weak.shape, generator=generator) < 0.7
    return Unlabelled(weak, torch.where(mixed, strong.roll(1, 1), strong), valid, mixed)


def term(algorithm: Algorithm, second: Unlabelled, student: nn.Module, teacher: nn.Module) -> Tensor:
    """Return what unlabelled tiles add to the loss at the end of the ramp."""
    first = labelled()
    learn = algorithm.loss(student(first.image), first.target, first.known)
    return algorithm.step(student, teacher, first, second, 1.0).loss - learn


def models() -> tuple[Pixelwise, Pixelwise]:
    return Pixelwise(*STUDENT), Pixelwise(*TEACHER)


# --- parts that algorithms share ---


@pytest.mark.parametrize(("progress", "factor"), [(0.0, math.exp(-5)), (0.15, math.exp(-1.25)), (0.3, 1), (0.9, 1)])
def test_the_ramp_is_its_formula(progress: float, factor: float) -> None:
    assert ramp(progress, 0.3) == pytest.approx(factor)


def test_the_ramp_rises_and_without_one_the_weight_is_full_from_the_start() -> None:
    values = [ramp(k / 100, 1.0) for k in range(101)]
    assert all(low < high for low, high in itertools.pairwise(values))
    assert values[-1] == 1
    assert ramp(0.0, 0.0) == 1


def test_a_belief_has_no_graph_and_single_precision() -> None:
    image = labelled().image.requires_grad_()
    belief = belief_of(Pixelwise(*TEACHER).bfloat16(), image.bfloat16())
    assert not belief.requires_grad
    assert belief.dtype == torch.float32
    assert 0 < belief.min() < belief.max() < 1


def test_labels_and_views_go_through_the_student_in_one_pass() -> None:
    first, second, passes = labelled(), unlabelled(3), []

    class Counting(Pixelwise):
        def encode(self, image: Tensor) -> list[Tensor]:
            passes.append(len(image))
            return super().encode(image)

    logits, views = together(Counting(1.0, 0.0), first, second.strong)
    assert passes == [4 * B]
    assert torch.equal(logits, first.image)
    assert torch.equal(views, second.strong)
    fewer = second.strong[:, :1]
    logits, views = together(Counting(1.0, 0.0), first, fewer)
    assert torch.equal(logits, first.image)
    assert torch.equal(views, fewer)


def test_disagreement_is_divided_by_all_valid_pixels() -> None:
    z, target = torch.tensor([1.0, -2.0, 0.5, 3.0]), torch.tensor([1.0, 0.0, 1.0, 0.0])
    weight, valid = torch.tensor([1.0, 0.5, 0.0, 0.0]), torch.tensor([True, True, True, False])
    expected = (functional.softplus(-z[0]) + 0.5 * functional.softplus(z[1])) / 3
    torch.testing.assert_close(disagreement(z, target, weight, valid), expected)
    assert disagreement(z, target, 0 * weight, ~valid & valid) == 0


def test_kept_says_which_share_counts_and_which_part_of_it_is_positive() -> None:
    target, weight = torch.tensor([1.0, 0.0, 1.0, 0.0]), torch.tensor([1.0, 0.5, 0.5, 0.0])
    seen = kept(target, weight, torch.ones(4, dtype=torch.bool))
    assert seen["kept"] == pytest.approx(0.5)
    assert seen["kept_positive"] == pytest.approx(0.75)


# --- mean teacher and soft teacher ---


@pytest.mark.parametrize("consistency", ["mse", "kl"])
def test_mean_teacher_is_its_formula(consistency: str) -> None:
    student, teacher = models()
    second, algorithm = unlabelled(), make_algorithm("mean_teacher", {"consistency": consistency}, Loss())
    p, q = (student(second.strong[0]).sigmoid(), teacher(second.weak).sigmoid())
    total, count = 0.0, 0
    for tile in range(B):
        for row in range(SIDE):
            for column in range(SIDE):
                at = tile, 0, row, column
                shown = ((tile - 1) % B, 0, row, column) if second.mixed[0][at] else at
                if not second.valid[shown]:
                    continue
                a, b, count = p[at].item(), q[shown].item(), count + 1
                if consistency == "mse":
                    total += (a - b) ** 2
                else:
                    total += b * math.log(b / a) + (1 - b) * math.log((1 - b) / (1 - a))
    expected = {"mse": 10.0, "kl": 1.0}[consistency] * total / count
    assert term(algorithm, second, student, teacher).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("mix", [0.0, 0.4])
def test_a_strong_view_that_says_what_the_teacher_says_costs_mean_teacher_nothing(mix: float) -> None:
    second, model = unlabelled(noise=0.0, mix=mix), Pixelwise(*TEACHER)
    for consistency, most in (("mse", 0.0), ("kl", 1e-6)):
        algorithm = MeanTeacher(Loss(), consistency=consistency)
        assert algorithm.step(model, model, labelled(), second, 1.0).watch["unsupervised"].abs() <= most
        gradients = torch.autograd.grad(term(algorithm, second, model, model), list(model.parameters()))
        assert all(gradient.abs() < 1e-6 for gradient in gradients)


def test_mean_teacher_pulls_the_student_towards_the_teacher() -> None:
    teacher, second = Pixelwise(*TEACHER), unlabelled(noise=0.0)
    for bias, sign in ((TEACHER[1] - 1, -1), (TEACHER[1] + 1, 1)):
        for consistency in ("mse", "kl"):
            student = Pixelwise(TEACHER[0], bias)
            algorithm = MeanTeacher(Loss(), consistency=consistency)
            (gradient,) = torch.autograd.grad(term(algorithm, second, student, teacher), [student.bias])
            assert gradient.sign() == sign


def test_mean_teacher_weighs_squares_ten_times_unless_told_otherwise() -> None:
    assert MeanTeacher(Loss()).weight == MeanTeacher(Loss(), consistency="mse").weight == 10
    assert MeanTeacher(Loss(), consistency="kl").weight == 1
    assert MeanTeacher(Loss(), weight=3.0).weight == 3
    assert MeanTeacher(Loss(), consistency="kl", weight=0.0).weight == 0


def test_soft_teacher_is_the_loss_of_labels_with_soft_targets() -> None:
    student, teacher = models()
    second, loss = unlabelled(), Loss(focal=0.5, dice=0.7)
    belief, valid = second.seen(teacher(second.weak).sigmoid())[0], second.seen(second.valid)[0]
    result = SoftTeacher(loss).step(student, teacher, labelled(), second, 1.0)
    torch.testing.assert_close(result.watch["unsupervised"], loss(student(second.strong[0]), belief, valid).detach())


def test_an_echo_does_not_move_a_student_of_the_soft_teacher() -> None:
    """Cross-entropy with a belief as target is least at that belief."""
    model, second = Pixelwise(*TEACHER), unlabelled(noise=0.0)
    algorithm = SoftTeacher(Loss(dice=0.0))
    result = algorithm.step(model, model, labelled(), second, 1.0)
    for gradient in torch.autograd.grad(term(algorithm, second, model, model), list(model.parameters())):
        assert gradient.abs() < 1e-6
    valid = second.seen(second.valid)
    entropy = bernoulli_entropy(second.seen(model(second.weak).sigmoid()))[valid].mean()
    torch.testing.assert_close(result.watch["unsupervised"], entropy.detach())


@pytest.mark.parametrize("name", ["mean_teacher", "soft_teacher"])
def test_a_soft_pseudo_label_is_the_belief(name: str) -> None:
    belief = torch.linspace(0, 1, 11)
    target, weight = make_algorithm(name, {}, Loss()).pseudo_label(belief)
    assert torch.equal(target, belief)
    assert (weight == 1).all()


# --- pseudo-labels ---


def pseudo_labelling() -> dict[str, Callable[[], Consistent]]:
    made: dict[str, Callable[[], Consistent]] = {
        f"fixmatch {mask}": lambda mask=mask: FixMatch(Loss(), mask=mask) for mask in MASKS
    }
    return made | {
        "unimatch": lambda: UniMatch(Loss(), dropout=0.0),
    }


every_pseudo_labelling = pytest.mark.parametrize("make", pseudo_labelling().values(), ids=pseudo_labelling().keys())


@every_pseudo_labelling
def test_the_labels_learned_are_those_the_audit_is_shown(make: Callable[[], Consistent]) -> None:
    student, teacher = models()
    algorithm = make()
    second = unlabelled(algorithm.strong_views)
    result = algorithm.step(student, teacher, labelled(), second, 1.0)
    target, weight = algorithm.pseudo_label(teacher(second.weak).detach().sigmoid())
    weight = weight * second.valid
    apart = bce(student(second.strong), second.seen(target)) * second.seen(weight)
    expected = apart.sum() / second.seen(second.valid).sum()
    if algorithm.name == "unimatch":
        expected = (expected + (bce(student(second.weak), target) * weight).sum() / second.valid.sum()) / 2
    torch.testing.assert_close(result.watch["unsupervised"], expected.detach())
    torch.testing.assert_close(result.watch["kept"], weight.sum() / second.valid.sum())
    torch.testing.assert_close(result.watch["kept_positive"], (target * weight).sum() / weight.sum())
    assert 0 < result.watch["kept_positive"] < 0.5


@every_pseudo_labelling
@pytest.mark.parametrize("mix", [0.0, 0.4])
def test_an_echo_is_told_exactly_what_it_said(make: Callable[[], Consistent], mix: float) -> None:
    """Views that say what the teacher says are held to its own words: each pixel to the likelier class there."""
    model, algorithm = Pixelwise(*TEACHER), make()
    second = unlabelled(algorithm.strong_views, noise=0.0, mix=mix)
    result = algorithm.step(model, model, labelled(), second, 1.0)
    belief = model(second.weak).detach().sigmoid()
    target, weight = algorithm.pseudo_label(belief)
    off = torch.where(target == 1, 1 - belief, belief)  # the probability of the other class
    each = -torch.log1p(-off) * weight * second.valid
    valid = second.seen(second.valid)
    expected = second.seen(each).sum() / valid.sum()
    if algorithm.name == "unimatch":
        expected = (expected + each.sum() / second.valid.sum()) / 2
    torch.testing.assert_close(result.watch["unsupervised"], expected)


@pytest.mark.parametrize("mask", ["fixed", "none", "weighted", "free", "soft"])
def test_an_echo_is_never_contradicted(mask: str) -> None:
    model, second = Pixelwise(*TEACHER), unlabelled(noise=0.0)
    algorithm = FixMatch(Loss(), mask=mask)
    assert algorithm.step(model, model, labelled(), second, 1.0).watch["unsupervised"] < math.log(2)
    belief = model(second.weak).detach().sigmoid()
    target, weight = algorithm.pseudo_label(belief)
    assert torch.equal(target, belief.round())
    assert (weight > 0).any()


@every_pseudo_labelling
def test_valid_pixels_that_do_not_count_dilute_the_term(make: Callable[[], Consistent]) -> None:
    """Twice the valid area, of which one half is not kept, halves the term: few sure pixels must not shout."""
    student, teacher = models()
    algorithm = make()
    algorithm.mask = Fixed(0.95)
    second = unlabelled(algorithm.strong_views, mix=0.0)
    unsure = 2.5 / -3.0  # where the teacher says a half
    half = torch.zeros_like(second.valid)
    half[..., : SIDE // 2] = True
    given = replace(second, weak=torch.where(half, second.weak, unsure), valid=half)
    doubled = replace(given, valid=torch.ones_like(half))
    before, after = (
        copy.deepcopy(algorithm).step(student, teacher, labelled(), each, 1.0).watch for each in (given, doubled)
    )
    torch.testing.assert_close(after["unsupervised"], before["unsupervised"] / 2)
    torch.testing.assert_close(after["kept"], before["kept"] / 2)
    torch.testing.assert_close(after["kept_positive"], before["kept_positive"])
    assert before["unsupervised"] > 0


@pytest.mark.parametrize("threshold", [0.6, 0.95])
def test_fixmatch_with_a_fixed_threshold_is_its_formula(threshold: float) -> None:
    student, teacher = models()
    second = unlabelled()
    algorithm = FixMatch(Loss(), mask="fixed", threshold=threshold)
    p, q = student(second.strong[0]).sigmoid(), second.seen(teacher(second.weak).sigmoid())[0]
    valid = second.seen(second.valid)[0]
    sure = torch.maximum(q, 1 - q) >= threshold
    expected = -torch.where(q >= 0.5, p.log(), (1 - p).log())[valid & sure].sum() / valid.sum()
    assert 0 < (valid & sure).sum() < valid.sum()
    torch.testing.assert_close(term(algorithm, second, student, teacher), expected)


def test_fixmatch_without_a_mask_is_one_whose_threshold_all_reach() -> None:
    student, teacher = models()
    losses = [
        FixMatch(Loss(), **options).step(student, teacher, labelled(), unlabelled(), 0.7).loss
        for options in ({"mask": "none"}, {"mask": "fixed", "threshold": 0.5}, {"mask": "fixed", "threshold": 0.3})
    ]
    assert losses[0] == losses[1] == losses[2]
    stricter = FixMatch(Loss(), mask="fixed", threshold=0.9)
    assert stricter.step(student, teacher, labelled(), unlabelled(), 0.7).loss < losses[0]


def test_the_prior_is_the_running_share_of_positives_among_labels() -> None:
    algorithm, teacher = FixMatch(Loss()), Pixelwise(*TEACHER)

    def share(first: Labelled) -> Tensor:
        return first.target[first.known].mean()

    expected = share(labelled(0))
    for step in range(3):
        algorithm.step(Pixelwise(*STUDENT), teacher, labelled(step), unlabelled(), 1.0)
        expected = MEMORY * expected + (1 - MEMORY) * share(labelled(step))
        torch.testing.assert_close(algorithm.prior, expected)
    fewer = replace(labelled(3), target=torch.zeros(B, 1, SIDE, SIDE))
    algorithm.step(Pixelwise(*STUDENT), teacher, fewer, unlabelled(), 1.0)
    torch.testing.assert_close(algorithm.prior, MEMORY * expected)


def test_the_quantile_mask_labels_in_the_proportion_of_the_labels() -> None:
    """On beliefs that no fixed threshold would call a particle."""
    first, second = labelled(), unlabelled(mix=0.0)
    everywhere = torch.ones_like(second.valid)
    student, timid = Pixelwise(*STUDENT), Pixelwise(-1.0, -4.0)
    assert timid(second.weak).sigmoid().max() < 0.5
    algorithm = FixMatch(Loss(), share=0.5)
    seen = algorithm.step(student, timid, first, replace(second, valid=everywhere), 1.0).watch
    assert seen["kept"] == pytest.approx(0.5, abs=0.02)
    assert seen["kept_positive"] == pytest.approx(algorithm.prior.item(), abs=0.02)


@pytest.mark.parametrize("name", ["fixmatch", "unimatch"])
def test_the_share_starts_at_a_fifth_and_ends_at_the_one_asked_for(name: str) -> None:
    algorithm = make_algorithm(name, {"share": 0.7}, Loss())
    second = replace(unlabelled(algorithm.strong_views), valid=torch.ones(B, 1, SIDE, SIDE, dtype=torch.bool))
    for progress, share in ((0.0, 0.2), (0.25, 0.45), (0.5, 0.7), (1.0, 0.7)):
        seen = algorithm.step(*models(), labelled(), second, progress).watch
        assert seen["kept"] == pytest.approx(share, abs=0.03)
    assert make_algorithm(name, {"share": 0.1}, Loss()).mask.first == 0.1


def test_self_training_learns_what_comes_with_the_tiles_and_asks_nobody() -> None:
    second, (student, _) = unlabelled(), models()
    belief = torch.rand(second.valid.shape, generator=torch.Generator().manual_seed(7))
    step = SelfTraining(Loss()).step(student, None, labelled(), replace(second, belief=belief), 0.0)
    _, views = together(student, labelled(), second.strong)
    expected = masked_mean(bce(views, second.seen(belief)), second.seen(second.valid))
    torch.testing.assert_close(step.watch["unsupervised"], expected.detach())
    assert step.watch["weight"] == 1


def test_self_training_asks_for_picks_and_its_rounds() -> None:
    assert SelfTraining.teacher == "picks"
    assert SelfTraining(Loss()).rounds == 1
    assert SelfTraining(Loss(), rounds=5).rounds == 5


@every_pseudo_labelling
def test_beliefs_that_are_constant_teach_nothing_by_quantiles(make: Callable[[], Consistent]) -> None:
    algorithm = make()
    second = unlabelled(algorithm.strong_views)
    constant = replace(second, weak=torch.full_like(second.weak, -1.0))
    seen = algorithm.step(*models(), labelled(), constant, 1.0).watch
    assert all(value.isfinite() for value in seen.values())
    if isinstance(algorithm.mask, Quantile):
        assert seen["kept"] == seen["unsupervised"] == 0


# --- UniMatch ---


def dropped(algorithm: UniMatch, student: Channels, second: Unlabelled) -> list[tuple[Tensor, Tensor]]:
    """Return of a step what was decoded last, the weak view, level by level, and what was encoded."""
    algorithm.step(student, Pixelwise(*TEACHER), labelled(), second, 1.0)
    decoded = [level[-B:] for level in student.decoded]
    return list(zip(decoded, [level.detach() for level in student.encode(second.weak)], strict=True))


def test_half_of_unimatch_comes_from_strong_views_and_half_from_dropped_features() -> None:
    student, teacher = Channels(), Pixelwise(*TEACHER)
    algorithm, second = UniMatch(Loss(), dropout=0.5), unlabelled(2)
    result = algorithm.step(student, teacher, labelled(), second, 1.0)
    logits = student.decode([level[-B:] for level in student.decoded])
    views = torch.stack([student(view) for view in second.strong])
    target, weight = algorithm.pseudo_label(teacher(second.weak).detach().sigmoid())
    weight = weight * second.valid
    strong = (bce(views, second.seen(target)) * second.seen(weight)).sum() / second.seen(second.valid).sum()
    fed = (bce(logits, target) * weight).sum() / second.valid.sum()
    torch.testing.assert_close(result.watch["unsupervised"], 0.5 * (strong + fed).detach())
    assert (fed - (bce(student(second.weak), target) * weight).sum() / second.valid.sum()).abs() > 1e-4


def test_unimatch_drops_whole_channels_at_every_level() -> None:
    for level, encoded in dropped(UniMatch(Loss(), dropout=0.5), Channels(), unlabelled(2)):
        stays = (level != 0).flatten(2).any(2)
        torch.testing.assert_close(level, 2 * encoded * stays[:, :, None, None])
        assert 0.3 < stays.float().mean() < 0.7
        assert not torch.equal(stays[0], stays[1]), "each tile has its own"


@pytest.mark.parametrize("dropout", [0.1, 0.5, 0.9])
def test_dropped_features_keep_their_mean(dropout: float) -> None:
    algorithm, factors = UniMatch(Loss(), dropout=dropout), []
    for _ in range(20):
        level, encoded = dropped(algorithm, Channels(), unlabelled(2))[0]
        factors.append((level / encoded).mean())
    error = math.sqrt(dropout / (1 - dropout) / (20 * B * 32))
    assert torch.stack(factors).mean().item() == pytest.approx(1, abs=4 * error)


def test_unimatch_without_dropout_leaves_features_alone() -> None:
    for level, encoded in dropped(UniMatch(Loss(), dropout=0.0), Channels(), unlabelled(2)):
        torch.testing.assert_close(level, encoded)


def test_what_unimatch_drops_next_is_in_its_state() -> None:
    def drawn(algorithm: UniMatch) -> Tensor:
        return torch.cat(
            [(level != 0).flatten(2).any(2) for level, _ in dropped(algorithm, Channels(), unlabelled(2))], 1
        )

    torch.manual_seed(1)
    first, fresh = UniMatch(Loss()), UniMatch(Loss())
    one = drawn(first)
    state = copy.deepcopy(first.state_dict())
    went_on = [drawn(first), drawn(first)]
    torch.manual_seed(2)
    fresh.load_state_dict(state)
    resumed = [drawn(fresh), drawn(fresh)]
    assert all(torch.equal(a, b) for a, b in zip(went_on, resumed, strict=True))
    assert not torch.equal(one, went_on[0])
    assert not torch.equal(went_on[0], went_on[1])


def test_unimatch_neither_reads_nor_moves_the_global_randomness() -> None:
    losses = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        state = torch.random.get_rng_state()
        losses.append(UniMatch(Loss()).step(Channels(), Pixelwise(*TEACHER), labelled(), unlabelled(2), 1.0).loss)
        assert torch.equal(torch.random.get_rng_state(), state)
    assert losses[0] == losses[1]


# --- partial labels ---


def test_the_nnpu_risk_is_that_of_clicks_and_unlabelled_pixels() -> None:
    first, student = clicked(), Pixelwise(*STUDENT)
    result = PositiveUnlabelled(Loss(), risk="nnpu", prior=0.1).step(student, None, first, None, 0.5)
    expected = non_negative_pu(student(first.image), first.known, first.unseen, 0.1)
    torch.testing.assert_close(result.loss, expected)
    assert result.watch["risk"] == result.loss


def test_the_ge_binomial_risk_is_that_of_clicks_and_of_places_a_pitch_apart() -> None:
    first, student = clicked(), Pixelwise(*STUDENT)
    result = PositiveUnlabelled(Loss(), risk="ge_binomial", prior=0.1, slack=0.4, pitch=5).step(
        student, None, first, None, 0.5
    )
    logits = student(first.image)
    p = [logits[b, 0, i, j].sigmoid() for b in range(B) for i in (2, 7) for j in (2, 7) if first.unseen[b, 0, i, j]]
    expected = functional.softplus(-logits[first.known]).mean() + 0.4 * ge_binomial(torch.stack(p), 0.1)
    assert 0 < len(p) <= 4 * B
    torch.testing.assert_close(result.loss, expected)


def test_the_weighted_risk_is_the_loss_with_clicks_that_count_as_much_as_all_the_rest_times_the_balance() -> None:
    first, student = clicked(), Pixelwise(*STUDENT)
    algorithm = PositiveUnlabelled(Loss(), balance=0.4)
    result = algorithm.step(student, None, first, None, 0.5)
    some, n = first.known | first.unseen, int(first.known.sum())
    weight = 0.4 * int(first.unseen.sum()) / n
    expected = Loss(pos_weight=weight)(student(first.image), first.known.float(), some)
    torch.testing.assert_close(result.loss, expected)
    assert float(algorithm.clicked) == pytest.approx(n / int(some.sum()))


def test_the_share_of_clicks_is_remembered_over_batches_without_any() -> None:
    algorithm, none = PositiveUnlabelled(Loss()), torch.zeros(B, 1, SIDE, SIDE, dtype=torch.bool)
    algorithm.step(Pixelwise(*STUDENT), None, clicked(), None, 0.5)
    before = float(algorithm.clicked)
    algorithm.step(Pixelwise(*STUDENT), None, replace(clicked(), known=none), None, 0.5)
    assert float(algorithm.clicked) == pytest.approx(0.99 * before)


@pytest.mark.parametrize("risk", RISKS)
def test_complete_tiles_bear_the_loss_and_partial_ones_the_risk(risk: str) -> None:
    """A batch may hold both: micrographs of which all was labelled, and others."""
    student = Pixelwise(*STUDENT)
    whole, part = labelled(1), clicked(2)
    both = Labelled(*(torch.cat([getattr(whole, name), getattr(part, name)]) for name in type(whole).__slots__))

    def result(first: Labelled) -> Tensor:
        return PositiveUnlabelled(Loss(), risk=risk, pitch=4).step(student, None, first, None, 0.5).loss

    torch.testing.assert_close(result(both), result(whole) + result(part))
    assert result(whole) == Loss()(student(whole.image), whole.target, whole.known)


@pytest.mark.parametrize("risk", ["nnpu", "ge_binomial"])
def test_pixels_that_nobody_labelled_are_not_taken_for_background(risk: str) -> None:
    """Particles without a click: a model that finds them is better off than under the loss of complete labels."""
    first = clicked()
    finds, denies = Pixelwise(-6.0, -6.0), Pixelwise(0.0, -6.0)
    algorithm = PositiveUnlabelled(Loss(), risk=risk, prior=0.06, pitch=3)
    found, denied = (algorithm.step(model, None, first, None, 0.5).loss for model in (finds, denies))
    assert found < denied - 0.05


@pytest.mark.parametrize("risk", RISKS)
def test_labels_without_any_click_are_no_error(risk: str) -> None:
    first = replace(clicked(), known=torch.zeros(B, 1, SIDE, SIDE, dtype=torch.bool))
    student = Pixelwise(*STUDENT)
    loss = PositiveUnlabelled(Loss(), risk=risk, pitch=4).step(student, None, first, None, 0.5).loss
    assert loss.isfinite()
    assert all(g.isfinite() for g in torch.autograd.grad(loss, list(student.parameters())))


def test_a_pitch_beyond_the_tile_leaves_no_place_and_is_no_error() -> None:
    algorithm = PositiveUnlabelled(Loss(), risk="ge_binomial", pitch=100)
    loss = algorithm.step(Pixelwise(*STUDENT), None, clicked(), None, 0.5).loss
    likely = masked_mean(bce(Pixelwise(*STUDENT)(clicked().image), torch.ones(B, 1, SIDE, SIDE)), clicked().known)
    torch.testing.assert_close(loss, likely)


# --- options ---


@pytest.mark.parametrize(
    ("name", "options", "field"),
    [
        ("mean_teacher", {"weight": -1.0}, "weight"),
        ("mean_teacher", {"ramp_until": 1.5}, "ramp_until"),
        ("soft_teacher", {"cutmix": 1.2}, "cutmix"),
        ("fixmatch", {"share": 0.0}, "share"),
        ("fixmatch", {"mask": "fixed", "threshold": 1.01}, "threshold"),
        ("fixmatch", {"mask": "class", "positive": 0.4, "negative": 0.5}, "negative"),
        ("unimatch", {"dropout": 1.0}, "dropout"),
        ("self_training", {"rounds": 0}, "rounds"),
        ("pu", {"prior": 0.0}, "prior"),
        ("pu", {"pitch": 0}, "pitch"),
    ],
    ids=str,
)  # fmt: skip
def test_an_option_out_of_range_is_named(name: str, options: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError) as caught:
        make_algorithm(name, options, Loss())
    assert (caught.value.where, caught.value.field) == ("algorithm.options", field)
    assert caught.value.found == options[field]


def test_an_option_of_another_algorithm_is_refused_with_the_ones_there_are() -> None:
    with pytest.raises(InputError, match=r"option is threshold; expected one of \['weight', 'ramp_until', 'cutmix'\]"):
        make_algorithm("soft_teacher", {"threshold": 0.9}, Loss())
    with pytest.raises(InputError, match=r"option is weight; expected none\. supervised takes no options"):
        make_algorithm("supervised", {"weight": 1.0}, Loss())
