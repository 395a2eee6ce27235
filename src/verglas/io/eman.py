"""EMAN2's ``info/<micrograph>_info.json``."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from verglas.errors import InputError
from verglas.io._base import FormatOptions, PicksFormat, write_text
from verglas.io.tables import alone, is_number, only, read_json, shown
from verglas.types import PickSet


class Eman2(PicksFormat):
    """``{"boxes": [[x, y, "manual"], [x, y, "auto_x", score]]}``: centres in whole pixels among other keys."""

    name, suffixes, precision_px = "eman2", ("_info.json", ".json"), 0.5

    def recognises(self, path: Path, head: bytes) -> bool:
        """Look at the name, then for the key."""
        return path.name.lower().endswith("_info.json") or b'"boxes"' in head

    def read(self, path: Path, options: FormatOptions) -> PickSet:
        """Read the boxes; without the key nobody picked here, and no micrograph is returned."""
        info = _read_info(path)
        if "boxes" not in info:
            return PickSet(())
        rows = info["boxes"]
        if not isinstance(rows, list):
            raise InputError(path, "boxes", found=shown(rows), expected='a list of [x, y, "manual"]')
        for at, row in enumerate(rows):
            if not (isinstance(row, list) and len(row) >= 2 and all(map(is_number, [*row[:2], *row[3:4]]))):
                expected = 'numbers x and y, a word, perhaps a score: [x, y, "manual"]'
                raise InputError(path, f"boxes, entry {at}", found=shown(row), expected=expected)
        xy = np.array([row[:2] for row in rows], float).reshape(-1, 2)
        return PickSet((alone(path, xy, np.array([row[3] if len(row) > 3 else 1 for row in rows], float)),))

    def write(self, path: Path, picks: PickSet, options: FormatOptions) -> None:
        """Write whole centres; whatever else the file held stays."""
        part = only(picks, path)
        info = _read_info(path) if path.exists() else {}
        centres, scores = np.floor(part.xy + 0.5).astype(int).tolist(), np.round(part.score, 6).tolist()
        boxes = [[x, y, "auto_verglas", score] for (x, y), score in zip(centres, scores, strict=True)]
        write_text(path, json.dumps({**info, "boxes": boxes}, indent=1) + "\n")


def _read_info(path: Path) -> dict[str, Any]:
    info = read_json(path)
    if not isinstance(info, dict):
        raise InputError(path, "JSON", found=shown(info), expected='an object with the key "boxes"')
    return info
