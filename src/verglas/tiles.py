"""Cut a picture too large for the network at once into overlapping tiles, and join what comes out.

Each tile carries a margin as wide as the network can see, which is thrown away afterwards. Inside it nothing
differs from a passage of the whole, so no taper is needed to hide seams.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

Span = tuple[int, int]


@dataclass(frozen=True, slots=True, eq=False)
class Tile:
    """Part of a picture with its margin, where its first pixel is, and the rows and columns it answers for."""

    data: Float[Tensor, "h w"]
    origin: tuple[int, int]
    rows: Span
    columns: Span


def cut(data: Float[Tensor, "h w"], size: int, margin: int, multiple: int) -> list[Tile]:
    """Cut into tiles of about ``size`` pixels a side, margins included; origins are multiples of ``multiple``.

    Tiles are larger than ``size`` where otherwise little but margins would be left.
    """
    margin = -(-margin // multiple) * multiple
    step = max(multiple, (size - 2 * margin) // multiple * multiple)
    tiles = []
    for top, rows in _spans(data.shape[0], step, margin):
        for left, columns in _spans(data.shape[1], step, margin):
            window = data[top : rows[1] + margin, left : columns[1] + margin]
            tiles.append(Tile(window, (top, left), rows, columns))
    return tiles


def stitch(
    tiles: Sequence[Tile], parts: Sequence[Float[Tensor, "_ _"]], shape: tuple[int, int], stem: int
) -> Float[Tensor, "p q"]:
    """Join the outputs of tiles, which have one value per ``stem`` × ``stem`` pixels."""
    whole = torch.empty(shape)
    for tile, part in zip(tiles, parts, strict=True):
        (top, left), (first, last), (start, end) = tile.origin, tile.rows, tile.columns
        target = whole[first // stem : -(-last // stem), start // stem : -(-end // stem)]
        row, column = (first - top) // stem, (start - left) // stem
        target.copy_(part[row : row + target.shape[0], column : column + target.shape[1]])
    return whole


def _spans(side: int, step: int, margin: int) -> list[tuple[int, Span]]:
    """Return for each tile along one side where its window begins and the span it answers for."""
    return [(max(0, first - margin), (first, min(side, first + step))) for first in range(0, side, step)]
