"""The types that stand at each arrow of the data flow. They hold data and check it; they do no I/O."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from verglas.errors import InputError


def _frozen(array: np.ndarray, dtype: type) -> np.ndarray:
    view: np.ndarray = np.asarray(array, dtype=dtype).view()
    view.flags.writeable = False
    return view


@dataclass(frozen=True, slots=True)
class Grid:
    """The centre of array pixel (row i, column j) is at x = x0 + j·dx, y = y0 + i·dy on the micrograph."""

    x0: float = 0.0
    y0: float = 0.0
    dx: float = 1.0
    dy: float = 1.0

    def area_resized(self, old: tuple[int, int], new: tuple[int, int]) -> "Grid":
        """Return the grid after averaging from ``old`` to ``new``: pixel (0, 0) moves, by 1.5 px at 4x."""
        (h, w), (m, n) = old, new
        x0, y0 = self.x0 + (w / n - 1) / 2 * self.dx, self.y0 + (h / m - 1) / 2 * self.dy
        return Grid(x0, y0, self.dx * w / n, self.dy * h / m)

    def cropped(self, row: int, column: int) -> "Grid":
        """Return the grid of the part that begins at ``(row, column)``."""
        return replace(self, x0=self.x0 + column * self.dx, y0=self.y0 + row * self.dy)

    def to_micrograph(self, xy: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
        """Convert array positions ``(column, row)`` to micrograph pixels ``(x, y)``."""
        return np.asarray(xy, float) * (self.dx, self.dy) + (self.x0, self.y0)

    def from_micrograph(self, xy: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
        """Convert micrograph pixels ``(x, y)`` to array positions ``(column, row)``."""
        return (np.asarray(xy, float) - (self.x0, self.y0)) / (self.dx, self.dy)


@dataclass(frozen=True, slots=True)
class Micrograph:
    """A micrograph on disk: its header, not its pixels.

    ``name`` is the file name without folder and suffix, the key by which labels and picks are joined.
    ``pixel_size_angstrom`` is None where the file does not say (PNG).
    """

    name: str
    path: Path
    shape: tuple[int, int]
    pixel_size_angstrom: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Image:
    """Pixels, where they sit on the micrograph, and which of them can be trusted."""

    data: Float[np.ndarray, "h w"]
    grid: Grid
    valid: Bool[np.ndarray, "h w"]

    def __post_init__(self) -> None:
        object.__setattr__(self, "data", _frozen(self.data, np.float32))
        object.__setattr__(self, "valid", _frozen(self.valid, np.bool_))


@dataclass(frozen=True, slots=True, eq=False)
class Picks:
    """Positions on one micrograph, in pixels of the micrograph on disk, each with its score.

    Labels are picks whose score is 1. ``source`` says whence they came.
    """

    micrograph: str
    xy: Float[np.ndarray, "n 2"]
    score: Float[np.ndarray, " n"]
    source: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "xy", _frozen(self.xy, np.float64))
        object.__setattr__(self, "score", _frozen(self.score, np.float64))
        if self.xy.shape != (len(self.score), 2):
            expected = f"({len(self.score)}, 2), a row per score"
            raise InputError(self.micrograph, "shape of positions", found=self.xy.shape, expected=expected)

    def __len__(self) -> int:
        return len(self.xy)

    def where(self, keep: Bool[np.ndarray, " n"]) -> "Picks":
        """Return the picks for which ``keep`` is true."""
        return replace(self, xy=self.xy[keep], score=self.score[keep])

    def above(self, threshold: float | None) -> "Picks":
        """Return the picks that count: score at least ``threshold``, or all of them for None."""
        return self if threshold is None else self.where(self.score >= threshold)


def nothing(micrograph: str, source: str = "") -> Picks:
    """Return the picks of a micrograph on which there are none."""
    return Picks(micrograph, np.zeros((0, 2)), np.zeros(0), source)


@dataclass(frozen=True, slots=True, eq=False)
class PickSet:
    """What a pick file holds: every candidate of every micrograph, and the score from which one counts.

    A micrograph that was searched in vain is present without rows. ``threshold`` None: all count.
    ``shapes`` holds (h, w) of each micrograph where known.
    """

    picks: tuple[Picks, ...]
    threshold: float | None = None
    threshold_how: str = ""
    diameter_px: float | None = None
    pixel_size_angstrom: float | None = None
    shapes: Mapping[str, tuple[int, int]] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        names = [p.micrograph for p in self.picks]
        twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
        if twice:
            raise InputError(
                "picks",
                "micrograph",
                found=f"{twice[0]} twice",
                expected="each name once",
                remedy="Rename the micrographs so that the names differ, or merge the files.",
            )

    def __iter__(self) -> Iterator[Picks]:
        return iter(self.picks)

    def __len__(self) -> int:
        return sum(len(p) for p in self.picks)

    def by_name(self) -> dict[str, Picks]:
        """Return the picks under their micrograph's name."""
        return {p.micrograph: p for p in self.picks}

    def counted(self) -> "PickSet":
        """Return only the picks that count."""
        return replace(self, picks=tuple(p.above(self.threshold) for p in self.picks))


@dataclass(frozen=True, slots=True)
class Split:
    """Names of micrographs; each has one role."""

    labelled: tuple[str, ...] = ()
    unlabelled: tuple[str, ...] = ()
    validation: tuple[str, ...] = ()
    test: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = [*self.labelled, *self.unlabelled, *self.validation, *self.test]
        if len(set(names)) < len(names):
            name = next(n for n in names if names.count(n) > 1)
            raise InputError("split", "role", found=f"two roles for {name}", expected="one role per micrograph")


@dataclass(frozen=True, slots=True, eq=False)
class Collection:
    """Micrographs of one pixel size, their labels, and the diameter of the particle.

    ``picks`` has an entry for each labelled micrograph; an entry without rows says that somebody looked and
    found nothing, no entry says that nobody looked. ``complete``: where labelled, every particle is labelled.
    ``split`` is what the data dictate (a train/val/test layout), or None.
    """

    micrographs: tuple[Micrograph, ...]
    picks: Mapping[str, Picks]
    diameter_px: float
    complete: bool = True
    split: Split | None = None

    def by_name(self) -> dict[str, Micrograph]:
        """Return the micrographs under their names."""
        return {m.name: m for m in self.micrographs}


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """Figures of merit: ``rows`` one per micrograph, ``pooled`` over all, ``how`` the protocol."""

    rows: tuple[Mapping[str, Any], ...]
    pooled: Mapping[str, Any]
    how: Mapping[str, Any]
