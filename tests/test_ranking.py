"""Figures of ranked candidates equal closed forms, another library and plain repetition."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from made_picks import DIAMETER, collection, quick
from verglas.matching import Pool
from verglas.ranking import average_precision, best_f1, precision_recall_curve
from verglas.types import PickSet


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


def test_resampled_figures_are_those_of_repeated_micrographs():
    """A micrograph that weighs 2 counts as two copies: the shortcut through weights is exact, ties included."""
    picks, truth = collection(5)
    coarse = replace(picks, picks=tuple(replace(p, score=np.round(p.score, 1)) for p in picks))
    pool = Pool.of(coarse.by_name(), truth)
    weights = np.array([[2, 0, 1, 0, 3], [1, 1, 1, 1, 1], [0, 5, 0, 0, 0]], float)
    figures = pool.by_micrograph(10.0).figures(0.5, weights)
    for row, weight in enumerate(weights):
        copies = [(name, c) for name, w in zip(pool.names, weight, strict=True) for c in range(int(w))]
        repeated = PickSet(tuple(replace(coarse.by_name()[n], micrograph=f"{n}-{c}") for n, c in copies), 0.5)
        expected = quick(repeated, {f"{n}-{c}": truth[n] for n, c in copies})
        for key in ("ap", "f1", "precision", "recall", "best_f1"):
            assert figures[key][row] == pytest.approx(expected[key]), key


def test_resampling_particles_moves_each_label_with_its_pick_and_each_wrong_pick_alone():
    picks, truth = collection(2)
    parts = Pool.of(picks.by_name(), truth).by_particle(DIAMETER / 2)
    assert len(np.unique(parts.unit)) == len(picks)
    assert parts.labels.sum() == sum(map(len, truth.values()))
    np.testing.assert_array_equal(parts.labels[parts.unit] == 1, parts.right)
