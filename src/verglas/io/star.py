"""RELION's STAR files: a parser that writes strictly and reads laxly, and the positions in them.

The grammar is RELION's: blocks ``data_NAME``, in each ``_label value`` pairs or one loop, a row to a line,
comments that begin a line with ``#`` or ``;``, and quotes around what has blanks. Read all the same: tabs,
a label without ``#n``, no version line, empty lines within a loop. Refused: what would lose or shift a value.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import numpy as np
from jaxtyping import Float

from verglas import __version__
from verglas.errors import InputError
from verglas.io._base import FormatOptions, PicksFormat, micrograph_name, write_text
from verglas.io.tables import alone, by_micrograph, distinct, numbers, read_bytes, read_lines, shown, source_of
from verglas.types import Picks, PickSet, nothing

_TOKEN = re.compile(r"""(["'])(.*?)\1(?=\s|$)|(\S+)""")
_NEEDS_QUOTES = re.compile(r"""^$|^[_#;"']|[\s\x00-\x1f\x7f]|^(data_|loop_|save_|stop_|global_)""")
_BLOCK = re.compile(r"data_(\S*)(\s+#.*)?")

MICROGRAPH, _X, _Y, _SCORE = "_rlnMicrographName", "_rlnCoordinateX", "_rlnCoordinateY", "_rlnAutopickFigureOfMerit"
COORDINATES = "_rlnMicrographCoordinates"
_NO_SCORE = -999.0  # what RELION's manual picker writes


@dataclass(frozen=True, slots=True)
class Block:
    """A data block: its pairs and the columns of its loop, as text under labels with their ``_``.

    ``path``, ``line`` and ``lines`` say whence the block and each of its rows came, for messages.
    """

    name: str
    pairs: Mapping[str, str] = field(default_factory=dict)
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)
    path: str = ""
    line: int = 0
    lines: Sequence[int] = ()

    def column(self, label: str) -> Sequence[str]:
        """Return a column; its absence is an error."""
        if label not in self.columns:
            expected = f"a column {label} in data_{self.name}"
            raise InputError(f"{self.path}:{self.line}", label, found="missing", expected=expected)
        return self.columns[label]

    def numbers(self, label: str) -> Float[np.ndarray, " n"]:
        """Return a column of finite numbers."""
        return numbers(self.column(label), label, self.path, self.lines)

    def pair(self, label: str) -> float | None:
        """Return the number paired with a label, or None where there is none."""
        if label not in self.pairs:
            return None
        return float(numbers([self.pairs[label]], label, self.path, [self.line])[0])


def read_star(path: str | Path) -> dict[str, Block]:
    """Read all blocks of a STAR file, under their names."""
    lines = read_lines(Path(path))
    starts = [(at, m[1]) for at, line in enumerate(lines) if "data_" in line and (m := _BLOCK.fullmatch(line.strip()))]
    ends = [at for at, _ in starts[1:]] + [len(lines)]
    stray = next((at for at, line in enumerate(lines) if not _is_blank(line)), 0)
    if not starts or stray < starts[0][0]:
        found = "nothing but blanks and comments" if _is_blank(lines[stray]) else shown(lines[stray].strip())
        raise InputError(f"{path}:{stray + 1}", "first line", found=found, expected="data_ and the name of a block")
    blocks: dict[str, Block] = {}
    for (at, name), end in zip(starts, ends, strict=True):
        if name in blocks:
            found = f"data_{name} again, after line {blocks[name].line}"
            raise InputError(f"{path}:{at + 1}", "block", found=found, expected="each name once")
        blocks[name] = _parse(str(path), name, at + 1, lines[at + 1 : end])
    return blocks


def _is_blank(line: str) -> bool:
    return line.lstrip()[:1] in ("", "#", ";")


def _parse(path: str, name: str, line: int, lines: Sequence[str]) -> Block:
    """Parse what follows ``data_name``, which stands at ``line``: pairs or labels, then rows."""
    pairs: dict[str, str] = {}
    labels: list[str] = []
    looped, start = False, len(lines)
    for at, text in enumerate(map(str.strip, lines)):
        if _is_blank(text):
            continue
        where = f"{path}:{line + 1 + at}"
        words = _words(text, where, least=1)
        if words == ["loop_"] and not looped:
            looped = True
        elif text[0] == "_" and len(words) == (1 if looped else 2):
            if words[0] in labels or words[0] in pairs:
                raise InputError(where, "label", found=f"{words[0]} again", expected="each label once in a block")
            if looped:
                labels.append(words[0])
            else:
                pairs[words[0]] = words[1]
        elif labels:
            start = at
            break
        else:
            expected = "labels after loop_" if looped else "loop_, or a label and its value"
            raise InputError(where, "line", found=shown(text), expected=expected)
    if looped and not labels:
        raise InputError(f"{path}:{line}", f"data_{name}", found="a loop without labels", expected="labels, then rows")
    cells, rows = _rows(path, len(labels), line + 1 + start, lines[start:])
    columns = {label: cells[i :: len(labels)] for i, label in enumerate(labels)}
    return Block(name, pairs, columns, path, line, rows)


def _rows(path: str, width: int, first: int, lines: Sequence[str]) -> tuple[list[str], list[int]]:
    """Return the cells of all rows, one row after the other, and the line of each row."""
    cells: list[str] = []
    at: list[int] = []
    after_gap = False
    for number, line in enumerate(lines, first):
        words = line.split()
        if not words:
            after_gap = True
            continue
        if len(words) != width or width == 1 or words[0][0] in "#;_" or '"' in line or "'" in line:
            if _is_blank(line):
                continue
            words = _words(line, f"{path}:{number}", least=width)
            _check_row(words, line.strip(), width, f"{path}:{number}", after_gap)
        cells.extend(words)
        at.append(number)
    return cells, at


def _words(text: str, where: str, least: int) -> list[str]:
    """Split a line, minding quotes; a bare ``#`` after ``least`` words begins a comment."""
    words: list[str] = []
    for quote, inside, bare in _TOKEN.findall(text):
        if bare[:1] == "#" and len(words) >= least:
            break
        if bare and bare[0] in "'\"":
            raise InputError(where, "quote", found=f"{shown(bare)}, not closed", expected=f"{bare[0]} at the end")
        words.append(inside if quote else bare)
    return words


def _check_row(words: Sequence[str], text: str, width: int, where: str, after_gap: bool) -> None:
    if text == "loop_" or (after_gap and text[0] == "_"):
        remedy = "Begin a block of its own for what follows the rows."
        raise InputError(where, "line", found=shown(text), expected="rows to the end of the block", remedy=remedy)
    if len(words) != width:
        expected, remedy = f"{width}, one per label", "Is the file truncated, or a value with blanks without quotes?"
        raise InputError(where, "number of values", found=len(words), expected=expected, remedy=remedy)


def format_star(blocks: Iterable[Block], version: int | None = 30001) -> str:
    """Return the text of a STAR file exactly as RELION writes it; version 30001 suits 3.1 and all later."""
    return "".join(part for block in blocks for part in _format_block(block, version))


def _format_block(block: Block, version: int | None) -> Iterator[str]:
    yield from _format_head(block, version)
    yield from _format_rows(block.columns)
    yield "\n"


def _format_head(block: Block, version: int | None) -> Iterator[str]:
    yield "" if version is None else f"\n# version {version}\n"
    yield f"\ndata_{block.name}\n\n"
    for label, value in block.pairs.items():
        yield f"{label:<32} {_quoted(value)}\n"
    if block.columns:
        yield "loop_ \n"
        yield from (f"{label} #{at} \n" for at, label in enumerate(block.columns, 1))


def _format_rows(columns: Mapping[str, Sequence[str]]) -> Iterator[str]:
    padded = [[_quoted(value).rjust(12) for value in column] for column in columns.values()]
    yield from (" ".join(row) + " \n" for row in zip(*padded, strict=True))


def _quoted(value: str) -> str:
    """Return a value as it may stand in a row."""
    if not _NEEDS_QUOTES.search(value):
        return value
    quote = next((q for q in "\"'" if not re.search(rf"{q}(\s|#|$)", value)), None)  # what could end it too soon
    if quote is None or re.search(r"[\x00-\x1f\x7f]", value):
        raise InputError("STAR", "value", found=shown(value), expected="one line with one kind of quotes")
    return f"{quote}{value}{quote}"


class Relion(PicksFormat):
    """RELION's coordinates: of one micrograph, of many, particles with their shifts, or a list of such files.

    Our own pick file is the same with two blocks after it: what the picks mean, and the micrographs searched.
    Positions keep a thousandth of a pixel. RELION cuts that off when it extracts: for it, see ``relion_folder``.
    """

    name, suffixes, many, precision_px = "relion", (".star",), True, 0.0005

    def recognises(self, path: Path, head: bytes) -> bool:
        """Take any text: the blocks will tell."""
        return True

    def read(self, path: Path, options: FormatOptions) -> PickSet:
        """Read whichever of the layouts the blocks show."""
        blocks = read_star(path)
        if "coordinate_files" in blocks:
            return PickSet(tuple(_follow(path, blocks["coordinate_files"])))
        if "verglas" in blocks or _MARK.strip().encode() in read_bytes(path, first=len(_MARK) + 3):
            return _read_own(path, blocks)
        return _read_table(path, blocks)

    def write(self, path: Path, picks: PickSet, options: FormatOptions) -> None:
        """Write our pick file, or RELION's plain one where it says all there is to say."""
        meaning = (picks.threshold, picks.diameter_px, picks.pixel_size_angstrom)
        plain = [p.micrograph for p in picks] == [micrograph_name(path)]
        if plain and not picks.shapes and not any(value is not None for value in meaning):
            write_text(path, format_star([Block("", columns=relion_columns(picks.picks[0]))]))
        else:
            write_text(path, _own_text(picks))


def relion_columns(picks: Picks, decimals: int = 3) -> dict[str, list[str]]:
    """Return the columns of RELION's automatic picker; class and psi 0 let files of several pickers be joined."""
    return {
        _X: [f"{x:.{decimals}f}" for x in picks.xy[:, 0].tolist()],
        _Y: [f"{y:.{decimals}f}" for y in picks.xy[:, 1].tolist()],
        _SCORE: [f"{score:.6f}" for score in picks.score.tolist()],
        "_rlnClassNumber": ["0"] * len(picks),
        "_rlnAnglePsi": ["0.000000"] * len(picks),
    }


def _read_table(path: Path, blocks: Mapping[str, Block]) -> PickSet:
    """Read the one block that holds positions."""
    held = [block for block in blocks.values() if _X in block.columns]
    if len(held) != 1:
        found = " and ".join(f"data_{block.name}" for block in held) or f"none among {shown(sorted(blocks))}"
        raise InputError(path, "block with positions", found=found, expected=f"one with {_X} and {_Y}")
    table = held[0]
    if set(table.columns) & {"_rlnCoordinateZ", "_rlnTomoName"}:
        raise InputError(f"{path}:{table.line}", "positions", found="3D, of a tomogram", expected="x and y only")
    sizes = _pixel_sizes(path, blocks.get("optics"), table)
    xy = np.column_stack([table.numbers(_X), table.numbers(_Y)]) - _shift_px(path, table, sizes)
    score = table.numbers(_SCORE) if _SCORE in table.columns else np.ones(len(xy))
    score = np.where(score == _NO_SCORE, 1.0, score)
    one_size = None if sizes is None or len(set(sizes)) != 1 else float(sizes[0])
    if MICROGRAPH not in table.columns:
        return PickSet((alone(path, xy, score),), pixel_size_angstrom=one_size)
    return PickSet(by_micrograph(path, table.columns[MICROGRAPH], xy, score), pixel_size_angstrom=one_size)


def _pixel_sizes(path: Path, optics: Block | None, table: Block) -> Float[np.ndarray, " n"] | None:
    """Return the pixel size of each particle's micrograph in Å, where its optics group says it."""
    group = "_rlnOpticsGroup"
    of_group = None if optics is None or group not in table.columns else _optics_pixel_sizes(optics)
    if optics is None or of_group is None:
        return None
    known = dict(zip(optics.numbers(group).tolist(), of_group.tolist(), strict=True))
    groups = table.numbers(group).tolist()
    for at, g in zip(table.lines, groups, strict=True):
        if not known.get(g, 0) > 0:
            expected = "a group of data_optics whose pixel size is above 0"
            raise InputError(f"{path}:{at}", group, found=f"{g:g}", expected=expected)
    return np.array([known[g] for g in groups], float)


def _optics_pixel_sizes(optics: Block) -> Float[np.ndarray, " n"] | None:
    """Return the micrographs' pixel size in each optics group.

    RELION leaves it out of extracted particles. Then the movies' and the boxes' serve where they agree: either
    may differ from it, by binning in motion correction or by rescaling in extraction.
    """
    label, of_movie, of_box = "_rlnMicrographPixelSize", "_rlnMicrographOriginalPixelSize", "_rlnImagePixelSize"
    if label in optics.columns:
        return optics.numbers(label)
    if not {of_movie, of_box} <= set(optics.columns):
        return None
    sizes = optics.numbers(of_movie)
    return sizes if np.allclose(sizes, optics.numbers(of_box), rtol=0.01, atol=0) else None


def _shift_px(path: Path, table: Block, sizes: Float[np.ndarray, " n"] | None) -> Float[np.ndarray, "n 2"]:
    """Return by how much refinement moved each particle from its coordinate: the centre is coordinate - shift."""
    if "_rlnOriginXAngst" in table.columns:
        shift = np.column_stack([table.numbers("_rlnOriginXAngst"), table.numbers("_rlnOriginYAngst")])
        if sizes is None and shift.any():
            expected = "it in data_optics, because the particles were shifted in Å"
            remedy = "Add it to the file, or use the particles as they were extracted."
            raise InputError(path, "_rlnMicrographPixelSize", found="missing", expected=expected, remedy=remedy)
        return shift if sizes is None else shift / sizes[:, None]
    if "_rlnOriginX" in table.columns:  # before 3.1, in pixels
        return np.column_stack([table.numbers("_rlnOriginX"), table.numbers("_rlnOriginY")])
    return np.zeros((len(table.lines), 2))


def _follow(path: Path, listed: Block) -> Iterator[Picks]:
    """Read the file of each micrograph of a list; RELION's paths begin in the project folder."""
    names, files = listed.column(MICROGRAPH), listed.column(COORDINATES)
    distinct(path, names)
    for name, file, line in zip(names, files, listed.lines, strict=True):
        found = next((root / file for root in (Path(), *path.resolve().parents) if os.path.isfile(root / file)), None)
        if found is None:
            remedy = "Work in the folder of the RELION project, or leave the micrograph out of the list."
            where, expected = f"{path}:{line}", "a file in the project folder"
            raise InputError(where, "coordinates", found=shown(file), expected=expected, remedy=remedy)
        parts = _read_table(found, read_star(found)).picks
        if len(parts) > 1:
            raise InputError(found, "micrographs", found=len(parts), expected=f"one, as {path}:{line} lists it")
        yield replace(parts[0] if parts else nothing(name, source_of(found)), micrograph=micrograph_name(name))


_MARK = "# verglas picks; three blocks, the last names every micrograph that was searched\n"
_MEANING = {
    "threshold": "_verglasThreshold",
    "diameter_px": "_verglasDiameterPx",
    "pixel_size_angstrom": "_verglasPixelSizeAngstrom",
}
_COUNT, _HOW = "_verglasMicrographs", "_verglasThresholdHow"
_HEIGHT, _WIDTH, _CANDIDATES = "_verglasHeight", "_verglasWidth", "_verglasCandidates"


def own_head() -> str:
    """Return how our pick file begins; rows follow, so that it can be written while picking goes on."""
    return _MARK + "".join(_format_head(Block("particles", columns=_own_columns([])), 30001))


def own_rows(picks: Picks) -> str:
    """Return the rows of one micrograph in our pick file."""
    return "".join(_format_rows(_own_columns([picks])))


def own_scores(rows: Iterable[str]) -> Float[np.ndarray, " n"]:
    """Return the scores in the lines of our pick file, of which the end is not written yet."""
    listed = islice(rows, own_head().count("\n"), None)
    return np.array([float(row.rsplit(maxsplit=3)[1]) for row in listed])


def own_tail(searched: Mapping[str, tuple[tuple[int, int], int]], meaning: PickSet) -> str:
    """Return how our pick file ends: what its picks mean, and (h, w) and candidates of each micrograph searched."""
    return "\n" + format_star(_own_blocks(searched, meaning))


def _own_columns(picks: Sequence[Picks]) -> dict[str, list[str]]:
    xy = np.concatenate([np.zeros((0, 2)), *(part.xy for part in picks)])
    score = np.concatenate([np.zeros(0), *(part.score for part in picks)])
    names = [part.micrograph for part in picks for _ in range(len(part))]
    return {MICROGRAPH: names, **relion_columns(Picks("", xy, score))}


def _own_text(picks: PickSet) -> str:
    """Return our pick file; positions first, because RELION reads the first block only."""
    searched = {part.micrograph: (picks.shapes.get(part.micrograph, (0, 0)), len(part)) for part in picks}
    return own_head() + "".join(map(own_rows, picks)) + own_tail(searched, picks)


def _own_blocks(searched: Mapping[str, tuple[tuple[int, int], int]], meaning: PickSet) -> list[Block]:
    known = {label: getattr(meaning, name) for name, label in _MEANING.items()}
    pairs = {
        "_verglasVersion": __version__,
        _COUNT: str(len(searched)),
        **{label: f"{value:.6f}" for label, value in known.items() if value is not None},
        _HOW: " ".join(meaning.threshold_how.replace('"', "'").split()),
    }
    table = {
        MICROGRAPH: list(searched),
        _HEIGHT: [str(shape[0]) for shape, _ in searched.values()],
        _WIDTH: [str(shape[1]) for shape, _ in searched.values()],
        _CANDIDATES: [str(candidates) for _, candidates in searched.values()],
    }
    return [Block("verglas", pairs), Block("verglas_micrographs", columns=table)]


def _read_own(path: Path, blocks: Mapping[str, Block]) -> PickSet:
    """Read our pick file; what it declares must be there, so that no truncated file passes for a whole one."""
    missing = {"particles", "verglas", "verglas_micrographs"} - set(blocks)
    if missing:
        raise _incomplete(path, "blocks", f"no data_{min(missing)}", "the three blocks of a pick file")
    table, meaning, searched = (blocks[name] for name in ("particles", "verglas", "verglas_micrographs"))
    names = list(distinct(path, searched.column(MICROGRAPH), str))
    if len(names) != len(searched.lines) or meaning.pair(_COUNT) != len(names):
        expected = f"{meaning.pairs.get(_COUNT)}, all distinct"
        raise _incomplete(path, "number of micrographs", len(searched.lines), expected)
    xy = np.column_stack([table.numbers(_X), table.numbers(_Y)])
    rows = by_micrograph(path, table.column(MICROGRAPH), xy, table.numbers(_SCORE), rename=str)
    parts = {part.micrograph: part for part in rows}
    declared = dict(zip(names, searched.numbers(_CANDIDATES).tolist(), strict=True))
    for name in (*names, *parts):
        if declared.get(name) != len(parts.setdefault(name, nothing(name, source_of(path)))):
            found, expected = f"{len(parts[name])} of {shown(name)}", f"{declared.get(name, 0):g}, as declared"
            raise _incomplete(path, "number of picks", found, expected)
    sizes = zip(names, searched.numbers(_HEIGHT).tolist(), searched.numbers(_WIDTH).tolist(), strict=True)
    return PickSet(
        tuple(parts[name] for name in names),
        threshold_how=meaning.pairs.get(_HOW, ""),
        shapes={name: (int(h), int(w)) for name, h, w in sizes if h and w},
        **{name: meaning.pair(label) for name, label in _MEANING.items()},
    )


def _incomplete(path: Path, what: str, found: object, expected: str) -> InputError:
    remedy = "The file was truncated or edited: write it again with verglas pick or verglas export."
    return InputError(path, what, found=found, expected=expected, remedy=remedy)
