"""Figures of merit equal counts and other libraries; intervals behave; names and order are safe."""

import json
import time
from dataclasses import replace

import numpy as np
import pytest
import sklearn.metrics
from sklearn.metrics import average_precision_score, f1_score

from made_picks import DIAMETER, SIDE, collection, labels, noisy_picks, quick, shapes_of
from verglas.errors import InputError
from verglas.evaluate import evaluate, paired_difference, to_json
from verglas.io.picks import read_picks
from verglas.matching import match
from verglas.ranking import average_precision, best_f1
from verglas.types import Grid, Image, Picks, PickSet

# --- figures


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
    known = replace(picks, shapes=shapes_of(truth))
    flat = to_json(evaluate(known, truth, diameter_px=DIAMETER, bootstraps=20, probability=maps))
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


# --- chance


def test_chance_is_known_where_all_sizes_are():
    picks, truth = collection(2)
    known = shapes_of(truth)
    assert quick(picks, truth)["baselines"] is None
    assert quick(replace(picks, shapes={"mic0": known["mic0"]}), truth)["baselines"] is None
    assert quick(replace(picks, shapes=known | {"other": (9, 9)}), truth)["baselines"] is not None


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


@pytest.mark.data
def test_a_second_annotator_agrees_as_published(real_data):
    folder = real_data / "bgal_10017"
    truth = read_picks(folder / "coords").by_name()
    found = {}
    for name, second in read_picks(folder / "coords_second").by_name().items():
        pooled = evaluate(PickSet((second,)), {name: truth[name]}, diameter_px=27.0, bootstraps=2).pooled
        found[name] = [pooled["at_radius"][key]["f1"] for key in ("0.5", "0.3", "0.2")]
        assert not pooled["optimal"]["differs"]
    assert list(found.values()) == [
        pytest.approx([0.83, 0.83, 0.80], abs=0.006),
        pytest.approx([0.845, 0.84, 0.82], abs=0.006),
    ]
