"""Write a pick file while picking goes on: memory stays flat, and what is done survives an interruption."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import numpy as np
from jaxtyping import Float

from verglas.errors import InputError
from verglas.io._base import write_text
from verglas.io.star import own_head, own_rows, own_scores, own_tail
from verglas.types import Picks, PickSet


class PickFile:
    """A pick file in the making: rows in ``NAME.part``, what is done in ``NAME.done``; ``NAME`` when finished.

    ``key`` identifies what the picks depend on; what another key left behind is begun anew.
    """

    def __init__(self, path: str | Path, key: str) -> None:
        self.path = Path(path)
        if self.path.suffix != ".star":
            raise InputError(
                path, "suffix", found=self.path.suffix or "none", expected=".star",
                remedy="verglas export turns it into any other format afterwards.",
            )  # fmt: skip
        self._part, self._log = (self.path.with_name(f"{self.path.name}.{end}") for end in ("part", "done"))
        self.done: list[dict[str, Any]] = []
        self._rows, self._done = self._resume(key) or self._begin(key)

    def __enter__(self) -> "PickFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._rows.close()
        self._done.close()

    def add(self, picks: Picks, shape: tuple[int, int]) -> None:
        """Add all candidates of one micrograph."""
        self._rows.write(own_rows(picks).encode())
        self._rows.flush()
        row = {"name": picks.micrograph, "shape": shape, "candidates": len(picks), "end": self._rows.tell()}
        self.done.append(row)
        self._done.write(_line(row))
        self._done.flush()

    def scores(self) -> Float[np.ndarray, " n"]:
        """Return the scores of all candidates so far, as they stand in the file."""
        with self._part.open(encoding="utf-8") as rows:
            return own_scores(rows)

    def finish(self, meaning: PickSet) -> Path:
        """Write what the picks mean (``meaning`` without its picks) and put the file in its place."""
        searched = {row["name"]: ((row["shape"][0], row["shape"][1]), row["candidates"]) for row in self.done}
        self._rows.write(own_tail(searched, meaning).encode())
        self._rows.flush()
        os.fsync(self._rows.fileno())
        self.__exit__()
        self._part.replace(self.path)
        self._log.unlink()
        return self.path

    def _begin(self, key: str) -> tuple[BinaryIO, TextIO]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        rows = self._part.open("wb")
        rows.write(own_head().encode())
        rows.flush()
        return rows, self._logging(key)

    def _resume(self, key: str) -> tuple[BinaryIO, TextIO] | None:
        """Go on after the last micrograph that was written whole, if the files left behind are of this key."""
        if not (self._part.exists() and self._log.exists()):
            return None
        head, *lines = self._log.read_text(encoding="utf-8").splitlines(keepends=True) or [""]
        if head != _line({"key": key}):
            return None
        size = self._part.stat().st_size
        self.done = [row for row in map(json.loads, filter(_whole, lines)) if row["end"] <= size]
        rows = self._part.open("r+b")
        rows.truncate(self.done[-1]["end"] if self.done else len(own_head().encode()))
        rows.seek(0, os.SEEK_END)
        return rows, self._logging(key)

    def _logging(self, key: str) -> TextIO:
        write_text(self._log, _line({"key": key}) + "".join(map(_line, self.done)))
        return self._log.open("a", encoding="utf-8")


def _line(values: Mapping[str, Any]) -> str:
    return json.dumps(values) + "\n"


def _whole(line: str) -> bool:
    return line.endswith("\n")
