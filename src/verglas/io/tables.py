"""Tables of positions (CSV, Topaz's TSV, ``coordinates.json``), and the checked reading that all formats share."""

import csv
import io
import json
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from verglas.errors import InputError
from verglas.io._base import LONGEST_TEXT, FormatOptions, PicksFormat, micrograph_name, write_text
from verglas.types import Picks, PickSet

LONGEST_LINE = 2**16
"""Characters of the longest line that is read as a row."""

LARGEST = 1e9
"""Magnitude of the largest number that is read: beyond it lies damage, and sums that overflow."""

_CONTROL = bytes(set(range(32)) - set(b"\t\n\r")) + b"\x7f"

Role = Literal["micrograph", "x", "y", "score", "diameter"]
_ROLES: dict[str, Role] = {
    **dict.fromkeys(("micrograph", "micrograph_name", "micrograph_filename", "micrographs_filename"), "micrograph"),
    **dict.fromkeys(("image", "image_name", "filename"), "micrograph"),
    **dict.fromkeys(("x", "x_coord", "x_coordinate"), "x"),
    **dict.fromkeys(("y", "y_coord", "y_coordinate"), "y"),
    **dict.fromkeys(("score", "confidence"), "score"),
    "diameter": "diameter",
}


def read_bytes(path: Path, first: int = -1) -> bytes:
    """Return what a file holds, or its ``first`` bytes; refuse one that is missing, too large or empty."""
    try:
        size = path.stat().st_size
        if size > LONGEST_TEXT:
            raise InputError(path, "size", found=f"{size} bytes", expected=f"at most {LONGEST_TEXT}")
        if not path.is_file():
            raise InputError(path, "file", found="a folder or a device", expected="a file")
        with path.open("rb") as file:
            data = file.read(first)
    except OSError as error:
        raise InputError(path, "file", found=error.strerror or "unreadable", expected="a readable file") from error
    if not data:
        remedy = "Whatever wrote it was interrupted: write it again."
        raise InputError(path, "file", found="empty (0 bytes)", expected="coordinates", remedy=remedy)
    return data


def read_text(path: Path) -> str:
    r"""Return the text of a UTF-8 file with ``\n`` at the end of every line; refuse anything that is not text."""
    data = read_bytes(path)
    remedy = "Save it as plain UTF-8 text."
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        found = f"byte 0x{data[error.start]:02x} at position {error.start}"
        raise InputError(path, "text", found=found, expected="UTF-8", remedy=remedy) from error
    if len(data.translate(None, _CONTROL)) < len(data):
        raise InputError(path, "text", found="binary data", expected="plain text", remedy=remedy)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text file, none of them absurdly long."""
    lines = read_text(path).split("\n")
    if max(map(len, lines)) > LONGEST_LINE:
        at = next(i for i, line in enumerate(lines) if len(line) > LONGEST_LINE)
        found, expected = f"{len(lines[at])} characters", f"at most {LONGEST_LINE}"
        raise InputError(f"{path}:{at + 1}", "line length", found=found, expected=expected)
    return lines


def shown(text: object) -> str:
    """Return what was met as it can stand in a message: quoted, and not long."""
    quoted = repr(text)
    return quoted if len(quoted) <= 60 else f"{quoted[:60]}…"


def is_number(value: object) -> bool:
    """Tell whether a JSON value is a finite number of sensible size."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST


def _reads_as_number(text: str) -> bool:
    with suppress(ValueError):
        return text.isascii() and "_" not in text and abs(float(text)) <= LARGEST
    return False


def numbers(texts: Sequence[str], field: str, path: str | Path, lines: Sequence[int]) -> Float[np.ndarray, " n"]:
    """Convert texts to finite numbers; name the line of the first that is none."""
    together = "".join(texts)
    if together.isascii() and "_" not in together:  # float() takes 1_000 and the digits of every script
        with suppress(ValueError):
            values = np.fromiter(map(float, texts), float, len(texts))
            if (np.abs(values) <= LARGEST).all():  # false for nan
                return values
    at = next(i for i, text in enumerate(texts) if not _reads_as_number(text))
    found = "missing" if not texts[at].strip() else shown(texts[at])
    raise InputError(f"{path}:{lines[at]}", field, found=found, expected="a finite number")


def read_numbers(path: Path, columns: Collection[int]) -> tuple[Float[np.ndarray, "n c"], list[int]]:
    """Read rows of numbers split by blanks or tabs, and the line of each; ``columns`` are the counts allowed."""
    split = [(at, row) for at, line in enumerate(read_lines(path), 1) if (row := line.split())]
    allowed = {len(split[0][1])} & set(columns) if split else set()
    for at, row in split:
        if len(row) not in allowed:
            expected = " or ".join(map(str, sorted(allowed or columns)))
            raise InputError(f"{path}:{at}", "number of columns", found=len(row), expected=expected)
    lines = [at for at, row in split for _ in row]
    values = numbers([cell for _, row in split for cell in row], "value", path, lines)
    return values.reshape(len(split), -1 if split else min(columns)), [at for at, _ in split]


def source_of(path: Path) -> str:
    """Return the ``source`` of picks read from a file."""
    return f"file:{path.name}"


def alone(path: Path, xy: Float[np.ndarray, "n 2"], score: Float[np.ndarray, " n"] | None = None) -> Picks:
    """Return the picks of a file that belongs to one micrograph, whose name it bears."""
    return Picks(micrograph_name(path), xy, np.ones(len(xy)) if score is None else score, source_of(path))


def only(picks: PickSet, path: Path) -> Picks:
    """Return the one entry that a format of one micrograph a file can hold."""
    if len(picks.picks) != 1:
        expected, remedy = "1 in a file of this format", "Write a folder: verglas.io.picks.write_picks does so."
        raise InputError(path, "micrographs", found=len(picks.picks), expected=expected, remedy=remedy)
    return picks.picks[0]


def distinct(path: Path, names: Iterable[str], rename: Callable[[str], str] = micrograph_name) -> dict[str, str]:
    """Return the name of the micrograph for each name as written; two that would be joined are an error."""
    written: dict[str, str] = {}
    for name in names:
        other = written.setdefault(rename(name), name)
        if other != name or not rename(name):
            found = f"{shown(other)} and {shown(name)}" if other != name else shown(name)
            remedy = "Micrographs are joined by file name without folder and suffix: rename them."
            raise InputError(path, "micrograph", found=found, expected="names that differ in this", remedy=remedy)
    return {name: short for short, name in written.items()}


def by_micrograph(
    path: Path,
    names: Iterable[str],
    xy: Float[np.ndarray, "n 2"],
    score: Float[np.ndarray, " n"] | None = None,
    rename: Callable[[str], str] = micrograph_name,
) -> tuple[Picks, ...]:
    """Sort rows by micrograph, in the order in which the names first appear."""
    order: dict[str, int] = {}
    code = np.fromiter((order.setdefault(name, len(order)) for name in names), int, len(xy))
    rows = np.argsort(code, kind="stable")
    ends = np.cumsum(np.bincount(code, minlength=len(order)))
    score, source = np.ones(len(xy)) if score is None else score, source_of(path)
    parts = np.split(rows, ends)[:-1]
    shorts = distinct(path, order, rename).values()
    return tuple(Picks(name, xy[part], score[part], source) for name, part in zip(shorts, parts, strict=True))


def read_json(path: Path) -> Any:
    """Read JSON in which no object has the same key twice."""
    text = read_text(path)
    try:
        return json.loads(text, object_pairs_hook=_without_repeats)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}:{error.lineno}", "JSON", found=error.msg, expected="complete JSON") from error
    except (ValueError, RecursionError) as error:
        raise InputError(
            path, "JSON", found=str(error), expected="each key once, numbers and depth in bounds"
        ) from error


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key {shown(next(key for key in keys if keys.count(key) > 1))} twice")
    return found


def _cells(path: Path, delimiter: str) -> tuple[list[list[str]], list[int]]:
    """Return the rows of a table, the header first, all as long as it, and the line of each."""
    reader = csv.reader(io.StringIO(read_text(path), newline=""), delimiter=delimiter, strict=True)
    rows: list[list[str]] = []
    lines: list[int] = []
    try:
        for row in reader:
            if len(row) <= 1 and not "".join(row).strip():
                continue
            if rows and len(row) != len(rows[0]):
                where, found = f"{path}:{reader.line_num}", len(row)
                raise InputError(where, "number of columns", found=found, expected=f"{len(rows[0])}, as in the header")
            rows.append(row)
            lines.append(reader.line_num)
    except csv.Error as error:
        raise InputError(f"{path}:{reader.line_num}", "row", found=str(error), expected="a table") from error
    return rows, lines


def _roles(where: str, header: Sequence[str]) -> dict[Role, int]:
    """Return where each column that we know stands; names count in any case, with ``-`` or blank for ``_``."""
    roles: dict[Role, int] = {}
    for at, title in enumerate(header):
        role = _ROLES.get(title.strip().lower().replace("-", "_").replace(" ", "_"))
        if role is not None and roles.setdefault(role, at) != at:
            raise InputError(where, "header", found=f"two columns for {role}", expected="one")
    if not {"x", "y"} <= set(roles):
        remedy = "Let the first line name the columns, such as x,y,score or micrograph,x,y,score."
        raise InputError(where, "header", found=shown(list(header)), expected="columns x and y", remedy=remedy)
    return roles


def _read_table(path: Path, delimiter: str) -> PickSet:
    rows, lines = _cells(path, delimiter)
    roles = _roles(f"{path}:{lines[0]}", rows[0]) if rows else _roles(str(path), [])

    def column(role: Role) -> Float[np.ndarray, " n"]:
        return numbers([row[roles[role]] for row in rows[1:]], role, path, lines[1:])

    xy = np.column_stack([column("x"), column("y")])
    score = column("score") if "score" in roles else None
    diameters = set(column("diameter").tolist()) if "diameter" in roles else set()
    diameter = diameters.pop() if len(diameters) == 1 else None
    if "micrograph" not in roles:
        return PickSet((alone(path, xy, score),), diameter_px=diameter)
    names = [row[roles["micrograph"]] for row in rows[1:]]
    return PickSet(by_micrograph(path, names, xy, score), diameter_px=diameter)


def _write_table(path: Path, rows: Iterable[Sequence[object]], delimiter: str) -> None:
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, lineterminator="\n").writerows(rows)
    write_text(path, text.getvalue())


class Csv(PicksFormat):
    """``x,y,score`` or ``micrograph,x,y,score`` under a header; CryoPPP's ``X-Coordinate,Y-Coordinate,Diameter`` too.

    The score may be missing (1) and other columns are ignored. A micrograph without picks is kept where the
    file is its own, and cannot be said in a table of many.
    """

    name, suffixes, many, precision_px = "csv", (".csv",), True, 0.0005

    def recognises(self, path: Path, head: bytes) -> bool:
        """Leave it to the header."""
        return True

    def read(self, path: Path, options: FormatOptions) -> PickSet:
        """Read by the names of the columns."""
        return _read_table(path, ",")

    def write(self, path: Path, picks: PickSet, options: FormatOptions) -> None:
        """Write positions to a thousandth of a pixel; name the micrograph unless the file does."""
        own = [p.micrograph for p in picks] == [micrograph_name(path)]
        rows: list[tuple[str, ...]] = [("x", "y", "score") if own else ("micrograph", "x", "y", "score")]
        for part in picks:
            name = () if own else (part.micrograph,)
            values = np.column_stack([part.xy, part.score]).tolist()
            rows += [(*name, f"{x:.3f}", f"{y:.3f}", f"{score:.6f}") for x, y, score in values]
        _write_table(path, rows, ",")


class Topaz(PicksFormat):
    """``image_name x_coord y_coord score`` split by tabs: whole pixels of the image that Topaz was given.

    That is often a shrunken one; the file does not say. Its own scores are log-odds.
    """

    name, suffixes, many, precision_px = "topaz", (".txt", ".tsv"), True, 0.5

    def recognises(self, path: Path, head: bytes) -> bool:
        """Look for the header."""
        return head.removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith(b"image_name")

    def read(self, path: Path, options: FormatOptions) -> PickSet:
        """Read by the names of the columns."""
        return _read_table(path, "\t")

    def write(self, path: Path, picks: PickSet, options: FormatOptions) -> None:
        """Write whole pixels."""
        rows: list[tuple[object, ...]] = [("image_name", "x_coord", "y_coord", "score")]
        for part in picks:
            whole = np.floor(part.xy + 0.5).astype(int).tolist()
            scores = part.score.tolist()
            rows += [(part.micrograph, x, y, f"{s:.6f}") for (x, y), s in zip(whole, scores, strict=True)]
        _write_table(path, rows, "\t")


class CoordinatesJson(PicksFormat):
    """``{"image1.png": [[x, y], …]}``: an empty list says that there is no particle, a missing key says nothing."""

    name, suffixes, many, precision_px, keeps_score = "json", (".json",), True, 0.0005, False

    def recognises(self, path: Path, head: bytes) -> bool:
        """Take any JSON object that is not EMAN2's."""
        return head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{") and b'"boxes"' not in head

    def read(self, path: Path, options: FormatOptions) -> PickSet:
        """Read all images, each key once."""
        found = read_json(path)
        if not isinstance(found, dict):
            raise InputError(path, "JSON", found=shown(found), expected='an object such as {"image1.png": [[x, y]]}')
        names = distinct(path, found)
        entries = ((names[name], _points(path, name, value)) for name, value in found.items())
        return PickSet(tuple(Picks(name, xy, np.ones(len(xy)), source_of(path)) for name, xy in entries))

    def write(self, path: Path, picks: PickSet, options: FormatOptions) -> None:
        """Write a line for each micrograph."""
        lines = [f"  {json.dumps(p.micrograph)}: {json.dumps(np.round(p.xy, 3).tolist())}" for p in picks]
        write_text(path, "{\n" + ",\n".join(lines) + "\n}\n")


def _points(path: Path, name: str, value: object) -> Float[np.ndarray, "n 2"]:
    """Return the positions of one image, checked."""
    if not isinstance(value, list):
        raise InputError(path, shown(name), found=shown(value), expected="a list of [x, y]")
    for at, point in enumerate(value):
        if not (isinstance(point, list) and len(point) == 2 and all(map(is_number, point))):
            raise InputError(path, f"{shown(name)}, entry {at}", found=shown(point), expected="[x, y], finite numbers")
    return np.array(value, float).reshape(-1, 2)
