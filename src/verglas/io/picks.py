"""Picks in any format: a file or a folder in, one ``PickSet`` out, and back; and the folder that RELION wants."""

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TypeVar

import numpy as np

from verglas.errors import InputError
from verglas.io._base import FormatOptions, PicksFormat, micrograph_name, write_text
from verglas.io.box import Box
from verglas.io.cbox import Cbox
from verglas.io.cryosparc import CryoSparc
from verglas.io.eman import Eman2
from verglas.io.star import COORDINATES, MICROGRAPH, Block, Relion, format_star, read_star, relion_columns
from verglas.io.tables import CoordinatesJson, Csv, Topaz, distinct, read_bytes, shown
from verglas.types import Micrograph, PickSet

FORMATS: tuple[PicksFormat, ...] = (
    Relion(),
    Csv(),
    CoordinatesJson(),
    Topaz(),
    Box(),
    Eman2(),
    Cbox(),
    CryoSparc(),
)
_NO_OPTIONS = FormatOptions()
T = TypeVar("T")


def format_named(name: str) -> PicksFormat:
    """Return the format of this name."""
    for form in FORMATS:
        if form.name == name:
            return form
    raise InputError("format", "name", found=name, expected=", ".join(form.name for form in FORMATS))


def _by_suffix(path: Path) -> list[PicksFormat]:
    """Return the formats whose suffix the path bears, the longest suffix first."""

    def length(form: PicksFormat) -> int:
        return max((len(s) for s in form.suffixes if path.name.lower().endswith(s)), default=0)

    formats = sorted((form for form in FORMATS if length(form)), key=length, reverse=True)
    if not formats:
        known = ", ".join(sorted({s for form in FORMATS for s in form.suffixes}))
        raise InputError(path, "suffix", found=path.suffix or "none", expected=f"one of {known}")
    return formats


def read_picks(path: str | Path, options: FormatOptions = _NO_OPTIONS) -> PickSet:
    """Read a file of any known format, or a folder that holds a file for each micrograph."""
    path = Path(path)
    return _read_folder(path, options) if path.is_dir() else _read_file(path, options)


def _read_file(path: Path, options: FormatOptions) -> PickSet:
    formats, head = _by_suffix(path), read_bytes(path, first=4096)
    form = next((form for form in formats if form.recognises(path, head)), None)
    if form is None:
        expected = " or ".join(form.name for form in formats)
        raise InputError(path, "content", found=shown(head), expected=f"a file of format {expected}")
    return form.read(path, options)


def _read_folder(folder: Path, options: FormatOptions) -> PickSet:
    """Join the files of a folder; hidden files are passed over, any other that cannot be read is an error."""
    held = {file: _read_file(file, options) for file in sorted(folder.iterdir()) if not file.name.startswith(".")}
    if not held:
        raise InputError(folder, "folder", found="empty", expected="files of coordinates")
    owners: dict[str, Path] = {}
    for file, picks in held.items():
        for part in picks:
            if owners.setdefault(part.micrograph, file) != file:
                found = f"{part.micrograph}, as in {owners[part.micrograph].name}"
                remedy = "Leave one of the two files out of the folder."
                raise InputError(file, "micrograph", found=found, expected="a file of its own", remedy=remedy)
    thresholds = {picks.threshold for picks in held.values()}
    if len(thresholds) > 1:
        found = " and ".join(sorted(map(str, thresholds)))
        raise InputError(folder, "threshold", found=found, expected="the same in all files")
    return PickSet(
        tuple(part for picks in held.values() for part in picks),
        threshold=thresholds.pop(),
        threshold_how=_agreed(picks.threshold_how for picks in held.values()) or "",
        diameter_px=_agreed(picks.diameter_px for picks in held.values()),
        pixel_size_angstrom=_agreed(picks.pixel_size_angstrom for picks in held.values()),
        shapes={name: shape for picks in held.values() for name, shape in picks.shapes.items()},
    )


def _agreed(values: Iterable[T]) -> T | None:
    """Return what all files say, or None where they differ."""
    said = set(values)
    return said.pop() if len(said) == 1 else None


def write_picks(
    path: str | Path,
    picks: PickSet,
    options: FormatOptions = _NO_OPTIONS,
    *,
    counted_only: bool,
    format_name: str | None = None,
) -> tuple[Path, ...]:
    """Write picks as they are, neither moved nor capped, and return the files written.

    Parameters
    ----------
    path
        A file; its suffix tells the format unless ``format_name`` does. For a format that holds one micrograph
        a file, it is a folder, unless there is one micrograph and the path bears the suffix.
    counted_only
        Whether candidates below the threshold are left out.
    """
    path = Path(path)
    form = format_named(format_name) if format_name else _by_suffix(path)[0]
    picks = picks.counted() if counted_only else picks
    suffixed = path.name.lower().endswith(form.suffixes)
    if form.many and not suffixed:
        raise InputError(path, "suffix", found=path.suffix or "none", expected=" or ".join(form.suffixes))
    if form.many or (suffixed and len(picks.picks) == 1 and not path.is_dir()):
        form.write(path, picks, options)
        return (path,)
    return _write_folder(path, picks, form, options)


def _write_folder(folder: Path, picks: PickSet, form: PicksFormat, options: FormatOptions) -> tuple[Path, ...]:
    names = [f"{part.micrograph}{form.suffixes[0]}" for part in picks]
    for name, part in zip(names, picks, strict=True):
        if micrograph_name(name) != part.micrograph or name.startswith("."):
            expected = "a name that a file can bear and give back"
            raise InputError(folder, "micrograph", found=shown(part.micrograph), expected=expected)
    if folder.is_file():
        expected = f"a folder, for {len(names)} files {form.suffixes[0]}"
        raise InputError(folder, "folder", found="a file", expected=expected)
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in zip(names, picks, strict=True):
        form.write(folder / name, replace(picks, picks=(part,)), options)
    return tuple(folder / name for name in names)


def relion_folder(
    folder: Path, picks: PickSet, micrographs: Iterable[Micrograph] = (), micrographs_star: Path | None = None
) -> dict[str, int]:
    """Write what RELION extracts from: a file for each micrograph, ``autopick.star`` and the 3.1 suffix file.

    RELION truncates positions, so they are rounded. A box that lies outside aborts its job, and the box is not
    known here, so picks whose pixel is outside are dropped. All picks are written: pass ``picks.counted()``.

    Parameters
    ----------
    micrographs
        Where the picks do not know them: their paths, as RELION writes them, and sizes.
    micrographs_star
        RELION's own file of the micrographs: its names are used to the letter. Without it there is no suffix
        file, which has to name it.

    Returns
    -------
    dict
        How many picks were dropped, for each micrograph that lost any.
    """
    known = {micrograph.name: micrograph for micrograph in micrographs}
    shapes = {name: micrograph.shape for name, micrograph in known.items()} | dict(picks.shapes)
    names = {name: micrograph.path.as_posix() for name, micrograph in known.items()}
    if micrographs_star is not None:
        names = _listed_names(micrographs_star, [part.micrograph for part in picks])
    dropped: dict[str, int] = {}
    files: dict[str, str] = {}
    for part in picks:
        whole = replace(part, xy=np.floor(part.xy + 0.5))
        height, width = shapes.get(part.micrograph, (np.inf, np.inf))
        inside = np.all((whole.xy >= 0) & (whole.xy < (width, height)), axis=1)
        if not inside.all():
            dropped[part.micrograph] = int((~inside).sum())
        name = names.get(part.micrograph, f"{part.micrograph}.mrc")
        file = folder / f"{_below_job(name)}_verglas.star"
        write_text(file, format_star([Block("", columns=relion_columns(whole.where(inside), decimals=6))]))
        files[name] = file.as_posix()
    columns = {MICROGRAPH: list(files), COORDINATES: list(files.values())}
    write_text(folder / "autopick.star", format_star([Block("coordinate_files", columns=columns)]))
    if micrographs_star is not None:
        write_text(folder / "coords_suffix_verglas.star", f"{micrographs_star.as_posix()}\n")
    return dropped


def _listed_names(path: Path, wanted: Iterable[str]) -> dict[str, str]:
    """Return the name of each micrograph to the letter of RELION's list."""
    tables = [block for block in read_star(path).values() if MICROGRAPH in block.columns]
    names = {short: name for table in tables for name, short in distinct(path, table.columns[MICROGRAPH]).items()}
    missing = next((name for name in wanted if name not in names), None)
    if missing is not None:
        remedy = "RELION passes over micrographs that it does not know: give the list they were picked from."
        raise InputError(path, "micrographs", found=f"no {missing}", expected="every picked one", remedy=remedy)
    return names


def _below_job(name: str) -> PurePosixPath:
    """Return the path that RELION keeps of a micrograph, without ``MotionCorr/job002/`` and suffix."""
    path = PurePosixPath(re.sub(r"^.*?/job\d{3}[^/]*/", "", name))
    return PurePosixPath(path.stem) if path.is_absolute() or ".." in path.parts else path.with_suffix("")
