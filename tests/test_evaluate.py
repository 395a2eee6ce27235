"""Figures of merit equal closed forms, other libraries and brute force; intervals behave; names and order are safe."""

import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sklearn.metrics
from sklearn.metrics import average_precision_score, f1_score

from verglas import evaluate as module
from verglas.errors import InputError
from verglas.evaluate import (
    OperatingPoint,
    average_precision,
    best_f1,
    choose_threshold,
    evaluate,
    match,
    match_optimal,
    paired_difference,
    precision_recall_curve,
    to_json,
)
from verglas.types import Grid, Image, Picks, PickSet

DIAMETER = 20.0
SIDE = 1000


def labels(name: str, xy: np.ndarray) -> Picks:
    return Picks(name, xy, np.ones(len(xy)), "labels")


def noisy_picks(
    rng: np.random.Generator, truth: Picks, *, found: float = 0.8, wrong: int = 60, by: float = 0.1
) -> Picks:
    """Some of the labels, off by a tenth of a diameter and scored high, among wrong picks that score lower."""
    hit = truth.xy[rng.random(len(truth)) < found]
    xy = np.concatenate((hit + rng.normal(0, DIAMETER * 0.05, hit.shape), rng.uniform(0, SIDE, (wrong, 2))))
    score = np.concatenate((rng.normal(0.6 + by, 0.15, len(hit)), rng.normal(0.4, 0.15, wrong)))
    return Picks(truth.micrograph, xy, np.clip(score, 0.01, 1), "made up")


def collection(n: int, seed: int = 0, by: float = 0.1) -> tuple[PickSet, dict[str, Picks]]:
    rng = np.random.default_rng(seed)
    truth = {f"mic{k}": labels(f"mic{k}", rng.uniform(0, SIDE, (rng.integers(60, 90), 2))) for k in range(n)}
    picks = tuple(noisy_picks(rng, t, by=by) for t in truth.values())
    return PickSet(picks, threshold=0.5), truth


def shapes_of(truth: dict[str, Picks]) -> dict[str, tuple[int, int]]:
    return dict.fromkeys(truth, (SIDE, SIDE))


def quick(picks: PickSet, truth: dict[str, Picks], **options: object) -> dict:
    return dict(evaluate(picks, truth, diameter_px=DIAMETER, bootstraps=50, **options).pooled)


# --- ranking


@pytest.mark.parametrize("distinct", [2, 5, 1000])
@pytest.mark.parametrize("missed", [0, 7])
def test_average_precision_is_that_of_scikit_learn_where_every_label_has_a_candidate(distinct, missed):
    rng = np.random.default_rng(distinct)
    right = rng.random(200) < 0.4
    score = np.round((0.5 * right + rng.random(200)) * distinct) / distinct
    n = int(right.sum())
    oracle = average_precision_score(right, score)
    assert average_precision(right, score, n) == pytest.approx(oracle)
    assert average_precision(right, score, n + missed) == pytest.approx(oracle * n / (n + missed))


def test_average_precision_by_hand():
    right, score = np.array([True, False, True, True]), np.array([0.9, 0.8, 0.7, 0.7])
    assert average_precision(right, score, 4) == pytest.approx(1 / 4 * 1 + 2 / 4 * 3 / 4)
    precision, recall, threshold = precision_recall_curve(right, score, 4)
    assert precision.tolist() == [1, 0.5, 0.75]
    assert recall.tolist() == [0.25, 0.25, 0.75]
    assert threshold.tolist() == [0.9, 0.8, 0.7]


def test_nothing_found_is_zero_and_nothing_to_find_is_undefined():
    none, some = np.zeros(0, bool), np.zeros(3, bool)
    assert average_precision(none, np.zeros(0), 5) == average_precision(some, np.arange(3.0), 5) == 0
    assert np.isnan(average_precision(some, np.arange(3.0), 0))
    assert best_f1(none, np.zeros(0), 5) == (0.0, None)
    assert np.isnan(best_f1(some, np.arange(3.0), 0)[0])


@pytest.mark.parametrize("distinct", [2, 6, 1000])
def test_the_best_f1_is_reached_at_its_threshold_and_nowhere_exceeded(distinct):
    rng = np.random.default_rng(distinct)
    right, score = rng.random(100) < 0.5, np.round(rng.random(100) * distinct) / distinct
    f1, threshold = best_f1(right, score, 70)
    every = [2 * right[score >= t].sum() / ((score >= t).sum() + 70) for t in np.unique(score)]
    assert f1 == pytest.approx(max(every))
    kept = score >= threshold
    assert f1 == pytest.approx(2 * right[kept].sum() / (kept.sum() + 70))


def test_a_threshold_between_neighbouring_floats_still_separates_them():
    low = 0.5
    high = np.nextafter(low, 1)
    _, threshold = best_f1(np.array([True, False, False]), np.array([high, low, 0.1]), 1)
    assert low < threshold <= high


# --- evaluate


def test_pooled_figures_are_counts_over_all_micrographs():
    picks, truth = collection(4)
    found = quick(picks, truth)
    hits = n = 0
    for p in picks.counted():
        hits += match(p.xy, p.score, truth[p.micrograph].xy, DIAMETER / 2)[0].sum()
        n += len(p)
    m = sum(map(len, truth.values()))
    assert (found["n_picks"], found["n_labels"], found["n_candidates"]) == (n, m, len(picks))
    assert found["precision"] == pytest.approx(hits / n)
    assert found["recall"] == pytest.approx(hits / m)
    assert found["f1"] == pytest.approx(2 * hits / (n + m))
    assert found["radius_px"] == 10
    assert found["threshold"] == 0.5


def test_rows_are_the_micrographs_alone_and_macro_is_their_mean():
    picks, truth = collection(3)
    whole = evaluate(picks, truth, diameter_px=DIAMETER, bootstraps=10)
    for row in whole.rows:
        name = row["micrograph"]
        alone = quick(replace(picks, picks=(picks.by_name()[name],)), {name: truth[name]})
        for key in ("ap", "f1", "precision", "recall", "best_f1", "n_labels", "n_picks", "n_candidates"):
            assert row[key] == pytest.approx(alone[key]), key
    for key in ("ap", "f1", "precision", "recall"):
        assert whole.pooled["macro"][key] == pytest.approx(np.mean([row[key] for row in whole.rows]))


def test_pooled_ap_and_best_f1_are_those_of_all_candidates_together():
    picks, truth = collection(3)
    right = [match(p.xy, p.score, truth[p.micrograph].xy, 10.0)[0] for p in picks]
    score, m = np.concatenate([p.score for p in picks]), sum(map(len, truth.values()))
    found = quick(picks, truth)
    assert found["ap"] == pytest.approx(average_precision(np.concatenate(right), score, m))
    assert (found["best_f1"], found["best_threshold"]) == pytest.approx(best_f1(np.concatenate(right), score, m))


def test_perfect_picks_score_one_at_every_radius():
    _, truth = collection(3)
    found = quick(PickSet(tuple(truth.values())), truth)
    for figures in (found, *found["at_radius"].values()):
        assert [figures[key] for key in ("ap", "f1", "precision", "recall", "best_f1")] == [1] * 5
        assert figures["optimal"] == {"f1": 1, "precision": 1, "recall": 1, "differs": False}
    assert found["threshold"] is None


def test_smaller_radii_find_less_and_each_stands_under_its_name():
    picks, truth = collection(3)
    found = quick(picks, truth, radius=0.25)
    assert list(found["at_radius"]) == ["0.2", "0.25", "0.3", "0.5"]
    recalls = [figures["recall"] for figures in found["at_radius"].values()]
    assert recalls == sorted(recalls)
    assert found["f1"] == found["at_radius"]["0.25"]["f1"]
    assert found["radius_px"] == 5


def test_a_micrograph_without_picks_counts_against_recall():
    picks, truth = collection(4)
    fewer = replace(picks, picks=picks.picks[:3])
    found = quick(fewer, truth)
    assert found["n_labels"] == sum(map(len, truth.values()))
    assert found["recall"] < quick(picks, truth)["recall"]
    missing = evaluate(fewer, truth, diameter_px=DIAMETER, bootstraps=10).rows[3]
    assert [missing[key] for key in ("n_picks", "f1", "recall", "precision", "ap")] == [0] * 5
    assert found["macro"]["f1"] < quick(picks, truth)["macro"]["f1"]


def test_an_empty_micrograph_costs_precision_but_not_the_macro_mean():
    picks, truth = collection(3)
    wrong = Picks("empty", np.random.default_rng(1).uniform(0, SIDE, (50, 2)), np.full(50, 0.9))
    with_empty = replace(picks, picks=(*picks, wrong))
    truth_with = {**truth, "empty": labels("empty", np.empty((0, 2))), "bare": labels("bare", np.empty((0, 2)))}
    before, after = quick(picks, truth), quick(with_empty, truth_with)
    assert after["macro"] == before["macro"]
    assert after["n_picks"] == before["n_picks"] + 50
    assert after["precision"] < before["precision"]
    assert after["ap"] < before["ap"]
    assert (after["n_empty"], after["false_picks_per_empty"]) == (2, 25)
    rows = {row["micrograph"]: row for row in evaluate(with_empty, truth_with, diameter_px=DIAMETER, bootstraps=9).rows}
    assert rows["empty"]["f1"] is rows["empty"]["ap"] is rows["empty"]["recall"] is None


def test_only_empty_micrographs_leave_the_figures_undefined():
    picks, truth = collection(2)
    found = quick(picks, {name: labels(name, np.empty((0, 2))) for name in truth})
    assert found["ap"] is found["f1"] is found["recall"] is found["macro"]["f1"] is None
    assert found["false_picks_per_empty"] == found["n_picks"] / 2


def test_picks_where_nobody_looked_are_left_out_and_counted():
    picks, truth = collection(3)
    extra = replace(picks, picks=(*picks, Picks("unseen", np.zeros((5, 2)), np.ones(5))))
    whole = evaluate(extra, truth, diameter_px=DIAMETER, bootstraps=50)
    assert whole.pooled == evaluate(picks, truth, diameter_px=DIAMETER, bootstraps=50).pooled
    assert whole.how["micrographs_without_labels"] == 1


def test_areas_where_nobody_looked_hold_neither_picks_nor_labels():
    picks, truth = collection(3)
    seen = np.ones((100, 100), bool)
    seen[:, 50:] = False
    half = Image(np.zeros((100, 100), np.float32), Grid().area_resized((SIDE, SIDE), (100, 100)), seen)
    found = quick(picks, truth, valid=dict.fromkeys(truth, half))
    left = {name: t.where(t.xy[:, 0] < 499.5) for name, t in truth.items()}
    expected = quick(replace(picks, picks=tuple(p.where(p.xy[:, 0] < 499.5) for p in picks)), left)
    assert found["n_labels"] == sum(map(len, left.values()))
    assert (found["ap"], found["f1"], found["n_candidates"]) == (
        expected["ap"],
        expected["f1"],
        expected["n_candidates"],
    )


def test_shuffling_files_or_candidates_changes_nothing():
    picks, truth = collection(6)
    rng = np.random.default_rng(2)
    shuffled = []
    for k in rng.permutation(6):
        order, p = rng.permutation(len(picks.picks[k])), picks.picks[k]
        shuffled.append(Picks(p.micrograph, p.xy[order], p.score[order]))
    mixed = {name: labels(name, rng.permutation(truth[name].xy)) for name in reversed(truth)}
    plain = evaluate(picks, truth, diameter_px=DIAMETER, bootstraps=200)
    again = evaluate(replace(picks, picks=tuple(shuffled)), mixed, diameter_px=DIAMETER, bootstraps=200)
    assert again.rows == plain.rows
    assert again.pooled == plain.pooled


def test_micrographs_do_not_lend_each_other_labels():
    here = labels("a", np.array([[10.0, 10.0]]))
    there = labels("b", np.array([[500.0, 500.0]]))
    swapped = PickSet((replace(here, micrograph="b"), replace(there, micrograph="a")))
    assert quick(swapped, {"a": here, "b": there})["f1"] == 0


def test_the_arguments_are_left_alone():
    picks, truth = collection(2)
    before = [p.xy.copy() for p in picks]
    evaluate(picks, truth, diameter_px=DIAMETER, bootstraps=10)
    for p, xy in zip(picks, before, strict=True):
        np.testing.assert_array_equal(p.xy, xy)


def test_the_optimal_matching_is_flagged_where_it_differs():
    """Each good pick sits between two labels; its neighbour, scored lower, reaches only the nearer of them."""
    first = np.array([[k * 100.0, 0.0] for k in range(10)])
    truth = {"mic": labels("mic", np.concatenate((first, first + np.array([12, 0]))))}
    xy = np.concatenate((first + np.array([5, 0]), first - np.array([7, 0])))
    found = quick(PickSet((Picks("mic", xy, np.repeat((0.9, 0.5), 10)),)), truth)
    assert found["recall"] == 0.5
    assert found["optimal"] == {"f1": 1, "precision": 1, "recall": 1, "differs": True}


# --- JSON


def test_everything_survives_json_and_nothing_is_nan():
    picks, truth = collection(6)
    truth["bare"] = labels("bare", np.empty((0, 2)))
    maps = {"mic0": Image(np.random.default_rng(3).random((50, 50)), Grid(dx=20.0, dy=20.0), np.ones((50, 50), bool))}
    known = {"probability": maps, "shapes": shapes_of(truth)}
    flat = to_json(evaluate(picks, truth, diameter_px=DIAMETER, bootstraps=20, **known))
    assert json.loads(json.dumps(flat, allow_nan=False)) == flat
    assert flat.keys() > {"ap", "f1", "threshold", "precision", "recall", "best_f1", "best_threshold", "n_labels"}
    assert flat.keys() > {"n_picks", "n_candidates", "radius_px", "at_radius", "per_micrograph", "pixel", "ci", "macro"}
    assert flat.keys() > {"baselines", "optimal", "how"}
    assert len(flat["per_micrograph"]) == 7


# --- intervals


def test_few_micrographs_give_a_range_and_more_an_interval():
    picks, truth = collection(4)
    found = quick(picks, truth)
    rows = evaluate(picks, truth, diameter_px=DIAMETER, bootstraps=10).rows
    assert found["ci"]["kind"] == "range over micrographs"
    assert found["ci"]["f1"] == pytest.approx([min(r["f1"] for r in rows), max(r["f1"] for r in rows)])
    assert quick(*collection(5))["ci"]["kind"] == "95 % bootstrap over micrographs"


def test_empty_micrographs_do_not_make_an_interval():
    picks, truth = collection(4)
    more = {f"bare{k}": labels(f"bare{k}", np.empty((0, 2))) for k in range(5)}
    assert quick(picks, truth | more)["ci"]["kind"] == "range over micrographs"


def test_intervals_hold_the_figure_and_shrink_with_more_micrographs():
    few, many = ([quick(*collection(n, seed)) for seed in range(4)] for n in (6, 36))
    for key in ("ap", "f1", "best_f1", "precision", "recall"):
        for found in few + many:
            low, high = found["ci"][key]
            assert low <= found[key] <= high
        width_of_few, width_of_many = (np.mean([np.ptp(found["ci"][key]) for found in each]) for each in (few, many))
        assert 0.2 < width_of_many / width_of_few < 0.8  # about 1/sqrt(6)


def test_resampled_figures_are_those_of_repeated_micrographs():
    """A micrograph that weighs 2 counts as two copies: the shortcut through weights is exact, ties included."""
    picks, truth = collection(5)
    coarse = replace(picks, picks=tuple(replace(p, score=np.round(p.score, 1)) for p in picks))
    pool = module._pool(coarse.by_name(), truth, {})
    weights = np.array([[2, 0, 1, 0, 3], [1, 1, 1, 1, 1], [0, 5, 0, 0, 0]], float)
    figures = module._figures(module._ranked(pool, 10.0), 0.5, weights)
    for row, weight in enumerate(weights):
        copies = [(name, c) for name, w in zip(pool.names, weight, strict=True) for c in range(int(w))]
        repeated = PickSet(tuple(replace(coarse.by_name()[n], micrograph=f"{n}-{c}") for n, c in copies), 0.5)
        expected = quick(repeated, {f"{n}-{c}": truth[n] for n, c in copies})
        for key in ("ap", "f1", "precision", "recall", "best_f1"):
            assert figures[key][row] == pytest.approx(expected[key]), key


def test_the_seed_decides_the_interval():
    picks, truth = collection(6)
    assert quick(picks, truth, seed=1)["ci"] == quick(picks, truth, seed=1)["ci"]
    assert quick(picks, truth, seed=1)["ci"] != quick(picks, truth, seed=2)["ci"]


def test_a_paired_difference_is_surer_than_two_intervals():
    good, truth = collection(12, by=0.15)
    worse, _ = collection(12, by=0.05)
    paired = paired_difference(good, worse, truth, diameter_px=DIAMETER, bootstraps=300)
    a, b = quick(good, truth), quick(worse, truth)
    assert paired["ap"] == pytest.approx(a["ap"] - b["ap"])
    assert paired["f1"] == pytest.approx(a["f1"] - b["f1"])
    low, high = paired["ci"]["ap"]
    assert 0 < low < paired["ap"] < high
    assert high - low < np.ptp(a["ci"]["ap"]) + np.ptp(b["ci"]["ap"])


def test_a_pick_set_does_not_differ_from_itself():
    picks, truth = collection(6)
    same = paired_difference(picks, picks, truth, diameter_px=DIAMETER, bootstraps=50)
    assert same["ap"] == same["f1"] == 0
    assert same["ci"]["best_f1"] == [0, 0]


@pytest.mark.parametrize("n", [2, 7])
def test_swapping_the_sides_swaps_the_sign(n):
    (a, truth), (b, _) = collection(n, by=0.2), collection(n, by=0.0)
    one, other = (paired_difference(*s, truth, diameter_px=DIAMETER, bootstraps=50) for s in ((a, b), (b, a)))
    assert one["f1"] == -other["f1"]
    assert one["ci"]["f1"] == pytest.approx([-x for x in reversed(other["ci"]["f1"])])


def test_twenty_crowded_micrographs_take_seconds():
    rng = np.random.default_rng(5)
    truth = {f"m{k}": labels(f"m{k}", rng.uniform(0, 4 * SIDE, (600, 2))) for k in range(20)}
    picks = tuple(noisy_picks(rng, t, wrong=2400) for t in truth.values())
    start = time.perf_counter()
    found = evaluate(PickSet(picks), truth, diameter_px=DIAMETER).pooled
    assert time.perf_counter() - start < 15  # 2 s where nothing else runs
    assert found["n_candidates"] > 55_000


def test_a_crowded_assignment_takes_milliseconds():
    rng = np.random.default_rng(6)
    xy, truth = rng.uniform(0, SIDE, (3000, 2)), rng.uniform(0, SIDE, (800, 2))
    start = time.perf_counter()
    right, _ = match_optimal(xy, truth, 20.0)
    assert time.perf_counter() - start < 1
    assert right.sum() > 700


# --- thresholds


def test_the_chosen_threshold_is_as_good_as_the_best():
    picks, truth = collection(8)
    point = choose_threshold(picks, truth, diameter_px=DIAMETER)
    best = quick(picks, truth)["best_f1"]
    assert best - module.PLATEAU - 1e-9 <= point.f1 <= best
    assert (point.n_micrographs, point.n_labels) == (8, sum(map(len, truth.values())))
    applied = quick(replace(picks, threshold=point.threshold), truth)
    assert (applied["f1"], applied["precision"], applied["recall"]) == (point.f1, point.precision, point.recall)
    assert point.interval[0] <= point.threshold <= point.interval[1]
    assert "micrographs" in point.how


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
    score = np.concatenate((np.full(rights, 0.9), np.full(wrongs, 0.6), np.full(200, 0.3)))
    xy = np.stack((np.arange(len(score)) * 30.0, np.zeros(len(score))), axis=1)
    right = np.append(np.ones(rights, bool), np.append(np.zeros(wrongs, bool), np.ones(200, bool)))
    picks, truth = PickSet((Picks("mic", xy, score),)), {"mic": labels("mic", xy[right])}
    point = choose_threshold(picks, truth, diameter_px=DIAMETER, bootstraps=20)
    best, _ = best_f1(right, score, int(right.sum()))
    assert best == pytest.approx(0.8)
    assert point.f1 >= best - module.PLATEAU


def test_few_micrographs_resample_particles_and_say_so():
    point = choose_threshold(*collection(1), diameter_px=DIAMETER)
    assert "bootstrap over particles" in point.how
    assert point.interval[0] < point.interval[1]


def test_resampling_particles_moves_each_label_with_its_pick_and_each_wrong_pick_alone():
    picks, truth = collection(2)
    parts = module._by_particle(module._pool(picks.by_name(), truth, {}), DIAMETER / 2)
    assert len(np.unique(parts.unit)) == len(picks)
    assert parts.labels.sum() == sum(map(len, truth.values()))
    np.testing.assert_array_equal(parts.labels[parts.unit] == 1, parts.right)


def test_the_interval_narrows_with_more_labels():
    few, many = (choose_threshold(*collection(n), diameter_px=DIAMETER).interval for n in (6, 80))
    assert many[1] - many[0] < few[1] - few[0]


@pytest.mark.parametrize("recall", [0.3, 0.6, 0.75])
def test_a_recall_is_kept_at_the_highest_threshold(recall):
    picks, truth = collection(6)
    point = choose_threshold(picks, truth, diameter_px=DIAMETER, least_recall=recall)
    assert recall <= point.recall < recall + 0.01
    assert "recall >= " in point.how


@pytest.mark.parametrize("precision", [0.6, 0.8, 0.9])
def test_a_precision_is_met_at_the_lowest_threshold(precision):
    picks, truth = collection(40)
    point = choose_threshold(picks, truth, diameter_px=DIAMETER, expected_precision=precision, bootstraps=20)
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
    point = choose_threshold(picks, truth, diameter_px=DIAMETER, expected_precision=0.99, bootstraps=20)
    assert point.recall > 0.95


def test_smoothed_precision_falls_and_ends_at_the_raw_one():
    rng = np.random.default_rng(7)
    hits, taken = np.cumsum(rng.random(300) < np.linspace(0.9, 0.1, 300)).astype(float), np.arange(1.0, 301)
    smooth = module._falling_precision(hits, taken)
    assert (np.diff(smooth) <= 1e-12).all()
    assert smooth[-1] == pytest.approx(hits[-1] / 300)
    assert (smooth >= hits / taken - 1e-12).all()


@pytest.mark.parametrize("goal", [{"least_recall": 0.5}, {"expected_precision": 0.5}])
def test_a_goal_out_of_reach_is_an_error(goal):
    picks, truth = collection(6)
    away = {name: labels(name, t.xy + 9 * SIDE) for name, t in truth.items()}
    with pytest.raises(InputError, match="operating point: goal"):
        choose_threshold(picks, away, diameter_px=DIAMETER, **goal)


def test_one_goal_at_a_time():
    with pytest.raises(InputError, match="both"):
        choose_threshold(*collection(2), diameter_px=DIAMETER, least_recall=0.5, expected_precision=0.5)


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


# --- pixels


def map_of(name: str, truth: dict[str, Picks], value_in: float, value_out: float, noise: float = 0.0) -> Image:
    grid = Grid(dx=2.0, dy=2.5)
    x, y = np.meshgrid(np.arange(500) * 2.0, np.arange(400) * 2.5)
    inside = np.zeros((400, 500), bool)
    for cx, cy in truth[name].xy:
        inside |= (x - cx) ** 2 + (y - cy) ** 2 <= (DIAMETER / 2) ** 2
    rng = np.random.default_rng(8)
    p = np.where(inside, value_in, value_out) + noise * rng.standard_normal(inside.shape)
    return Image(np.clip(p, 0, 1), grid, np.ones(inside.shape, bool))


def test_calling_every_pixel_positive_reaches_two_pi_over_one_plus_pi():
    picks, truth = collection(2)
    maps = {name: Image(np.full((400, 500), 0.51), Grid(dx=2.0, dy=2.5), np.ones((400, 500), bool)) for name in truth}
    pixel = quick(picks, truth, probability=maps)["pixel"]
    prior = np.mean([map_of(name, truth, 1.0, 0.0).data.mean() for name in truth])
    assert pixel["prior"] == pytest.approx(prior)
    assert pixel["f1_at_0.5"] == pytest.approx(2 * prior / (1 + prior))
    assert pixel["best_f1"] == pixel["trivial_f1"] == pixel["f1_at_0.5"]
    assert pixel["ap"] == pytest.approx(prior)
    below = {name: Image(m.data - np.float32(0.02), m.grid, m.valid) for name, m in maps.items()}
    assert quick(picks, truth, probability=below)["pixel"]["f1_at_0.5"] == 0


def test_pixel_figures_are_those_of_scikit_learn():
    picks, truth = collection(2)
    maps = {name: map_of(name, truth, 0.6, 0.4, noise=0.1) for name in truth}
    pixel = quick(picks, truth, probability=maps)["pixel"]
    y = np.concatenate([map_of(name, truth, 1.0, 0.0).data.ravel() > 0.5 for name in truth])
    p = np.concatenate([maps[name].data.ravel() for name in truth])
    assert pixel["ap"] == pytest.approx(average_precision_score(y, p))
    assert pixel["f1_at_0.5"] == pytest.approx(f1_score(y, p > 0.5))
    precision, recall, _ = sklearn.metrics.precision_recall_curve(y, p)
    assert pixel["best_f1"] == pytest.approx(np.max(2 * precision * recall / (precision + recall)))
    assert pixel["n_maps"] == 2
    parts = [average_precision_score(*pair) for pair in zip(np.split(y, 2), np.split(p, 2), strict=True)]
    assert pixel["per_image_mean"]["ap"] == pytest.approx(np.mean(parts))


def test_pixels_that_are_not_valid_do_not_count():
    picks, truth = collection(1)
    good = map_of("mic0", truth, 0.9, 0.1)
    data, valid = good.data.copy(), good.valid.copy()
    data[:, 250:], valid[:, 250:] = 0.7, False
    assert quick(picks, truth, probability={"mic0": Image(data, good.grid, valid)})["pixel"]["f1_at_0.5"] == 1


def test_a_binary_map_has_no_ranking_to_score():
    picks, truth = collection(1)
    with pytest.raises(InputError, match="only 0 and 1"):
        quick(picks, truth, probability={"mic0": map_of("mic0", truth, 1.0, 0.0)})


# --- trivial pickers


def test_baselines_know_chance():
    """Few labels on a wide field: a random pick is right with the share that discs of the radius cover."""
    picks, truth = collection(10)
    base = quick(picks, truth, shapes=shapes_of(truth))["baselines"]
    n, area = sum(map(len, truth.values())) / 10, SIDE**2
    for share in (0.2, 0.3, 0.5):
        covered = 1 - np.exp(-np.pi * n * (share * DIAMETER) ** 2 / area)
        assert base["random"][f"{share:g}"]["f1"] == pytest.approx(covered, rel=0.35)
        assert base["grid"][f"{share:g}"]["f1"] > base["random"][f"{share:g}"]["f1"]
        assert base["grid"][f"{share:g}"]["ap"] < base["grid"][f"{share:g}"]["f1"]
    prior = base["all_positive"]["prior"]
    assert prior == pytest.approx(1 - np.exp(-np.pi * n * (DIAMETER / 2) ** 2 / area), rel=0.1)
    assert base["all_positive"]["pixel_f1"] == pytest.approx(2 * prior / (1 + prior))


def test_a_regular_truth_is_found_by_the_grid():
    x = np.arange(DIAMETER / 2, SIDE, DIAMETER) - 0.5
    truth = {"mic": labels("mic", np.stack(np.meshgrid(x, x), -1).reshape(-1, 2))}
    base = quick(PickSet((), shapes={"mic": (SIDE, SIDE)}), truth)["baselines"]
    assert base["grid"]["0.2"]["f1"] == 1


def test_random_picks_fill_the_micrograph_and_no_more():
    """Labels crowd the right end of a wide field: points thrown on a tall one would miss them all."""
    truth = {"mic": labels("mic", np.random.default_rng(9).uniform((900, 0), (1000, 100), (300, 2)))}
    base = quick(PickSet((), shapes={"mic": (100, SIDE)}), truth)["baselines"]
    assert 0.05 < base["random"]["0.5"]["f1"] < 0.15


def test_sizes_may_come_from_outside_and_are_needed():
    picks, truth = collection(2)
    assert quick(picks, truth)["baselines"] is None
    known = replace(picks, shapes=shapes_of(truth))
    assert quick(picks, truth, shapes=shapes_of(truth))["baselines"] == quick(known, truth)["baselines"]


# --- refusal


def test_names_that_have_nothing_in_common_are_an_error():
    picks, truth = collection(2)
    with pytest.raises(InputError, match="a labelled one"):
        quick(picks, {f"other_{name}": t for name, t in truth.items()})


def test_no_picks_at_all_are_a_result_and_no_labels_an_error():
    picks, truth = collection(2)
    assert quick(PickSet(()), truth)["recall"] == 0
    with pytest.raises(InputError, match="number of micrographs"):
        quick(picks, {})


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_positions_and_scores_must_be_numbers(bad):
    _, truth = collection(1)
    with pytest.raises(InputError, match="not a number"):
        quick(PickSet((Picks("mic0", np.array([[bad, 1.0]]), np.ones(1)),)), truth)
    with pytest.raises(InputError, match="not a number"):
        quick(PickSet((Picks("mic0", np.ones((1, 2)), np.array([bad])),)), truth)


@pytest.mark.parametrize("diameter", [0.0, -1.0, float("nan")])
def test_a_diameter_must_be_positive(diameter):
    with pytest.raises(InputError, match="diameter"):
        evaluate(*collection(1), diameter_px=diameter)


def test_scores_that_do_not_rank_are_reported():
    picks, truth = collection(2)
    flat = replace(picks, picks=tuple(replace(p, score=np.ones(len(p))) for p in picks))
    assert evaluate(flat, truth, diameter_px=DIAMETER, bootstraps=5).how["scores_differ"] is False
    assert evaluate(picks, truth, diameter_px=DIAMETER, bootstraps=5).how["scores_differ"] is True
    found = quick(flat, truth)
    assert found["ap"] == pytest.approx(found["precision"] * found["recall"])


# --- real labels


def real_truth(folder: Path, which: str = "coords") -> dict[str, Picks]:
    files = sorted((folder / which).glob("*.csv"))
    columns = {"delimiter": ",", "skiprows": 1, "usecols": (0, 1)}
    return {f.stem: labels(f.stem, np.loadtxt(f, ndmin=2, **columns)) for f in files}


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "random", "grid"),
    [
        ("bgal_10017", 0.32, {"0.5": 0.48, "0.3": 0.22, "0.2": 0.10}),
        ("cryoppp_10059", 0.44, {"0.5": 0.64, "0.3": 0.36, "0.2": 0.15}),
        ("cryoppp_10947", 0.49, {"0.5": 0.67, "0.3": 0.39, "0.2": 0.18}),
        ("klh", 0.21, {"0.5": 0.28, "0.3": 0.11, "0.2": 0.05}),
    ],
)
def test_chance_on_real_sets_is_as_published(real_data, name, random, grid):
    """Figures of earlier, independent code; it placed its points within a margin, hence the tolerance."""
    meta = json.loads((real_data / name / "meta.json").read_text())
    truth = real_truth(real_data / name)
    assert set(meta["test"]) < set(truth)
    w, h = meta["size_wh"]
    picks = PickSet((), shapes=dict.fromkeys(truth, (h, w)))
    base = evaluate(picks, truth, diameter_px=float(meta["diameter_px"]), bootstraps=2).pooled["baselines"]
    assert base["random"]["0.5"]["f1"] == pytest.approx(random, abs=0.05)
    for key, expected in grid.items():
        assert base["grid"][key]["f1"] == pytest.approx(expected, abs=0.03)


@pytest.mark.data
def test_a_second_annotator_agrees_as_published(real_data):
    truth = real_truth(real_data / "bgal_10017")
    found = {}
    for name, second in real_truth(real_data / "bgal_10017", "coords_second").items():
        pooled = evaluate(PickSet((second,)), {name: truth[name]}, diameter_px=27.0, bootstraps=2).pooled
        found[name] = [pooled["at_radius"][key]["f1"] for key in ("0.5", "0.3", "0.2")]
        assert not pooled["optimal"]["differs"]
    assert list(found.values()) == [
        pytest.approx([0.83, 0.83, 0.80], abs=0.006),
        pytest.approx([0.845, 0.84, 0.82], abs=0.006),
    ]
