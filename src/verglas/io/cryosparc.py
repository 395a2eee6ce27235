"""cryoSPARC's ``.cs``: a numpy array of records, positions as fractions of the micrograph."""

import re
import warnings
from hashlib import blake2b
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from verglas.errors import InputError
from verglas.io._base import FormatOptions, PicksFormat, micrograph_name, whole_file
from verglas.io.tables import LARGEST, by_micrograph, read_bytes, shown
from verglas.types import PickSet

_LONGEST_HEADER = 2**20
_MAGIC, _STREAM = b"\x93NUMPY", b"\x95CSDAT"
_PATH, _SHAPE, _SCORE = "location/micrograph_path", "location/micrograph_shape", "pick_stats/ncc_score"
_X, _Y, _PIXEL_SIZE = "location/center_x_frac", "location/center_y_frac", "location/micrograph_psize_A"
_UID = re.compile(r"(\d{15,21})_")
_ADDED = re.compile(r"(_(patch|rigid|full|local|aligned|doseweighted|denoised))+$")


def plain_name(name: str) -> str:
    """Return a micrograph's name without what cryoSPARC puts around it.

    ``001234567890123456789_mic1_patch_aligned_doseweighted`` gives ``mic1``. Reading keeps the full name,
    that of the file in the project; use this where the micrographs are the ones that were imported.
    """
    return _ADDED.sub("", _UID.sub("", name, count=1)) if _UID.match(name) else name


class CryoSparc(PicksFormat):
    """Fractions of the micrograph's width and height, with a unique number for every pick.

    Which way y runs cannot be read from the file and public tools disagree, so ``FormatOptions.cs_y`` must
    say it, both ways: ``"flip"`` takes 1 - fraction.
    """

    name, suffixes, many, precision_px = "cryosparc", (".cs",), True, 0.001

    def recognises(self, path: Path, head: bytes) -> bool:
        """Take any: reading explains what is wrong with one that is not numpy's."""
        return True

    def read(self, path: Path, options: FormatOptions) -> PickSet:
        """Read the positions; those of template picks keep their correlation as score."""
        flip = _flips(path, options)
        table = _records(path)
        x, y = _floats(path, table, _X), _floats(path, table, _Y)
        height, width = table[_SHAPE].astype(float).T
        xy = np.stack([x * width, (1 - y if flip else y) * height], axis=1)
        score = _floats(path, table, _SCORE) if _SCORE in (table.dtype.names or ()) else np.ones(len(xy))
        names = _names(path, table)
        parts = by_micrograph(path, names, xy, score)
        shapes = {micrograph_name(n): (h, w) for n, (h, w) in zip(names, table[_SHAPE].tolist(), strict=True)}
        sizes = set(_floats(path, table, _PIXEL_SIZE)) if _PIXEL_SIZE in (table.dtype.names or ()) else set()
        return PickSet(parts, pixel_size_angstrom=float(*sizes) if len(sizes) == 1 else None, shapes=shapes)

    def write(self, path: Path, picks: PickSet, options: FormatOptions) -> None:
        """Write the ``location`` and ``pick_stats`` of every pick; the size of each micrograph must be known."""
        flip = _flips(path, options)
        unknown = next((part.micrograph for part in picks if part.micrograph not in picks.shapes), None)
        if unknown is not None:
            remedy = "Give the micrographs too: cryoSPARC wants fractions of their size."
            raise InputError(path, f"size of {unknown}", found="unknown", expected="pixels", remedy=remedy)
        table = _encode(picks, flip)
        with whole_file(path) as temporary, temporary.open("wb") as file:
            np.lib.format.write_array(file, table, version=(1, 0), allow_pickle=False)


def _flips(path: Path, options: FormatOptions) -> bool:
    if options.cs_y is None:
        remedy = "Give --cs-y asis or --cs-y flip, and look at the picks over one micrograph: programs disagree."
        raise InputError(path, "direction of y", found="not given", expected="asis or flip", remedy=remedy)
    return options.cs_y == "flip"


def _records(path: Path) -> np.ndarray:
    """Return the records of a file, without ever unpickling; the fields that we use have their expected kinds."""
    data = read_bytes(path)
    if data.startswith(_STREAM):
        remedy = "Load it with cryosparc-tools and save it with format=NUMPY_FORMAT."
        raise InputError(path, "format", found="a CSDAT stream", expected="an array by numpy", remedy=remedy)
    shape, dtype, start = _header(path, data)
    kinds = {_X: ("f", ()), _Y: ("f", ()), _SHAPE: ("ui", (2,)), _PATH: ("S", ())}
    for name, (kind, sub) in kinds.items():
        field = dtype[name] if name in (dtype.names or ()) else np.dtype("V")
        if field.base.kind not in kind or field.shape != sub:
            found = "missing" if field.base.kind == "V" else str(field)
            raise InputError(path, f"field {name}", found=found, expected="as in particles or picks of cryoSPARC")
    size = len(data) - start
    if dtype.hasobject or len(shape) != 1 or shape[0] * dtype.itemsize != size:
        remedy = "The file is truncated or damaged: export it again."
        expected = f"{shape} records of {dtype.itemsize} bytes"
        raise InputError(path, "content", found=f"{size} bytes", expected=expected, remedy=remedy)
    table = np.frombuffer(data, dtype, shape[0], start)
    if (table[_SHAPE] < 1).any():
        found = f"0 in record {np.flatnonzero((table[_SHAPE] < 1).any(axis=1))[0]}"
        raise InputError(path, _SHAPE, found=found, expected="height and width in pixels")
    return table


def _header(path: Path, data: bytes) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    """Return shape, type and start of the array in a file."""
    file = BytesIO(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            read = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }[np.lib.format.read_magic(file)]
            shape, _, dtype = read(file, max_header_size=_LONGEST_HEADER)
    except Exception as error:  # what numpy's parser raises on damage is not documented
        found, expected = f"unreadable ({type(error).__name__})", "an array by numpy, version 1 or 2"
        raise InputError(path, "header", found=found, expected=expected) from error
    return shape, dtype, file.tell()


def _floats(path: Path, table: np.ndarray, name: str) -> Float[np.ndarray, " n"]:
    """Return a field as finite numbers."""
    if table[name].dtype.kind != "f" or table[name].ndim != 1:
        raise InputError(path, f"field {name}", found=str(table.dtype[name]), expected="a number per record")
    with np.errstate(all="ignore"):
        values = table[name].astype(float)
        bad = np.flatnonzero(~(np.abs(values) <= LARGEST))
    if len(bad):
        raise InputError(path, f"{name}, record {bad[0]}", found=values[bad[0]], expected="a finite number")
    return values


def _names(path: Path, table: np.ndarray) -> list[str]:
    try:
        names = [name.decode() for name in table[_PATH].tolist()]
    except UnicodeDecodeError as error:
        raise InputError(path, _PATH, found=shown(error.object), expected="UTF-8") from error
    bad = next((name for name in names if not name.isprintable()), None)
    if bad is not None:
        raise InputError(path, _PATH, found=shown(bad), expected="a path")
    return names


def _encode(picks: PickSet, flip: bool) -> np.ndarray:
    names = [part.micrograph for part in picks for _ in range(len(part))]
    xy = np.concatenate([np.zeros((0, 2)), *(part.xy for part in picks)])
    shape = np.array([picks.shapes[name] for name in names], float).reshape(-1, 2)
    fraction = xy / shape[:, ::-1]
    size, diameter = picks.pixel_size_angstrom, picks.diameter_px
    fields: dict[str, tuple[Any, Any]] = {
        "uid": ("<u8", _uids(picks)),
        "location/micrograph_uid": ("<u8", [_micrograph_uid(name) for name in names]),
        "location/exp_group_id": ("<u4", 1),
        _PATH: ("S", [f"{name}.mrc".encode() for name in names]),
        _SHAPE: (("<u4", (2,)), shape),
        _X: ("<f4", fraction[:, 0]),
        _Y: ("<f4", 1 - fraction[:, 1] if flip else fraction[:, 1]),
        **({_PIXEL_SIZE: ("<f4", size)} if size is not None else {}),
        **({"location/min_dist_A": ("<f4", size * diameter)} if size is not None and diameter is not None else {}),
        _SCORE: ("<f4", np.concatenate([np.zeros(0), *(part.score for part in picks)])),
        "pick_stats/power": ("<f4", 0),
        "pick_stats/template_idx": ("<u4", 0),
        "pick_stats/angle_rad": ("<f4", 0),
    }
    longest = max((len(name) for name in fields[_PATH][1]), default=1)
    dtype = np.dtype([(name, f"S{longest}" if kind == "S" else kind) for name, (kind, _) in fields.items()])
    table = np.zeros(len(names), dtype)
    for name, (_, values) in fields.items():
        table[name] = values
    return table


def _uids(picks: PickSet) -> list[int]:
    """Return a stable number for each pick, not 0 and never the same twice in a file."""
    taken: dict[int, None] = {}
    for part in picks:
        for x, y in part.xy.tolist():
            text = f"{part.micrograph} {x!r} {y!r} {part.source}"
            uid = _hash(text)
            while uid == 0 or uid in taken:  # two picks may share a position
                text += "+"
                uid = _hash(text)
            taken[uid] = None
    return list(taken)


def _micrograph_uid(name: str) -> int:
    """Return cryoSPARC's own number where the name begins with it."""
    match = _UID.match(name)
    return int(match[1]) % 2**64 if match else _hash(name)


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")
