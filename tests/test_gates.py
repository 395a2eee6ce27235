"""The guard: every rule on numbers that should and should not trigger it, the gate, and the way back."""

import io
import math

import pytest
import torch

from verglas.errors import InputError
from verglas.gates import RULES, Guard, GuardSettings, Rule, Ruling

HEALTHY = {
    "average_skill": 0.6, "average_best_f1": 0.7, "average_f1_half": 0.65, "average_trivial_f1": 0.1,
    "average_pixel_ap": 0.6, "student_pixel_ap": 0.6, "map_correlation": 0.1, "map_variance_between": 0.95,
    "prior": 0.05,
    "mode_gap": 0.1, "mode_sd_ratio": 1.0, "pseudo_positive_share": 0.05, "held_prior": 0.05, "keep_positive": 0.8,
    "keep_negative": 0.8, "weight_norm_ratio": 1.0, "belief_sd": 0.2, "unsupervised": 0.3, "clip_rate": 0.1,
    "clipped_steps": 500.0, "centre_belief": 0.9, "precision_early": 0.9, "precision_late": 0.5,
}  # fmt: skip
EVALS = {"R1": 3, "R2": 1, "R3": 2, "R4": 2, "R5": 2, "R6": 1, "R8": 1, "R9": 1, "R10": 1, "R11": 1}
ACTIONS = {"R1": "go back", "R3": "go back", "R5": "lower weight", "R8": "renew teacher", "R10": "lower rate"}

SICK: list[tuple[str, dict[str, float]]] = [
    ("R1", {"average_skill": 0.04, "average_best_f1": 0.1}),
    ("R2", {"average_skill": 0.2, "average_f1_half": 0.3, "average_best_f1": 0.7}),
    ("R3", {"map_correlation": 0.6}),
    ("R3", {"map_variance_between": 0.4}),
    ("R4", {"mode_gap": 0.6}),
    ("R4", {"mode_gap": -0.6}),
    ("R4", {"mode_sd_ratio": 0.4}),
    ("R4", {"mode_sd_ratio": 2.1}),
    ("R5", {"pseudo_positive_share": 0.11, "held_prior": 0.05}),
    ("R5", {"pseudo_positive_share": 0.02, "held_prior": 0.05}),
    ("R6", {"keep_positive": 0.3, "keep_negative": 0.9}),
    ("R6", {"keep_positive": 0.9, "keep_negative": 0.3}),
    ("R6", {"keep_positive": 0.9, "keep_negative": 0.0}),
    ("R8", {"average_pixel_ap": 0.4, "student_pixel_ap": 0.6}),
    ("R8", {"weight_norm_ratio": 0.7}),
    ("R8", {"weight_norm_ratio": 1.3}),
    ("R8", {"belief_sd": 0.005, "prior": 0.1}),
    ("R9", {"unsupervised": 0.0}),
    ("R10", {"clip_rate": 0.6, "clipped_steps": 500.0}),
    ("R11", {"centre_belief": 0.5, "precision_early": 0.6, "precision_late": 0.55}),
]
NEARLY: list[tuple[str, dict[str, float]]] = [
    ("R1", {"average_skill": 0.04, "average_best_f1": 0.2}),
    ("R1", {"average_skill": 0.06, "average_best_f1": 0.1}),
    ("R2", {"average_skill": 0.1, "average_f1_half": 0.0}),
    ("R2", {"average_f1_half": 0.36, "average_best_f1": 0.7}),
    ("R3", {"map_correlation": 0.49, "map_variance_between": 0.51}),
    ("R4", {"mode_gap": -0.49, "mode_sd_ratio": 1.9}),
    ("R5", {"pseudo_positive_share": 0.09, "held_prior": 0.05}),
    ("R5", {"pseudo_positive_share": 0.03, "held_prior": 0.05}),
    ("R6", {"keep_positive": 0.5, "keep_negative": 0.9}),
    ("R6", {"keep_positive": 0.2, "keep_negative": 0.2}),
    ("R8", {"average_pixel_ap": 0.52, "student_pixel_ap": 0.6, "weight_norm_ratio": 1.2, "belief_sd": 0.02}),
    ("R9", {"unsupervised": 1e-9}),
    ("R10", {"clip_rate": 0.9, "clipped_steps": 499.0}),
    ("R10", {"clip_rate": 0.4}),
    ("R11", {"centre_belief": 0.5}),
    ("R11", {"centre_belief": 0.5, "precision_early": 0.6, "precision_late": 0.55, "labels_seen": 19.0}),
    ("R11", {"centre_belief": 0.5, "precision_early": 0.6, "precision_late": 0.55, "step": 299.0}),
    ("R2", {"average_f1_half": 0.3, "average_best_f1": 0.7, "step": 299.0}),
    ("R11", {"centre_belief": 0.5, "precision_early": 0.6, "precision_late": 0.55, "average_skill": 0.1}),
]


def rule(code: str) -> Rule:
    return next(each for each in RULES if each.code == code)


def label(case: object) -> str:
    return ",".join(case) if isinstance(case, dict) else str(case)


# --- rules ---


def test_rules_have_codes_of_their_own_and_remedies_that_are_sentences() -> None:
    assert [each.code for each in RULES] == list(EVALS)
    assert len({each.verdict for each in RULES}) == len(RULES)
    assert {each.code: each.action for each in RULES if each.action != "say"} == ACTIONS
    for each in RULES:
        assert each.remedy[0].isupper()
        assert each.remedy.rstrip()[-1] in ".?"
        assert " " in each.remedy


def test_every_rule_is_tried_below() -> None:
    assert {code for code, _ in SICK} == {code for code, _ in NEARLY} == set(EVALS)


@pytest.mark.parametrize("code", EVALS)
def test_no_rule_holds_on_a_healthy_training(code: str) -> None:
    assert not rule(code).holds([HEALTHY] * 5)


@pytest.mark.parametrize(("code", "numbers"), SICK, ids=label)
def test_a_rule_holds_after_so_many_validations_in_a_row(code: str, numbers: dict[str, float]) -> None:
    sick, n = HEALTHY | numbers, EVALS[code]
    assert rule(code).holds([sick] * n)
    assert rule(code).holds([HEALTHY, HEALTHY, *[sick] * n])
    assert not rule(code).holds([sick] * (n - 1))
    assert not rule(code).holds([*[sick] * n, HEALTHY])
    assert rule(code).holds([*[sick] * n, HEALTHY, sick]) is (n == 1)


@pytest.mark.parametrize(("code", "numbers"), SICK, ids=label)
def test_what_one_rule_finds_is_not_put_down_to_another(code: str, numbers: dict[str, float]) -> None:
    assert [each.code for each in RULES if each.holds([HEALTHY | numbers] * 3)] == [code]


@pytest.mark.parametrize(("code", "numbers"), NEARLY, ids=label)
def test_a_rule_does_not_hold_on_this_side_of_its_threshold(code: str, numbers: dict[str, float]) -> None:
    assert not rule(code).holds([HEALTHY | numbers] * 5)


@pytest.mark.parametrize(("code", "numbers"), SICK, ids=label)
def test_what_was_not_measured_is_no_finding(code: str, numbers: dict[str, float]) -> None:
    sick = HEALTHY | numbers
    for missing in numbers:
        partly = {key: value for key, value in sick.items() if key != missing}
        assert not rule(code).holds([sick, sick, partly])
    for missing in sick:
        rule(code).holds([{key: value for key, value in sick.items() if key != missing}] * 3)  # and raises nothing


@pytest.mark.parametrize("code", EVALS)
def test_what_is_no_number_is_no_finding(code: str) -> None:
    assert not rule(code).holds([{}] * 5)
    assert not rule(code).holds([dict.fromkeys(HEALTHY, math.nan)] * 5)


# --- the gate ---


def guard(steps: int = 100, **settings: float) -> Guard:
    return Guard(GuardSettings(**settings), steps)


def opened(step: int = 30, ap: float = 0.5, **settings: float) -> Guard:
    """A guard that has let unlabelled tiles in."""
    made = guard(**settings)
    assert made.opens(step, ap, HEALTHY)
    return made


@pytest.mark.parametrize(("step", "lets"), [(0, False), (29, False), (30, True), (45, True), (60, True), (61, False)])
def test_unlabelled_tiles_come_in_between_earliest_and_latest(step: int, lets: bool) -> None:
    made = guard(earliest=0.3, latest=0.6)
    assert made.progress(step) is None
    assert made.opens(step, 0.5, HEALTHY) is lets
    assert (made.opened == step) is lets


def test_unlabelled_tiles_come_in_once_the_model_has_skill_and_never_without() -> None:
    made = guard()
    for step, seen in enumerate(({}, {"average_skill": math.nan}, {"average_skill": 0.19}), 40):
        assert not made.opens(step, 0.9, seen)
    assert made.opens(50, 0.9, {"average_skill": 0.2})
    assert not made.opens(51, 0.9, {"average_skill": 0.2}), "once"
    assert made.opened == 50


@pytest.mark.parametrize(("skill", "lets"), [(0.11, True), (0.09, False)])
def test_the_skill_of_a_few_clicks_counts_as_reached_within_its_error(skill: float, lets: bool) -> None:
    seen = {"average_skill": skill, "average_skill_error": 0.1}
    assert Guard(GuardSettings(skill=0.2), 100).opens(100, 0.5, seen, at_end=True) is lets


def test_without_a_guard_unlabelled_tiles_come_in_at_once_and_nothing_is_undone() -> None:
    made = guard(active=False)
    assert not made.opens(29, math.nan, {})
    assert made.opens(30, 0.9, {})
    sick = HEALTHY | {"map_correlation": 0.9, "belief_sd": 0.0, "pseudo_positive_share": 0.9}
    rulings = [ruling for _ in range(4) for ruling in made.judge(0.0, 100, sick)]
    assert {ruling.code for ruling in rulings} == {"R3", "R5", "R7", "R8"}
    assert {ruling.action for ruling in rulings} == {"say"}


def test_the_stage_runs_from_nothing_to_all() -> None:
    made = opened(40)
    assert [made.progress(step) for step in (40, 70, 100)] == [0.0, 0.5, 1.0]


# --- verdicts ---


def codes(rulings: list[Ruling]) -> list[str]:
    return [ruling.code for ruling in rulings]


def test_a_healthy_training_is_left_alone() -> None:
    made = opened()
    assert [made.judge(0.5, 100, HEALTHY) for _ in range(8)] == [[]] * 8


def test_a_verdict_is_given_once_a_stage() -> None:
    made, sick = opened(), HEALTHY | {"keep_negative": 0.1}
    assert [codes(made.judge(0.5, 100, sick)) for _ in range(4)] == [["R6"], [], [], []]
    made.go_back()
    assert made.opens(40, 0.5, HEALTHY)
    assert [codes(made.judge(0.5, 100, sick)) for _ in range(2)] == [["R6"], []]


def test_what_was_said_before_the_stage_is_acted_on_within_it() -> None:
    made, sick = guard(), HEALTHY | {"map_correlation": 0.9, "average_skill": 0.1}
    before = [ruling for _ in range(3) for ruling in made.judge(0.5, 100, sick)]
    assert [(ruling.code, ruling.action) for ruling in before] == [("R3", "say")]
    assert made.opens(40, 0.5, HEALTHY)
    within = [ruling for _ in range(3) for ruling in made.judge(0.5, 100, sick)]
    assert [(ruling.code, ruling.action) for ruling in within] == [("R3", "go back")]


def test_what_was_seen_before_the_stage_does_not_count_in_it() -> None:
    made, sick = guard(), HEALTHY | {"mode_gap": 0.9}
    assert made.judge(0.5, 100, sick) == []
    assert made.opens(40, 0.5, HEALTHY)
    assert made.judge(0.5, 100, sick) == []
    assert codes(made.judge(0.5, 100, sick)) == ["R4"]


def test_outside_the_stage_there_is_nothing_to_undo() -> None:
    sick = HEALTHY | {"map_correlation": 0.9, "pseudo_positive_share": 0.9, "belief_sd": 0.0}
    for made, actions in (
        (guard(), {"R3": "say", "R5": "say", "R8": "say"}),
        (opened(), {"R3": "go back", "R5": "lower weight", "R8": "renew teacher"}),
    ):
        rulings = [*made.judge(0.5, 100, sick), *made.judge(0.5, 100, sick)]
        assert {ruling.code: ruling.action for ruling in rulings} == actions


# --- harm ---


@pytest.mark.parametrize(
    ("labels", "bearable", "harmful"),
    [(100, 0.41, 0.39), (10_000, 0.481, 0.479)],
    ids=["two standard errors", "the least harm that counts"],
)
def test_harm_is_what_lies_beyond_the_error(labels: int, bearable: float, harmful: float) -> None:
    """Of 100 labels an AP of 0.5 has a standard error of 0.05; of 10,000 one of 0.005, below ``harm`` = 0.02."""
    for ap, expected in ((bearable, []), (harmful, ["R7"])):
        made = opened(ap=0.5)
        assert codes([r for _ in range(5) for r in made.judge(ap, labels, HEALTHY)]) == expected


@pytest.mark.parametrize("patience", [1, 2, 4])
def test_harm_needs_patience(patience: int) -> None:
    made = opened(ap=0.5, patience=patience)
    found = [codes(made.judge(0.1, 100, HEALTHY)) for _ in range(patience)]
    assert found == [[]] * (patience - 1) + [["R7"]]


def test_a_recovery_ends_the_patience() -> None:
    made = opened(ap=0.5)
    aps = [0.1, 0.5, 0.1, 0.45, 0.1, 0.1]
    assert [codes(made.judge(ap, 100, HEALTHY)) for ap in aps] == [[]] * 5 + [["R7"]]


def test_harm_is_said_in_figures() -> None:
    made = opened(ap=0.5, patience=1)
    (ruling,) = made.judge(0.1, 100, HEALTHY)
    assert (ruling.verdict, ruling.action) == ("SSL_HARM", "go back")
    assert ruling.sentence == "AP 0.100 on held-out labels, 0.500 when unlabelled tiles came in"


def test_without_held_out_labels_or_outside_the_stage_there_is_no_harm() -> None:
    made = opened(ap=math.nan)
    assert [made.judge(ap, 0, HEALTHY) for ap in (math.nan, 0.0, 0.0, 0.0)] == [[]] * 4
    made = guard()
    assert [made.judge(ap, 100, HEALTHY) for ap in (0.9, 0.0, 0.0, 0.0)] == [[]] * 4


def test_the_first_harm_goes_back_and_the_second_closes_for_good() -> None:
    made = opened(30)
    made.judge(0.5, 100, HEALTHY | {"keep_negative": 0.1})
    assert made.go_back() == 30
    assert (made.opened, made.closed, made.returns, made.history, made.said) == (None, False, 1, [], [])
    assert made.opens(35, 0.4, HEALTHY)
    assert made.go_back() == 35
    assert made.closed
    assert not made.opens(40, 0.9, HEALTHY)
    assert made.progress(50) is None


def test_only_an_open_stage_can_end() -> None:
    with pytest.raises(AssertionError, match="only an open stage"):
        guard().go_back()


# --- memory and settings ---


def test_the_memory_survives_being_stored_and_gives_the_same_verdicts() -> None:
    first = opened(30, 0.5)
    first.go_back()
    first.opens(35, 0.6, HEALTHY)
    first.judge(0.1, 100, HEALTHY | {"keep_negative": 0.1, "map_correlation": math.nan})
    file = io.BytesIO()
    torch.save(first.state(), file)
    file.seek(0)
    second = guard()
    second.restore(torch.load(file, weights_only=True))
    assert repr(second) == repr(first)
    assert codes(second.judge(0.1, 100, HEALTHY)) == codes(first.judge(0.1, 100, HEALTHY)) == ["R7"]
    assert second.go_back() == 35
    assert second.closed


def test_a_guard_that_has_seen_nothing_can_be_stored_too() -> None:
    file = io.BytesIO()
    torch.save(guard().state(), file)
    file.seek(0)
    made = opened()
    made.restore(torch.load(file, weights_only=True))
    assert repr(made) == repr(guard())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"earliest": 0.7}, r"latest is 0\.6; expected 0\.7 to 1"),
        ({"skill": 1.5}, "skill is 1.5"),
        ({"harm": -0.1}, "harm is -0.1"),
        ({"latest": 1.1}, "latest is 1.1"),
        ({"patience": 0}, "patience is 0"),
        ({"earliest": math.nan}, "earliest is nan"),
    ],
)
def test_an_impossible_setting_is_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=f"guard: {message}"):
        GuardSettings(**settings)


def test_few_labels_do_not_make_a_teacher_stale() -> None:
    rule = next(rule for rule in RULES if rule.code == "R8")
    seen = HEALTHY | {"average_pixel_ap": 0.67, "student_pixel_ap": 0.83}
    assert rule.holds([seen | {"labels_seen": 200.0}])
    assert not rule.holds([seen | {"labels_seen": 6.0}])
    even = HEALTHY | {"belief_sd": 0.001, "average_pixel_ap": 0.03, "student_pixel_ap": 0.12}
    assert rule.holds([even | {"labels_seen": 200.0}])
    assert not rule.holds([even | {"labels_seen": 3.0}])
