"""Places survive every change of grid, and drawing targets commutes with geometry."""

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from verglas.augment import Placement
from verglas.preprocess import resize
from verglas.targets import Disc, distance_to_nearest
from verglas.types import Grid, Image, Picks

offsets = st.floats(-1000, 1000)
steps = st.floats(0.1, 10)
grids = st.builds(Grid, offsets, offsets, steps, steps)
sizes = st.tuples(st.integers(1, 3000), st.integers(1, 3000))
points = st.lists(st.tuples(offsets, offsets), max_size=5).map(lambda xy: np.array(xy, float).reshape(-1, 2))


def edges(grid: Grid, shape: tuple[int, int]) -> np.ndarray:
    """Return the outer corners of the first and the last pixel, on the micrograph."""
    h, w = shape
    return grid.to_micrograph(np.array([[-0.5, -0.5], [w - 0.5, h - 0.5]]))


def close(one: Grid, other: Grid, *, at: float = 3000.0) -> None:
    """Two grids put the same places to within a billionth of what they span."""
    corners = np.array([[0.0, 0.0], [at, at]])
    np.testing.assert_allclose(one.to_micrograph(corners), other.to_micrograph(corners), rtol=1e-9, atol=1e-6)


# --- grids ---


@given(grids, points)
def test_there_and_back(grid: Grid, xy: np.ndarray) -> None:
    np.testing.assert_allclose(grid.from_micrograph(grid.to_micrograph(xy)), xy, atol=1e-8)
    np.testing.assert_allclose(grid.to_micrograph(grid.from_micrograph(xy)), xy, atol=1e-8)


@given(grids, sizes, sizes)
def test_averaging_leaves_the_edges_of_the_picture(grid: Grid, old: tuple[int, int], new: tuple[int, int]) -> None:
    np.testing.assert_allclose(edges(grid.area_resized(old, new), new), edges(grid, old), rtol=1e-9, atol=1e-6)


@given(grids, sizes, sizes, sizes)
def test_resizing_twice_is_resizing_once(
    grid: Grid, a: tuple[int, int], b: tuple[int, int], c: tuple[int, int]
) -> None:
    close(grid.area_resized(a, b).area_resized(b, c), grid.area_resized(a, c), at=max(c))
    close(grid.area_resized(a, b).area_resized(b, a), grid, at=max(a))


@given(grids, st.integers(0, 500), st.integers(0, 500), points)
def test_a_crop_moves_array_positions_only(grid: Grid, row: int, column: int, xy: np.ndarray) -> None:
    crop = grid.cropped(row, column)
    np.testing.assert_allclose(np.add(crop.from_micrograph(xy), (column, row)), grid.from_micrograph(xy), atol=1e-6)


sides = st.integers(40, 90)


@given(st.tuples(sides, sides), st.tuples(sides, sides), st.floats(0.35, 0.65), st.floats(0.35, 0.65))
@settings(max_examples=60, deadline=None)
def test_a_blob_stays_put_through_any_resize(
    old: tuple[int, int], new: tuple[int, int], along: float, down: float
) -> None:
    x, y = along * old[1], down * old[0]
    rows, columns = np.mgrid[: old[0], : old[1]]
    small = resize(np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 3.5**2)), new)
    i, j = np.mgrid[: new[0], : new[1]]
    at = np.array([[(small * j).sum(), (small * i).sum()]]) / small.sum()
    found = Grid().area_resized(old, new).to_micrograph(at)[0]
    np.testing.assert_allclose(found, (x, y), atol=0.05)


# --- placements ---

SIZE, DIAMETER = 96, 60.0

placements = st.builds(
    Placement,
    x=st.floats(50, 150),
    y=st.floats(50, 110),
    angle=st.floats(0, 2 * math.pi),
    zoom=st.floats(0.85, 1.2),
    mirrored=st.booleans(),
)
particles = st.lists(st.tuples(st.floats(30, 170), st.floats(30, 130)), min_size=1, max_size=4)


def in_crop(place: Placement, xy: np.ndarray) -> np.ndarray:
    """Return array positions of the crop for array positions of the source: the inverse of what a crop does."""
    return (xy - (place.x, place.y)) @ np.linalg.inv(place.source()).T + (SIZE - 1) / 2


def drawn(xy: np.ndarray, shape: tuple[int, int], diameter: float) -> tuple[np.ndarray, np.ndarray]:
    image = Image(np.zeros(shape, np.float32), Grid(), np.ones(shape, bool))
    return Disc(0.5, 0.8).draw(Picks("mic1", xy, np.ones(len(xy))), image, diameter_px=diameter)


@given(placements, particles)
@settings(max_examples=40, deadline=None)
def test_geometry_commutes_with_drawing_targets(place: Placement, labels: list[tuple[float, float]]) -> None:
    xy, shape = np.array(labels), (160, 200)
    target, known = drawn(xy, shape, DIAMETER)
    _, masks = place.cut(target.astype(np.float32), np.stack([target, known, np.ones(shape, bool)]), SIZE)
    cut_target, cut_known, inside = masks.numpy()
    moved, radius = in_crop(place, xy), DIAMETER / place.zoom / 2
    expected, expected_known = drawn(moved, (SIZE, SIZE), 2 * radius)
    distance = distance_to_nearest(moved, Grid(), (SIZE, SIZE), within=np.inf)
    core_rim, ring_rim = (np.abs(distance - share * radius) < 1 for share in (0.5, 0.8))
    assert not ((cut_target ^ expected) & inside & ~core_rim).any()
    assert not ((cut_known ^ expected_known) & inside & ~core_rim & ~ring_rim).any()
    expected &= inside
    if expected.sum() > 400:
        assert (cut_target & expected).sum() > 0.9 * (cut_target | expected).sum()


@given(placements, particles)
@settings(max_examples=40, deadline=None)
def test_bright_pixels_lie_on_the_target_after_any_placement(
    place: Placement, labels: list[tuple[float, float]]
) -> None:
    xy, shape = np.array(labels), (160, 200)
    target, _ = drawn(xy, shape, DIAMETER)
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    image = np.max([np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 10.0**2)) for x, y in xy], axis=0)
    crop, masks = place.cut(image.astype(np.float32), target[None], SIZE)
    at_the_rim = math.exp(-(15.0**2) / (2 * 10.0**2))  # the core's radius is a quarter of the diameter
    bright, dark = crop[0].numpy() > at_the_rim + 0.06, crop[0].numpy() < at_the_rim - 0.06
    assert masks[0].numpy()[bright].all()
    assert not masks[0].numpy()[dark].any()


@given(placements.filter(lambda place: place.x < 60 or place.y < 60))
@settings(max_examples=20, deadline=None)
def test_masks_hold_exactly_the_pixels_whose_source_is_on_the_micrograph(place: Placement) -> None:
    shape = (160, 200)
    _, masks = place.cut(np.ones(shape, np.float32), np.ones((1, *shape), bool), SIZE)
    i, j = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    x, y = place.source() @ np.stack([j.ravel(), i.ravel()]) + np.array([[place.x], [place.y]])
    on = ((x > -0.5) & (x < shape[1] - 0.5) & (y > -0.5) & (y < shape[0] - 0.5)).reshape(SIZE, SIZE)
    assert (masks[0].numpy() != on).sum() <= 4, "only places within rounding of the border may differ"
