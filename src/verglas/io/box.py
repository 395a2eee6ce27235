"""EMAN1's ``.box``."""

from pathlib import Path

import numpy as np

from verglas.errors import InputError
from verglas.io._base import FormatOptions, PicksFormat, write_text
from verglas.io.tables import alone, only, read_lines, read_numbers
from verglas.types import PickSet


def box_side(options: FormatOptions, path: Path) -> int:
    """Return the side of the box to be written, in micrograph pixels."""
    if options.box_px is None or options.box_px < 1:
        remedy = "Give the side of the box in pixels: --box-px."
        raise InputError(path, "box size", found=options.box_px, expected="a number of pixels", remedy=remedy)
    return options.box_px


class Box(PicksFormat):
    """Corner and size of each box in whole pixels, ``x y w h``; no score.

    A box of n pixels around pixel c begins at c - n // 2, for odd n too. A fifth column is ignored. No box is
    one empty line, since 0 bytes are what an interrupted program leaves; RELION refuses that line, so give it
    what ``relion_folder`` writes.
    """

    name, suffixes, precision_px, keeps_score, needs_box = "box", (".box",), 0.5, False, True

    def recognises(self, path: Path, head: bytes) -> bool:
        """Take any text: the rows will tell."""
        return True

    def read(self, path: Path, options: FormatOptions) -> PickSet:
        """Read the middle of each box; a file of blanks says that there is none."""
        _refuse_named_rows(path)
        rows, lines = read_numbers(path, columns=(4, 5))
        flat = np.flatnonzero((rows[:, 2:4] < 1).any(axis=1))
        if len(flat):
            found = "{:g} x {:g}".format(*rows[flat[0], 2:4])
            raise InputError(f"{path}:{lines[flat[0]]}", "box size", found=found, expected="at least 1 x 1")
        return PickSet((alone(path, rows[:, :2] + np.floor(rows[:, 2:4] / 2)),))

    def write(self, path: Path, picks: PickSet, options: FormatOptions) -> None:
        """Write whole corners; for no pick a single empty line."""
        side = box_side(options, path)
        corners = np.floor(only(picks, path).xy + 0.5).astype(int) - side // 2
        write_text(path, "".join(f"{x}\t{y}\t{side}\t{side}\n" for x, y in corners.tolist()) or "\n")


def _refuse_named_rows(path: Path) -> None:
    """Refuse CryoTransformer's table, which bears the same suffix: its y runs the other way."""
    rows = [line.split() for line in read_lines(path)[:2]]
    if any(len(row) == 6 and not row[0][:1].isdigit() for row in rows):
        raise InputError(
            path,
            "format",
            found="rows of micrograph, x, y, class, psi, score: a table by CryoTransformer",
            expected="x y w h of each box, as EMAN1 writes",
            remedy="Its y is counted from the last row (h - y) and picks may be written twice: "
            "make a CSV with micrograph,x,y,score, where y is h minus theirs.",
        )
