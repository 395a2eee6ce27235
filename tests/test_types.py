"""The types at each arrow: what they check, and that nobody can write into them."""

from collections.abc import Iterator
from dataclasses import FrozenInstanceError
from pathlib import Path

import jaxtyping
import numpy as np
import pytest

from verglas.errors import InputError, check_range
from verglas.types import Collection, Grid, Image, Micrograph, Picks, PickSet, Split, nothing

XY = np.array([[3.0, 4.0], [50.5, 0.0], [7.0, 8.0]])


def picks(name: str = "mic1", *scores: float) -> Picks:
    return Picks(name, XY[: len(scores)], np.array(scores, float))


# --- Grid ---


def test_binning_by_four_moves_the_first_pixel_by_one_and_a_half() -> None:
    assert Grid().area_resized((400, 800), (100, 200)) == Grid(1.5, 1.5, 4.0, 4.0)
    assert Grid().area_resized((100, 100), (200, 200)) == Grid(-0.25, -0.25, 0.5, 0.5)


def test_a_grid_of_unequal_steps_puts_the_column_into_x() -> None:
    grid = Grid(10.0, 20.0, 2.0, 3.0)
    np.testing.assert_array_equal(grid.to_micrograph(np.array([[1.0, 0.0], [0.0, 1.0]])), [[12, 20], [10, 23]])
    assert grid.area_resized((10, 10), (10, 5)) == Grid(11.0, 20.0, 4.0, 3.0)


def test_a_crop_begins_where_it_was_cut() -> None:
    grid = Grid(1.0, 2.0, 0.5, 0.25).cropped(row=4, column=6)
    assert grid == Grid(4.0, 3.0, 0.5, 0.25)


# --- Image ---


def test_pixels_cannot_be_written_through_an_image_but_stay_the_callers() -> None:
    data, valid = np.zeros((3, 4), np.float32), np.ones((3, 4), bool)
    image = Image(data, Grid(), valid)
    for array in (image.data, image.valid):
        with pytest.raises(ValueError, match="read-only"):
            array[0, 0] = 1
    assert data.flags.writeable
    assert valid.flags.writeable
    assert np.shares_memory(image.data, data), "a view, not a copy"


def test_an_image_holds_float32() -> None:
    assert Image(np.ones((2, 2)), Grid(), np.ones((2, 2), bool)).data.dtype == np.float32


# --- Picks ---


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Run as a user does, without the checks of shapes that tests add."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def test_positions_and_scores_belong_together(unchecked: None) -> None:
    with pytest.raises(InputError, match=r"mic1: shape of positions is \(3, 2\); expected \(2, 2\)"):
        Picks("mic1", XY, np.ones(2))
    with pytest.raises(InputError, match=r"\(2, 3\); expected \(3, 2\)"):
        Picks("mic1", np.ascontiguousarray(XY.T), np.ones(3))


def test_a_score_at_the_threshold_counts() -> None:
    given = picks("mic1", 0.2, 0.5, 0.9)
    np.testing.assert_array_equal(given.above(0.5).score, [0.5, 0.9])
    np.testing.assert_array_equal(given.above(0.5).xy, XY[1:])
    assert given.above(None) is given
    assert len(given.above(1.0)) == 0


def test_picks_cannot_be_changed() -> None:
    given = picks("mic1", 0.2, 0.5)
    with pytest.raises(ValueError, match="read-only"):
        given.xy[0] = 0
    with pytest.raises(FrozenInstanceError):
        given.score = np.ones(2)  # type: ignore[misc]


def test_choosing_picks_keeps_name_and_source() -> None:
    given = Picks("mic1", XY, np.arange(3.0), "file:mic1.star").where(np.array([True, False, True]))
    assert (given.micrograph, given.source) == ("mic1", "file:mic1.star")
    np.testing.assert_array_equal(given.score, [0, 2])


def test_nothing_has_no_rows() -> None:
    assert len(nothing("mic1", "seen")) == 0
    assert nothing("mic1").xy.shape == (0, 2)


# --- sets ---


def test_a_micrograph_searched_in_vain_is_present() -> None:
    found = PickSet((picks("a", 0.1, 0.9), nothing("b")), threshold=0.5)
    assert len(found) == 2
    assert [p.micrograph for p in found] == ["a", "b"]
    counted = found.counted()
    assert len(counted) == 1
    assert counted.threshold == 0.5
    assert set(counted.by_name()) == {"a", "b"}


def test_without_a_threshold_all_picks_count() -> None:
    assert len(PickSet((picks("a", 0.0, 0.1),)).counted()) == 2


def test_a_name_twice_is_refused() -> None:
    with pytest.raises(InputError, match=r"b twice.*Rename"):
        PickSet((nothing("a"), nothing("b"), nothing("b")))


def test_a_micrograph_has_one_role() -> None:
    assert Split(("a", "b"), ("c",), ("d",), ("e",)).test == ("e",)
    with pytest.raises(InputError, match="two roles for b"):
        Split(labelled=("a", "b"), test=("b",))


def test_a_collection_finds_micrographs_by_name() -> None:
    micrographs = tuple(Micrograph(name, Path(f"{name}.mrc"), (10, 20)) for name in "ab")
    assert Collection(micrographs, {}, 20.0).by_name()["b"] is micrographs[1]


# --- errors ---


def test_an_input_error_says_where_what_and_what_to_do() -> None:
    error = InputError(Path("a/b.mrc"), "pixel size", found=0, expected="> 0 Å", remedy="Give --pixel-size.")
    assert str(error) == "a/b.mrc: pixel size is 0; expected > 0 Å. Give --pixel-size."
    assert (error.where, error.field, error.found) == ("a/b.mrc", "pixel size", 0)
    assert str(InputError("x", "y", found=1, expected="2")) == "x: y is 1; expected 2."
    assert isinstance(error, ValueError)


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), float("inf")])
def test_a_setting_out_of_range_is_named(value: float) -> None:
    check_range("loss", 0, 1, low=0.0, high=1.0)
    with pytest.raises(InputError, match=r"loss: weight is .*; expected 0 to 1\."):
        check_range("loss", 0, 1, fine=0.5, weight=value)
