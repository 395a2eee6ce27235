"""Micrographs and labels as users keep them, made a ``Collection``.

They come as folders, globs, lists, RELION projects and train/val/test layouts. Nothing is printed: what the user
should know is in the result.
"""

import glob
import math
import os
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType

import numpy as np
from jaxtyping import Bool

from verglas.errors import InputError
from verglas.io._base import FormatOptions, micrograph_name
from verglas.io.micrographs import SUFFIXES, differ, read_header
from verglas.io.picks import read_picks
from verglas.io.star import Block, read_star
from verglas.io.tables import read_lines
from verglas.types import Collection, Micrograph, Picks, PickSet, Split

_LISTS = (".txt", ".lst")
_LABEL_FOLDERS = ("coords", "coordinates", "annotations", "labels")
_PARTS = {"train": ("train",), "validation": ("val", "valid", "validation"), "test": ("test",)}
_FEW_OUTSIDE = 0.01

_NAME, _GROUP, _PIXEL_SIZE = "_rlnMicrographName", "_rlnOpticsGroup", "_rlnMicrographPixelSize"
_DETECTOR_MICROMETRE, _MAGNIFICATION = "_rlnDetectorPixelSize", "_rlnMagnification"  # RELION 3.0


@dataclass(frozen=True, slots=True)
class Failure:
    """A file that cannot be used, and why."""

    path: Path
    reason: str


@dataclass(frozen=True, slots=True)
class Found:
    """Micrographs sorted by name, files that failed, and what the user should know."""

    micrographs: tuple[Micrograph, ...]
    failures: tuple[Failure, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Collected:
    """A collection, what the user should know of it, and files that failed."""

    collection: Collection
    warnings: tuple[str, ...] = ()
    failures: tuple[Failure, ...] = ()


# --- micrographs ---


def find_micrographs(sources: Sequence[str | Path], *, pixel_size_angstrom: float | None = None) -> Found:
    """Find micrographs and read their headers; a bad file is a failure in the result, not an error.

    A source is a picture, a folder (searched without its sub-folders), a glob such as ``"raw/**/*.mrc"``, a
    text file with a path on each line, or a STAR file that names micrographs. ``pixel_size_angstrom``
    overrules STAR files and headers.
    """
    _refuse_unless_positive("pixel_size_angstrom", pixel_size_angstrom)
    micrographs, failures, said = [], [], dict[str, list[str]]()
    for name, (path, star) in sorted(_by_name(entry for source in sources for entry in _entries(source)).items()):
        try:
            header = read_header(path)
        except InputError as error:
            failures.append(Failure(path, str(error)))
            continue
        size = header.pixel_size_angstrom(pixel_size_angstrom, star)
        micrographs.append(Micrograph(name, path, header.shape, size))
        said.setdefault(header.pixel_size_warning(pixel_size_angstrom, star), []).append(name)
    if not micrographs:
        remedy = f"The first: {failures[0].reason}" if failures else "Name a file, a folder or a glob."
        raise InputError("data", "micrographs", found=f"0 of {len(failures)}", expected="one or more", remedy=remedy)
    warnings = (f"{_first_of(names)}: {sentence}" for sentence, names in said.items() if sentence)
    return Found(tuple(micrographs), tuple(failures), tuple(warnings))


_Entry = tuple[Path, float | None]
"""The path of a picture, and its pixel size in Å if a STAR file tells it."""


def _by_name(entries: Iterable[_Entry]) -> dict[str, _Entry]:
    """Return each picture once; two with one name could not be told apart in any label file."""
    listed: dict[str, _Entry] = {}
    for path, star in entries:
        name = micrograph_name(path)
        first, first_star = listed.setdefault(name, (path, star))
        if first != path and os.path.realpath(first) != os.path.realpath(path):
            remedy = "Leave one out, for example with a glob such as 'folder/*.mrc', or rename it."
            raise InputError(path, "name", found=f"{name}, as of {first}", expected="names that differ", remedy=remedy)
        listed[name] = (first, star if first_star is None else first_star)
    return listed


def _entries(source: str | Path) -> list[_Entry]:
    path = Path(os.path.expanduser(source))
    if os.path.isfile(path):
        suffix = path.suffix.lower()
        return _star_entries(path) if suffix == ".star" else _text_entries(path) if suffix in _LISTS else [(path, None)]
    matches = _matches(path)
    found = [match for match in matches if _is_picture(match)]
    if not found:
        remedy = "To search sub-folders give a glob such as 'folder/**/*.mrc'." if os.path.isdir(path) else ""
        expected = f"a STAR file, a list (.txt) or files ending in {', '.join(SUFFIXES)}"
        nothing = f"none of {len(matches)} files" if matches or os.path.isdir(path) else "not there"
        raise InputError(source, "micrographs", found=nothing, expected=expected, remedy=remedy)
    return [(picture, None) for picture in found]


def _matches(path: Path) -> list[Path]:
    """Return what a folder holds or a glob matches, sorted, without hidden files."""
    pattern = os.path.join(glob.escape(str(path)), "*") if os.path.isdir(path) else str(path)
    return sorted(map(Path, glob.glob(pattern, recursive=True)))


def _is_picture(path: Path) -> bool:
    return path.name.lower().endswith(SUFFIXES) and path.is_file()


def _text_entries(path: Path) -> list[_Entry]:
    lines = (line.strip() for line in read_lines(path))
    listed = [line for line in lines if line and not line.startswith("#")]
    if not listed:
        raise InputError(path, "micrographs", found="none", expected="a path on each line")
    return [(_located(name, (path.parent, Path())), None) for name in listed]


def _star_entries(path: Path) -> list[_Entry]:
    blocks = read_star(path)
    table = next((block for block in blocks.values() if block.columns.get(_NAME)), None)
    if table is None:
        remedy = "Give the micrographs_ctf.star or corrected_micrographs.star of a RELION project."
        raise InputError(path, _NAME, found="missing or without rows", expected="a column of names", remedy=remedy)
    sizes = dict(zip(table.columns[_NAME], _star_pixel_sizes(path, blocks.get("optics"), table), strict=True))
    folders = (Path(), *path.absolute().parents)  # names begin in the project folder, where RELION runs
    return [(_located(name, folders), size) for name, size in sizes.items()]


def _located(name: str, folders: Sequence[Path]) -> Path:
    """Return where a listed file is; where it is sought first if it is nowhere, so that reading reports it."""
    paths = [folder / name for folder in folders]
    return next((path for path in paths if os.path.isfile(path)), paths[0])


def _star_pixel_sizes(path: Path, optics: Block | None, table: Block) -> list[float | None]:
    """Return the pixel size of each row in Å: from its optics group, its own column, or as RELION 3.0 had it."""
    names = table.columns[_NAME]
    if optics is not None and _PIXEL_SIZE in optics.columns and _GROUP in table.columns:
        groups = dict(zip(optics.column(_GROUP), optics.numbers(_PIXEL_SIZE).tolist(), strict=True))
        sizes = [groups.get(group, math.nan) for group in table.columns[_GROUP]]
    elif _PIXEL_SIZE in table.columns:
        sizes = table.numbers(_PIXEL_SIZE).tolist()
    elif _DETECTOR_MICROMETRE in table.columns and _MAGNIFICATION in table.columns:
        micrometre, magnification = table.numbers(_DETECTOR_MICROMETRE), table.numbers(_MAGNIFICATION)
        sizes = (1e4 * micrometre / np.where(magnification > 0, magnification, np.nan)).tolist()
    else:
        return [None] * len(names)
    for name, size in zip(names, sizes, strict=True):
        if not size > 0:
            found = "missing from data_optics" if math.isnan(size) else size
            raise InputError(path, f"pixel size of {name}", found=found, expected="> 0 Å")
    return list(sizes)


# --- collections ---


def collect(
    sources: Sequence[str | Path],
    labels: str | Path | None = None,
    *,
    diameter_px: float | None = None,
    diameter_angstrom: float | None = None,
    pixel_size_angstrom: float | None = None,
    complete: bool = True,
    options: FormatOptions | None = None,
) -> Collected:
    """Find micrographs, join labels to them by name and settle the diameter in pixels.

    Exactly one of the two diameters is given. ``labels`` is a coordinate file or a folder with one for each
    micrograph. A single source laid out as train/val/test brings its own labels and split.
    """
    if labels is None and len(sources) == 1 and is_split_layout(sources[0]):
        return collect_split(
            sources[0],
            diameter_px=diameter_px,
            diameter_angstrom=diameter_angstrom,
            pixel_size_angstrom=pixel_size_angstrom,
            complete=complete,
        )
    found = find_micrographs(sources, pixel_size_angstrom=pixel_size_angstrom)
    diameter = diameter_in_px(found.micrographs, diameter_px, diameter_angstrom)
    picks, warnings = dict[str, Picks](), list[str]()
    if labels is not None:
        picks, warnings = _join(
            found, read_picks(Path(os.path.expanduser(labels)), options or FormatOptions()), labels, diameter
        )
    collection = Collection(found.micrographs, MappingProxyType(picks), diameter, complete)
    return Collected(collection, (*found.warnings, *warnings), found.failures)


def is_split_layout(root: str | Path) -> bool:
    """Tell whether a folder holds pictures in ``train`` and in ``val`` or ``test``, directly or under ``images``."""
    parts = {role for role, _, _ in _parts(root)}
    return "train" in parts and len(parts) > 1


def collect_split(
    root: str | Path,
    *,
    diameter_px: float | None = None,
    diameter_angstrom: float | None = None,
    pixel_size_angstrom: float | None = None,
    complete: bool = True,
) -> Collected:
    """Collect a folder laid out as train/val/test, with a CSV file for each labelled picture.

    The CSV files stand beside the pictures or in ``coords``, ``coordinates``, ``annotations`` or ``labels``.
    Pictures of ``train`` without one are unlabelled; those of ``val`` and ``test`` have no role.
    """
    parts = _parts(root)
    found = find_micrographs([folder for _, folder, _ in parts], pixel_size_angstrom=pixel_size_angstrom)
    diameter = diameter_in_px(found.micrographs, diameter_px, diameter_angstrom)
    labels = _split_labels(root, found, [folder for _, _, folder in parts])
    picks, warnings = _join(found, labels, root, diameter)
    names = {role: [m.name for m in found.micrographs if m.path.parent == folder] for role, folder, _ in parts}
    split = Split(
        labelled=tuple(name for name in names.get("train", ()) if name in picks),
        unlabelled=tuple(name for name in names.get("train", ()) if name not in picks),
        validation=tuple(name for name in names.get("validation", ()) if name in picks),
        test=tuple(name for name in names.get("test", ()) if name in picks),
    )
    idle = [name for role in ("validation", "test") for name in names.get(role, ()) if name not in picks]
    if idle:
        warnings.append(f"{_first_of(idle)}: no labels in {root}, so no part in validation or test.")
    collection = Collection(found.micrographs, MappingProxyType(picks), diameter, complete, split)
    return Collected(collection, (*found.warnings, *warnings), found.failures)


def _parts(root: str | Path) -> list[tuple[str, Path, Path]]:
    """Return each part of a train/val/test layout: its role, its folder of pictures and its folder of labels."""
    root = Path(os.path.expanduser(root))
    parts: dict[str, tuple[str, Path, Path]] = {}
    for role, word in ((role, word) for role, words in _PARTS.items() for word in words):
        folders = (root / word / "images", root / "images" / word, root / word)
        pictures = next((f for f in folders if os.path.isdir(f) and any(map(_is_picture, _matches(f)))), None)
        if pictures is not None:
            places = [part / kind for part in (root / word, root) for kind in _LABEL_FOLDERS]
            nested = [root / kind / word for kind in _LABEL_FOLDERS]
            labels = next((p for p in (*nested, *places, root / word) if any(p.glob("*.csv"))), pictures)
            parts.setdefault(role, (role, pictures, labels))
    return list(parts.values())


def _split_labels(root: str | Path, found: Found, folders: Iterable[Path]) -> PickSet:
    """Read the CSV file of each picture; one without a picture is there in name only, to be warned of."""
    files = sorted({path for folder in folders for path in folder.glob("*.csv")})
    if not files:
        expected = f"a CSV file for each, beside it or in {', '.join(_LABEL_FOLDERS)}"
        raise InputError(root, "labels", found="none", expected=expected)
    known, picks, diameters = {m.name for m in found.micrographs}, [], set()
    for path in files:
        name = micrograph_name(path)
        held = read_picks(path) if name in known else PickSet(())
        if others := held.by_name().keys() - {name}:
            remedy = "Give a file of many micrographs as labels, apart from the layout."
            raise InputError(path, "micrograph", found=min(others), expected=name, remedy=remedy)
        picks.append(held.by_name().get(name, Picks(name, np.zeros((0, 2)), np.zeros(0), f"file:{path.name}")))
        diameters |= {held.diameter_px} - {None}
    return PickSet(tuple(picks), diameter_px=diameters.pop() if len(diameters) == 1 else None)


# --- joining and judging ---


def _join(found: Found, labels: PickSet, where: str | Path, diameter_px: float) -> tuple[dict[str, Picks], list[str]]:
    """Return the labels of each micrograph, all with score 1, and what the user should know of them."""
    micrographs = {m.name: m for m in found.micrographs}
    failed = {micrograph_name(failure.path) for failure in found.failures}
    entries = labels.counted().by_name()
    strangers = [name for name in entries if name not in micrographs and name not in failed]
    joined = {name: entries[name] for name in micrographs if name in entries}
    if not joined:
        _refuse_strangers(where, [*entries], micrographs)
    warnings = []
    if strangers:
        warnings.append(f"{where}: {_first_of(strangers)}: labels of a micrograph that is not in the data; left out.")
    if labels.diameter_px and not 0.9 < labels.diameter_px / diameter_px < 1.1:
        warnings.append(f"{where}: the labels say {labels.diameter_px:g} px, but {diameter_px:g} px is the diameter.")
    for name, shape in labels.shapes.items():
        if name in joined and shape != micrographs[name].shape:
            expected = f"{micrographs[name].shape} as in {micrographs[name].path}"
            remedy = "The labels belong to another copy of the micrograph; convert them or use that copy."
            raise InputError(where, f"(rows, columns) of {name}", found=shape, expected=expected, remedy=remedy)
    inside = {name: _inside(micrographs[name], picks) for name, picks in joined.items()}
    warnings += _judge_outside(where, inside, joined)
    ones = {name: replace(picks, score=np.ones(len(picks))) for name, picks in joined.items()}
    return {name: picks.where(inside[name]) for name, picks in ones.items()}, warnings


def _refuse_strangers(where: str | Path, strangers: Sequence[str], micrographs: Mapping[str, Micrograph]) -> None:
    near = get_close_matches(strangers[0], micrographs, n=3, cutoff=0) if strangers else sorted(micrographs)[:3]
    raise InputError(
        where,
        "micrographs",
        found=_first_of(strangers) if strangers else "none named",
        expected=f"names of the data, such as {', '.join(near)}",
        remedy="Labels are joined by file name without folder and suffix: rename one or the other.",
    )


def _inside(micrograph: Micrograph, picks: Picks) -> Bool[np.ndarray, " n"]:
    h, w = micrograph.shape
    return np.all((picks.xy >= -0.5) & (picks.xy <= (w - 0.5, h - 0.5)), axis=1)


def _judge_outside(
    where: str | Path, inside: Mapping[str, Bool[np.ndarray, " n"]], picks: Mapping[str, Picks]
) -> list[str]:
    """Refuse labels in another frame than the pictures; a few strays are only left out, which is told."""
    outside = {name: int((~keep).sum()) for name, keep in inside.items() if not keep.all()}
    if not outside:
        return []
    strays, labels = sum(outside.values()), sum(len(keep) for keep in inside.values())
    worst = max(outside, key=lambda name: outside[name] / len(inside[name]))
    if strays > max(1, _FEW_OUTSIDE * labels) or 2 * outside[worst] > len(inside[worst]):
        found = f"{strays} of {labels} outside the picture, {outside[worst]} of {len(inside[worst])} on {worst}"
        remedy = "Labels are in pixels of the micrograph on disk, not of a shrunken or turned copy."
        field = f"labels ({picks[worst].source.removeprefix('file:')})"
        raise InputError(where, field, found=found, expected=f"at most {_FEW_OUTSIDE:.0%}", remedy=remedy)
    return [f"{where}: {strays} of {labels} labels are outside the picture and left out ({_first_of([*outside])})."]


def diameter_in_px(
    micrographs: Sequence[Micrograph], diameter_px: float | None, diameter_angstrom: float | None
) -> float:
    """Return the one diameter of these micrographs, after making sure that they are one collection."""
    _refuse_unless_positive("diameter_px", diameter_px)
    _refuse_unless_positive("diameter_angstrom", diameter_angstrom)
    _refuse_mixture(micrographs)
    if diameter_angstrom is not None and diameter_px is None:
        diameter_px = diameter_angstrom / _pixel_size_angstrom(micrographs)
    elif diameter_px is None or diameter_angstrom is not None:
        found = "missing" if diameter_px is None else "given twice"
        expected, remedy = "diameter_px or diameter_angstrom", "Give one: pixels are those of the micrograph on disk."
        raise InputError("data", "diameter", found=found, expected=expected, remedy=remedy)
    side = min(min(m.shape) for m in micrographs)
    if not 2 <= diameter_px < side:
        remedy = "Check its unit, and the pixel size if the diameter is in Å."
        raise InputError("data", "diameter", found=f"{diameter_px:g} px", expected=f"2 to {side} px", remedy=remedy)
    return diameter_px


def _pixel_size_angstrom(micrographs: Sequence[Micrograph]) -> float:
    for m in micrographs:
        if m.pixel_size_angstrom is None:
            remedy = "Give pixel_size_angstrom, or diameter_px in place of diameter_angstrom."
            raise InputError(m.path, "pixel size", found="not known", expected="> 0 Å", remedy=remedy)
    return statistics.median(m.pixel_size_angstrom for m in micrographs if m.pixel_size_angstrom is not None)


def _refuse_mixture(micrographs: Sequence[Micrograph]) -> None:
    """Refuse pixel sizes, or sizes of detectors, that differ: a diameter in pixels would mean several things."""
    measures: dict[str, list[tuple[float, str]]] = {
        "pixel size (Å)": [(m.pixel_size_angstrom, m.name) for m in micrographs if m.pixel_size_angstrom is not None],
        "short side (px)": [(min(m.shape), m.name) for m in micrographs],
        "long side (px)": [(max(m.shape), m.name) for m in micrographs],
    }
    for field, values in measures.items():
        if differ(value for value, _ in values):
            (low, first), (high, last) = min(values), max(values)
            found, remedy = f"{low:g} in {first}, {high:g} in {last}", "Make a collection for each size."
            raise InputError("data", field, found=found, expected="one size within 1 %", remedy=remedy)


def _refuse_unless_positive(field: str, value: float | None) -> None:
    if value is not None and not 0 < value < math.inf:
        raise InputError("data", field, found=value, expected="a number above 0")


def _first_of(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
