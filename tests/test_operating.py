"""A threshold meets its goal, lies in the middle of what is as good, and knows how sure it is."""

import json
from dataclasses import replace

import numpy as np
import pytest

from made_picks import DIAMETER, SIDE, collection, labels, quick
from verglas.errors import InputError
from verglas.operating import PLATEAU, AtLeast, OperatingPoint, _falling_precision, choose_threshold
from verglas.ranking import best_f1
from verglas.types import Picks, PickSet


def scaled(picks: PickSet, factor: float) -> PickSet:
    """Return the same ranking with other scores."""
    return replace(picks, picks=tuple(replace(p, score=p.score * factor) for p in picks))


def test_the_chosen_threshold_is_as_good_as_the_best():
    picks, truth = collection(8)
    picks = scaled(picks, 0.4)
    point = choose_threshold(picks, truth, diameter_px=DIAMETER)
    best = quick(picks, truth)["best_f1"]
    assert best - PLATEAU - 1e-9 <= point.f1 <= best
    assert (point.n_micrographs, point.n_labels) == (8, sum(map(len, truth.values())))
    applied = quick(replace(picks, threshold=point.threshold), truth)
    assert (applied["f1"], applied["precision"], applied["recall"]) == (point.f1, point.precision, point.recall)
    assert point.interval[0] <= point.threshold <= point.interval[1]
    assert "micrographs" in point.how


def test_no_threshold_is_stricter_than_calibrated_scores_would_want():
    """Where the best F1 lies at high scores, the threshold stays at half the best F1 (arXiv 1402.1892)."""
    picks, truth = collection(8)
    best = quick(picks, truth)["best_f1"]
    for factor in (1.0, 0.9):
        point = choose_threshold(scaled(picks, factor), truth, diameter_px=DIAMETER)
        assert point.threshold == pytest.approx(best / 2, abs=1e-9)
        assert point.interval[0] <= point.threshold <= point.interval[1]


def test_the_threshold_lies_midway_between_right_and_wrong():
    xy = np.array([[10.0, 10], [50, 50], [200, 200]])
    picks = PickSet((Picks("mic", xy, np.array([0.9, 0.8, 0.2])),))
    point = choose_threshold(picks, {"mic": labels("mic", xy[:2])}, diameter_px=DIAMETER)
    assert point.threshold == pytest.approx(0.5)
    assert point.f1 == 1


def test_a_plateau_is_cut_in_its_middle():
    """F1 hardly changes between 0.7 and 0.3, where one wrong pick comes for many right ones."""
    n = 2000
    xy = np.stack((np.arange(n + 2) * 30.0, np.zeros(n + 2)), axis=1)
    score = np.append(np.linspace(0.8, 0.9, n), (0.6, 0.4))
    truth = {"mic": labels("mic", xy[:n])}
    wide = choose_threshold(PickSet((Picks("mic", xy, score),)), truth, diameter_px=DIAMETER, bootstraps=20)
    assert 0.4 < wide.threshold < 0.65


def test_only_the_stretch_around_the_best_is_a_plateau():
    """Two thresholds reach F1 0.8, with a valley between: their middle would be a bad choice."""
    rights, wrongs = 400, 300
    score = np.concatenate((np.full(rights, 0.36), np.full(wrongs, 0.24), np.full(200, 0.12)))
    xy = np.stack((np.arange(len(score)) * 30.0, np.zeros(len(score))), axis=1)
    right = np.append(np.ones(rights, bool), np.append(np.zeros(wrongs, bool), np.ones(200, bool)))
    picks, truth = PickSet((Picks("mic", xy, score),)), {"mic": labels("mic", xy[right])}
    point = choose_threshold(picks, truth, diameter_px=DIAMETER, bootstraps=20)
    best, _ = best_f1(right, score, int(right.sum()))
    assert best == pytest.approx(0.8)
    assert point.f1 >= best - PLATEAU


@pytest.mark.parametrize(("times", "strict"), [(1, True), (40, False)])
def test_two_faint_ones_of_eight_do_not_pull_the_threshold_to_where_much_else_is_picked(times, strict):
    """Of forty times as many labels a quarter at low scores is evidence, not chance."""
    scores, wrong = [0.9] * 6 + [0.02] * 2, [0.03]
    score = np.array((scores + wrong) * times)
    xy = np.stack((np.arange(len(score)) * 30.0, np.zeros(len(score))), axis=1)
    right = np.array(([True] * 8 + [False]) * times)
    picks, truth = PickSet((Picks("mic", xy, score),)), {"mic": labels("mic", xy[right])}
    point = choose_threshold(picks, truth, diameter_px=DIAMETER, bootstraps=20)
    assert (point.threshold > 0.3) == strict
    assert point.recall == pytest.approx(0.75 if strict else 1.0)


def test_few_micrographs_resample_particles_and_say_so():
    point = choose_threshold(*collection(1), diameter_px=DIAMETER)
    assert "bootstrap over particles" in point.how
    assert point.interval[0] < point.interval[1]


def test_the_interval_narrows_with_more_labels():
    few, many = (choose_threshold(*collection(n), diameter_px=DIAMETER).interval for n in (6, 80))
    assert many[1] - many[0] < few[1] - few[0]


@pytest.mark.parametrize("recall", [0.3, 0.6, 0.75])
def test_a_recall_is_kept_at_the_highest_threshold(recall):
    picks, truth = collection(6)
    point = choose_threshold(picks, truth, diameter_px=DIAMETER, goal=AtLeast("recall", recall))
    assert recall <= point.recall < recall + 0.01
    assert "recall >= " in point.how


@pytest.mark.parametrize("precision", [0.6, 0.8, 0.9])
def test_a_precision_is_met_at_the_lowest_threshold(precision):
    picks, truth = collection(40)
    point = choose_threshold(picks, truth, diameter_px=DIAMETER, goal=AtLeast("precision", precision), bootstraps=20)
    assert point.precision == pytest.approx(precision, abs=0.02)
    lower = quick(replace(picks, threshold=point.threshold - 0.05), truth)
    assert lower["precision"] < precision


def test_one_lucky_pick_does_not_decide_the_precision():
    """The single best pick is wrong: raw precision starts at 0, the smoothed one does not."""
    n = 300
    xy = np.stack((np.arange(n) * 30.0, np.zeros(n)), axis=1)
    right = np.ones(n, bool)
    right[0], right[200:] = False, False
    picks = PickSet((Picks("mic", xy, np.linspace(0.99, 0.01, n)),))
    truth = {"mic": labels("mic", xy[right])}
    point = choose_threshold(picks, truth, diameter_px=DIAMETER, goal=AtLeast("precision", 0.99), bootstraps=20)
    assert point.recall > 0.95


def test_smoothed_precision_falls_and_ends_at_the_raw_one():
    rng = np.random.default_rng(7)
    hits, taken = np.cumsum(rng.random(300) < np.linspace(0.9, 0.1, 300)).astype(float), np.arange(1.0, 301)
    smooth = _falling_precision(hits, taken)
    assert (np.diff(smooth) <= 1e-12).all()
    assert smooth[-1] == pytest.approx(hits[-1] / 300)
    assert (smooth >= hits / taken - 1e-12).all()


@pytest.mark.parametrize("goal", [AtLeast("recall", 0.5), AtLeast("precision", 0.5)])
def test_a_goal_out_of_reach_is_an_error(goal):
    picks, truth = collection(6)
    away = {name: labels(name, t.xy + 9 * SIDE) for name, t in truth.items()}
    with pytest.raises(InputError, match="operating point: goal"):
        choose_threshold(picks, away, diameter_px=DIAMETER, goal=goal)


def test_no_label_and_no_candidate_are_errors():
    picks, truth = collection(2)
    with pytest.raises(InputError, match="number of labels"):
        choose_threshold(picks, {n: labels(n, np.empty((0, 2))) for n in truth}, diameter_px=DIAMETER)
    with pytest.raises(InputError, match="0 candidates"):
        choose_threshold(PickSet(()), truth, diameter_px=DIAMETER)


def test_candidates_that_are_all_wrong_still_give_a_threshold():
    """A picker without skill ends a run with F1 0, not with an exception."""
    picks = PickSet((Picks("mic", np.array([[500.0, 500], [700, 700]]), np.array([0.8, 0.4])),))
    point = choose_threshold(picks, {"mic": labels("mic", np.array([[1.0, 1.0]]))}, diameter_px=DIAMETER)
    assert point.f1 == point.precision == point.recall == 0


def test_an_operating_point_returns_from_json():
    point = choose_threshold(*collection(2), diameter_px=DIAMETER, bootstraps=20)
    stored = json.loads(json.dumps(point.to_dict(), allow_nan=False))
    assert OperatingPoint.from_dict(stored) == point
    del stored["f1"]
    with pytest.raises(InputError, match="f1"):
        OperatingPoint.from_dict(stored)
