"""What is cut can be joined, whatever the sizes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from verglas.tiles import cut, stitch

sides = st.integers(1, 90)


def numbered(h: int, w: int) -> Tensor:
    return torch.arange(h * w, dtype=torch.float32).view(h, w)


@given(sides, sides, st.integers(8, 64), st.integers(0, 20), st.sampled_from([1, 2, 4]), st.sampled_from([1, 2, 3]))
@settings(max_examples=150, deadline=None)
def test_cut_and_joined_is_the_original(h: int, w: int, size: int, margin: int, depth: int, stem: int) -> None:
    data = numbered(h, w)
    tiles = cut(data, size, margin, stem * depth)
    parts = [tile.data[::stem, ::stem] for tile in tiles]
    joined = stitch(tiles, parts, (-(-h // stem), -(-w // stem)), stem)
    torch.testing.assert_close(joined, data[::stem, ::stem], rtol=0, atol=0)


@given(sides, sides, st.integers(8, 64), st.integers(0, 20), st.sampled_from([1, 2, 8]))
@settings(max_examples=150, deadline=None)
def test_every_pixel_has_one_tile_that_sees_its_surroundings(
    h: int, w: int, size: int, margin: int, multiple: int
) -> None:
    data, answered = numbered(h, w), torch.zeros(h, w)
    for tile in cut(data, size, margin, multiple):
        (top, left), (rows, columns) = tile.origin, (tile.rows, tile.columns)
        assert top % multiple == left % multiple == rows[0] % multiple == columns[0] % multiple == 0
        window = data[top : top + tile.data.shape[0], left : left + tile.data.shape[1]]
        torch.testing.assert_close(tile.data, window, rtol=0, atol=0)
        for first, length, (start, end), side in zip(
            (top, left), tile.data.shape, (rows, columns), (h, w), strict=True
        ):
            assert first <= max(0, start - margin)
            assert first + length >= min(side, end + margin)
        answered[rows[0] : rows[1], columns[0] : columns[1]] += 1
    assert (answered == 1).all()


@pytest.mark.parametrize(("size", "margin", "multiple"), [(64, 10, 4), (100, 33, 8), (48, 0, 1)])
def test_tiles_are_no_larger_than_asked(size: int, margin: int, multiple: int) -> None:
    tiles = cut(numbered(300, 170), size, margin, multiple)
    assert max(max(tile.data.shape) for tile in tiles) <= size
    assert len(tiles) > 10


def test_a_picture_that_fits_is_one_tile() -> None:
    (tile,) = cut(numbered(40, 30), 64, 8, 4)
    assert tile.data.shape == (40, 30)


def test_a_part_too_few_is_an_error() -> None:
    tiles = cut(numbered(40, 30), 24, 4, 4)
    with pytest.raises(ValueError, match="zip"):
        stitch(tiles, [tile.data for tile in tiles][:-1], (40, 30), 1)
