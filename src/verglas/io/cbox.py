"""crYOLO's ``.cbox``."""

from pathlib import Path

import numpy as np
from jaxtyping import Float

from verglas.errors import InputError
from verglas.io._base import FormatOptions, PicksFormat, write_text
from verglas.io.box import box_side
from verglas.io.star import Block, format_star, read_star
from verglas.io.tables import alone, only, read_bytes, read_numbers, shown
from verglas.types import PickSet

_NA = "<NA>"
_X, _Y, _Z, _WIDTH, _HEIGHT, _SCORE = (
    f"_{label}" for label in ("CoordinateX", "CoordinateY", "CoordinateZ", "Width", "Height", "Confidence")
)


class Cbox(PicksFormat):
    """Corner, size and confidence of each box, as STAR; or in the old form, rows of ``x y w h confidence``.

    The centre is corner + size / 2, not rounded.
    """

    name, suffixes, precision_px, needs_box = "cbox", (".cbox",), 0.0005, True

    def recognises(self, path: Path, head: bytes) -> bool:
        """Take any text: the content will tell."""
        return True

    def read(self, path: Path, options: FormatOptions) -> PickSet:
        """Read the middle of each box."""
        if b"data_" in read_bytes(path):
            corner, size, score = _boxes(path)
        else:
            rows, _ = read_numbers(path, columns=(5, 7))  # two more: the estimated width and height
            corner, size, score = rows[:, :2], rows[:, 2:4], rows[:, 4]
        return PickSet((alone(path, corner + size / 2, score),))

    def write(self, path: Path, picks: PickSet, options: FormatOptions) -> None:
        """Write the STAR form."""
        part, side = only(picks, path), box_side(options, path)
        corner, count = part.xy - side / 2, len(part)
        boxes = {
            _X: [f"{x:.3f}" for x in corner[:, 0].tolist()],
            _Y: [f"{y:.3f}" for y in corner[:, 1].tolist()],
            _Z: [_NA] * count,
            _WIDTH: [str(side)] * count,
            _HEIGHT: [str(side)] * count,
            "_Depth": [_NA] * count,
            "_EstWidth": [str(side)] * count,
            "_EstHeight": [str(side)] * count,
            _SCORE: [f"{score:.6f}" for score in part.score.tolist()],
            "_NumBoxes": [_NA] * count,
            "_Angle": [_NA] * count,
        }
        version = Block("global", {"_cbox_format_version": "1.0"})
        slices = Block("cryolo_include", columns={"_slice_index": []})
        write_text(path, format_star([version, Block("cryolo", columns=boxes), slices], version=None))


def _boxes(path: Path) -> tuple[Float[np.ndarray, "n 2"], Float[np.ndarray, "n 2"], Float[np.ndarray, " n"]]:
    """Return corner, size and confidence from the STAR form."""
    blocks = read_star(path)
    if "cryolo" not in blocks:
        raise InputError(path, "block", found=shown(sorted(blocks)), expected="data_cryolo")
    table = blocks["cryolo"]
    if set(table.columns.get(_Z, ())) - {_NA}:
        raise InputError(f"{path}:{table.line}", _Z, found="given: boxes of a tomogram", expected=f"{_NA} throughout")
    corner = np.column_stack([table.numbers(_X), table.numbers(_Y)])
    size = np.column_stack([table.numbers(_WIDTH), table.numbers(_HEIGHT)])
    unscored = set(table.columns.get(_SCORE, ())) <= {_NA}
    return corner, size, np.ones(len(corner)) if unscored else table.numbers(_SCORE)
