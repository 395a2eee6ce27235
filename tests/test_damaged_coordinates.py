"""Damaged coordinate files: whatever the bytes, a reader returns finite picks or raises ``InputError``."""

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verglas.errors import InputError
from verglas.io._base import FormatOptions, PicksFormat
from verglas.io.cryosparc import plain_name
from verglas.io.picks import FORMATS, format_named, read_picks
from verglas.types import Picks, PickSet

OPTIONS = FormatOptions(box_px=20, cs_y="asis")
EXAMPLES = 60


@cache
def valid(form: PicksFormat) -> bytes:
    """Return a small file of a format, all of whose parts are there to be damaged."""
    xy = np.array([[10.5, 20.25], [300.0, 4.0], [5.0, 6.0]])
    parts = [Picks("mic1", xy, np.array([0.9, 0.5, 0.1]))]
    if form.many:
        parts.append(Picks("mic 2", xy + 1, np.array([0.8, 0.6, 0.2])))
    picks = PickSet(tuple(parts), 0.5, "best F1", 30.0, 1.5, {"mic1": (400, 500), "mic 2": (400, 500)})
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"mic1{form.suffixes[0]}"
        form.write(path, picks, OPTIONS)
        return path.read_bytes()


FOREIGN: dict[str, tuple[str, bytes]] = {
    "particles": (
        "particles.star",
        b"# version 30001\ndata_optics\nloop_\n_rlnOpticsGroup #1\n_rlnMicrographPixelSize #2\n1 1.5\n\n"
        b"data_particles\nloop_\n_rlnMicrographName\n_rlnCoordinateX\n_rlnCoordinateY\n_rlnOriginXAngst\n"
        b"_rlnOriginYAngst\n_rlnOpticsGroup\n'a b.mrc' 1 2 3 4 1\nb.mrc 5 6 7 8 1\n",
    ),
    "list": (
        "autopick.star",
        b"data_coordinate_files\nloop_\n_rlnMicrographName\n_rlnMicrographCoordinates\na.mrc mic1.star\n",
    ),
    "cryoppp": ("mic1.csv", b"X-Coordinate,Y-Coordinate,Diameter\n10,20,30\n40,50,30\n"),
    "old cbox": ("mic1.cbox", b"10\t20\t30\t30\t0.5\t25\t25\n40\t50\t30\t30\t0.25\t25\t25\n"),
}

edits = st.lists(
    st.tuples(
        st.sampled_from(["set", "delete", "insert", "repeat", "cut"]),
        st.integers(0, 10**6),
        st.binary(min_size=1, max_size=4)
        | st.sampled_from([b"nan", b"-", b"\n", b"\t", b'"', b",", b"1e308", b"9" * 400]),
    ),
    min_size=1,
    max_size=4,
)
Edits = list[tuple[str, int, bytes]]


def damaged(data: bytes, edits: Edits) -> bytes:
    for kind, at, piece in edits:
        at %= len(data) + 1
        tail = {
            "set": piece + data[at + len(piece) :],
            "delete": data[at + len(piece) :],
            "insert": piece + data[at:],
            "repeat": data[max(at - 40, 0) :],
            "cut": b"",
        }[kind]
        data = data[:at] + tail
    return data


def assert_finite_or_refused(name: str, data: bytes) -> None:
    found = PickSet(())
    with TemporaryDirectory() as folder, suppress(InputError):
        path = Path(folder) / name
        path.write_bytes(data)
        found = read_picks(path, OPTIONS)
    for part in found:
        assert np.isfinite(part.xy).all()
        assert np.isfinite(part.score).all()
        assert part.micrograph


@settings(max_examples=EXAMPLES, deadline=None)
@given(edits=edits)
@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_damage_is_refused_or_harmless(form: PicksFormat, edits: Edits) -> None:
    assert_finite_or_refused(f"mic1{form.suffixes[0]}", damaged(valid(form), edits))


@settings(max_examples=EXAMPLES, deadline=None)
@given(edits=edits)
@pytest.mark.parametrize("name", FOREIGN)
def test_damage_to_files_of_others_is_refused_or_harmless(name: str, edits: Edits) -> None:
    file, data = FOREIGN[name]
    assert_finite_or_refused(file, damaged(data, edits))


@settings(max_examples=EXAMPLES // 2, deadline=None)
@given(data=st.binary(max_size=300))
@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_noise_is_refused_or_harmless(form: PicksFormat, data: bytes) -> None:
    assert_finite_or_refused(f"mic1{form.suffixes[0]}", data)


@pytest.mark.parametrize("name", FOREIGN)
def test_the_undamaged_files_of_others_are_read(name: str, tmp_path: Path) -> None:
    file, data = FOREIGN[name]
    (tmp_path / "mic1.star").write_bytes(b"data_\nloop_\n_rlnCoordinateX\n_rlnCoordinateY\n1 2\n")
    (tmp_path / file).write_bytes(data)
    assert len(read_picks(tmp_path / file)) == (1 if name == "list" else 2)


# --- what particular damage and particular programs leave behind ---

CASES: list[tuple[str, bytes, str]] = [
    ("a.csv", b"10,20\n30,40\n", "expected columns x and y"),
    ("a.csv", b"x,y\n1,2\n3\n", r"a\.csv:3: number of columns is 1; expected 2"),
    ("a.csv", b"x,y,X-Coordinate\n1,2,3\n", r"a\.csv:1: header is two columns for x"),
    ("a.csv", b"\n\nmicrograph,x,score\nb,1,2\n", r"a\.csv:3: header"),
    ("a.csv", b"micrograph,x,y\n,1,2\n", "micrograph is ''"),
    ("a.csv", b"micrograph,x,y\n.png,1,2\n", r"micrograph is '\.png'"),
    ("a.csv", b"micrograph,x,y\na.png,1,2\na.mrc,1,2\n", r"'a\.png' and 'a\.mrc'"),
    ("a.csv", b'x,y\n1,"2\n', r"a\.csv:2: row"),
    ("a.csv", b"x,y\n1,\n", r"a\.csv:2: y is missing"),
    ("a.csv", b"x,y,diameter\n1,2,wide\n", r"a\.csv:2: diameter is 'wide'"),
    ("a.csv", b"x;y\n1;2\n", "expected columns x and y"),
    ("a.csv", b"micrograph,x,y\na\x07b,1,2\n", "text is binary data"),
    ("a.txt", b"x_coord\ty_coord\n1\t2\n", "expected a file of format topaz"),
    ("a.txt", b"image_name\tx_coord\na\t2\n", "expected columns x and y"),
    ("a.box", b"1\t2\t3\t4\n1\t2\t3\n", r"a\.box:2: number of columns is 3; expected 4"),
    ("a.box", b"1 2 3\n", r"a\.box:1: number of columns is 3; expected 4 or 5"),
    ("a.box", b"1 2 10 10\n1 2 0 10\n", r"a\.box:2: box size is 0 x 10"),
    ("a.box", b"1 2 10 10\n1 2 inf 10\n", r"a\.box:2: value is 'inf'"),
    ("a.cbox", b"1 2 3 4\n", r"a\.cbox:1: number of columns is 4; expected 5 or 7"),
    ("a.cbox", b"data_global\n_cbox_format_version 1.0\n", "expected data_cryolo"),
    ("a_info.json", b'{"boxes": {"a": 1}}', "boxes is"),
    ("a_info.json", b'{"boxes": [[1, 2, "manual"], [1]]}', r"boxes, entry 1 is \[1\]"),
    ("a_info.json", b'{"boxes": [[1, 2, "auto", "high"]]}', "boxes, entry 0"),
    ("a_info.json", b'{"boxes": [[true, 2, "manual"]]}', "boxes, entry 0"),
    ("a_info.json", b'["boxes"]', "expected an object"),
    ("a.json", b'{"a": [[1, 2, 3]]}', "'a', entry 0"),
    ("a.json", b'{"a": [[1, null]]}', "'a', entry 0"),
    ("a.json", b'{"a": {"x": 1}}', "'a' is"),
    ("a.json", b'{"a": [], "a": [[1, 2]]}', "key 'a' twice"),
    ("a.json", b'{"a.png": [], "a.jpg": []}', r"'a\.png' and 'a\.jpg'"),
    ("a.json", b'{"a": [[1, ' + b"9" * 5000 + b"]]}", "expected each key once, numbers and depth in bounds"),
    ("a.json", b'{"a": [[1, ' + b"9" * 500 + b"]]}", "'a', entry 0"),
    ("a.json", b'{\n"a": [[1, 2],\n', r"a\.json:3: JSON"),
]


@pytest.mark.parametrize(("name", "data", "match"), CASES, ids=lambda value: repr(value)[:40])
def test_known_damage_is_explained(name: str, data: bytes, match: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=match):
        read_picks(tmp_path / name, OPTIONS)


def test_a_box_file_by_cryotransformer_is_explained(tmp_path: Path) -> None:
    header = "Micrograph_Name    X_Coordinate    Y_Coordinate    Class_Number    AnglePsi    Confidence_Score\n"
    row = "mic1.mrc\t100.5\t200.0\t-9999\t-9999\t0.97\n"
    for text in (header + row, row, "\n" + row):
        (tmp_path / "mic1.box").write_text(text)
        with pytest.raises(InputError, match=r"CryoTransformer.*h - y"):
            read_picks(tmp_path / "mic1.box")


def test_what_tables_of_other_programs_look_like(tmp_path: Path) -> None:
    def read(name: str, text: str) -> PickSet:
        (tmp_path / name).write_text(text)
        return read_picks(tmp_path / name)

    cryoppp = read("mic1.csv", "X-Coordinate,Y-Coordinate,Diameter\n10,20,30\n40,50,30\n")
    assert (cryoppp.diameter_px, cryoppp.picks[0].xy.tolist()) == (30, [[10, 20], [40, 50]])
    assert read("mic1.csv", "x,y,diameter\n1,2,30\n3,4,31\n").diameter_px is None
    assert read("mic1.csv", " Y , X ,kind\n2,1,top\n\n4, 3,side\n").picks[0].xy.tolist() == [[1, 2], [3, 4]]
    many = read("all.csv", 'Micrograph,x,y,score\n"a, b.png",1,2,0.5\nc/d.mrc,3,4,1\n"a, b.png",5,6,0.25\n')
    assert [(p.micrograph, p.score.tolist()) for p in many] == [("a, b", [0.5, 0.25]), ("d", [1])]
    topaz = read("train.txt", "image_name\tx_coord\ty_coord\nb\t1\t2\na\t3\t4\n")
    assert [(p.micrograph, p.xy.tolist()) for p in topaz] == [("b", [[1, 2]]), ("a", [[3, 4]])]
    old = read("m_cryolo.cbox", "10\t20\t30\t31\t0.5\t25\t25\n").picks[0]
    assert (old.micrograph, old.xy.tolist(), old.score.tolist()) == ("m", [[25, 35.5]], [0.5])
    helix = read("m.box", "10 20 30 30 -3\n-15 0 30 30 -3\n").picks[0]
    assert helix.xy.tolist() == [[25, 35], [0, 15]]


def test_cbox_as_cryolo_writes_it(tmp_path: Path) -> None:
    sizes = ("Width", "Height", "Depth", "EstWidth", "EstHeight")
    labels = ("CoordinateX", "CoordinateY", "CoordinateZ", *sizes, "Confidence", "NumBoxes", "Angle")
    head = "\ndata_global\n\n_cbox_format_version 1.0\n\ndata_cryolo\n\nloop_\n"
    head += "".join(f"_{label} #{at}\n" for at, label in enumerate(labels, 1))
    tail = "\ndata_cryolo_include\n\nloop_\n_slice_index #1\n\n"
    rows = "100.5 200.25 {z} 50 40 <NA> 48 48 {score} <NA> <NA>\n"
    path = tmp_path / "mic1.cbox"
    path.write_text(head + rows.format(z="<NA>", score=0.75) + tail)
    (part,) = read_picks(path).picks
    assert (part.xy.tolist(), part.score.tolist()) == ([[125.5, 220.25]], [0.75])
    path.write_text(head + rows.format(z="<NA>", score="<NA>") + tail)
    assert read_picks(path).picks[0].score.tolist() == [1]
    path.write_text(head + rows.format(z="7.0", score=0.75) + tail)
    with pytest.raises(InputError, match="tomogram"):
        read_picks(path)


def test_coordinates_json_tells_unlabelled_from_empty(tmp_path: Path) -> None:
    path = tmp_path / "coordinates.json"
    path.write_text('{"image1.png": [[1, 2.5], [3, 4]], "image2.png": []}')
    found = read_picks(path).by_name()
    assert {name: part.xy.tolist() for name, part in found.items()} == {"image1": [[1, 2.5], [3, 4]], "image2": []}


def test_eman2_keeps_what_it_does_not_know(tmp_path: Path) -> None:
    path = tmp_path / "info" / "mic1_info.json"
    path.parent.mkdir()
    path.write_text('{"ctf": [1, {"a": NaN}], "boxes_3d": [[1, 2, 3]], "boxes": [[9, 9, "manual"]]}')
    old = read_picks(path).picks[0]
    assert (old.xy.tolist(), old.score.tolist()) == ([[9, 9]], [1])
    picks = PickSet((Picks("mic1", np.array([[1.4, 2.6]]), np.array([0.75])),))
    format_named("eman2").write(path, picks, OPTIONS)
    written = json.loads(path.read_text())
    assert written["boxes"] == [[1, 3, "auto_verglas", 0.75]]
    assert written["boxes_3d"] == [[1, 2, 3]]
    assert list(written) == ["ctf", "boxes_3d", "boxes"]
    path.write_text("{")
    with pytest.raises(InputError, match="JSON"):
        format_named("eman2").write(path, picks, OPTIONS)
    assert path.read_text() == "{"


def test_eman2_without_boxes_says_that_nobody_looked(tmp_path: Path) -> None:
    path = tmp_path / "mic1_info.json"
    path.write_text('{"ctf": 1}')
    assert read_picks(path).picks == ()
    path.write_text('{"boxes": []}')
    assert [len(part) for part in read_picks(path)] == [0]


# --- cryoSPARC ---

FIELDS: list[tuple[str, str, object]] = [
    ("uid", "<u8", 1),
    ("location/micrograph_path", "S64", b"J2/motioncorrected/mic1.mrc"),
    ("location/micrograph_shape", "(2,)<u4", (400, 500)),
    ("location/center_x_frac", "<f4", 0.5),
    ("location/center_y_frac", "<f4", 0.25),
    ("pick_stats/ncc_score", "<f4", 0.375),
]
Change = tuple[str, object] | None


def records(path: Path, **changes: Change) -> Path:
    """Write two records; ``changes`` replace kind and value of a field, by the end of its name, or leave it out."""
    changed = {name: changes.get(name.rsplit("/")[-1], (kind, value)) for name, kind, value in FIELDS}
    kept = {name: change for name, change in changed.items() if change is not None}
    table = np.zeros(2, np.dtype([(name, kind) for name, (kind, _) in kept.items()]))
    for name, (_, value) in kept.items():
        table[name] = value
    with path.open("wb") as file:
        np.save(file, table, allow_pickle=True)
    return path


def test_cryosparc_records_are_read(tmp_path: Path) -> None:
    (part,) = read_picks(records(tmp_path / "a.cs"), OPTIONS).picks
    assert (part.micrograph, part.xy.tolist(), part.score.tolist()) == ("mic1", [[250, 100]] * 2, [0.375] * 2)
    (part,) = read_picks(records(tmp_path / "a.cs"), replace(OPTIONS, cs_y="flip")).picks
    assert part.xy.tolist() == [[250, 300]] * 2
    (part,) = read_picks(records(tmp_path / "a.cs", ncc_score=None), OPTIONS).picks
    assert part.score.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"center_x_frac": None}, "field location/center_x_frac is missing"),
        ({"center_x_frac": ("<f4", np.nan)}, "center_x_frac, record 0 is nan"),
        ({"center_x_frac": ("<f4", np.inf)}, "center_x_frac, record 0 is inf"),
        ({"center_y_frac": ("<u8", 1)}, "field location/center_y_frac is uint64"),
        ({"center_y_frac": ("O", 1)}, "field location/center_y_frac is object"),
        ({"uid": ("O", 1)}, "header|content"),
        ({"ncc_score": ("<i4", 1)}, "field pick_stats/ncc_score is int32"),
        ({"ncc_score": ("<f4", -np.inf)}, "ncc_score, record 0"),
        ({"micrograph_shape": ("(2,)<u4", (0, 500))}, "micrograph_shape is 0 in record 0"),
        ({"micrograph_shape": ("<u4", 1)}, "field location/micrograph_shape is uint32"),
        ({"micrograph_path": ("S9", b"\xff\xfe")}, "expected UTF-8"),
        ({"micrograph_path": ("S9", b"a\nb")}, "expected a path"),
        ({"micrograph_path": ("S9", b"")}, "micrograph is ''"),
    ],
)
def test_damaged_cryosparc_records_are_refused(changes: dict[str, Change], match: str, tmp_path: Path) -> None:
    path = records(tmp_path / "a.cs", **changes)
    with pytest.raises(InputError, match=match):
        read_picks(path, OPTIONS)


def rewritten(change: Callable[[bytes], bytes], path: Path) -> Path:
    records(path)
    path.write_bytes(change(path.read_bytes()))
    return path


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda data: data[:-1], r"content is \d+ bytes; expected \(2,\) records"),
        (lambda data: data + b"\0", "content"),
        (lambda data: data.replace(b"(2,), }", b"(9999999999999,), }"), "content|header"),
        (lambda data: data.replace(b"'shape': (2,)", b"'shape': (-2,)"), "content|header"),
        (lambda data: data.replace(b"'shape': (2,)", b"'shape': (2,0)"), "content|header"),
        (lambda data: data.replace(b"'shape'", b"'sh_pe'"), "header is unreadable"),
        (lambda data: data[:6] + b"\x09\x00" + data[8:], "header is unreadable"),
        (lambda data: data[:60], "header is unreadable"),
        (lambda data: data[1:], "header is unreadable"),
        (lambda data: data.replace(b"('uid', '<u8')", b"('uid', '|O' )"), "content"),
        (lambda data: b"\x95CSDAT" + data, "CSDAT stream"),
        (lambda data: b"PK\x03\x04" + data, "header is unreadable"),
        (lambda data: b"\x80\x04\x95" + data, "header is unreadable"),
    ],
)
def test_damaged_cryosparc_files_are_refused(change: Callable[[bytes], bytes], match: str, tmp_path: Path) -> None:
    path = rewritten(change, tmp_path / "a.cs")
    with pytest.raises(InputError, match=match):
        read_picks(path, OPTIONS)


def test_names_of_cryosparc_are_undressed() -> None:
    assert plain_name("001234567890123456789_mic1_patch_aligned_doseweighted") == "mic1"
    assert plain_name("001234567890123456789_20240101_aligned_mic") == "20240101_aligned_mic"
    assert plain_name("mic1_aligned") == "mic1_aligned"
