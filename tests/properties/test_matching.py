"""Matching equals its definition, and greedy and optimal matching bound each other."""

import time
from itertools import permutations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from verglas.matching import match, match_optimal

Cloud = tuple[np.ndarray, np.ndarray, np.ndarray]


def clouds(most: int = 25, side: int = 20) -> st.SearchStrategy[Cloud]:
    """Picks with scores, and labels, at whole pixels so that distances tie and radii are met exactly."""
    at = st.tuples(st.integers(0, side), st.integers(0, side))
    picks = st.lists(st.tuples(at, st.integers(0, 6)), max_size=most)
    return st.tuples(picks, st.lists(at, max_size=most)).map(
        lambda drawn: (
            np.array([xy for xy, _ in drawn[0]], float).reshape(-1, 2),
            np.array([s for _, s in drawn[0]], float) / 6,
            np.array(drawn[1], float).reshape(-1, 2),
        )
    )


def by_hand(xy: np.ndarray, score: np.ndarray, truth: np.ndarray, radius: float) -> np.ndarray:
    label, free = np.full(len(xy), -1), set(range(len(truth)))
    for k in sorted(range(len(xy)), key=lambda k: (-score[k], xy[k, 1], xy[k, 0])):
        squared = {j: float(np.sum((xy[k] - truth[j]) ** 2)) for j in free}
        reach = [j for j in free if squared[j] <= radius**2]
        if reach:
            label[k] = min(reach, key=lambda j: (squared[j], truth[j, 1], truth[j, 0]))
            free.remove(int(label[k]))
    return label


def distances(xy: np.ndarray, truth: np.ndarray) -> np.ndarray:
    return np.sqrt(np.sum((xy[:, None] - truth[None]) ** 2, axis=-1))


RADII = st.sampled_from([0.5, 1.0, 2.0, 5.0, 40.0])


@given(clouds(), RADII)
@settings(max_examples=300, deadline=None)
def test_greedy_matching_is_as_defined(cloud, radius):
    xy, score, truth = cloud
    right, label = match(xy, score, truth, radius)
    expected = by_hand(xy, score, truth, radius)
    np.testing.assert_array_equal(right, expected >= 0)
    same = [(a == b) or np.array_equal(truth[a], truth[b]) for a, b in zip(label, expected, strict=True) if b >= 0]
    assert all(same)  # labels at one place are interchangeable


@given(clouds(), RADII, st.booleans())
@settings(max_examples=200, deadline=None)
def test_a_matching_is_one_to_one_and_within_reach(cloud, radius, optimal):
    xy, score, truth = cloud
    right, label = match_optimal(xy, truth, radius) if optimal else match(xy, score, truth, radius)
    used = label[right]
    assert len(set(used.tolist())) == len(used)
    assert (label[~right] == -1).all()
    assert (np.linalg.norm(xy[right] - truth[used], axis=1) <= radius + 1e-6).all()


@given(clouds(), RADII)
@settings(max_examples=200, deadline=None)
def test_greedy_finds_at_least_half_of_what_can_be_found(cloud, radius):
    xy, score, truth = cloud
    greedy, best = match(xy, score, truth, radius)[0].sum(), match_optimal(xy, truth, radius)[0].sum()
    assert greedy <= best <= 2 * greedy


@given(clouds(), RADII)
@settings(max_examples=200, deadline=None)
def test_optimal_matching_solves_the_dense_assignment(cloud, radius):
    xy, _, truth = cloud
    right, label = match_optimal(xy, truth, radius)
    d = distances(xy, truth)
    cost = np.where(d <= radius, (d / radius) ** 2 - (min(len(xy), len(truth)) + 1), 0)
    row, column = linear_sum_assignment(cost)
    ours = cost[right, label[right]].sum()
    np.testing.assert_allclose(ours, cost[row, column].sum(), atol=1e-7 * max(cost.size, 1))


@given(clouds(most=5, side=6), st.sampled_from([1.0, 2.0, 3.0]))
@settings(max_examples=100, deadline=None)
def test_optimal_matching_beats_every_permutation(cloud, radius):
    xy, _, truth = cloud
    few, many = sorted((xy, truth), key=len)
    d = distances(few, many)
    most = 0
    for order in permutations(range(len(many)), len(few)):
        most = max(most, sum(d[k, j] <= radius for k, j in enumerate(order)))
    assert match_optimal(xy, truth, radius)[0].sum() == most


@given(clouds(), RADII, st.integers(0, 6))
@settings(max_examples=200, deadline=None)
def test_leaving_out_worse_picks_changes_nothing_for_better_ones(cloud, radius, cut):
    xy, score, truth = cloud
    kept = score >= cut / 6
    np.testing.assert_array_equal(
        match(xy[kept], score[kept], truth, radius)[0], match(xy, score, truth, radius)[0][kept]
    )


@given(clouds(), RADII, st.randoms(use_true_random=False))
@settings(max_examples=200, deadline=None)
def test_the_order_of_picks_and_labels_does_not_matter(cloud, radius, random):
    xy, score, truth = cloud
    of_picks = np.array(random.sample(range(len(xy)), len(xy)), int)
    of_labels = np.array(random.sample(range(len(truth)), len(truth)), int)
    right, _ = match(xy, score, truth, radius)
    again, _ = match(xy[of_picks], score[of_picks], truth[of_labels], radius)
    alike = {(x, y, s) for x, y, s, r in zip(*xy[of_picks].T, score[of_picks], again, strict=True) if r}
    assert alike == {(x, y, s) for x, y, s, r in zip(*xy.T, score, right, strict=True) if r}
    assert again.sum() == right.sum()


@given(clouds(), RADII, RADII)
@settings(max_examples=200, deadline=None)
def test_optimal_matching_grows_with_the_radius(cloud, one, other):
    xy, _, truth = cloud
    near, far = sorted((one, other))
    assert match_optimal(xy, truth, near)[0].sum() <= match_optimal(xy, truth, far)[0].sum()


@given(st.integers(0, 40000), st.integers(0, 40000))
@settings(max_examples=100, deadline=None)
def test_rounding_does_not_decide_at_the_very_radius(column, row):
    """Tenths of pixels are not exact in binary: 13.5 px must stay within 13.5 px wherever the particle sits."""
    label = np.array([[column / 10, row / 10]])
    pick = np.array([[(column + 81) / 10, (row + 108) / 10]])
    assert match(pick, np.ones(1), label, 13.5)[0].all()
    assert match_optimal(pick, label, 13.5)[0].all()
    assert not match(pick, np.ones(1), label, 13.499)[0].any()


def test_a_crowded_assignment_takes_milliseconds():
    rng = np.random.default_rng(6)
    xy, truth = rng.uniform(0, 1000, (3000, 2)), rng.uniform(0, 1000, (800, 2))
    start = time.perf_counter()
    right, _ = match_optimal(xy, truth, 20.0)
    assert time.perf_counter() - start < 1
    assert right.sum() > 700
