"""Discs have the area of discs, and say nothing where nobody looked."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verglas.errors import InputError
from verglas.targets import Disc, distance_to_nearest
from verglas.types import Grid, Image, Picks, nothing

SHAPE = (90, 120)


def image(grid: Grid | None = None, valid: np.ndarray | None = None) -> Image:
    everywhere = np.ones(SHAPE, bool)
    return Image(np.zeros(SHAPE, np.float32), grid or Grid(), everywhere if valid is None else valid)


def at(*xy: tuple[float, float]) -> Picks:
    return Picks("mic1", np.array(xy, float).reshape(-1, 2), np.ones(len(xy)))


@given(st.floats(40, 80), st.floats(40, 50), st.floats(30, 60), st.sampled_from([(1, 1), (1.3, 0.9), (0.7, 0.7)]))
@settings(max_examples=50, deadline=None)
def test_core_and_ring_have_the_area_of_discs(x: float, y: float, diameter: float, steps: tuple[float, float]) -> None:
    grid = Grid(x - 60 * steps[0], y - 45 * steps[1], *steps)
    core, known = Disc(0.4, 0.6).draw(at((x, y)), image(grid), diameter_px=diameter)
    unit, radius = steps[0] * steps[1], diameter / 2
    assert core.sum() * unit == pytest.approx(np.pi * (0.4 * radius) ** 2, rel=0.12)
    assert (~known).sum() * unit == pytest.approx(np.pi * (0.6**2 - 0.4**2) * radius**2, rel=0.12)


def test_a_large_disc_is_round_to_a_percent() -> None:
    core, _ = Disc(1.0, 1.0).draw(at((60.2, 44.7)), image(), diameter_px=80)
    assert core.sum() == pytest.approx(np.pi * 40**2, rel=0.01)
    rows, columns = np.nonzero(core)
    np.testing.assert_allclose((columns.mean(), rows.mean()), (60.2, 44.7), atol=0.05)


def test_a_full_disc_leaves_no_ring() -> None:
    core, known = Disc(1.0, 1.0).draw(at((60, 45)), image(), diameter_px=30)
    assert known.all()
    assert core.any()


def test_where_a_ring_lies_on_a_core_the_core_wins() -> None:
    disc, one, two = Disc(0.4, 1.2), at((50, 45)), at((60, 45))
    both = Picks("mic1", np.concatenate([one.xy, two.xy]), np.ones(2))
    core, known = disc.draw(both, image(), diameter_px=40)
    alone = [disc.draw(picks, image(), diameter_px=40) for picks in (one, two)]
    np.testing.assert_array_equal(core, alone[0][0] | alone[1][0])
    assert known[core].all()
    assert (alone[0][0] & ~alone[1][1]).any(), "here a ring does lie on a core"
    np.testing.assert_array_equal(known, core | (alone[0][1] & alone[1][1]))


def test_without_labels_nothing_is_a_particle_and_all_is_known() -> None:
    core, known = Disc().draw(nothing("mic1"), image(), diameter_px=30)
    assert not core.any()
    assert known.all()


def test_bad_pixels_are_unknown() -> None:
    valid = np.ones(SHAPE, bool)
    valid[:, 60:] = False
    core, known = Disc().draw(at((60, 45)), image(valid=valid), diameter_px=30)
    assert not known[:, 60:].any()
    assert known[core & valid].all()
    assert known[:20, :60].all()


@given(st.lists(st.tuples(st.floats(-20, 250), st.floats(-20, 200)), min_size=1, max_size=6))
@settings(max_examples=30, deadline=None)
def test_distances_are_those_to_the_nearest_on_unequal_steps(xy: list[tuple[float, float]]) -> None:
    grid, points = Grid(0.3, -0.7, 2.0, 1.5), np.array(xy)
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    x, y = 0.3 + 2.0 * columns, -0.7 + 1.5 * rows
    by_hand = np.min([np.hypot(x - px, y - py) for px, py in points], axis=0)
    np.testing.assert_allclose(distance_to_nearest(points, grid, SHAPE, within=np.inf), by_hand, atol=1e-9)
    near = np.where(by_hand <= 7.5, by_hand, np.inf)
    np.testing.assert_allclose(distance_to_nearest(points, grid, SHAPE, within=7.5), near, atol=1e-9)


@pytest.mark.parametrize("disc", [{"core": 0.0}, {"core": 3.0}, {"ring": -1.0}, {"core": float("nan")}])
def test_impossible_radii_are_refused(disc: dict[str, float]) -> None:
    with pytest.raises(InputError, match=f"target: {next(iter(disc))} is"):
        Disc(**disc)


def test_scores_are_drawn_where_cores_are_and_rings_say_nothing() -> None:
    picks = Picks("m", np.array([[20.0, 20.0], [60.0, 30.0], [63.0, 30.0]]), np.array([0.9, 0.3, 0.6]), "test")
    disc, empty = Disc(0.4, 0.6), image()
    core, sure = disc.draw(picks, empty, diameter_px=20.0)
    belief, known = disc.draw_scores(picks, empty, diameter_px=20.0)
    assert np.array_equal(known, sure)
    assert ((belief > 0) == core).all()
    assert belief[20, 20] == pytest.approx(0.9)
    assert belief[30, 57] == pytest.approx(0.3)
    assert belief[30, 61] == pytest.approx(0.6), "the better of two that meet"
