"""STAR files: the parser, RELION's layouts, our own pick file, and the folder that RELION extracts from."""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from verglas.errors import InputError
from verglas.io._base import FormatOptions
from verglas.io.picks import read_picks, relion_folder, write_picks
from verglas.io.star import Block, format_star, read_star
from verglas.io.tables import LONGEST_LINE
from verglas.types import Micrograph, Picks, PickSet


def star(folder: Path, text: str, name: str = "mic1.star") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def xy_of(path: Path) -> list[list[float]]:
    (part,) = read_picks(path).picks
    return part.xy.tolist()


HEAD = "data_\n\nloop_ \n_rlnCoordinateX #1 \n_rlnCoordinateY #2 \n"

# --- the parser ---


def test_pairs_loops_quotes_comments_and_versions(tmp_path: Path) -> None:
    text = """
# version 30001

data_general
; another comment
_rlnName  "two words"   # a remark
_rlnEmpty ""
_rlnOther 'it "is" so'

# version 30001
data_table

loop_
_rlnA #1
_rlnB#c
_rlnC
1 "x y" #3
# between rows
  2\t'' '#'

 3 a"b c'd   # a remark
"""
    general, table = read_star(star(tmp_path, text)).values()
    assert general.pairs == {"_rlnName": "two words", "_rlnEmpty": "", "_rlnOther": 'it "is" so'}
    assert (general.name, general.columns, general.line) == ("general", {}, 4)
    assert table.columns == {"_rlnA": ["1", "2", "3"], "_rlnB#c": ["x y", "", 'a"b'], "_rlnC": ["#3", "#", "c'd"]}
    assert list(table.lines) == [17, 19, 21]


@pytest.mark.parametrize(
    "text",
    [
        HEAD + "1 2\n3 4\n",
        HEAD + "1 2\n3 4",
        HEAD + "\n1 2\n\n3 4\n\n",
        HEAD.replace(" #1", "").replace("#2", "") + "1 2\n3 4\n",
        HEAD.replace("data_", "data_particles") + "1\t2\n\t3   4\n",
        HEAD.replace("\n", "\r\n") + "1 2\r\n3 4\r\n",
        HEAD.replace("data_", "data_ # here") + "1 2 # good\n3 4\n; the end",
        "# version 50001\n" + HEAD + "+1 2.\n3e0 .4e1\n",
        HEAD + "\"1\" 2\n'3' 4\n",
        "data_\n_rlnAny 5\nloop_\n_rlnCoordinateY\n_rlnOther #2\n_rlnCoordinateX #3\n2 a 1\n4 b 3\n",
    ],
)
def test_lax_files_are_read(text: str, tmp_path: Path) -> None:
    assert xy_of(star(tmp_path, text)) == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("text", "line", "match"),
    [
        (HEAD + "1 2\n3\n", 7, r"number of values is 1; expected 2"),
        (HEAD + "1 2\n3 4 5\n", 7, r"number of values is 3"),
        (HEAD + "1 nan\n", 6, r"_rlnCoordinateY is 'nan'; expected a finite number"),
        (HEAD + "1 2\n\n3 x\n", 8, r"_rlnCoordinateY is 'x'"),
        (HEAD + '1 "2\n', 6, r"quote is '\"2', not closed"),
        (HEAD + "1 2\n" + HEAD + "1 2\n", 7, r"data_ again, after line 1"),
        (HEAD + "_rlnCoordinateX #3\n1 2 3\n", 6, r"_rlnCoordinateX again"),
        ("data_\n_rlnA 1\n_rlnA 2\n", 3, r"_rlnA again"),
        ("data_\n_rlnA\n", 2, r"line is '_rlnA'"),
        ("data_\n_rlnA 1 2\n", 2, r"line is '_rlnA 1 2'"),
        ("data_\nloop_\n", 1, r"a loop without labels"),
        ("data_\nloop_\n1 2\n", 3, r"line is '1 2'; expected labels"),
        ("data_\nloop_\n_rlnA #1\n1\nloop_\n_rlnB #1\n1\n", 5, r"line is 'loop_'"),
        (HEAD + "1 2\n\n_rlnA 7\n", 8, r"line is '_rlnA 7'"),
        ("data_\nhello\n", 2, r"line is 'hello'"),
        ("hello\ndata_\n", 1, r"first line is 'hello'"),
        ("# only this\n", 1, r"nothing but blanks"),
        (HEAD + "1 2\n3 " + "4" * LONGEST_LINE + "\n", 7, r"line length is 65538 characters"),
        ("data_\nloop_\n_rlnCoordinateX #1\n1\n", 1, r"_rlnCoordinateY is missing"),
    ],
)
def test_what_would_lose_a_value_is_refused_with_its_line(text: str, line: int, match: str, tmp_path: Path) -> None:
    path = star(tmp_path, text)
    with pytest.raises(InputError, match=match) as caught:
        read_picks(path)
    assert caught.value.where == f"{path}:{line}"


def test_rows_may_begin_like_labels_where_they_are_rows(tmp_path: Path) -> None:
    text = "data_\nloop_\n_rlnA #1\n_rlnB #2\n_rlnC #3\n_mic1 1 2\n_mic2 3 4\ndata_mic 5 6\n"
    assert read_star(star(tmp_path, text))[""].columns["_rlnA"] == ["_mic1", "_mic2", "data_mic"]


def test_a_block_is_written_exactly_as_relion_does() -> None:
    picks = Picks("mic1", np.array([[833.0, 437.0]]), np.array([0.9132]))
    text = format_star([Block("", columns={"_rlnCoordinateX": ["833.000000"], "_rlnClassNumber": ["0"]})])
    assert text == (
        "\n# version 30001\n\ndata_\n\nloop_ \n_rlnCoordinateX #1 \n_rlnClassNumber #2 \n  833.000000            0 \n\n"
    )
    assert len(picks) == 1


def test_columns_of_unequal_length_are_not_written() -> None:
    with pytest.raises(ValueError, match="shorter"):
        format_star([Block("", columns={"_rlnA": ["1", "2"], "_rlnB": ["1"]})])


@pytest.mark.parametrize("value", ["two\nlines", "both \" and ' quotes ' \"", "\x00"])
def test_a_value_that_no_line_can_hold_is_not_written(value: str) -> None:
    with pytest.raises(InputError, match="one line"):
        format_star([Block("", {"_rlnA": value})])


def test_half_a_million_rows_take_a_second_or_two(tmp_path: Path) -> None:
    """The bound is for a tenth of that, on a slow and busy machine."""
    row = " MotionCorr/job002/Movies/mic1.mrc  2548.847351  1079.147000     0.913200            0     0.000000 \n"
    labels = ("MicrographName", "CoordinateX", "CoordinateY", "AutopickFigureOfMerit", "ClassNumber", "AnglePsi")
    head = "data_\n\nloop_ \n" + "".join(f"_rln{label} #{at} \n" for at, label in enumerate(labels, 1))
    path = star(tmp_path, head + row * 50_000)
    begin = time.process_time()
    assert len(read_picks(path)) == 50_000
    assert time.process_time() - begin < 1.0


# --- RELION's layouts ---


def test_a_real_autopick_file(real_data: Path) -> None:
    (part,) = read_picks(real_data / "mrc_samples" / "Ucsf_stack_1142_DW_autopick.star").picks
    assert part.micrograph == "Ucsf_stack_1142_DW"
    assert len(part) == 45
    assert part.xy[0].tolist() == [839.125024, 19.979167]
    assert part.score[0] == 0.624705


@pytest.mark.parametrize("name", ["bgal_10017", "klh", "cryoppp_10059", "cryoppp_10947", "apoferritin_foilhole"])
def test_real_star_and_csv_agree(real_data: Path, name: str) -> None:
    tables = read_picks(real_data / name / "coords").by_name()
    stars = read_picks(real_data / name / f"{name}.star").by_name()
    assert set(tables) == set(stars)
    assert sum(map(len, stars.values())) > 100
    for mic, part in stars.items():
        np.testing.assert_array_equal(part.xy, tables[mic].xy)
        assert (part.score == 1).all()


def particles(optics: str, labels: str, *rows: str) -> str:
    head = "# version 30001\n\ndata_optics\n\nloop_\n_rlnOpticsGroup #1\n" + optics
    names = "_rlnMicrographName _rlnCoordinateX _rlnCoordinateY _rlnOpticsGroup " + labels
    table = "\n".join(["data_particles\n\nloop_", *names.split(), *rows])
    return f"{head}\n\n# version 30001\n\n{table}\n\n"


ANGST = "_rlnOriginXAngst _rlnOriginYAngst"
ROWS = ("Movies/a.mrc 100 50 1 3.0 -1.5", "Movies/b.mrc 10 20 2 0 0", "Movies/a.mrc 200 60 1 -3 3")


@pytest.mark.parametrize(
    ("optics", "first"),
    [
        ("_rlnMicrographPixelSize\n_rlnImagePixelSize\n1 1.5 6\n2 1.5 6\n", [98, 51]),
        ("_rlnMicrographPixelSize\n1 3\n2 1.5\n", [99, 50.5]),
        ("_rlnMicrographOriginalPixelSize\n_rlnImagePixelSize\n1 1.5 1.5\n2 1.5 1.5\n", [98, 51]),
    ],
)
def test_the_centre_of_a_refined_particle(optics: str, first: list[float], tmp_path: Path) -> None:
    found = read_picks(star(tmp_path, particles(optics, ANGST, *ROWS)))
    assert [part.micrograph for part in found] == ["a", "b"]
    assert found.picks[0].xy[0].tolist() == first
    assert found.picks[1].xy.tolist() == [[10, 20]]
    assert found.pixel_size_angstrom == (None if "1 3" in optics else 1.5)


@pytest.mark.parametrize(
    "optics",
    [
        "_rlnImagePixelSize\n1 6\n2 6\n",
        "_rlnMicrographOriginalPixelSize\n_rlnImagePixelSize\n1 0.75 6\n2 0.75 6\n",
        "_rlnVoltage\n1 300\n2 300\n",
    ],
)
def test_shifts_in_angstrom_need_the_pixel_size_of_the_micrograph(optics: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="_rlnMicrographPixelSize is missing"):
        read_picks(star(tmp_path, particles(optics, ANGST, *ROWS)))
    still = [row.rsplit(None, 2)[0] + " 0 0.0" for row in ROWS]
    assert len(read_picks(star(tmp_path, particles(optics, ANGST, *still)))) == 3


def test_an_unknown_optics_group_is_refused(tmp_path: Path) -> None:
    for optics in ("_rlnMicrographPixelSize\n1 1.5\n", "_rlnMicrographPixelSize\n1 1.5\n2 0\n"):
        path = star(tmp_path, particles(optics, ANGST, *ROWS))
        with pytest.raises(InputError, match="_rlnOpticsGroup is 2"):
            read_picks(path)


def test_shifts_of_relion_3_0_are_pixels(tmp_path: Path) -> None:
    labels = "_rlnCoordinateX\n_rlnCoordinateY\n_rlnOriginX\n_rlnOriginY\n"
    assert xy_of(star(tmp_path, f"data_\nloop_\n{labels}10 20 1.5 -2\n")) == [[8.5, 22]]


def test_manual_picks_without_a_score_are_labels(tmp_path: Path) -> None:
    labels = "_rlnCoordinateX\n_rlnCoordinateY\n_rlnAutopickFigureOfMerit\n"
    (part,) = read_picks(star(tmp_path, f"data_\nloop_\n{labels}1 2 -999.00000\n3 4 0.25\n5 6 -99\n")).picks
    assert part.score.tolist() == [1, 0.25, -99]


def test_pickers_that_write_many_micrographs_into_one_table(tmp_path: Path) -> None:
    """As CryoSegNet and CryoTransformer do; what they wrote twice stays twice."""
    labels = "_rlnMicrographName #1\n_rlnCoordinateX #2\n_rlnCoordinateY #3\n_rlnClassNumber #4\n_rlnAnglePsi #5\n"
    rows = "b.mrc 1 2 -9999 -9999 0.5\na.mrc 3 4 -9999 -9999 0.75\nb.mrc 15 16 -9999 -9999 0.5\n"
    found = read_picks(star(tmp_path, f"data_\n\nloop_\n{labels}_rlnAutopickFigureOfMerit #6\n{rows}"))
    assert [(p.micrograph, p.xy.tolist(), p.score.tolist()) for p in found] == [
        ("b", [[1, 2], [15, 16]], [0.5, 0.5]),
        ("a", [[3, 4]], [0.75]),
    ]


def test_picks_of_a_micrograph_keep_their_order(tmp_path: Path) -> None:
    generator = np.random.default_rng(5)
    which, x = generator.integers(0, 3, 1000), np.arange(1000)
    rows = "".join(f"m{w}.mrc {v} 0\n" for w, v in zip(which, x, strict=True))
    text = "data_\nloop_\n_rlnMicrographName\n_rlnCoordinateX\n_rlnCoordinateY\n" + rows
    for part in read_picks(star(tmp_path, text)):
        np.testing.assert_array_equal(part.xy[:, 0], x[which == int(part.micrograph[1])])


def test_two_micrographs_that_would_be_joined_are_refused(tmp_path: Path) -> None:
    text = "data_\nloop_\n_rlnMicrographName\n_rlnCoordinateX\n_rlnCoordinateY\none/a.mrc 1 2\ntwo/a.mrc 3 4\n"
    with pytest.raises(InputError, match=r"micrograph is 'one/a\.mrc' and 'two/a\.mrc'"):
        read_picks(star(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("data_micrographs\nloop_\n_rlnMicrographName\na.mrc\n", "none among"),
        (HEAD + "1 2\n" + HEAD.replace("data_", "data_b"), "data_ and data_b"),
        (HEAD + "_rlnCoordinateZ #3\n1 2 3\n", "3D, of a tomogram"),
    ],
)
def test_files_without_positions_of_a_micrograph_are_refused(text: str, match: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=match):
        read_picks(star(tmp_path, text))


LIST = "data_coordinate_files\n\nloop_ \n_rlnMicrographName #1 \n_rlnMicrographCoordinates #2 \n"


def test_a_list_is_followed_from_the_project_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    star(tmp_path, HEAD + "1 2\n", "ManualPick/job003/Movies/a_manualpick.star")
    star(tmp_path, HEAD, "ManualPick/job003/Movies/b_manualpick.star")
    text = LIST + "".join(f"M/a{x}.mrc ManualPick/job003/Movies/{x}_manualpick.star \n" for x in "ab")
    path = star(tmp_path, text, "ManualPick/job003/manualpick.star")
    for folder in (tmp_path, Path("/")):
        monkeypatch.chdir(folder)
        found = read_picks(path)
        assert [(part.micrograph, len(part)) for part in found] == [("aa", 1), ("ab", 0)]


@pytest.mark.parametrize(
    ("row", "match"),
    [
        ("a.mrc gone.star", r"autopick\.star:6: coordinates is 'gone\.star'"),
        ('a.mrc ""', "coordinates is ''"),
        (f"a.mrc {'x' * 5000}", "coordinates is"),
        ("a.mrc autopick.star", "block with positions"),
        ("a.mrc two.star", "micrographs is 2; expected one"),
        ("a.mrc one.star\nM/a.mrc one.star", "names that differ"),
    ],
)
def test_a_list_that_leads_astray_is_refused(row: str, match: str, tmp_path: Path) -> None:
    star(tmp_path, HEAD + "1 2\n", "one.star")
    table = HEAD.replace("loop_ \n", "loop_ \n_rlnMicrographName\n")
    star(tmp_path, table + "a 1 2\nb 1 2\n", "two.star")
    with pytest.raises(InputError, match=match):
        read_picks(star(tmp_path, LIST + row + "\n", "autopick.star"))


# --- our pick file ---


def pick_set() -> PickSet:
    generator = np.random.default_rng(3)
    parts = [Picks(f"mic{n}", generator.uniform(0, 400, (n, 2)), generator.random(n)) for n in (3, 0, 2)]
    return PickSet(
        tuple(parts),
        threshold=0.4,
        threshold_how='the best F1 on "validation"',
        diameter_px=33.25,
        pixel_size_angstrom=1.77,
        shapes={"mic3": (300, 400), "mic0": (310, 400)},
    )


def test_a_pick_file_says_what_its_picks_mean(tmp_path: Path) -> None:
    given, path = pick_set(), tmp_path / "picks.star"
    write_picks(path, given, counted_only=False)
    found = read_picks(path)
    assert [part.micrograph for part in found] == ["mic3", "mic0", "mic2"]
    for one, other in zip(found, given, strict=True):
        np.testing.assert_allclose(one.xy, other.xy, atol=0.0005)
        np.testing.assert_allclose(one.score, other.score, atol=5e-7)
    assert (found.threshold, found.diameter_px, found.pixel_size_angstrom) == (0.4, 33.25, 1.77)
    assert found.threshold_how == "the best F1 on 'validation'"
    assert dict(found.shapes) == {"mic3": (300, 400), "mic0": (310, 400)}


def test_relion_finds_the_positions_in_the_first_block(tmp_path: Path) -> None:
    write_picks(tmp_path / "picks.star", pick_set(), counted_only=False)
    text = (tmp_path / "picks.star").read_text()
    assert text[text.index("data_") :].startswith("data_particles\n\nloop_ \n_rlnMicrographName #1 \n")
    assert list(read_star(tmp_path / "picks.star")["particles"].columns) == [
        "_rlnMicrographName",
        "_rlnCoordinateX",
        "_rlnCoordinateY",
        "_rlnAutopickFigureOfMerit",
        "_rlnClassNumber",
        "_rlnAnglePsi",
    ]


def test_what_is_unknown_is_left_out(tmp_path: Path) -> None:
    given = PickSet(pick_set().picks)
    write_picks(tmp_path / "picks.star", given, counted_only=False)
    assert set(read_star(tmp_path / "picks.star")["verglas"].pairs) == {
        "_verglasVersion",
        "_verglasMicrographs",
        "_verglasThresholdHow",
    }
    found = read_picks(tmp_path / "picks.star")
    assert (found.threshold, found.threshold_how, found.diameter_px, dict(found.shapes)) == (None, "", None, {})


def test_every_truncation_of_a_pick_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "picks.star"
    write_picks(path, pick_set(), counted_only=False)
    data = path.read_bytes()
    end = len(data.rstrip())
    for cut in [*range(0, end, 3), *range(end - 90, end)]:
        path.write_bytes(data[:cut])
        with pytest.raises(InputError):
            read_picks(path)
    path.write_bytes(data.rstrip())
    assert len(read_picks(path)) == 5


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ("_verglasMicrographs              3", "_verglasMicrographs              4", "number of micrographs is 3"),
        ("        mic0          310          400            0 \n", "", "number of micrographs is 2"),
        ("        mic0          310          400            0 ", "mic0 310 400 1", "number of picks is 0 of 'mic0'"),
        ("        mic0          310          400            0 ", "mic9 310 400 0", None),
        ("        mic2            0            0            2 ", "mic9 0 0 2", "number of picks is 0 of 'mic9'"),
        ("        mic2            0            0            2 ", "mic3 0 0 2", "number of micrographs"),
        ("_verglasThreshold                0.400000", "_verglasThreshold nan", "_verglasThreshold is 'nan'"),
    ],
)
def test_what_a_pick_file_declares_must_be_there(old: str, new: str, match: str | None, tmp_path: Path) -> None:
    path = tmp_path / "picks.star"
    write_picks(path, pick_set(), counted_only=False)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    if match is None:
        assert "mic9" in read_picks(path).by_name()
    else:
        with pytest.raises(InputError, match=match):
            read_picks(path)


def test_no_pick_that_counted_ceases_to_count(tmp_path: Path) -> None:
    """Scores are rounded, and the threshold alike, so that the pick that set it stays."""
    score = np.array([0.43712349, 0.43712351, 0.5, 0.1])
    for threshold in score[:2]:
        given = PickSet((Picks("a", np.zeros((4, 2)), score), Picks("b", np.zeros((0, 2)), score[:0])), threshold)
        write_picks(tmp_path / "p.star", given, counted_only=False)
        kept = read_picks(tmp_path / "p.star")
        assert kept.threshold is not None
        assert (kept.picks[0].score[score >= threshold] >= kept.threshold).all()


def test_one_micrograph_without_meaning_is_written_plain(tmp_path: Path) -> None:
    alone = PickSet(pick_set().picks[:1])
    write_picks(tmp_path / "mic3.star", alone, counted_only=False)
    assert list(read_star(tmp_path / "mic3.star")) == [""]
    write_picks(tmp_path / "other.star", alone, counted_only=False)  # here the name has to be said
    assert [part.micrograph for part in read_picks(tmp_path / "other.star")] == ["mic3"]
    write_picks(tmp_path / "mic3.star", replace(alone, threshold=0.5), counted_only=False)
    assert read_picks(tmp_path / "mic3.star").threshold == 0.5


def test_names_in_a_pick_file_are_taken_as_they_are(tmp_path: Path) -> None:
    """Elsewhere ``_topaz`` and ``.png`` would be cut off; here the name is already the micrograph's."""
    names = ["mic_topaz", "mic", "mic.png", "a/mic"]
    parts = [Picks(name, np.full((n, 2), 1.0), np.ones(n)) for n, name in enumerate(names)]
    write_picks(tmp_path / "picks.star", PickSet(tuple(parts)), counted_only=False)
    assert {part.micrograph: len(part) for part in read_picks(tmp_path / "picks.star")} == {
        name: n for n, name in enumerate(names)
    }


# --- the folder for RELION ---


def test_relion_gets_whole_numbers_inside_the_micrograph(tmp_path: Path) -> None:
    xy = np.array([[478.9, 10.5], [-0.5, 0], [-0.51, 5], [399.4, 299.4], [399.5, 5], [5, 299.5], [200.49, -9]])
    picks = PickSet((Picks("mic1", xy, np.linspace(0, 1, 7)), pick_set().picks[1]), shapes={"mic1": (300, 500)})
    picks = replace(picks, picks=(replace(picks.picks[0], xy=xy), picks.picks[1]))
    assert relion_folder(tmp_path / "out", picks) == {"mic1": 3}
    text = (tmp_path / "out" / "mic1_verglas.star").read_text()
    assert text.startswith("\n# version 30001\n\ndata_\n\nloop_ \n_rlnCoordinateX #1 \n")
    assert "  479.000000    11.000000     0.000000            0     0.000000 \n" in text
    (part,) = read_picks(tmp_path / "out" / "mic1_verglas.star").picks
    assert part.xy.tolist() == [[479, 11], [0, 0], [399, 299], [400, 5]]
    assert part.score.tolist() == [0, 0.166667, 0.5, 0.666667]
    assert len(read_picks(tmp_path / "out" / "mic0_verglas.star")) == 0


def test_the_lists_name_micrographs_to_the_letter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = [f"MotionCorr/job002/Movies/mic{n}.mrc" for n in (0, 1, 2, 3)]
    listed = Block("micrographs", columns={"_rlnMicrographName": names, "_rlnOpticsGroup": ["1"] * 4})
    Path("mics.star").write_text(format_star([Block("optics", {"_rlnOpticsGroup": "1"}), listed]))
    relion_folder(Path("External/job006"), pick_set(), micrographs_star=Path("mics.star"))
    assert Path("External/job006/coords_suffix_verglas.star").read_text() == "mics.star\n"
    table = read_star("External/job006/autopick.star")["coordinate_files"]
    assert table.columns == {
        "_rlnMicrographName": [names[3], names[0], names[2]],
        "_rlnMicrographCoordinates": [f"External/job006/Movies/mic{n}_verglas.star" for n in (3, 0, 2)],
    }
    assert [len(part) for part in read_picks("External/job006/autopick.star")] == [3, 0, 2]
    Path("few.star").write_text(format_star([replace(listed, columns={"_rlnMicrographName": names[:3]})]))
    with pytest.raises(InputError, match="no mic3"):
        relion_folder(Path("External/job007"), pick_set(), micrographs_star=Path("few.star"))
    assert not Path("External/job007").exists()


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("MotionCorr/job002/Movies/mic3.mrc", "Movies/mic3"),
        ("CtfFind/job0123/deep/er/mic3.mrc", "deep/er/mic3"),
        ("job002/Movies/mic3.mrc", "job002/Movies/mic3"),
        ("Import/jobs/Movies/mic3.mrc", "Import/jobs/Movies/mic3"),
        ("Movies/mic3.mrc", "Movies/mic3"),
        ("/data/raw/mic3.mrc", "mic3"),
        ("../raw/mic3.mrc", "mic3"),
        ("A/job001/../../../raw/mic3.mrc", "mic3"),
    ],
)
def test_files_stand_where_relion_seeks_them_and_never_elsewhere(name: str, kept: str, tmp_path: Path) -> None:
    micrograph = Micrograph("mic3", Path(name), (300, 400))
    relion_folder(tmp_path / "out", PickSet(pick_set().picks[:1]), [micrograph])
    written = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.star")]
    assert sorted(written) == sorted(["out/autopick.star", f"out/{kept}_verglas.star"])


def test_the_micrographs_tell_a_size_that_the_picks_do_not(tmp_path: Path) -> None:
    picks = PickSet((Picks("mic1", np.array([[50.0, 50.0], [150.0, 50.0]]), np.ones(2)),))
    assert relion_folder(tmp_path, picks) == {}
    assert relion_folder(tmp_path, picks, [Micrograph("mic1", Path("mic1.mrc"), (100, 100))]) == {"mic1": 1}


def test_options_do_not_matter_to_star(tmp_path: Path) -> None:
    write_picks(tmp_path / "a.star", pick_set(), FormatOptions(box_px=3, cs_y="flip"), counted_only=False)
    write_picks(tmp_path / "b.star", pick_set(), counted_only=False)
    assert (tmp_path / "a.star").read_bytes() == (tmp_path / "b.star").read_bytes()
