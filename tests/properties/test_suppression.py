"""Peak finding and suppression equal their definitions, written out pixel by pixel and pair by pair."""

from fractions import Fraction
from pathlib import Path

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from verglas.pick import find, suppress
from verglas.types import Grid, Image, Micrograph

LEVELS = 8
"""Probabilities are multiples of 1/8, so that means are equal exactly or clearly not."""


def suppress_by_hand(xy: np.ndarray, score: np.ndarray, radius: float) -> np.ndarray:
    keep = np.zeros(len(xy), bool)
    for k in sorted(range(len(xy)), key=lambda k: (-score[k], xy[k, 1], xy[k, 0])):
        keep[k] = all(np.sum((xy[k] - xy[j]) ** 2) >= radius**2 for j in np.flatnonzero(keep))
    return keep


def candidates(most: int = 40) -> st.SearchStrategy[tuple[np.ndarray, np.ndarray]]:
    """Integer positions, so that distances are exact, and few different scores, so that many are equal."""
    places = st.lists(st.tuples(st.integers(0, 25), st.integers(0, 25), st.integers(0, 5)), max_size=most, unique=True)
    return places.map(lambda rows: np.array(rows, float).reshape(-1, 3)).map(lambda a: (a[:, :2], a[:, 2] / 5))


@given(candidates(), st.sampled_from([0.0, 1.0, 2.5, 5.0, 7.0, 100.0]))
@settings(max_examples=300, deadline=None)
def test_suppression_is_greedy(cloud, radius):
    xy, score = cloud
    np.testing.assert_array_equal(suppress(xy, score, radius), suppress_by_hand(xy, score, radius))


@given(candidates(), st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_the_order_of_candidates_does_not_matter(cloud, random):
    xy, score = cloud
    order = np.array(random.sample(range(len(xy)), len(xy)), int)
    np.testing.assert_array_equal(suppress(xy[order], score[order], 5.0), suppress(xy, score, 5.0)[order])


@given(candidates(), st.sampled_from([2.5, 5.0, 9.0]))
@settings(max_examples=100, deadline=None)
def test_survivors_keep_apart_and_the_fallen_have_a_better_survivor_near(cloud, radius):
    xy, score = cloud
    keep = suppress(xy, score, radius)
    squared = np.sum((xy[:, None] - xy[None]) ** 2, axis=-1)
    assert (squared[np.ix_(keep, keep)] + radius**2 * np.eye(keep.sum()) >= radius**2).all()
    for k in np.flatnonzero(~keep):
        assert np.any(keep & (squared[k] < radius**2) & (score >= score[k]))


@given(candidates())
@settings(max_examples=50, deadline=None)
def test_suppressing_twice_is_suppressing_once(cloud):
    xy, score = cloud
    keep = suppress(xy, score, 6.0)
    assert suppress(xy[keep], score[keep], 6.0).all()


# --- the whole of peak finding, written out


def mean_by_hand(levels: np.ndarray, valid: np.ndarray, grid: Grid, radius: float, row: int, column: int) -> Fraction:
    h, w = levels.shape
    near = [
        (r, c)
        for r in range(h)
        for c in range(w)
        if valid[r, c] and ((r - row) * grid.dy) ** 2 + ((c - column) * grid.dx) ** 2 <= radius**2
    ]
    return Fraction(int(sum(levels[r, c] for r, c in near)), LEVELS * len(near))


def neighbours(at: tuple[int, int], among: dict[tuple[int, int], Fraction]) -> list[tuple[int, int]]:
    beside = [(at[0] + i, at[1] + j) for i in (-1, 0, 1) for j in (-1, 0, 1) if i or j]
    return [b for b in beside if b in among]


def one_of_each_cluster(peaks: dict[tuple[int, int], Fraction]) -> list[tuple[int, int]]:
    left, chosen = set(peaks), []
    while left:
        cluster, front = set(), [min(left)]
        while front:
            at = front.pop()
            if at not in cluster:
                cluster.add(at)
                front += neighbours(at, peaks)
        left -= cluster
        row, column = (Fraction(sum(part), len(cluster)) for part in zip(*cluster, strict=True))
        chosen.append(min(cluster, key=lambda at: ((at[0] - row) ** 2 + (at[1] - column) ** 2, at)))
    return chosen


def find_by_hand(levels, valid, grid, shape, diameter, least, edge) -> list[tuple[float, float, float]]:
    h, w = levels.shape
    score = {
        (r, c): mean_by_hand(levels, valid, grid, 0.25 * diameter, r, c)
        for r in range(h)
        for c in range(w)
        if valid[r, c]
    }
    peaks = {
        at: s for at, s in score.items() if s >= Fraction(least) and all(s >= score[n] for n in neighbours(at, score))
    }
    found = []
    for row, column in one_of_each_cluster(peaks):
        here, shift = score[row, column], []
        for down, right in ((0, 1), (1, 0)):
            before, after = score.get((row - down, column - right)), score.get((row + down, column + right))
            bend = 0 if before is None or after is None else 2 * here - before - after
            shift.append(float((after - before) / (2 * bend)) if bend else 0.0)
        x, y = grid.x0 + (column + shift[0]) * grid.dx, grid.y0 + (row + shift[1]) * grid.dy
        found.append((x, y, float(here)))
    xy, scores = np.array(found).reshape(-1, 3)[:, :2], np.array(found).reshape(-1, 3)[:, 2]
    standing = [f for f, keep in zip(found, suppress_by_hand(xy, scores, 0.5 * diameter), strict=True) if keep]
    inside = [
        (x, y, s)
        for x, y, s in standing
        if min(x + 0.5, shape[1] - 0.5 - x, y + 0.5, shape[0] - 0.5 - y) >= edge - 1e-9
    ]
    return sorted(inside, key=lambda f: (-f[2], f[1], f[0]))


MAPS = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9).flatmap(
    lambda shape: st.tuples(
        hnp.arrays(np.int64, shape, elements=st.sampled_from([0, 0, 0, 1, 2, 4, 7, 8])),
        hnp.arrays(np.bool_, shape, elements=st.sampled_from([True, True, True, False]))
        | st.just(np.ones(shape, bool)),
    )
)
GRIDS = st.sampled_from([Grid(), Grid(1.5, 1.5, 4.0, 4.0), Grid(0.5, -0.25, 1.5, 2.25)])


_AT_THE_EDGE = np.zeros((5, 5), np.int64), np.ones((5, 5), bool)
_AT_THE_EDGE[0][2:, 3] = 4, 8, 7  # refined to 2.2 pixels from the outline, but for rounding
_AS_CENTRAL = np.ones((3, 7), np.int64), np.zeros((3, 7), bool)
_AS_CENTRAL[1][[0, 0, 1, 1, 2], [4, 5, 4, 6, 5]] = True  # (0, 5) and (1, 4) are as near to the mean, but for rounding


@given(MAPS, GRIDS, st.sampled_from([2.3, 6.7, 15.1]), st.sampled_from([0.01, 0.3]), st.sampled_from([0.0, 2.2]))
@example((np.ones((5, 7), np.int64), np.ones((5, 7), bool)), Grid(), 6.7, 0.01, 0.0)
@example(_AT_THE_EDGE, Grid(), 2.3, 0.01, 2.2)
@example(_AS_CENTRAL, Grid(), 2.3, 0.01, 0.0)
@settings(max_examples=300, deadline=None)
def test_finding_is_as_defined(drawn, grid, diameter, least, edge):
    levels, valid = drawn
    h, w = levels.shape
    shape = (int(np.ceil(h * grid.dy)) + 1, int(np.ceil(w * grid.dx)) + 1)
    probability = Image((levels / LEVELS).astype(np.float32), grid, valid)
    micrograph = Micrograph("mic", Path("mic.mrc"), shape)
    found = find(probability, micrograph, diameter_px=diameter, least_score=least, edge_px=edge)
    expected = np.array(find_by_hand(levels, valid, grid, shape, diameter, least, edge)).reshape(-1, 3)
    rows = np.column_stack((found.xy, found.score))
    assert rows.shape == expected.shape
    np.testing.assert_allclose(rows, expected, atol=2e-5)
