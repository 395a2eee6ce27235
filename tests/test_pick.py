"""Peaks are where the blobs are, each once, none in bad areas, and borders are no special places."""

import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from verglas.errors import InputError
from verglas.matching import match
from verglas.pick import disc_mean, find, suppress
from verglas.types import Grid, Image, Micrograph

MICROGRAPH = Micrograph("mic", Path("mic.mrc"), (400, 600))
DIAMETER = 48.0


def working_grid(shape: tuple[int, int], micrograph: Micrograph = MICROGRAPH) -> Grid:
    return Grid().area_resized(micrograph.shape, shape)


def lattice(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2).astype(float)


def bumps(shape: tuple[int, int], grid: Grid, centres: np.ndarray, heights: np.ndarray, width_px: float) -> np.ndarray:
    """Gaussians at positions in micrograph pixels; the highest counts where they overlap."""
    xy = grid.to_micrograph(lattice(np.arange(shape[1]), np.arange(shape[0])))
    total = np.zeros(len(xy))
    for centre, height in zip(centres, heights, strict=True):
        total = np.maximum(total, height * np.exp(-np.sum((xy - centre) ** 2, axis=1) / (2 * width_px**2)))
    return total.reshape(shape)


def image(data: np.ndarray, grid: Grid | None = None, valid: np.ndarray | None = None) -> Image:
    everywhere = np.ones(data.shape, bool)
    return Image(data.astype(np.float32), grid or working_grid(data.shape), everywhere if valid is None else valid)


# --- where the peaks are


@pytest.mark.parametrize("shape", [(100, 150), (97, 150), (100, 131), (133, 163)])
def test_every_blob_is_found_to_a_fraction_of_a_pixel(shape):
    rng = np.random.default_rng(0)
    centres = lattice(np.arange(60, 560, 70), np.arange(60, 360, 70))
    centres += rng.uniform(-10, 10, centres.shape)
    heights = rng.uniform(0.4, 0.95, len(centres))
    grid = working_grid(shape)
    found = find(image(bumps(shape, grid, centres, heights, 12.0), grid), MICROGRAPH, diameter_px=DIAMETER)
    right, label = match(found.xy, found.score, centres, 5.0)
    assert right.all()
    assert len(found) == len(centres)
    assert np.abs(found.xy - centres[label]).max() < 0.1 * max(grid.dx, grid.dy)


def test_refining_beats_the_nearest_pixel():
    centre = np.array([[301.3, 199.1]])
    grid = working_grid((100, 150))
    blob = image(bumps((100, 150), grid, centre, np.ones(1), 12.0), grid)
    fine = find(blob, MICROGRAPH, diameter_px=DIAMETER).xy[0]
    coarse = find(blob, MICROGRAPH, diameter_px=DIAMETER, refine=False).xy[0]
    on_grid = grid.from_micrograph(coarse[None])
    np.testing.assert_allclose(on_grid, np.rint(on_grid), atol=1e-9)
    assert np.hypot(*(fine - centre[0])) < 0.2 < np.hypot(*(coarse - centre[0]))


def test_distances_are_those_of_the_micrograph_where_steps_differ():
    """Two equal pairs, one across and one down, 30 px apart: both survive at 0.5 D = 24 px, neither at 36 px."""
    centres = np.array([[100, 100], [130, 100], [300, 100], [300, 130]], float)
    grid = Grid(0.0, 0.0, 2.0, 5.0)
    sharp = image(bumps((80, 300), grid, centres, np.full(4, 0.9), 6.0), grid)
    assert len(find(sharp, MICROGRAPH, diameter_px=48.0, score_radius=0.1)) == 4
    assert len(find(sharp, MICROGRAPH, diameter_px=72.0, score_radius=0.1)) == 2


def test_the_grid_is_used_once_and_only_for_positions():
    data = np.random.default_rng(1).random((60, 90))
    here = find(image(data, Grid(0.0, 0.0, 3.0, 3.0)), MICROGRAPH, diameter_px=DIAMETER)
    there = find(image(data, Grid(40.0, 25.0, 3.0, 3.0)), MICROGRAPH, diameter_px=DIAMETER)
    np.testing.assert_allclose(there.xy, here.xy + np.array([40, 25]))
    np.testing.assert_array_equal(there.score, here.score)


def test_mirroring_the_map_mirrors_the_picks():
    data = np.random.default_rng(2).random((61, 92))
    plain = find(image(data, Grid(0.0, 0.0, 2.0, 2.0)), MICROGRAPH, diameter_px=20.0)
    mirrored = find(image(data[:, ::-1].copy(), Grid(0.0, 0.0, 2.0, 2.0)), MICROGRAPH, diameter_px=20.0)
    flipped = mirrored.xy * (-1, 1) + (2 * 91, 0)
    np.testing.assert_allclose(flipped, plain.xy, atol=1e-4)
    np.testing.assert_array_equal(mirrored.score, plain.score)


def test_a_flat_top_is_one_pick_in_its_middle():
    grid = working_grid((100, 150))
    saturated = np.clip(3 * bumps((100, 150), grid, np.array([[250.0, 150.0]]), np.ones(1), 40.0), 0, 1)
    found = find(image(saturated, grid), MICROGRAPH, diameter_px=DIAMETER)
    assert found.score.tolist() == [1.0]
    assert np.abs(found.xy[0] - (250, 150)).max() <= max(grid.dx, grid.dy)


def test_two_flat_tops_at_opposite_borders_are_two_picks():
    data = np.zeros((40, 50))
    data[10, 49] = data[11, 0] = 1
    found = find(image(data, Grid(0.0, 0.0, 10.0, 10.0)), MICROGRAPH, diameter_px=40.0, score_radius=0.0)
    assert sorted(found.xy.tolist()) == [[0, 110], [490, 100]]


@pytest.mark.parametrize(("value", "expected"), [(0.5, 1), (0.0, 0)])
def test_a_constant_map_is_one_peak_at_most(value, expected):
    found = find(image(np.full((64, 64), value)), MICROGRAPH, diameter_px=DIAMETER)
    assert len(found) == expected


# --- what a score is


@pytest.mark.parametrize("radius", [0.0, 0.9, 2.0, 3.7, 9.0])
@pytest.mark.parametrize("grid", [Grid(), Grid(5.0, -3.0, 0.8, 1.3)])
@pytest.mark.parametrize("holes", [0.0, 0.3])
def test_the_disc_mean_is_the_mean_over_valid_pixels_of_the_disc(radius, grid, holes):
    rng = np.random.default_rng(3)
    data, valid = rng.random((17, 23)), rng.random((17, 23)) >= holes
    xy = grid.to_micrograph(lattice(np.arange(23), np.arange(17)))
    near = np.linalg.norm(xy[:, None] - xy[None], axis=-1) <= radius + 1e-9
    weight = near * valid.ravel()
    expected = np.divide(weight @ data.ravel(), weight.sum(1), out=np.full(17 * 23, -1.0), where=valid.ravel())
    np.testing.assert_allclose(disc_mean(image(data, grid, valid), radius).ravel(), expected, atol=2e-6)


def test_the_disc_mean_of_one_is_one_even_for_a_large_disc():
    ones = image(np.ones((200, 220)), Grid())
    assert np.ptp(disc_mean(ones, 90.0)) == 0
    assert disc_mean(ones, 90.0)[0, 0] == 1


def test_scores_are_probabilities_and_fall():
    found = find(image(np.random.default_rng(4).random((80, 90))), MICROGRAPH, diameter_px=30.0)
    assert len(found) > 20
    assert found.score.min() >= 0.01
    assert found.score.max() <= 1
    assert all(a >= b for a, b in pairwise(found.score.tolist()))


def test_candidates_from_the_least_score_on_are_kept():
    data = np.zeros((50, 50))
    data[10, 10], data[10, 40], data[40, 10] = 0.25, 0.125, 0.0625
    sharp = image(data, Grid(0.0, 0.0, 8.0, 8.0))
    kept = find(sharp, MICROGRAPH, diameter_px=DIAMETER, score_radius=0.0, least_score=0.125)
    assert kept.score.tolist() == [0.25, 0.125]


# --- borders and bad areas


H, W = 12, 15
BORDER = [(r, c) for r in range(H) for c in range(W) if r in (0, H - 1) or c in (0, W - 1)]


@pytest.mark.parametrize("score_radius", [0.0, 0.25])
@pytest.mark.parametrize(("row", "column"), BORDER)
def test_a_peak_on_any_border_pixel_spares_the_opposite_border(row, column, score_radius):
    across = [(row, W - 1 - column)] if column in (0, W - 1) else []
    along = [(H - 1 - row, column)] if row in (0, H - 1) else []
    data = np.zeros((H, W))
    data[row, column] = 1.0
    for place in across + along:
        data[place] = 0.5
    places = np.array([(c, r) for r, c in [(row, column), *across, *along]], float)
    found = find(image(data, Grid()), MICROGRAPH, diameter_px=5.0, score_radius=score_radius)
    assert len(found) == len(places)
    right, _ = match(found.xy, found.score, places, 0.0 + 1e-9 if score_radius == 0 else 1.0)
    assert right.all()


def test_nothing_is_picked_in_bad_areas_and_they_lend_no_score():
    data, valid = np.zeros((60, 80)), np.ones((60, 80), bool)
    data[30, 20] = data[30, 60] = 1.0
    data[:, 50:], valid[:, 50:] = 1.0, False
    data[30, 49] = 0.5
    found = find(image(data, Grid(0.0, 0.0, 5.0, 5.0), valid), MICROGRAPH, diameter_px=40.0)
    assert (found.xy[:, 0] < 250).all()
    whole = np.linalg.norm(5 * lattice(np.arange(-2, 3), np.arange(-2, 3)), axis=1) <= 10
    cut = np.linalg.norm(5 * lattice(np.arange(-2, 1), np.arange(-2, 3)), axis=1) <= 10
    assert found.score.tolist() == pytest.approx([1 / whole.sum(), 0.5 / cut.sum()])


def test_a_valid_peak_beside_a_bad_area_is_not_lost_to_it():
    data, valid = np.zeros((40, 40)), np.ones((40, 40), bool)
    data[20, 20], valid[20, 21:] = 0.8, False
    data[19:22, 21:] = 1.0
    valid[19:22, 21:] = False
    found = find(image(data, Grid(0.0, 0.0, 10.0, 10.0), valid), MICROGRAPH, diameter_px=60.0)
    assert found.xy[0].tolist() == pytest.approx([200, 200], abs=5)


def test_values_in_bad_areas_may_be_anything():
    data, valid = np.random.default_rng(5).random((40, 40)), np.ones((40, 40), bool)
    valid[5:20, 5:20] = False
    spoilt = data.copy()
    spoilt[5:20, 5:20] = np.nan
    plain, with_nan = (find(image(d, None, valid), MICROGRAPH, diameter_px=60.0) for d in (data, spoilt))
    np.testing.assert_array_equal(plain.xy, with_nan.xy)


def test_no_valid_pixel_gives_no_pick():
    assert len(find(image(np.ones((9, 9)), None, np.zeros((9, 9), bool)), MICROGRAPH, diameter_px=60.0)) == 0


def test_the_margin_is_measured_in_micrograph_pixels_and_still_suppresses():
    data = np.zeros((40, 60))
    data[20, 3], data[20, 5], data[20, 30] = 0.9, 0.5, 0.4
    sharp = image(data, Grid(0.0, 0.0, 10.0, 10.0))
    every = find(sharp, MICROGRAPH, diameter_px=30.0, score_radius=0.0, refine=False)
    assert every.xy[:, 0].tolist() == [30, 50, 300]
    inner = find(sharp, MICROGRAPH, diameter_px=30.0, score_radius=0.0, refine=False, edge_px=45.0)
    assert inner.xy[:, 0].tolist() == [50, 300]
    crowded = find(sharp, MICROGRAPH, diameter_px=60.0, score_radius=0.0, refine=False, edge_px=45.0)
    assert crowded.xy[:, 0].tolist() == [300]


def test_a_map_that_reaches_beyond_the_micrograph_gives_no_pick_there():
    data = np.zeros((50, 70))
    data[20, 20] = data[45, 20] = data[20, 65] = 1.0
    found = find(image(data, Grid(0.0, 0.0, 10.0, 10.0)), MICROGRAPH, diameter_px=40.0)
    assert found.xy.tolist() == [[200, 200]]


# --- order, refusal, speed


def test_an_exhaustive_search_keeps_the_peaks_and_leaves_no_place_out():
    rng = np.random.default_rng(3)
    centres = rng.uniform(40, (560, 360), (25, 2))
    grid = working_grid((100, 150))
    shown = image(bumps(grid=grid, shape=(100, 150), centres=centres, heights=rng.uniform(0.3, 0.9, 25), width_px=20.0))
    valid = shown.valid.copy()
    valid[:20] = False
    shown = replace(shown, valid=valid)
    settings = {"diameter_px": DIAMETER, "least_score": 0.1, "score_radius": 0.1}
    peaks, found = (find(shown, MICROGRAPH, **settings, exhaustive=more) for more in (False, True))
    assert {*map(tuple, peaks.xy)} < {*map(tuple, found.xy)}
    assert (np.diff(found.score) <= 0).all()
    apart = np.hypot(*(found.xy[:, None] - found.xy[None]).T) + 1e9 * np.eye(len(found))
    assert apart.min() >= 0.5 * DIAMETER - 1e-6
    score = disc_mean(shown, 0.1 * DIAMETER)
    row, column = np.nonzero(score >= 0.1)
    places = grid.to_micrograph(np.stack((column, row), axis=1).astype(float))
    assert np.hypot(*(places[:, None] - found.xy[None]).T).T.min(axis=1).max() < 0.5 * DIAMETER
    assert (score >= 0.1).sum() < valid.sum(), "places that score too little are left out"


def test_an_exhaustive_search_of_nothing_finds_nothing():
    nowhere = replace(image(np.zeros((40, 60))), valid=np.zeros((40, 60), bool))
    assert len(find(nowhere, MICROGRAPH, diameter_px=DIAMETER, exhaustive=True)) == 0


def test_picks_keep_their_distance_after_refining():
    found = find(image(np.random.default_rng(6).random((90, 120))), MICROGRAPH, diameter_px=DIAMETER, separation=0.4)
    gaps = np.linalg.norm(found.xy[:, None] - found.xy[None], axis=-1)[~np.eye(len(found), dtype=bool)]
    assert gaps.min() >= 0.4 * DIAMETER


def test_the_map_is_left_alone_and_the_answer_repeats():
    data = np.random.default_rng(7).random((50, 50)).astype(np.float32)
    before, probability = data.copy(), image(data)
    first, second = (find(probability, MICROGRAPH, diameter_px=40.0) for _ in range(2))
    np.testing.assert_array_equal(data, before)
    np.testing.assert_array_equal(first.xy, second.xy)
    assert first.micrograph == "mic"


@pytest.mark.parametrize("bad", [np.nan, -0.01, 1.5, np.inf])
def test_values_that_are_no_probabilities_are_refused(bad):
    data = np.full((20, 20), 0.5)
    data[3, 4] = bad
    with pytest.raises(InputError, match="mic: probability"):
        find(image(data), MICROGRAPH, diameter_px=40.0)


@pytest.mark.parametrize("diameter", [0.0, -5.0, float("nan")])
def test_a_diameter_that_is_none_is_refused(diameter):
    with pytest.raises(InputError, match="diameter"):
        find(image(np.zeros((9, 9))), MICROGRAPH, diameter_px=diameter)


def test_a_large_map_is_searched_in_milliseconds():
    rng = np.random.default_rng(8)
    spots = np.zeros((1024, 1024))
    spots[rng.integers(1024, size=1000), rng.integers(1024, size=1000)] = 1
    probability = image(np.minimum(80 * disc_mean(image(spots, Grid()), 6.0), 1), Grid(0.0, 0.0, 4.0, 4.0))
    wide = replace(MICROGRAPH, shape=(4096, 4096))
    seconds = []
    for _ in range(7):
        start = time.perf_counter()
        found = find(probability, wide, diameter_px=80.0)
        seconds.append(time.perf_counter() - start)
    assert len(found) > 600
    assert min(seconds) < 0.05  # 6 ms where nothing else runs


def test_suppress_on_nothing_and_on_one():
    assert suppress(np.empty((0, 2)), np.empty(0), 5.0).shape == (0,)
    assert suppress(np.zeros((1, 2)), np.zeros(1), 5.0).tolist() == [True]
