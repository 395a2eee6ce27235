"""What every format shares: its interface, the name a file gives its micrograph, and whole-or-nothing writing."""

import hashlib
import os
import re
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import ClassVar, Literal

from verglas.types import PickSet

LONGEST_TEXT = 512 * 2**20
"""Bytes of the largest coordinate file that is read."""

_ADDED_SUFFIXES = re.compile(r"_(verglas|autopick|manualpick|topaz|info|cryolo)$")


@dataclass(frozen=True, slots=True)
class FormatOptions:
    """What a format may need to know beyond the file.

    Parameters
    ----------
    box_px
        Side of the box that corner formats draw around a centre, in micrograph pixels.
    cs_y
        Which way cryoSPARC's y runs. There is no default: public tools disagree.
    """

    box_px: int | None = None
    cs_y: Literal["asis", "flip"] | None = None


class PicksFormat(ABC):
    """A coordinate file format.

    ``many`` says whether one file holds several micrographs. ``precision_px`` and ``keeps_score`` say what
    survives a round trip; ``needs_box`` that writing wants ``FormatOptions.box_px``.
    """

    name: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]]
    many: ClassVar[bool] = False
    precision_px: ClassVar[float] = 0.0
    keeps_score: ClassVar[bool] = True
    needs_box: ClassVar[bool] = False

    @abstractmethod
    def recognises(self, path: Path, head: bytes) -> bool:
        """Tell whether a file of this suffix, beginning with ``head`` (up to 4 KiB), has this format."""

    @abstractmethod
    def read(self, path: Path, options: FormatOptions) -> PickSet:
        """Read all picks of a file; raise ``InputError`` naming file and line for anything damaged."""

    @abstractmethod
    def write(self, path: Path, picks: PickSet, options: FormatOptions) -> None:
        """Write the picks as they are, whole or not at all."""


def micrograph_name(path: str | Path) -> str:
    """Return the name by which micrographs, labels and picks are joined: no folder, no known suffixes.

    ``MotionCorr/job002/Movies/mic1.mrc`` and ``mic1_verglas.star`` both give ``mic1``.
    """
    name = PurePosixPath(str(path).replace("\\", "/")).name
    for suffix in (".gz", ".bz2"):
        name = name.removesuffix(suffix)
    stem = re.sub(r"\.(mrc|mrcs|tif|tiff|png|jpg|jpeg|star|csv|txt|tsv|box|cbox|json|cs)$", "", name, flags=re.I)
    return _ADDED_SUFFIXES.sub("", stem)


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside ``path`` to write to; put it in place when the block ends well.

    Flushed to disk and renamed, so a reader sees the old file or the new one and never half of either.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def copies(paths: Iterable[Path]) -> list[tuple[Path, ...]]:
    """Return the files that hold the same, byte by byte, in groups of two and more, in the order given."""
    groups = [tuple(dict.fromkeys(paths))]
    for tell in (_glimpse, _content):  # few bytes of all, then all bytes of few
        alike: dict[object, list[Path]] = {}
        for number, group in enumerate(groups):
            for path in group:
                alike.setdefault((number, tell(path)), []).append(path)
        groups = [tuple(group) for group in alike.values() if len(group) > 1]
    return groups


def _glimpse(path: Path) -> object:
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(size // 2)
        return size, file.read(1 << 12)


def _content(path: Path) -> object:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").digest()
