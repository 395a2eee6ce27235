"""What every learning algorithm promises. A new one is covered by its entry in ``ALGORITHMS``."""

import copy
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import jaxtyping
import pytest
import torch
from torch import Tensor, nn

from verglas.batch import Labelled, Unlabelled, mapped
from verglas.errors import InputError
from verglas.losses import Loss
from verglas.ssl import ALGORITHMS, Algorithm, Step, make_algorithm
from verglas.ssl._base import ramp

Kind = type[Algorithm]

SIDE = 16

OPTIONS: dict[str, list[dict[str, Any]]] = {
    "mean_teacher": [{"consistency": "kl"}],
    "fixmatch": [{"mask": mask} for mask in ("fixed", "class", "none", "weighted", "free", "soft")],
    "pu": [{"risk": "nnpu", "prior": 0.06}, {"risk": "ge_binomial", "prior": 0.06, "slack": 0.1, "pitch": 4}],
}
"""Choices besides the default ones that go through the same tests."""

NEEDED: dict[tuple[str, str], dict[str, Any]] = {
    ("fixmatch", "threshold"): {"mask": "fixed"},
    ("fixmatch", "positive"): {"mask": "class"},
    ("fixmatch", "negative"): {"mask": "class"},
    ("pu", "prior"): {"risk": "nnpu"},
    ("pu", "slack"): {"risk": "ge_binomial"},
    ("pu", "pitch"): {"risk": "ge_binomial"},
}
"""The choice that an option belongs to, where it is not the default one."""


@dataclass(frozen=True, slots=True)
class Case:
    """An algorithm with options, on complete labels or on labels that leave particles out."""

    kind: Kind
    options: Mapping[str, Any] = field(default_factory=dict)
    partial: bool = False

    def __str__(self) -> str:
        options = [str(value) for value in self.options.values()]
        return "-".join([self.kind.name, *options, *(["partial"] if self.partial else [])])

    def make(self, loss: Loss | None = None) -> Algorithm:
        return make_algorithm(self.kind.name, self.options, loss or Loss())

    def labelled(self, seed: int = 0) -> Labelled:
        image, target, clicked = scene(seed)
        looked = torch.rand(image.shape, generator=torch.Generator().manual_seed(seed)) < 0.8
        if self.partial:
            return Labelled(image, clicked, looked & (clicked == 1), looked & (clicked == 0))
        return Labelled(image, target, looked, torch.zeros_like(looked))

    def unlabelled(self, seed: int = 50) -> Unlabelled | None:
        v = self.kind.strong_views
        if not v:
            return None
        weak, _, _ = scene(seed)
        generator = torch.Generator().manual_seed(seed)
        strong = weak + 0.3 * torch.randn(v, *weak.shape, generator=generator)
        mixed = torch.rand(v, *weak.shape, generator=generator) < 0.3
        valid = torch.rand(weak.shape, generator=generator) < 0.8
        return Unlabelled(weak, torch.where(mixed, strong.roll(1, 1), strong), valid, mixed)

    def teacher(self) -> nn.Module | None:
        return None if self.kind.teacher == "none" else Pixelwise(-2.5, -2.5)

    def step(self, student: nn.Module, first: Labelled, second: Unlabelled | None, progress: float = 1.0) -> Step:
        return self.make().step(student, self.teacher(), first, second, progress)


DEFAULTS = [Case(kind) for kind in ALGORITHMS]
COMPLETE = DEFAULTS + [Case(kind, options) for kind in ALGORITHMS for options in OPTIONS.get(kind.name, [])]
ON_CLICKS = [case for case in COMPLETE if case.kind.partial and case.kind.teacher != "picks"]
"""Where picks teach, another algorithm has learned from the clicks before, and the labels are complete."""

CASES = COMPLETE + [replace(case, partial=True) for case in ON_CLICKS]
WITH_VIEWS = [case for case in CASES if case.kind.strong_views]

every_algorithm = pytest.mark.parametrize("kind", ALGORITHMS, ids=lambda kind: kind.name)
every_case = pytest.mark.parametrize("case", CASES, ids=str)
every_case_with_complete_labels = pytest.mark.parametrize("case", COMPLETE, ids=str)
every_case_with_views = pytest.mark.parametrize("case", WITH_VIEWS, ids=str)


class Pixelwise(nn.Module):
    """A network that sees one pixel at a time: dark is a particle."""

    def __init__(self, slope: float = -3.0, bias: float = -3.0) -> None:
        super().__init__()
        self.slope, self.bias = nn.Parameter(torch.tensor(slope)), nn.Parameter(torch.tensor(bias))

    def forward(self, image: Tensor) -> Tensor:
        return self.decode(self.encode(image))

    def encode(self, image: Tensor) -> list[Tensor]:
        return [image]

    def decode(self, features: list[Tensor]) -> Tensor:
        return self.slope * features[0] + self.bias


class Convolutional(nn.Module):
    """A network that sees five pixels across, the same at every start."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first, self.head = nn.Conv2d(1, 8, 5, padding=2), nn.Conv2d(8, 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        return self.decode(self.encode(image))

    def encode(self, image: Tensor) -> list[Tensor]:
        return [self.first(image).relu()]

    def decode(self, features: list[Tensor]) -> Tensor:
        return self.head(features[0])


class Normalised(Pixelwise):
    """The same behind batch normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1)

    def encode(self, image: Tensor) -> list[Tensor]:
        return [self.norm(image)]


class Halved(Pixelwise):
    """A network whose logits have half the usual precision, as under automatic mixed precision."""

    def decode(self, features: list[Tensor]) -> Tensor:
        return super().decode(features).bfloat16()


def scene(seed: int, b: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Dark squares in noise, where they are, and where the first of each tile is."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(b, 1, SIDE, SIDE, generator=generator)
    target, clicked = torch.zeros(b, 1, SIDE, SIDE), torch.zeros(b, 1, SIDE, SIDE)
    for tile, click in zip(target, clicked, strict=True):
        for n, (row, column) in enumerate(torch.randint(0, SIDE - 4, (2, 2), generator=generator).tolist()):
            place = 0, slice(row, row + 4), slice(column, column + 4)
            tile[place] = 1
            if n == 0:
                click[place] = 1
    return 0.5 * image - 2 * target, target, clicked


def gradients(loss: Tensor, student: nn.Module) -> list[Tensor]:
    found = torch.autograd.grad(loss, list(student.parameters()), allow_unused=True)
    return [torch.zeros(()) if g is None else g for g in found]


# --- the class ---


@every_algorithm
def test_its_name_is_that_of_its_file(kind: Kind) -> None:
    assert kind.__module__ == f"verglas.ssl.{kind.name}"


def test_names_differ() -> None:
    assert len({kind.name for kind in ALGORITHMS}) == len(ALGORITHMS)


@every_algorithm
def test_it_has_no_parameters_and_works_without_options(kind: Kind) -> None:
    assert list(kind(Loss()).parameters()) == []
    for name, option in inspect.signature(kind).parameters.items():
        assert name == "loss" or option.default is not inspect.Parameter.empty


@every_algorithm
def test_what_it_asks_of_the_trainer_is_in_bounds(kind: Kind) -> None:
    algorithm = kind(Loss())
    assert kind.teacher in ("none", "average", "picks")
    assert (kind.teacher == "none") == (kind.strong_views == 0), "views are for those who learn from a teacher"
    assert 0 <= algorithm.cutmix <= (1 if kind.strong_views else 0)
    assert algorithm.rounds >= 1
    assert algorithm.rounds == 1 or kind.teacher == "picks"


@every_algorithm
def test_it_is_made_by_name_and_takes_no_unknown_option(kind: Kind) -> None:
    assert type(make_algorithm(kind.name, {}, Loss())) is kind
    with pytest.raises(InputError, match=f"option is no_such_option.*{kind.name} takes"):
        make_algorithm(kind.name, {"no_such_option": 1}, Loss())
    with pytest.raises(InputError, match="option is loss;"):
        make_algorithm(kind.name, {"loss": Loss()}, Loss())


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(InputError, match="algorithm: name is 'magic'; expected one of supervised"):
        make_algorithm("magic", {}, Loss())


@every_algorithm
@pytest.mark.parametrize("fault", ["out of range", "of another kind"])
def test_an_option_that_cannot_be_is_refused_by_name(kind: Kind, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users meet it: nobody checks annotations
    for name, option in inspect.signature(kind).parameters.items():
        if name == "loss":
            continue
        if isinstance(option.default, str):
            faults = {"out of range": ["no such choice"], "of another kind": [7, ["fixed"]]}
        else:
            faults = {"out of range": [math.nan, -1.0, 1e6], "of another kind": ["much", [1.0]]}
            faults["of another kind"] += [1.5] if isinstance(option.default, int) else []
        for value in faults[fault]:
            with pytest.raises(InputError, match=rf"^algorithm\.options: {name} is"):
                make_algorithm(kind.name, {**NEEDED.get((kind.name, name), {}), name: value}, Loss())


@every_algorithm
def test_options_are_those_that_were_given(kind: Kind) -> None:
    for name, option in inspect.signature(kind).parameters.items():
        if isinstance(option.default, float) and name in vars(kind(Loss())):
            assert getattr(kind(Loss()), name) == option.default
            assert getattr(make_algorithm(kind.name, {name: 0.25}, Loss()), name) == 0.25


# --- a step ---


@every_case
def test_the_loss_is_a_finite_scalar_and_so_is_all_that_is_watched(case: Case) -> None:
    result = case.step(Pixelwise(), case.labelled(), case.unlabelled())
    for value in (result.loss, *result.watch.values()):
        assert value.shape == ()
        assert value.isfinite()
    assert result.watch
    assert not any(value.requires_grad for value in result.watch.values()), "watched numbers keep no graph"


@every_case
def test_the_loss_is_computed_in_single_precision(case: Case) -> None:
    for second in (None, case.unlabelled()):
        loss = case.step(Halved(), case.labelled(), second).loss
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, case.step(Pixelwise(), case.labelled(), second).loss, rtol=0.02, atol=0)


@every_case
def test_gradients_reach_the_student_only(case: Case) -> None:
    student, teacher = Pixelwise(), case.teacher()
    case.make().step(student, teacher, case.labelled(), case.unlabelled(), 1.0).loss.backward()
    assert all(parameter.grad is not None and parameter.grad != 0 for parameter in student.parameters())
    assert all(parameter.grad is None for parameter in (teacher.parameters() if teacher else ()))


@every_case_with_views
def test_unlabelled_tiles_teach_the_student_and_not_the_teacher(case: Case) -> None:
    student, teacher, first = Pixelwise(), Pixelwise(-2.5, -2.5), case.labelled()
    assert all(parameter.requires_grad for parameter in teacher.parameters())
    with_both = case.make().step(student, teacher, first, case.unlabelled(), 1.0)
    labels_only = case.make().step(student, teacher, first, None, 1.0)
    term = with_both.loss - labels_only.loss
    assert term > 0
    assert all(g.isfinite() and g.abs() > 1e-4 for g in gradients(term, student))
    assert torch.autograd.grad(with_both.loss, list(teacher.parameters()), allow_unused=True) == (None, None)


@every_case
def test_teacher_inputs_and_student_stay_as_they_are(case: Case) -> None:
    student, teacher = Pixelwise(), case.teacher()
    first, second = case.labelled(), case.unlabelled()
    given = [student, teacher, first, second]
    before = copy.deepcopy([everything(part) for part in given])
    case.make().step(student, teacher, first, second, 1.0).loss.backward()
    for one, other in zip(before, map(everything, given), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def everything(part: nn.Module | Labelled | Unlabelled | None) -> list[Tensor]:
    if part is None:
        return []
    if isinstance(part, nn.Module):
        return [tensor.detach() for tensor in part.state_dict().values()]
    return [value for name in type(part).__slots__ if (value := getattr(part, name)) is not None]


@every_case
def test_the_modes_of_student_and_teacher_stay_as_they_are(case: Case) -> None:
    for training in (True, False):
        student, teacher = Normalised().train(training), case.teacher() and Normalised().eval()
        case.make().step(student, teacher, case.labelled(), case.unlabelled(), 1.0)
        assert all(module.training == training for module in student.modules())
        assert teacher is None or not any(module.training for module in teacher.modules())


@every_case
def test_no_global_randomness_is_used(case: Case) -> None:
    state = torch.random.get_rng_state()
    case.step(Pixelwise(), case.labelled(), case.unlabelled())
    assert torch.equal(torch.random.get_rng_state(), state)


@every_case
def test_unknown_pixels_do_not_matter(case: Case) -> None:
    """A network that sees single pixels cannot tell what lies at unknown ones."""
    first, second = case.labelled(), case.unlabelled()
    used = first.known | first.unseen
    changed = Labelled(
        torch.where(used, first.image, 7.0),
        torch.where(first.known, first.target, 1 - first.target),
        first.known,
        first.unseen,
    )
    other = second and replace(
        second,
        weak=torch.where(second.valid, second.weak, 7.0),
        strong=torch.where(second.seen(second.valid), second.strong, -7.0),
    )
    one, two = (case.step(Pixelwise(), *batches).loss for batches in ((first, second), (changed, other)))
    torch.testing.assert_close(one, two)


@every_case
@pytest.mark.parametrize("empty", ["labels", "tiles", "both"])
def test_an_empty_mask_is_no_error(case: Case, empty: str) -> None:
    student, first, second = Pixelwise(), case.labelled(), case.unlabelled()
    nothing = torch.zeros_like(first.known)
    if empty != "tiles":
        first = replace(first, known=nothing, unseen=nothing)
    if empty != "labels" and second is not None:
        second = replace(second, valid=nothing)
    result = case.step(student, first, second)
    assert result.loss.isfinite()
    assert all(value.isfinite() for value in result.watch.values())
    assert all(gradient.isfinite() for gradient in gradients(result.loss, student))
    if empty == "both":
        assert all(gradient == 0 for gradient in gradients(case.step(student, first, second).loss, student))
    if empty == "tiles":
        torch.testing.assert_close(result.loss, case.step(student, first, None).loss)


@every_case
def test_labels_reach_the_loss(case: Case) -> None:
    """Where particle and background change places in the image, the labels contradict it."""
    first, second = case.labelled(), case.unlabelled()
    turned = replace(first, image=-2 - first.image)
    assert case.step(Pixelwise(), turned, second).loss > case.step(Pixelwise(), first, second).loss + 0.1


@every_case_with_complete_labels
def test_the_loss_given_is_the_loss_used(case: Case) -> None:
    one, two = (
        case.make(loss).step(Pixelwise(), case.teacher(), case.labelled(), case.unlabelled(), 1.0).loss
        for loss in (Loss(), Loss(bce=3.0, dice=0.0))
    )
    assert one != two


@every_case
def test_there_may_be_more_labelled_tiles_than_unlabelled_ones(case: Case) -> None:
    """A further tile of which nothing is known changes nothing."""
    first, second = case.labelled(), case.unlabelled()
    nothing = torch.zeros(1, 1, SIDE, SIDE, dtype=torch.bool)
    padding = {"image": 3.0 * ~nothing, "target": 1.0 * ~nothing, "known": nothing, "unseen": nothing}
    more = Labelled(**{name: torch.cat([getattr(first, name), value]) for name, value in padding.items()})
    one, two = (case.step(Pixelwise(), each, second) for each in (first, more))
    torch.testing.assert_close(one.loss, two.loss)
    for name, value in one.watch.items():
        torch.testing.assert_close(two.watch[name], value)


# --- against the supervised loss ---


@every_case_with_complete_labels
@pytest.mark.parametrize("progress", [0.0, 0.4, 1.0])
def test_without_unlabelled_tiles_it_is_the_supervised_loss_to_the_bit(case: Case, progress: float) -> None:
    first, student = case.labelled(), Pixelwise()
    loss = case.step(student, first, None, progress).loss
    expected = Loss()(student(first.image), first.target, first.known)
    assert torch.equal(loss, expected)
    for one, other in zip(gradients(loss, student), gradients(expected, student), strict=True):
        assert torch.equal(one, other)


@every_case_with_views
@pytest.mark.parametrize("progress", [0.0, 0.1, 0.3, 1.0])
def test_the_loss_is_that_of_labels_and_a_weighted_term(case: Case, progress: float) -> None:
    algorithm, first, student = case.make(), case.labelled(), Pixelwise()
    algorithm.trust.fill_(0.25)
    result = algorithm.step(student, case.teacher(), first, case.unlabelled(), progress)
    learn, agree, weight = (result.watch[name] for name in ("supervised", "unsupervised", "weight"))
    torch.testing.assert_close(learn, case.step(student, first, None).loss.detach())
    assert weight.item() == pytest.approx(0.25 * algorithm.weight * ramp(progress, algorithm.ramp_until))
    torch.testing.assert_close(result.loss.detach(), learn + weight * agree)
    assert agree > 0


@every_case_with_views
def test_trust_scales_the_unlabelled_term(case: Case) -> None:
    def loss(trust: float) -> tuple[Tensor, list[Tensor]]:
        algorithm, student = case.make(), Pixelwise()
        algorithm.load_state_dict(algorithm.state_dict() | {"trust": torch.tensor(trust)})
        value = algorithm.step(student, case.teacher(), case.labelled(), case.unlabelled(), 1.0).loss
        return value.detach(), gradients(value, student)

    (none, at_none), (half, at_half), (full, at_full) = map(loss, (0.0, 0.5, 1.0))
    labels_only = case.step(Pixelwise(), case.labelled(), None)
    torch.testing.assert_close(none, labels_only.loss.detach())
    torch.testing.assert_close(full - none, 2 * (half - none))
    for one, two, three in zip(at_none, at_half, at_full, strict=True):
        torch.testing.assert_close(three - one, 2 * (two - one))
    assert full > none


# --- views ---


@every_case_with_views
def test_every_strong_view_asked_for_reaches_the_loss(case: Case) -> None:
    second = case.unlabelled()
    assert second is not None
    strong = second.strong.clone().requires_grad_()
    case.step(Pixelwise(), case.labelled(), replace(second, strong=strong)).loss.backward()
    assert all((tile != 0).any() for view in strong.grad for tile in view)


@every_case_with_views
def test_a_mixed_pixel_is_held_to_the_tile_it_shows(case: Case) -> None:
    """Tiles mixed in the batch are worth as much as tiles that were cut and pasted before it was made."""
    second = case.unlabelled()
    assert second is not None
    same = replace(second, mixed=second.mixed[:1, :1].expand_as(second.mixed))  # in all: nothing is lost by mixing
    pasted = Unlabelled(same.seen(same.weak)[0], same.strong, same.seen(same.valid)[0], torch.zeros_like(same.mixed))
    forgotten = replace(pasted, weak=same.weak, valid=same.valid)
    options = {**case.options, "dropout": 0.0} if case.kind.name == "unimatch" else case.options
    still = replace(case, options=options)
    mixed, right, wrong = (still.step(Pixelwise(), case.labelled(), each).loss for each in (same, pasted, forgotten))
    torch.testing.assert_close(mixed, right)
    assert (mixed - wrong).abs() > 1e-3


@every_case_with_views
def test_the_order_of_unlabelled_tiles_does_not_matter(case: Case) -> None:
    second = case.unlabelled()
    assert second is not None
    options = {**case.options, "dropout": 0.0} if case.kind.name == "unimatch" else case.options
    still = replace(case, options=options)
    turned = mapped(second, lambda tensor: tensor.roll(1, -4))
    one, two = (still.step(Pixelwise(), case.labelled(), each).loss for each in (second, turned))
    torch.testing.assert_close(one, two)


# --- pseudo-labels ---


@every_case
def test_pseudo_labels_are_shares_and_auditing_them_changes_nothing(case: Case) -> None:
    algorithm = case.make()
    algorithm.step(Pixelwise(), case.teacher(), case.labelled(), case.unlabelled(), 1.0)
    before = copy.deepcopy(algorithm.state_dict())
    belief = torch.linspace(0, 1, 201)
    made = algorithm.pseudo_label(belief)
    assert made is None or case.kind.strong_views
    for part in made or ():
        assert part.shape == belief.shape
        assert part.dtype == belief.dtype
        assert 0 <= part.min() <= part.max() <= 1
    if made is not None:
        target, weight = made
        assert (target.diff() >= 0).all(), "a likelier particle is no less a positive"
        assert weight.max() > 0
    assert torch.equal(belief, torch.linspace(0, 1, 201))
    assert all(torch.equal(value, before[key]) for key, value in algorithm.state_dict().items())


# --- over a training ---


def train(case: Case, algorithm: Algorithm, student: nn.Module, steps: range, total: int = 60) -> list[float]:
    """Train with the teacher the algorithm asks for, here the student of the step before."""
    optimiser, losses = torch.optim.Adam(student.parameters(), lr=0.02), []
    for k in steps:
        teacher = None if case.kind.teacher == "none" else copy.deepcopy(student)
        result = algorithm.step(student, teacher, case.labelled(k), case.unlabelled(1000 + k), k / total)
        optimiser.zero_grad()
        result.loss.backward()
        optimiser.step()
        losses.append(result.loss.item())
    return losses


@every_case
def test_it_learns_the_toy_problem(case: Case) -> None:
    student = Convolutional()
    train(case, case.make(), student, range(60))
    image, target, _ = scene(9999, b=16)
    with torch.no_grad():
        logits = student(image)
    particle, background = logits[target == 1], logits[target == 0]
    assert (particle[:, None] > background[None, ::7]).float().mean() > 0.95
    assert torch.sigmoid(particle).mean() > 0.5 > 0.2 > torch.sigmoid(background).mean()


@every_case
def test_what_it_remembers_is_in_its_state(case: Case) -> None:
    """An algorithm restored from its state goes on like one that was not stopped."""

    def run(stop: Callable[[Algorithm], Algorithm]) -> list[float]:
        student, algorithm = Pixelwise(), case.make()
        return train(case, algorithm, student, range(5)) + train(case, stop(algorithm), student, range(5, 9))

    def restored(algorithm: Algorithm) -> Algorithm:
        fresh = case.make()
        fresh.load_state_dict(copy.deepcopy(algorithm.state_dict()))
        return fresh

    assert run(lambda algorithm: algorithm) == run(restored)


@every_case
@pytest.mark.parametrize("progress", [0.0, 0.5, 1.0])
def test_it_works_from_the_first_step_to_the_last(case: Case, progress: float) -> None:
    result = case.step(Pixelwise(), case.labelled(), case.unlabelled(), progress)
    assert result.loss.isfinite()
    assert result.loss > 0
