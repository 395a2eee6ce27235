"""Atoms from PDB and mmCIF files, plain or gzipped: what the simulator needs and no more."""

import gzip
import math
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from verglas.errors import InputError
from verglas.io._base import LONGEST_TEXT

_LONGEST_LINE = 2**16
_WATER = frozenset(("HOH", "DOD", "WAT", "H2O", "SOL"))
_TOKEN = re.compile(r"""'(?:[^']|'(?=\S))*'(?=\s|$)|"(?:[^"]|"(?=\S))*"(?=\s|$)|[^\s#]\S*""")
_NO_VALUE = ("", ".", "?")


class _Atom(NamedTuple):
    xyz: tuple[float, float, float]
    element: str
    occupancy: float


@dataclass(frozen=True, slots=True, eq=False)
class Structure:
    """Atoms of the first model, without water. Alternative places of an atom share its occupancy.

    The coordinates are those of the file, in Å: an assembly of many copies is not built.
    """

    xyz: Float[np.ndarray, "n 3"]
    element: tuple[str, ...]
    occupancy: Float[np.ndarray, " n"]


def read_structure(path: str | Path) -> Structure:
    """Read the atoms of a ``.pdb``, ``.ent``, ``.cif`` or ``.mmcif`` file, which may be gzipped."""
    path = Path(path)
    suffix = Path(path.name.lower().removesuffix(".gz")).suffix
    if suffix not in _READERS:
        raise InputError(path, "file type", found=suffix or "missing", expected=f"one of {', '.join(_READERS)}")
    try:
        atoms = list(_READERS[suffix](path, _lines(path)))
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(path, "file", found=f"unreadable ({error})", expected="a whole, readable file") from error
    if not atoms:
        raise InputError(path, "number of atoms", found=0, expected="at least one that is not water")
    xyz, element, occupancy = zip(*atoms, strict=True)
    return Structure(np.array(xyz, float), element, np.array(occupancy, float))


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield numbered lines, refusing those that no honest file holds: a gzip bomb must not fill the memory."""
    with path.open("rb") as raw:
        zipped = raw.read(2) == b"\x1f\x8b"
    total, number = 0, 0
    with gzip.open(path) if zipped else path.open("rb") as file:
        while line := file.readline(_LONGEST_LINE):
            total, number = total + len(line), number + 1
            if len(line) == _LONGEST_LINE or total > LONGEST_TEXT:
                raise InputError(f"{path}:{number}", "size", found="too large", expected="text of at most 512 MiB")
            yield number, line.decode("utf-8", errors="replace")


def _number(text: str, where: str, field: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(where, field, found=repr(text.strip()), expected="a finite number")
    return value


def _atom(where: str, xyz: Iterable[str], element: str, occupancy: str) -> _Atom:
    x, y, z = (_number(text, where, field) for text, field in zip(xyz, "xyz", strict=True))
    share = 1.0 if occupancy.strip() in _NO_VALUE else _number(occupancy, where, "occupancy")
    if not 0 <= share <= 1:
        raise InputError(where, "occupancy", found=share, expected="0 to 1")
    return _Atom((x, y, z), element.strip().upper(), share)


def _read_pdb(path: Path, lines: Iterator[tuple[int, str]]) -> Iterator[_Atom]:
    for number, line in lines:
        if line.startswith("ENDMDL"):
            return
        if not line.startswith(("ATOM  ", "HETATM")) or line[17:20] in _WATER:
            continue
        xyz = (line[30:38], line[38:46], line[46:54])
        yield _atom(f"{path}:{number}", xyz, line[76:78].strip() or _element(line[12:16]), line[54:60])


def _element(name: str) -> str:
    """Tell the element from the atom's name, as files without an element column demand.

    It stands right-aligned in the first two columns; only hydrogens fill all four.
    """
    return "H" if name[:1] == "H" and " " not in name.rstrip("\n") else name[:2].strip(" 0123456789")


def _read_mmcif(path: Path, lines: Iterator[tuple[int, str]]) -> Iterator[_Atom]:
    first_model = None
    for where, row in _atom_site(path, lines):
        model = row.get("pdbx_PDB_model_num", "")
        first_model = model if first_model is None else first_model
        if model != first_model or row.get("label_comp_id") in _WATER:
            continue
        missing = {"Cartn_x", "Cartn_y", "Cartn_z", "type_symbol"} - row.keys()
        if missing:
            raise InputError(where, "atom_site columns", found=f"without {min(missing)}", expected="x, y, z and symbol")
        xyz = (row["Cartn_x"], row["Cartn_y"], row["Cartn_z"])
        yield _atom(where, xyz, row["type_symbol"], row.get("occupancy", ""))


def _atom_site(path: Path, lines: Iterator[tuple[int, str]]) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Yield the rows of the ``_atom_site`` loop; a row may run over several lines."""
    tags: list[str] = []
    row: list[str] = []
    for number, line in _outside_text(lines):
        word = line.strip()
        if word.startswith("_atom_site."):
            tags.append(word.split()[0].removeprefix("_atom_site."))
        elif tags and word.startswith(("_", "loop_", "data_")):
            break
        elif tags and not word.startswith("#"):
            row += [t[1:-1] if t[0] in "'\"" and t[-1] == t[0] else t for t in _TOKEN.findall(word)]
            if len(row) > len(tags):
                break
            if len(row) == len(tags):
                yield f"{path}:{number}", dict(zip(tags, row, strict=True))
                row = []
    if row:
        raise InputError(
            f"{path}:{number}", "number of values", found=len(row), expected=f"{len(tags)}, one per column"
        )


def _outside_text(lines: Iterator[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """Leave out text fields, which stand between lines that begin with a semicolon and may hold anything."""
    inside = False
    for number, line in lines:
        if line.startswith(";"):
            inside = not inside
        elif not inside:
            yield number, line


_READERS: Mapping[str, Callable[[Path, Iterator[tuple[int, str]]], Iterator[_Atom]]] = {
    ".pdb": _read_pdb,
    ".ent": _read_pdb,
    ".cif": _read_mmcif,
    ".mmcif": _read_mmcif,
}
