"""What a training is watched by: figures of pixels, signs of sickness, and the audit of pseudo-labels."""

import copy
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from verglas.data import Stored, per_logit
from verglas.gates import RULES
from verglas.losses import Loss
from verglas.model import Shape, UNet
from verglas.monitor import elsewhere, input_statistics, pixel_figures, watch
from verglas.predict import probability
from verglas.ranking import average_precision
from verglas.ssl import Algorithm, make_algorithm
from verglas.types import Grid, Image

SIDE = 96
PRIOR = 0.05


def stored(folder: Path, seed: int, *, labelled: bool = True, everywhere: bool = False) -> Stored:
    """Dark discs in noise; the labels of the left part are held out."""
    generator = np.random.default_rng(seed)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    places = generator.uniform(10, SIDE - 10, (8, 2))
    target = np.min([np.hypot(columns - x, rows - y) for x, y in places], axis=0) < 6
    image = Image((generator.normal(size=(SIDE, SIDE)) - 2 * target).astype(np.float32), Grid(), np.ones_like(target))
    held = image.valid & (everywhere or columns < 40)
    masks = (target, image.valid & ~held, np.zeros_like(held), held) if labelled else ()
    return Stored.write(folder, f"mic{seed}", image, masks)


@pytest.fixture
def some(tmp_path: Path) -> list[Stored]:
    """Two labelled micrographs and one without labels."""
    return [stored(tmp_path, 0), stored(tmp_path, 1), stored(tmp_path, 2, labelled=False)]


def network(some: list[Stored], norm: str = "batch") -> UNet:
    """A network that says something of its input; running statistics are those of these micrographs."""
    torch.manual_seed(2)
    model = UNet(Shape(4, 1, norm, 2))
    nn.init.normal_(model.head.weight, std=0.5)
    with torch.no_grad():
        model.stem.weight.mul_(10)
        images = torch.stack([torch.tensor(one.image().data)[None] for one in some])
        for _ in range(60):
            model(images)
    return model.train()


def algorithm(name: str = "soft_teacher", **options: object) -> Algorithm:
    return make_algorithm(name, options, Loss())


def watched(student: UNet, average: UNet, some: list[Stored], by: Algorithm | None = None) -> dict[str, float]:
    return watch(student, average.eval(), by or algorithm(), some, PRIOR, "float32")


def verdicts(seen: dict[str, float]) -> set[str]:
    return {rule.code for rule in RULES if rule.holds([seen] * 3)}


# --- figures of pixels ---


TARGET = np.arange(50) % 10 == 0
SHARE = 0.1
TRIVIAL = 2 * SHARE / (1 + SHARE)


def figures(belief: np.ndarray) -> dict[str, float]:
    return pixel_figures(TARGET, belief.astype(np.float32))


def test_a_perfect_map_has_all_skill() -> None:
    found = figures(np.where(TARGET, 0.9, 0.1))
    assert found == pytest.approx(
        {"pixel_ap": 1.0, "skill": 1.0, "best_f1": 1.0, "f1_half": 1.0, "trivial_f1": TRIVIAL}
    )


def test_a_perfect_ranking_below_one_half_has_skill_and_no_f1_there() -> None:
    found = figures(np.where(TARGET, 0.3, 0.1))
    assert (found["skill"], found["best_f1"], found["f1_half"]) == (1.0, 1.0, 0.0)


@pytest.mark.parametrize(("constant", "half"), [(0.2, 0.0), (0.8, TRIVIAL)])
def test_a_constant_map_has_no_skill_and_the_f1_of_calling_all(constant: float, half: float) -> None:
    found = figures(np.full(50, constant))
    assert found == pytest.approx(
        {"pixel_ap": SHARE, "skill": 0.0, "best_f1": TRIVIAL, "f1_half": half, "trivial_f1": TRIVIAL}
    )


def test_an_inverted_map_has_less_than_no_skill() -> None:
    found = figures(np.where(TARGET, 0.1, 0.9))
    assert found["pixel_ap"] == pytest.approx(SHARE), "the positives come last, all at once"
    assert found["best_f1"] == pytest.approx(TRIVIAL)
    assert found["f1_half"] == 0
    ranked = figures(np.where(TARGET, 0.01, 0.1) + np.linspace(0, 0.009, 50))
    assert -SHARE < ranked["skill"] < 0


def test_where_all_is_particle_there_is_nothing_to_be_skilled_in() -> None:
    found = pixel_figures(np.ones(5, bool), np.linspace(0, 1, 5).astype(np.float32))
    assert (found["skill"], found["trivial_f1"]) == (0.0, 1.0)


# --- what is looked at ---


def test_figures_are_those_of_the_labels_that_were_held_out(some: list[Stored]) -> None:
    student, target, belief = network(some), [], []
    seen = watched(student, copy.deepcopy(student), some)
    for one in some[:2]:
        masks = torch.tensor(one.masks())[None]
        held = per_logit(masks[:, 3:4], 2, 1.0)[0, 0].numpy()
        target.append(per_logit(masks[:, :1], 2, 0.5)[0, 0].numpy()[held])
        belief.append(probability(copy.deepcopy(student).eval(), one.image()).data[held])
    right, score = np.concatenate(target), np.concatenate(belief)
    ap = average_precision(right, score, int(right.sum()))
    assert seen["student_pixel_ap"] == seen["average_pixel_ap"] == pytest.approx(ap)
    assert seen["student_skill"] == pytest.approx((ap - right.mean()) / (1 - right.mean()))
    assert seen["held_prior"] == pytest.approx(right.mean())


def test_labels_that_teach_change_no_figure(some: list[Stored], tmp_path: Path) -> None:
    student = network(some)
    before = watched(student, copy.deepcopy(student), some)
    image, (target, known, unseen, held, _) = some[0].image(), some[0].masks()
    some[0] = Stored.write(tmp_path / "other", "mic0", image, (target ^ known, known, unseen, held))
    assert watched(student, copy.deepcopy(student), some) == before
    some[0] = Stored.write(tmp_path / "other", "mic0", image, (target ^ held, known, unseen, held))
    assert watched(student, copy.deepcopy(student), some)["student_skill"] != before["student_skill"]


def test_student_and_average_are_not_mistaken_for_each_other(some: list[Stored]) -> None:
    student, average = network(some), network(some)
    nn.init.zeros_(average.head.weight)
    seen = watched(student, average, some)
    assert seen["average_skill"] == pytest.approx(0.0)
    assert abs(seen["student_skill"]) > 0.01
    assert seen["belief_sd"] == pytest.approx(0.0, abs=1e-6)
    seen = watched(average, student, some)
    assert seen["student_skill"] == pytest.approx(0.0)
    assert seen["belief_sd"] > 0.01


def test_without_held_out_labels_skill_is_left_out_and_the_rest_is_not(some: list[Stored], tmp_path: Path) -> None:
    student = network(some)
    for lacking in ([some[2]], [some[2], stored(tmp_path, 7, labelled=False)]):
        seen = watched(student, copy.deepcopy(student), lacking)
        assert not {key for key in seen if "skill" in key or "keep" in key or key == "purity"}
        assert {"belief_sd", "belief_mean", "agreement", "weight_norm_ratio", "mode_gap"} <= seen.keys()
        assert ("map_correlation" in seen) == (len(lacking) > 1)


def test_all_that_is_measured_is_a_finite_number(some: list[Stored]) -> None:
    student = network(some)
    for name in ("supervised", "mean_teacher", "fixmatch", "unimatch", "self_training", "soft_teacher", "pu"):
        seen = watched(student, copy.deepcopy(student), some, algorithm(name))
        assert all(type(value) is float and math.isfinite(value) for value in seen.values()), name
        assert ("purity" in seen) >= (name in ("mean_teacher", "soft_teacher")), name
        assert ("purity" in seen) <= (name != "supervised"), name


def test_watching_leaves_no_trace(some: list[Stored]) -> None:
    """Not in weights, not in running statistics, not in the mode, not in randomness."""
    student, average = network(some), network(some).eval()
    before = [copy.deepcopy(model.state_dict()) for model in (student, average)]
    dice = torch.get_rng_state()
    watched(student, average, some)
    assert torch.equal(torch.get_rng_state(), dice)
    assert all(module.training for module in student.modules())
    assert not any(module.training for module in average.modules())
    for model, state in zip((student, average), before, strict=True):
        for key, value in model.state_dict().items():
            assert torch.equal(value, state[key]), key


def test_clicks_are_told_from_places_where_nobody_looked(tmp_path: Path) -> None:
    """Of six pairs of a held-out click and an open place the click is higher in four and equal in one."""
    belief = np.array([[0.9, 0.4, 0.99, 0.5, 0.4, 0.1, 0.01, 0.01]])
    clicked, held = np.arange(8)[None] < 2, np.arange(8)[None] < 2
    unseen = (np.arange(8)[None] > 2) & (np.arange(8)[None] < 6)
    image = Image(np.zeros((1, 8), np.float32), Grid(), np.ones((1, 8), bool))
    one = Stored.write(tmp_path, "made", image, (clicked, np.zeros_like(held), unseen, held))
    seen = watched(Told(belief), Told(belief), [one], algorithm("pu"))
    assert seen["average_skill"] == pytest.approx(2 * 4.5 / 6 - 1)
    assert not {"average_pixel_ap", "purity"} & seen.keys(), "without background there is neither"


def test_an_odd_side_does_not_shift_the_labels(tmp_path: Path) -> None:
    """The last logit lies half beyond the micrograph, and no label is taken there."""
    target = np.zeros((33, 35), bool)
    target[10:20, 10:20] = True
    image, held = Image(np.zeros((33, 35), np.float32), Grid(), np.ones_like(target)), np.ones_like(target)
    one = Stored.write(tmp_path, "odd", image, (target, ~held, ~held, held))
    model = UNet(Shape(4, 1, "batch", 2))
    seen = watched(model, copy.deepcopy(model), [one])
    assert seen["held_prior"] == pytest.approx(25 / (16 * 17))


# --- signs of sickness ---


def silenced(model: UNet) -> UNet:
    """Let nothing of the input in; what is left is the pattern that padding makes."""
    model = copy.deepcopy(model)
    nn.init.zeros_(model.stem.weight)
    nn.init.ones_(model.stem.bias)
    return model


def constant(model: UNet) -> UNet:
    model = copy.deepcopy(model)
    nn.init.zeros_(model.head.weight)
    return model


@pytest.mark.parametrize("make", [silenced, constant])
@pytest.mark.parametrize("norm", ["batch", "group", "none"])
def test_maps_that_do_not_depend_on_the_micrograph_are_told(
    some: list[Stored], norm: str, make: Callable[[UNet], UNet]
) -> None:
    healthy = network(some, norm)
    seen = watched(healthy, copy.deepcopy(healthy), some)
    assert seen["map_correlation"] < 0.3
    assert seen["map_variance_between"] > 0.7
    assert "R3" not in verdicts(seen)
    seen = watched(healthy, make(healthy), some)
    assert seen["map_correlation"] == pytest.approx(1.0)
    assert seen["map_variance_between"] == pytest.approx(0.0, abs=1e-6)
    assert "R3" in verdicts(seen)


def test_running_statistics_that_were_lost_are_told(some: list[Stored]) -> None:
    student = network(some)
    seen = watched(student, copy.deepcopy(student), some)
    assert seen["mode_sd_ratio"] == pytest.approx(1, abs=0.25)
    assert abs(seen["mode_gap"]) < 0.25
    assert "R4" not in verdicts(seen)
    for module in student.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
    seen = watched(student, copy.deepcopy(student), some)
    assert not 0.5 <= seen["mode_sd_ratio"] <= 2
    assert "R4" in verdicts(seen)


@pytest.mark.parametrize("norm", ["group", "none"])
def test_without_running_statistics_there_are_no_modes_to_compare(some: list[Stored], norm: str) -> None:
    student = network(some, norm)
    assert not {"mode_gap", "mode_sd_ratio"} & watched(student, copy.deepcopy(student), some).keys()


def test_an_average_that_fades_shows_in_its_norm(some: list[Stored]) -> None:
    student = network(some)
    average = copy.deepcopy(student)
    with torch.no_grad():
        for parameter in average.parameters():
            parameter.mul_(0.5)
    seen = watched(student, average, some)
    assert seen["weight_norm_ratio"] == pytest.approx(0.5)
    assert "R8" in verdicts(seen)


def test_agreement_is_the_correlation_of_student_and_average(some: list[Stored]) -> None:
    student = network(some)
    assert watched(student, copy.deepcopy(student), some)["agreement"] == pytest.approx(1.0)
    opposed = copy.deepcopy(student)
    with torch.no_grad():
        opposed.head.weight.neg_()
    assert watched(student, opposed, some)["agreement"] < -0.5


# --- the audit of pseudo-labels ---


class Told(UNet):
    """A network whose beliefs are told in advance."""

    def __init__(self, belief: np.ndarray) -> None:
        super().__init__(Shape(4, 0, "none", 1))
        self.logits = torch.logit(torch.tensor(belief, dtype=torch.float64)).float()[None, None]

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.logits


def audit(by: Algorithm, folder: Path, belief: np.ndarray, target: np.ndarray) -> dict[str, float]:
    whole = np.ones_like(target)
    image = Image(np.zeros(target.shape, np.float32), Grid(), whole)
    one = Stored.write(folder, "made", image, (target, ~whole, ~whole, whole))
    return watched(Told(belief), Told(belief), [one], by)


BELIEF = np.array([[0.9, 0.7, 0.3, 0.7, 0.02, 0.01, 0.4, 0.03]])
TRUTH = np.array([[True, True, True, False, False, False, False, False]])


def test_pseudo_labels_are_audited_by_labels_that_no_one_learned_from(tmp_path: Path) -> None:
    """Kept are p >= 0.6 and p <= 0.05: two of three particles, and of the background one wrongly and three rightly."""
    seen = audit(algorithm("fixmatch", mask="class", positive=0.6, negative=0.05), tmp_path, BELIEF, TRUTH)
    audited = {"keep_positive": 2 / 3, "keep_negative": 4 / 5, "purity": 2 / 3, "pseudo_positive_share": 3 / 6}
    assert {key: seen[key] for key in audited} == pytest.approx(audited)
    assert seen["held_prior"] == pytest.approx(3 / 8)


def test_soft_labels_all_count_by_what_is_believed(tmp_path: Path) -> None:
    seen = audit(algorithm("soft_teacher"), tmp_path, BELIEF, TRUTH)
    audited = {"keep_positive": 1.0, "keep_negative": 1.0, "purity": 1.9 / 3.06, "pseudo_positive_share": 3.06 / 8}
    assert {key: seen[key] for key in audited} == pytest.approx(audited)


def test_purity_is_that_of_what_counts(tmp_path: Path) -> None:
    """Of the labels above one half 0.7 is right and dropped, 0.9 is right and kept, 0.95 wrong and kept."""
    belief, target = np.array([[0.9, 0.7, 0.95, 0.1]]), np.array([[True, True, False, False]])
    seen = audit(algorithm("fixmatch", mask="fixed", threshold=0.8), tmp_path, belief, target)
    assert seen["purity"] == pytest.approx(1 / 2)


def test_a_mask_that_drops_the_particles_is_told(tmp_path: Path) -> None:
    belief = np.where(TRUTH, 0.7, 0.02)
    seen = audit(algorithm("fixmatch", mask="fixed", threshold=0.95), tmp_path, belief, TRUTH)
    assert (seen["keep_positive"], seen["keep_negative"], seen["pseudo_positive_share"]) == (0.0, 1.0, 0.0)
    assert {"R5", "R6"} <= verdicts(seen)


def test_a_mask_that_has_met_no_belief_yet_makes_no_finding(tmp_path: Path) -> None:
    """Before unlabelled tiles come in a quantile keeps nothing: there are no pseudo-labels to find fault with."""
    assert not {"R5", "R6"} & verdicts(audit(algorithm("unimatch"), tmp_path, BELIEF, TRUTH))


@pytest.mark.parametrize("mask", ["quantile", "free", "soft"])
def test_an_audit_changes_nothing_that_is_remembered(tmp_path: Path, mask: str) -> None:
    by = algorithm("fixmatch", mask=mask)
    before = copy.deepcopy(by.state_dict())
    audit(by, tmp_path, BELIEF, TRUTH)
    torch.testing.assert_close(dict(by.state_dict()), dict(before), rtol=0, atol=0, equal_nan=True)


# --- what goes in ---


def test_input_statistics_are_mean_and_deviation_of_each_path() -> None:
    tiles = torch.tensor([[[[1.0, 3.0]]], [[[5.0, 7.0]]]])
    found = dict(input_statistics({"weak_input": tiles, "strong_input": tiles + 1}))
    assert found["weak_input_mean"] == 4.0
    assert found["strong_input_mean"] == 5.0
    assert found["weak_input_sd"] == found["strong_input_sd"] == pytest.approx(math.sqrt(20 / 3))


def test_clicks_are_judged_against_places_where_nobody_looked() -> None:
    """Neither rings nor a held-out strip nor a margin; where a whole micrograph is held out, all its other places."""
    target, unseen, valid = (np.array([row]) for row in ([1, 0, 0, 0], [0, 0, 1, 0], [1, 1, 1, 0]))
    target, unseen, valid = target > 0, unseen > 0, valid > 0
    assert elsewhere(unseen, target, valid).tolist() == unseen.tolist()
    assert elsewhere(np.zeros_like(unseen), target, valid).tolist() == [[False, True, True, False]]
