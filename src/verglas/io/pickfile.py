"""Write a pick file while picking goes on: memory stays flat, and what is done survives an interruption."""

import json
import os
from pathlib import Path
from typing import Any, Self

from verglas.errors import InputError
from verglas.io.star import own_head, own_rows, own_tail
from verglas.types import Picks


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
        self._resume(key) or self._begin(key)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._rows.close()
        self._done.close()

    def add(self, picks: Picks, shape: tuple[int, int]) -> None:
        """Add all candidates of one micrograph."""
        self._rows.write("".join(own_rows(picks)).encode())
        self._rows.flush()
        row = {"name": picks.micrograph, "shape": shape, "candidates": len(picks), "end": self._rows.tell()}
        self.done.append(row)
        self._done.write(json.dumps(row) + "\n")
        self._done.flush()

    def finish(self, **meaning: Any) -> Path:
        """Write what the picks mean (fields of ``PickSet``) and put the file in its place."""
        searched = {row["name"]: (tuple(row["shape"]), row["candidates"]) for row in self.done}
        self._rows.write(own_tail(searched, **meaning).encode())
        self._rows.flush()
        os.fsync(self._rows.fileno())
        self.__exit__()
        self._part.replace(self.path)
        self._log.unlink()
        return self.path

    def _begin(self, key: str) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._rows = self._part.open("wb")
        self._rows.write(own_head().encode())
        self._rows.flush()
        self._done = self._log.open("w", encoding="utf-8")
        self._done.write(json.dumps({"key": key}) + "\n")
        self._done.flush()

    def _resume(self, key: str) -> bool:
        """Go on after the last micrograph that was written whole."""
        if not (self._part.exists() and self._log.exists()):
            return False
        head, *lines = self._log.read_text(encoding="utf-8").splitlines(keepends=True) or [""]
        if head != json.dumps({"key": key}) + "\n":
            return False
        size = self._part.stat().st_size
        rows = [json.loads(line) for line in lines if line.endswith("\n")]
        self.done = [row for row in rows if row["end"] <= size]
        self._rows = self._part.open("r+b")
        self._rows.truncate(self.done[-1]["end"] if self.done else len(own_head().encode()))
        self._rows.seek(0, os.SEEK_END)
        self._done = self._log.open("w", encoding="utf-8")
        self._done.write(head + "".join(json.dumps(row) + "\n" for row in self.done))
        self._done.flush()
        return True
