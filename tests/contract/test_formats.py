"""What every coordinate format promises. A new format is covered by its entry in ``FORMATS`` and in ``FAULTS``."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from verglas.errors import InputError
from verglas.io._base import LONGEST_TEXT, FormatOptions, PicksFormat
from verglas.io.picks import FORMATS, format_named, read_picks, write_picks
from verglas.types import Picks, PickSet

OPTIONS = FormatOptions(box_px=44, cs_y="flip")
CANNOT_SAY_EMPTY = {"topaz", "cryosparc"}
"""Formats in which a micrograph searched in vain leaves no trace."""

every_format = pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)


def picks_of(n: int, *names: str) -> PickSet:
    generator = np.random.default_rng(7)
    parts = [
        Picks(name, generator.uniform(0, (720, 500), (n, 2)), generator.uniform(0, 1, n), "test")
        for name in names or ("mic1",)
    ]
    return PickSet(tuple(parts), shapes={part.micrograph: (500, 720) for part in parts})


def path_of(form: PicksFormat, folder: Path) -> Path:
    return folder / f"mic1{form.suffixes[0]}"


def written(form: PicksFormat, folder: Path, picks: PickSet) -> Path:
    path = path_of(form, folder)
    form.write(path, picks, OPTIONS)
    return path


def assert_same(form: PicksFormat, found: Picks, given: Picks) -> None:
    assert found.micrograph == given.micrograph
    assert len(found) == len(given)
    assert np.abs(found.xy - given.xy).max(initial=0) <= form.precision_px + 1e-9
    np.testing.assert_allclose(found.score, given.score if form.keeps_score else np.ones(len(given)), atol=1e-6)


@every_format
@pytest.mark.parametrize("n", [0, 1, 200])
def test_picks_of_one_micrograph_return(form: PicksFormat, n: int, tmp_path: Path) -> None:
    given = picks_of(n)
    found = form.read(written(form, tmp_path, given), OPTIONS)
    if n == 0 and form.name in CANNOT_SAY_EMPTY:
        assert found.picks == ()
    else:
        (part,) = found.picks
        assert_same(form, part, given.picks[0])
        assert part.source.startswith("file:mic1")


@every_format
@pytest.mark.parametrize("n", [0, 1, 50])
def test_picks_of_three_micrographs_return(form: PicksFormat, n: int, tmp_path: Path) -> None:
    given = picks_of(n, "mic1", "mic2", "mic 3")
    path = tmp_path / (f"all{form.suffixes[0]}" if form.many else "folder")
    files = write_picks(path, given, OPTIONS, counted_only=False, format_name=form.name)
    assert len(files) == (1 if form.many else 3)
    found = read_picks(path, OPTIONS).by_name()
    if n == 0 and form.name in CANNOT_SAY_EMPTY | {"csv"}:
        assert found == {}
    else:
        assert set(found) == {"mic1", "mic2", "mic 3"}
        for part in given:
            assert_same(form, found[part.micrograph], part)


@every_format
def test_its_own_file_is_recognised(form: PicksFormat, tmp_path: Path) -> None:
    path = written(form, tmp_path, picks_of(3))
    np.testing.assert_array_equal(read_picks(path, OPTIONS).picks[0].xy, form.read(path, OPTIONS).picks[0].xy)


@every_format
def test_picks_are_written_as_they_are(form: PicksFormat, tmp_path: Path) -> None:
    """No pick is moved apart, merged, sorted, capped or cut at the border."""
    xy = np.array([[100.0, 50.0], [100.0, 50.0], [-30.0, 2.0], [719.0, 499.0], [900.0, 600.0], [3.0, 4.0]])
    given = replace(picks_of(0), picks=(Picks("mic1", xy, np.array([0.1, 0.9, 0.5, 0.2, 0.3, 0.0])),))
    (part,) = form.read(written(form, tmp_path, given), OPTIONS).picks
    np.testing.assert_allclose(part.xy, xy, atol=1e-3)


@every_format
def test_writing_twice_gives_the_same_bytes(form: PicksFormat, tmp_path: Path) -> None:
    first = written(form, tmp_path, picks_of(20)).read_bytes()
    assert written(form, tmp_path, picks_of(20)).read_bytes() == first


@every_format
@pytest.mark.parametrize(("owner", "step"), [(os, "fsync"), (Path, "replace")])
def test_a_failing_write_leaves_the_old_file(
    form: PicksFormat, owner: object, step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(form, tmp_path, picks_of(3))
    old = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(owner, step, full)
    with pytest.raises(OSError, match="No space"):
        form.write(path, picks_of(5), OPTIONS)
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


# --- damage ---

Spoil = Callable[[str], tuple[str, str]]


def in_row(nth_cell: int, delimiter: str | None = None, text: str = "nan") -> Spoil:
    """Replace a cell of the last row; the message must name its line."""

    def spoil(whole: str) -> tuple[str, str]:
        lines = whole.rstrip().split("\n")
        cells = lines[-1].split(delimiter)
        cells[nth_cell] = text
        lines[-1] = (delimiter or " ").join(cells)
        return "\n".join(lines) + "\n", f":{len(lines)}: "

    return spoil


def in_block(begins: str, text: str) -> Spoil:
    """Replace the second cell of the last row of a STAR file's block."""

    def spoil(whole: str) -> tuple[str, str]:
        start = whole.index(begins)
        end = whole.find("\n\n", whole.index("loop_", start))
        part, sign = in_row(1, text=text)(whole[:end])
        return part + whole[end:], sign

    return spoil


def in_json(text: str, entry: str) -> Spoil:
    """Replace the last x by a word that Python's JSON reader takes; the message must name the entry."""

    def spoil(whole: str) -> tuple[str, str]:
        start = whole.rindex("[") + 1
        return whole[:start] + text + whole[whole.index(",", start) :], entry

    return spoil


FAULTS: dict[str, Callable[[str], Spoil]] = {
    "relion": lambda text: in_block("data_particles", text),
    "csv": lambda text: in_row(0, ",", text),
    "topaz": lambda text: in_row(1, "\t", text),
    "box": lambda text: in_row(0, "\t", text),
    "cbox": lambda text: in_block("data_cryolo", text),
    "json": lambda text: in_json({"nan": "NaN", "inf": "Infinity", "1e999": "1e999"}.get(text, f'"{text}"'), "entry 3"),
    "eman2": lambda text: in_json({"nan": "NaN", "inf": "-Infinity"}.get(text, f'"{text}"'), "entry 3"),
}
TEXT_FORMATS = [form for form in FORMATS if form.name != "cryosparc"]
every_text_format = pytest.mark.parametrize("form", TEXT_FORMATS, ids=lambda form: form.name)


@every_text_format
@pytest.mark.parametrize("text", ["nan", "inf", "1e999", "1e12", "12x", "1_000", "٣", "--4", "<NA>", "0x1f"])
def test_a_bad_number_is_refused_and_its_place_named(form: PicksFormat, text: str, tmp_path: Path) -> None:
    path = written(form, tmp_path, picks_of(4))
    spoiled, sign = FAULTS[form.name](text)(path.read_text())
    path.write_text(spoiled)
    with pytest.raises(InputError) as caught:
        form.read(path, OPTIONS)
    assert str(path) in str(caught.value)
    assert sign in str(caught.value)


@every_format
def test_the_last_row_cut_short_is_refused(form: PicksFormat, tmp_path: Path) -> None:
    path = written(form, tmp_path, picks_of(4))
    data = path.read_bytes().rstrip()
    if form.name == "cbox":
        data = data[: data.index(b"\n\ndata_cryolo_include")].rstrip()
    for cut in range(1, 9):
        shorter = data[:-cut] if form.name in ("json", "eman2", "cryosparc", "relion") else data.rsplit(None, cut)[0]
        if form.name == "csv":
            shorter = data[: data.rindex(b",")]
        if shorter.count(b"\n") < data.count(b"\n"):
            break  # whole rows of a table without a count cannot be missed
        path.write_bytes(shorter)
        with pytest.raises(InputError):
            form.read(path, OPTIONS)
    assert cut > 1 or form.name == "csv"


@every_format
@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(range(256)) * 20,
        b"\x93NUMPY\x01\x00" + b"\xff" * 100,
        b"\x00" * 5000,
        "data_\nloop_\n_rlnCoordinateX\n_rlnCoordinateY\n1 2\nx,y\n".encode("utf-16"),
        "# Übersicht\n".encode("latin-1"),
        b"hello\n",
        b"1 2 3\n4 5 6 7\n",
        b"{",
        b"[" * 100_000,
        b'{"boxes": ' + b"[" * 100_000,
        b"x" * 200_000,
    ],
    ids=lambda data: repr(data[:12]),
)
def test_what_is_no_such_file_is_refused(form: PicksFormat, data: bytes, tmp_path: Path) -> None:
    path = path_of(form, tmp_path)
    path.write_bytes(data)
    for read in (form.read, read_picks):
        with pytest.raises(InputError, match="mic1"):
            read(path, OPTIONS)


@every_format
def test_a_missing_file_and_a_folder_are_refused(form: PicksFormat, tmp_path: Path) -> None:
    path = path_of(form, tmp_path)
    with pytest.raises(InputError, match="No such file"):
        form.read(path, OPTIONS)
    path.mkdir()
    with pytest.raises(InputError, match="folder"):
        form.read(path, OPTIONS)


@every_format
def test_a_huge_file_is_refused_unread(form: PicksFormat, tmp_path: Path) -> None:
    path = path_of(form, tmp_path)
    with path.open("wb") as file:
        file.truncate(LONGEST_TEXT + 1)  # takes no room on disk
    with pytest.raises(InputError, match=f"at most {LONGEST_TEXT}"):
        form.read(path, OPTIONS)


@every_text_format
def test_line_ends_and_a_byte_order_mark_do_not_matter(form: PicksFormat, tmp_path: Path) -> None:
    path = written(form, tmp_path, picks_of(4))
    plain = form.read(path, OPTIONS).picks[0].xy
    if form.name != "relion":  # its first line tells a pick file from a plain table
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    for end in (b"\r\n", b"\r"):
        path.write_bytes(path.read_bytes().replace(b"\n", end))
        np.testing.assert_array_equal(read_picks(path, OPTIONS).picks[0].xy, plain)
        path.write_bytes(path.read_bytes().replace(end, b"\n"))


# --- options, names, folders ---


@every_format
def test_formats_of_boxes_want_the_size_of_the_box(form: PicksFormat, tmp_path: Path) -> None:
    options = replace(OPTIONS, box_px=None)
    if form.needs_box:
        with pytest.raises(InputError, match="box size"):
            form.write(path_of(form, tmp_path), picks_of(2), options)
        assert list(tmp_path.iterdir()) == []
    else:
        form.write(path_of(form, tmp_path), picks_of(2), options)


def test_formats_differ_in_name_and_first_suffix() -> None:
    assert len({form.name for form in FORMATS}) == len({form.suffixes[0] for form in FORMATS}) == len(FORMATS)
    assert all(format_named(form.name) is form for form in FORMATS)
    with pytest.raises(InputError, match="relion, csv"):
        format_named("mrc")


def test_a_folder_of_several_formats_is_joined(tmp_path: Path) -> None:
    for form, name in zip(FORMATS, "abcdefgh", strict=True):
        write_picks(tmp_path / f"{name}{form.suffixes[0]}", picks_of(3, name), OPTIONS, counted_only=False)
    (tmp_path / ".hidden").write_text("passed over")
    assert [len(part) for part in read_picks(tmp_path, OPTIONS)] == [3] * len(FORMATS)


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("notes.md", "hello", r"notes\.md: suffix is '?\.md.*\.star"),
        ("notes.txt", "hello", r"notes\.txt: content"),
        ("list.json", "[1]", r"list\.json: content"),
        ("mic1.csv", "x,y\n1,2\n", r"mic1\.star: micrograph is mic1, as in mic1\.csv"),
    ],
)
def test_a_file_that_does_not_belong_in_a_folder_is_named(name: str, text: str, match: str, tmp_path: Path) -> None:
    write_picks(tmp_path / "mic1.star", picks_of(2), counted_only=False)
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=match):
        read_picks(tmp_path)


def test_folders_within_folders_and_empty_ones_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="empty"):
        read_picks(tmp_path)
    (tmp_path / "info").mkdir()
    with pytest.raises(InputError, match="info"):
        read_picks(tmp_path)


def test_a_folder_keeps_what_its_files_agree_on(tmp_path: Path) -> None:
    for name in ("a", "b"):
        picks = replace(picks_of(3, name), threshold=0.5, threshold_how="best F1", diameter_px=30.0)
        write_picks(tmp_path / f"{name}.star", picks, counted_only=False)
    found = read_picks(tmp_path)
    assert (found.threshold, found.threshold_how, found.diameter_px) == (0.5, "best F1", 30.0)
    assert dict(found.shapes) == {"a": (500, 720), "b": (500, 720)}
    write_picks(tmp_path / "b.star", replace(picks_of(3, "b"), threshold=0.6), counted_only=False)
    with pytest.raises(InputError, match=r"threshold is 0\.5 and 0\.6"):
        read_picks(tmp_path)


@every_format
@pytest.mark.parametrize("counted_only", [True, False])
def test_the_threshold_decides_what_counts(form: PicksFormat, counted_only: bool, tmp_path: Path) -> None:
    given = replace(picks_of(100), threshold=0.5)
    write_picks(path_of(form, tmp_path), given, OPTIONS, counted_only=counted_only)
    found = read_picks(path_of(form, tmp_path), OPTIONS)
    assert len(found) == (len(given.counted()) if counted_only else 100)


@pytest.mark.parametrize("name", ["../mic", "a/b", ".hidden", "mic_topaz", ""])
def test_a_name_that_no_file_can_give_back_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a name that a file can bear"):
        write_picks(tmp_path / "new", picks_of(1, "mic1", name), OPTIONS, counted_only=False, format_name="box")
    assert list(tmp_path.rglob("*")) == []


def test_where_picks_go_is_never_guessed(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"suffix is \.xyz"):
        write_picks(tmp_path / "picks.xyz", picks_of(1), counted_only=False)
    with pytest.raises(InputError, match="suffix is none"):
        write_picks(tmp_path / "picks", picks_of(1), counted_only=False, format_name="relion")
    (tmp_path / "boxes").write_text("a file")
    with pytest.raises(InputError, match="folder is a file"):
        write_picks(tmp_path / "boxes", picks_of(1, "a", "b"), OPTIONS, counted_only=False, format_name="box")


def test_one_micrograph_without_suffix_goes_to_a_folder(tmp_path: Path) -> None:
    files = write_picks(tmp_path / "boxes", picks_of(1), OPTIONS, counted_only=False, format_name="box")
    assert files == (tmp_path / "boxes" / "mic1.box",)
    assert len(read_picks(tmp_path / "boxes")) == 1


def test_two_micrographs_do_not_go_into_a_file_of_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="micrographs is 2"):
        format_named("box").write(tmp_path / "a.box", picks_of(1, "a", "b"), OPTIONS)


# --- cryoSPARC ---


def test_cryosparc_asks_which_way_y_runs(tmp_path: Path) -> None:
    form = format_named("cryosparc")
    path = written(form, tmp_path, picks_of(5))
    for action in (form.read, lambda path, options: form.write(path, picks_of(1), options)):
        with pytest.raises(InputError, match="--cs-y asis or --cs-y flip"):
            action(path, FormatOptions())
    flipped, as_is = (form.read(path, replace(OPTIONS, cs_y=way)).picks[0].xy for way in ("flip", "asis"))
    np.testing.assert_allclose(flipped[:, 1] + as_is[:, 1], 500, atol=1e-3)
    np.testing.assert_array_equal(flipped[:, 0], as_is[:, 0])


def test_cryosparc_fields_and_numbers(tmp_path: Path) -> None:
    name = "012345678901234567890_mic"
    given = replace(picks_of(2, "mic1", name), pixel_size_angstrom=1.5, diameter_px=40.0)
    twice = replace(given.picks[0], xy=np.ones((3, 2)), score=np.array([0.1, 0.2, 0.3]))
    given = replace(given, picks=(twice, given.picks[1]))
    path = written(format_named("cryosparc"), tmp_path, given)
    table = np.load(path, allow_pickle=False)
    assert path.read_bytes()[:8] == b"\x93NUMPY\x01\x00"
    assert table["location/micrograph_path"].tolist() == [b"mic1.mrc"] * 3 + [name.encode() + b".mrc"] * 2
    assert table["location/micrograph_uid"][-1] == 12345678901234567890
    assert len(set(table["uid"].tolist()) - {0}) == 5
    np.testing.assert_array_equal(table["location/micrograph_shape"], [[500, 720]] * 5)
    np.testing.assert_allclose(table["location/center_x_frac"][:3], 1 / 720)
    np.testing.assert_allclose(table["location/min_dist_A"], 60)
    again = read_picks(path, OPTIONS)
    assert again.pixel_size_angstrom == 1.5
    assert again.shapes[name] == (500, 720)


def test_cryosparc_needs_the_sizes_of_the_micrographs(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="size of mic1"):
        written(format_named("cryosparc"), tmp_path, replace(picks_of(1), shapes={}))


def test_cryosparc_tools_read_what_we_write(tmp_path: Path) -> None:
    dataset = pytest.importorskip("cryosparc.dataset")
    given = picks_of(20, "mic1", "mic2")
    loaded = dataset.Dataset.load(str(written(format_named("cryosparc"), tmp_path, given)))
    x = np.array(loaded["location/center_x_frac"]) * 720
    np.testing.assert_allclose(x, np.concatenate([part.xy[:, 0] for part in given]), atol=1e-3)
