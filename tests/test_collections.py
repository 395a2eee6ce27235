"""Finding micrographs and joining labels: every way users keep them, and what must be said when they do not fit."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from verglas.errors import InputError
from verglas.io._base import FormatOptions
from verglas.io.collections import collect, collect_split, find_micrographs, is_split_layout
from verglas.io.micrographs import read_image, write_mrc
from verglas.io.picks import write_picks
from verglas.types import Picks, PickSet, Split

SHAPE = (48, 64)


def picture(path: Path, shape: tuple[int, int] = SHAPE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, shape, dtype="u1")).save(path)
    return path


def micrograph(path: Path, size: float | None = 1.5, shape: tuple[int, int] = SHAPE) -> Path:
    write_mrc(path, np.random.default_rng(0).normal(size=shape).astype("f4"), size)
    return path


def points(path: Path, *xy: tuple[float, float], header: str = "x,y") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *(f"{x},{y}" for x, y in xy)]) + "\n")
    return path


def names(found: object) -> list[str]:
    return [m.name for m in found.micrographs]


@pytest.fixture
def mics(tmp_path: Path) -> Path:
    """A folder of three micrographs of 1.5 Å among other things."""
    folder = tmp_path / "mics"
    for name in ("b", "a", "c"):
        micrograph(folder / f"{name}.mrc")
    (folder / "notes.csv").write_text("x,y\n")
    (folder / ".hidden.mrc").write_bytes(b"")
    micrograph(folder / "deep" / "d.mrc")
    return folder


# --- finding ---


def test_a_folder_is_searched_without_its_subfolders_and_sorted(mics):
    found = find_micrographs([mics])
    assert names(found) == ["a", "b", "c"]
    assert [m.path for m in found.micrographs] == [mics / f"{n}.mrc" for n in "abc"]
    assert {(m.shape, m.pixel_size_angstrom) for m in found.micrographs} == {(SHAPE, 1.5)}
    assert (found.failures, found.warnings) == ((), ())


@pytest.mark.parametrize(
    ("pattern", "expected"), [("*.mrc", "abc"), ("**/*.mrc", "abcd"), ("[ab].mrc", "ab"), ("*", "abc"), ("**", "abcd")]
)
def test_globs(mics, pattern, expected):
    assert names(find_micrographs([str(mics / pattern)])) == list(expected)


def test_a_file_whose_name_looks_like_a_glob_is_a_file(tmp_path):
    path = micrograph(tmp_path / "mic[1].mrc")
    assert names(find_micrographs([path])) == ["mic[1]"]
    assert names(find_micrographs([tmp_path])) == ["mic[1]"]


def test_a_folder_whose_name_looks_like_a_glob_is_a_folder(tmp_path):
    micrograph(tmp_path / "grid[1]" / "a.mrc")
    assert names(find_micrographs([tmp_path / "grid[1]"])) == ["a"]


@given(order=st.permutations("abc"), repeats=st.integers(1, 2))
@settings(max_examples=15)
def test_order_and_repetition_of_sources_change_nothing(tmp_path_factory, order, repeats):
    folder = tmp_path_factory.mktemp("mics")
    paths = [micrograph(folder / f"{name}.mrc") for name in order]
    assert names(find_micrographs([*paths * repeats, folder])) == ["a", "b", "c"]


def test_every_kind_of_picture_is_found_by_its_suffix(tmp_path):
    for name in ("a.png", "b.PNG", "c.jpg", "d.JPEG", "e.tif", "f.tiff"):
        picture(tmp_path / name)
    shutil.copy(micrograph(tmp_path / "g.mrc"), tmp_path / "h.MRC")
    (tmp_path / "i.eer").write_bytes(b"")
    assert "".join(names(find_micrographs([tmp_path]))) == "abcdefgh"


def test_a_named_file_may_have_any_suffix(tmp_path):
    path = shutil.copy(micrograph(tmp_path / "a.mrc"), tmp_path / "odd.map")
    assert find_micrographs([path]).micrographs[0].path == path


def test_home_is_understood(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    micrograph(tmp_path / "mics" / "a.mrc")
    assert names(find_micrographs(["~/mics/*.mrc"])) == ["a"]


def test_text_lists_are_relative_to_their_folder_or_the_working_folder(mics, tmp_path, monkeypatch):
    (mics / "list.txt").write_text(f"# good ones\n\n a.mrc \ndeep/d.mrc\n{mics / 'b.mrc'}\nmics/c.mrc\n")
    monkeypatch.chdir(tmp_path)
    assert names(find_micrographs([mics / "list.txt"])) == ["a", "b", "c", "d"]
    assert names(find_micrographs(["mics/list.txt"])) == ["a", "b", "c", "d"]


def test_a_missing_file_of_a_list_is_a_failure(mics):
    (mics / "list.txt").write_text("a.mrc\ngone.mrc\n" + "n" * 300 + ".mrc\n")
    found = find_micrographs([mics / "list.txt"])
    assert names(found) == ["a"]
    assert sorted(f.path.name for f in found.failures) == ["gone.mrc", "n" * 300 + ".mrc"]
    assert "not there" in found.failures[0].reason


def test_an_empty_list_is_an_error(tmp_path):
    (tmp_path / "list.txt").write_text("# nothing\n\n")
    with pytest.raises(InputError, match=r"list\.txt: micrographs is none"):
        find_micrographs([tmp_path / "list.txt"])


def test_a_damaged_file_does_not_stop_the_others(mics):
    (mics / "b.mrc").write_bytes((mics / "b.mrc").read_bytes()[:-1])
    found = find_micrographs([mics])
    assert names(found) == ["a", "c"]
    (failure,) = found.failures
    assert failure.path == mics / "b.mrc"
    assert "cut short" in failure.reason


def test_nothing_but_damaged_files_is_an_error_with_the_first_reason(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.mrc").write_bytes(b"")
    with pytest.raises(InputError, match=r"micrographs is 0 of 2; .* The first: .*a\.mrc: content is 0 bytes"):
        find_micrographs([tmp_path])


@pytest.mark.parametrize("source", ["*.tif", "missing.mrc", "none/*", "deep/deeper", "n" * 300, "~nobody/a.mrc"])
def test_what_is_not_found_is_named_with_what_is_accepted(mics, source):
    with pytest.raises(InputError, match=r"not there; expected a STAR file, .*\.mrc, .*\.png") as caught:
        find_micrographs([str(mics / source)])
    assert caught.value.where == str(mics / source)


def test_a_folder_or_glob_without_pictures_says_how_much_was_seen(mics, tmp_path):
    with pytest.raises(InputError, match=r"none of 1 files; .*To search sub-folders give a glob such as"):
        find_micrographs([tmp_path])
    with pytest.raises(InputError, match="none of 1 files"):
        find_micrographs([str(mics / "*.csv")])
    with pytest.raises(InputError, match=r"0 of 0; expected one or more\. Name a file, a folder or a glob"):
        find_micrographs([])


def test_one_name_in_two_folders_names_both(mics):
    micrograph(mics / "deep" / "a.mrc")
    with pytest.raises(InputError, match="name is a, as of") as caught:
        find_micrographs([str(mics / "**")])
    assert str(mics / "a.mrc") in str(caught.value)
    assert str(mics / "deep" / "a.mrc") in str(caught.value)


def test_one_name_with_two_suffixes_is_no_better(mics):
    picture(mics / "a.png")
    with pytest.raises(InputError, match="such as 'folder/\\*\\.mrc'"):
        find_micrographs([mics])
    assert names(find_micrographs([str(mics / "*.mrc")])) == ["a", "b", "c"]


def test_a_link_to_a_micrograph_that_is_there_is_no_second_one(mics, tmp_path):
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "a.mrc").symlink_to(mics / "a.mrc")
    assert names(find_micrographs([mics, tmp_path / "links"])) == ["a", "b", "c"]


# --- pixel sizes ---


def test_warnings_of_many_micrographs_are_one(tmp_path):
    for name in "abc":
        micrograph(tmp_path / f"{name}.mrc")
    micrograph(tmp_path / "d.mrc", 3.0)
    found = find_micrographs([tmp_path], pixel_size_angstrom=3.0)
    assert found.warnings == (
        "a and 2 more: pixel sizes disagree: option 3 Å, header 1.5 Å; 3 Å is used.",
    )  # fmt: skip
    assert {m.pixel_size_angstrom for m in found.micrographs} == {3.0}


@pytest.mark.parametrize("size", [0.0, -1.0, float("nan"), float("inf")])
def test_absurd_options_are_refused(mics, size):
    with pytest.raises(InputError, match="pixel_size_angstrom"):
        find_micrographs([mics], pixel_size_angstrom=size)


# --- STAR lists ---

OPTICS = """
# version 30001

data_optics

loop_ 
_rlnOpticsGroupName #1 
_rlnOpticsGroup #2 
_rlnMicrographOriginalPixelSize #3 
_rlnMicrographPixelSize #4 
first 1 0.75 {}
second 2 0.75 {}


# version 30001

data_micrographs

loop_ 
_rlnMicrographName #1 
_rlnOpticsGroup #2 
_rlnDefocusU #3 
"""  # noqa: W291


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A RELION project with three micrographs of 1.5 Å."""
    for name in "abc":
        micrograph(tmp_path / "MotionCorr" / "job002" / "Movies" / f"{name}.mrc")
    return tmp_path


def star(project: Path, text: str, rows: list[str]) -> Path:
    path = project / "CtfFind" / "job003" / "micrographs_ctf.star"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n".join(rows) + "\n\n")
    return path


def rows_of(name: str = "MotionCorr/job002/Movies/{}.mrc", groups: str = "112") -> list[str]:
    return [f"{name.format(n)} {group} 14210.3" for n, group in zip("abc", groups, strict=True)]


@pytest.mark.parametrize("inside", [True, False])
def test_names_in_star_files_begin_in_the_project_folder(project, monkeypatch, inside, tmp_path_factory):
    path = star(project, OPTICS.format(1.5, 1.5), rows_of())
    monkeypatch.chdir(project if inside else tmp_path_factory.mktemp("elsewhere"))
    found = find_micrographs([path.relative_to(project) if inside else path])
    assert names(found) == ["a", "b", "c"]
    assert found.warnings == ()
    assert read_image(found.micrographs[0]).shape == SHAPE


def test_pixel_size_of_the_optics_group_overrules_the_header_and_is_overruled(project):
    path = star(project, OPTICS.format(1.5, 3.0), rows_of())
    found = find_micrographs([path])
    assert [m.pixel_size_angstrom for m in found.micrographs] == [1.5, 1.5, 3.0]
    assert found.warnings == ("c: pixel sizes disagree: STAR 3 Å, header 1.5 Å; 3 Å is used.",)
    found = find_micrographs([path], pixel_size_angstrom=2.0)
    assert {m.pixel_size_angstrom for m in found.micrographs} == {2.0}
    assert "c: pixel sizes disagree: option 2 Å, STAR 3 Å, header 1.5 Å; 2 Å is used." in found.warnings


def test_a_folder_beside_the_star_file_does_not_hide_its_pixel_size(project):
    path = star(project, OPTICS.format(3.0, 3.0), rows_of())
    for sources in ([path, project / "MotionCorr/job002/Movies"], [project / "MotionCorr/job002/Movies", path]):
        assert {m.pixel_size_angstrom for m in find_micrographs(sources).micrographs} == {3.0}


def test_star_of_relion_3_0(project):
    text = "\ndata_\n\nloop_\n_rlnMicrographName #1\n_rlnDetectorPixelSize #2\n_rlnMagnification #3\n"
    path = star(project, text, [f"MotionCorr/job002/Movies/{n}.mrc 5.0 20000.0" for n in "ab"])
    assert [m.pixel_size_angstrom for m in find_micrographs([path]).micrographs] == [2.5, 2.5]


def test_particles_name_each_micrograph_many_times(project):
    text = "\ndata_particles\n\nloop_\n_rlnCoordinateX #1\n_rlnMicrographName #2\n"
    rows = [f"{x} MotionCorr/job002/Movies/{n}.mrc" for x in range(5) for n in "ab"]
    assert names(find_micrographs([star(project, text, rows)])) == ["a", "b"]


def test_a_missing_micrograph_of_a_star_file_is_a_failure(project):
    (project / "MotionCorr/job002/Movies/b.mrc").unlink()
    found = find_micrographs([star(project, OPTICS.format(1.5, 1.5), rows_of())])
    assert names(found) == ["a", "c"]
    assert [str(f.path) for f in found.failures] == ["MotionCorr/job002/Movies/b.mrc"]


@pytest.mark.parametrize("sizes", [(1.5, 0.0), (1.5, -2.0)])
def test_absurd_pixel_sizes_of_star_files_are_refused(project, sizes):
    with pytest.raises(InputError, match=r"micrographs_ctf\.star.* expected > 0 Å"):
        find_micrographs([star(project, OPTICS.format(*sizes), rows_of())])


def test_an_optics_group_that_is_not_there_is_refused(project):
    with pytest.raises(InputError, match=r"pixel size of .*c\.mrc is missing from data_optics"):
        find_micrographs([star(project, OPTICS.format(1.5, 1.5), rows_of(groups="113"))])


def test_a_star_file_without_micrographs_is_refused(project):
    with pytest.raises(InputError, match="_rlnMicrographName is missing or without rows"):
        find_micrographs([star(project, "\ndata_\n\nloop_\n_rlnCoordinateX #1\n", ["3.0"])])


# --- the diameter ---


def test_angstroms_become_pixels_once(mics):
    collection = collect([mics], diameter_angstrom=30.0).collection
    assert collection.diameter_px == 20.0
    assert collection.picks == {}
    assert collection.split is None
    assert collect([mics], diameter_angstrom=30.0, pixel_size_angstrom=3.0).collection.diameter_px == 10.0
    assert collect([mics], diameter_px=30.0, pixel_size_angstrom=3.0).collection.diameter_px == 30.0


@pytest.mark.parametrize(("given", "found"), [({}, "missing"), ({"px": 9.0, "angstrom": 9.0}, "given twice")])
def test_exactly_one_diameter(mics, given, found):
    with pytest.raises(InputError, match=f"diameter is {found}; expected diameter_px or diameter_angstrom"):
        collect([mics], **{f"diameter_{unit}": value for unit, value in given.items()})


def test_angstroms_without_a_pixel_size_name_the_file_and_the_option(tmp_path):
    picture(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"a\.png: pixel size is not known.*Give pixel_size_angstrom, or diameter_px"):
        collect([tmp_path], diameter_angstrom=30.0)
    assert collect([tmp_path], diameter_px=20.0).collection.micrographs[0].pixel_size_angstrom is None
    assert collect([tmp_path], diameter_angstrom=30.0, pixel_size_angstrom=3.0).collection.diameter_px == 10.0


@pytest.mark.parametrize("diameter", [0.0, -5.0, float("nan"), float("inf"), 1.0, 48.0, 4000.0])
def test_diameters_that_no_picture_can_hold(mics, diameter):
    with pytest.raises(InputError, match="diameter"):
        collect([mics], diameter_px=diameter)


def test_a_unit_mixed_up_is_seen_in_the_result(mics):
    with pytest.raises(InputError, match=r"diameter is 200 px; expected 2 to 48 px\. Check its unit"):
        collect([mics], diameter_angstrom=300.0)


@given(factor=st.floats(0.98, 1.02).filter(lambda f: abs(max(f, 1 / f) - 1.01) > 1e-4))
@settings(max_examples=20)
def test_pixel_sizes_within_one_per_cent_make_one_collection(tmp_path_factory, factor):
    folder = tmp_path_factory.mktemp("mics")
    for name, size in (("a", 2.0), ("b", 2.0 * factor)):
        micrograph(folder / f"{name}.mrc", size)
    if max(factor, 1 / factor) < 1.01:
        diameter = collect([folder], diameter_angstrom=40.0).collection.diameter_px
        assert diameter == pytest.approx(40 / (2 * (1 + factor) / 2), rel=1e-4)
    else:
        with pytest.raises(InputError, match=r"pixel size .*in a.*in b|pixel size .*in b.*in a"):
            collect([folder], diameter_angstrom=40.0)


def test_other_detectors_make_other_collections(mics):
    micrograph(mics / "z.mrc", shape=(96, 128))
    with pytest.raises(InputError, match=r"short side \(px\) is 48 in a, 96 in z;.*Make a collection for each size"):
        collect([mics], diameter_px=10.0)


def test_a_turned_detector_is_the_same_detector(mics):
    micrograph(mics / "z.mrc", shape=SHAPE[::-1])
    assert len(collect([mics], diameter_px=10.0).collection.micrographs) == 4


# --- labels ---


def test_labels_of_a_folder_are_joined_by_name(mics, tmp_path):
    points(tmp_path / "labels" / "a.csv", (1, 2), (3.5, 4))
    points(tmp_path / "labels" / "b.csv")
    got = collect([mics], tmp_path / "labels", diameter_px=10.0)
    picks = got.collection.picks
    assert sorted(picks) == ["a", "b"], "nobody looked at c"
    np.testing.assert_array_equal(picks["a"].xy, [[1, 2], [3.5, 4]])
    assert len(picks["b"]) == 0, "somebody looked at b and found nothing"
    assert got.warnings == ()
    assert got.collection.complete
    assert not collect([mics], tmp_path / "labels", diameter_px=10.0, complete=False).collection.complete


def test_labels_of_one_file_for_many(mics, tmp_path):
    path = points(tmp_path / "labels.csv", ("b.mrc,7", 8), ("a.mrc,1", 2), ("b.mrc,3", 4), header="micrograph,x,y")
    picks = collect([mics], str(path), diameter_px=10.0).collection.picks
    np.testing.assert_array_equal(picks["b"].xy, [[7, 8], [3, 4]])
    np.testing.assert_array_equal(picks["a"].xy, [[1, 2]])


def test_picks_serve_as_labels_from_their_threshold_on_with_score_one(mics, tmp_path):
    xy, score = np.array([[5.0, 6.0], [9.0, 9.0]]), np.array([0.9, 0.2])
    write_picks(tmp_path / "p.star", PickSet((Picks("a", xy, score),), threshold=0.5), counted_only=False)
    picks = collect([mics], tmp_path / "p.star", diameter_px=10.0).collection.picks["a"]
    np.testing.assert_array_equal(picks.xy, [[5, 6]])
    np.testing.assert_array_equal(picks.score, [1])


def test_options_reach_the_reader(mics, tmp_path):
    picks = PickSet((Picks("a", np.array([[20.0, 7.0]]), np.ones(1)),), shapes={"a": SHAPE})
    flip = FormatOptions(cs_y="flip")
    write_picks(tmp_path / "p.cs", picks, flip, counted_only=False)
    read = collect([mics], tmp_path / "p.cs", diameter_px=10.0, options=flip).collection.picks
    np.testing.assert_allclose(read["a"].xy, [[20, 7]], atol=1e-3)
    with pytest.raises(InputError, match="cs"):
        collect([mics], tmp_path / "p.cs", diameter_px=10.0)


def test_labels_of_other_micrographs_warn_if_some_fit_and_stop_if_none(mics, tmp_path):
    points(tmp_path / "labels" / "a.csv", (1, 2))
    points(tmp_path / "labels" / "mic_x.csv", (1, 2))
    points(tmp_path / "labels" / "mic_y.csv", (1, 2))
    (warning,) = collect([mics], tmp_path / "labels", diameter_px=10.0).warnings
    assert "mic_x and 1 more" in warning
    (tmp_path / "labels" / "a.csv").unlink()
    micrograph(mics / "mic_xx.mrc")
    with pytest.raises(InputError, match="micrographs is mic_x and 1 more; expected names of the data, such as mic_xx"):
        collect([mics], tmp_path / "labels", diameter_px=10.0)


def test_labels_of_a_damaged_micrograph_are_no_strangers(mics, tmp_path):
    (mics / "b.mrc").write_bytes(b"")
    for name in "ab":
        points(tmp_path / "labels" / f"{name}.csv", (1, 2))
    got = collect([mics], tmp_path / "labels", diameter_px=10.0)
    assert sorted(got.collection.picks) == ["a"]
    assert got.warnings == ()
    assert [f.path.name for f in got.failures] == ["b.mrc"]


@pytest.mark.parametrize(
    ("x", "y", "inside"),
    [(-0.5, 0, True), (-0.6, 0, False), (63.5, 47.5, True), (63.6, 0, False), (0, 47.6, False), (50, 47, True)],
)
def test_the_border_of_a_picture_is_half_a_pixel_around_its_centres(mics, tmp_path, x, y, inside):
    path = points(tmp_path / "a.csv", *[(5, 5)] * 9, (x, y))
    got = collect([mics], path, diameter_px=10.0)
    assert len(got.collection.picks["a"]) == 9 + inside
    assert bool(got.warnings) == (not inside)


def test_a_few_strays_are_left_out_and_told(mics, tmp_path):
    path = points(tmp_path / "a.csv", *[(5, 5)] * 297, *[(90, 5)] * 3)
    got = collect([mics], path, diameter_px=10.0)
    assert len(got.collection.picks["a"]) == 297
    assert got.warnings == (f"{path}: 3 of 300 labels are outside the picture and left out (a).",)


def test_more_than_a_few_are_another_frame(mics, tmp_path):
    path = points(tmp_path / "a.csv", *[(5, 5)] * 297, *[(90, 5)] * 4)
    with pytest.raises(InputError, match=r"labels \(a\.csv\) is 4 of 301 outside the picture, 4 of 301 on a; .* 1%"):
        collect([mics], path, diameter_px=10.0)


def test_one_file_in_another_frame_is_not_hidden_by_many_good_ones(mics, tmp_path):
    points(tmp_path / "labels" / "a.csv", *[(5, 5)] * 1000)
    points(tmp_path / "labels" / "b.csv", (300, 5), (5, 5), (200, 200))
    with pytest.raises(InputError, match=r"labels \(b\.csv\) is 2 of 1003 outside the picture, 2 of 3 on b"):
        collect([mics], tmp_path / "labels", diameter_px=10.0)


def test_labels_of_a_copy_of_another_size_are_refused(mics, tmp_path):
    picks = PickSet((Picks("a", np.ones((1, 2)), np.ones(1)),), shapes={"a": (480, 640)})
    write_picks(tmp_path / "p.star", picks, counted_only=False)
    with pytest.raises(InputError, match="another copy of the micrograph"):
        collect([mics], tmp_path / "p.star", diameter_px=10.0)
    write_picks(tmp_path / "q.star", PickSet(picks.picks, shapes={"a": SHAPE}), counted_only=False)
    assert collect([mics], tmp_path / "q.star", diameter_px=10.0).warnings == ()


def test_a_diameter_that_the_labels_contradict_is_told(mics, tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("X-Coordinate,Y-Coordinate,Diameter\n5,5,30\n9,9,30\n")
    assert "the labels say 30 px, but 10 px is the diameter" in collect([mics], path, diameter_px=10.0).warnings[0]
    assert collect([mics], path, diameter_px=29.0).warnings == ()


def test_a_label_file_that_cannot_be_read_is_an_error_with_its_line(mics, tmp_path):
    path = points(tmp_path / "a.csv", (1, 2), ("oops", 2))
    with pytest.raises(InputError, match=r"a\.csv:3"):
        collect([mics], path, diameter_px=10.0)


def test_collected_mappings_cannot_be_changed(mics, tmp_path):
    picks = collect([mics], points(tmp_path / "a.csv", (1, 2)), diameter_px=10.0).collection.picks
    with pytest.raises(TypeError):
        picks["b"] = picks["a"]


# --- train/val/test ---

LAYOUTS = {  # where the pictures of a part are, and where its labels
    "beside": ("{}", "{}"),
    **{kind: ("{}/images", f"{{}}/{kind}") for kind in ("coords", "coordinates", "annotations", "labels")},
    "labels above the pictures": ("{}/images", "{}"),
    "pictures above the labels": ("{}", "{}/labels"),
    "beside, under images": ("images/{}", "images/{}"),
    "apart": ("images/{}", "annotations/{}"),
    "labels in one folder": ("images/{}", "coords"),
}


def lay_out(root: Path, layout: str, words: tuple[str, str, str] = ("train", "val", "test")) -> Path:
    """Make a layout of 3 + 1 + 2 pictures, of which ``t2`` has no labels and ``t3`` has been searched in vain."""
    pictures, labels = LAYOUTS[layout]
    for word, members in zip(words, (("t1", "t2", "t3"), ("v1",), ("x1", "x2")), strict=True):
        for name in members:
            picture(root / pictures.format(word) / f"{name}.png")
            if name != "t2":
                points(root / labels.format(word) / f"{name}.csv", *([] if name == "t3" else [(3, 4), (5, 6)]))
    return root


@pytest.mark.parametrize(
    "words", [("train", "val", "test"), ("train", "valid", "test"), ("train", "validation", "test")]
)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_split_layouts(tmp_path, layout, words):
    root = lay_out(tmp_path / "data", layout, words)
    assert is_split_layout(root)
    got = collect([root], diameter_px=10.0)
    collection = got.collection
    assert collection.split == Split(("t1", "t3"), ("t2",), ("v1",), ("x1", "x2"))
    assert sorted(collection.picks) == ["t1", "t3", "v1", "x1", "x2"]
    assert len(collection.picks["t3"]) == 0
    np.testing.assert_array_equal(collection.picks["x2"].xy, [[3, 4], [5, 6]])
    assert names(collection) == ["t1", "t2", "t3", "v1", "x1", "x2"]
    assert (got.warnings, got.failures) == ((), ())
    assert collection.complete
    assert not collect([root], diameter_px=10.0, complete=False).collection.complete


def test_split_layout_by_relative_paths(tmp_path, monkeypatch):
    lay_out(tmp_path / "data", "coords")
    monkeypatch.chdir(tmp_path / "data")
    assert collect_split(".", diameter_px=10.0).collection.split.validation == ("v1",)
    monkeypatch.chdir(tmp_path)
    assert collect_split("./data/../data", diameter_px=10.0).collection.split.validation == ("v1",)


def test_a_test_set_may_be_missing_but_not_everything(tmp_path):
    root = lay_out(tmp_path / "data", "beside")
    shutil.rmtree(root / "test")
    assert collect([root], diameter_px=10.0).collection.split.test == ()
    shutil.rmtree(root / "val")
    assert not is_split_layout(root)
    assert not is_split_layout(tmp_path / "gone")
    assert not is_split_layout("n" * 300)
    assert not is_split_layout(root / "train" / "t1.png")


def test_empty_folders_make_no_layout(tmp_path):
    for word in ("train", "val", "test"):
        (tmp_path / word).mkdir()
    assert not is_split_layout(tmp_path)


def test_unlabelled_pictures_of_val_and_test_are_told_and_left_out(tmp_path):
    root = lay_out(tmp_path / "data", "coords")
    (root / "test" / "coords" / "x1.csv").unlink()
    got = collect([root], diameter_px=10.0)
    assert got.collection.split.test == ("x2",)
    assert got.warnings == (f"x1: no labels in {root}, so no part in validation or test.",)


def test_labels_without_a_picture_are_told(tmp_path):
    root = lay_out(tmp_path / "data", "coords")
    points(root / "train" / "coords" / "ghost.csv", (1, 2))
    (warning,) = collect([root], diameter_px=10.0).warnings
    assert "ghost" in warning


def test_a_layout_without_any_labels_is_an_error(tmp_path):
    root = lay_out(tmp_path / "data", "coords")
    for path in root.rglob("*.csv"):
        path.unlink()
    with pytest.raises(InputError, match="labels is none; expected a CSV file for each, beside it or in coords"):
        collect([root], diameter_px=10.0)


def test_one_picture_in_two_parts_would_leak(tmp_path):
    root = lay_out(tmp_path / "data", "coords")
    shutil.copy(root / "train/images/t1.png", root / "test/images/t1.png")
    with pytest.raises(InputError, match="name is t1, as of"):
        collect([root], diameter_px=10.0)


def test_a_table_of_many_in_place_of_the_table_of_one(tmp_path):
    root = lay_out(tmp_path / "data", "coords")
    points(root / "train/coords/t1.csv", ("t1.png,1", 2), ("t2.png,3", 4), header="micrograph,x,y")
    with pytest.raises(InputError, match=r"t1\.csv: micrograph is t2; expected t1"):
        collect([root], diameter_px=10.0)


def test_a_damaged_picture_of_a_layout_is_a_failure(tmp_path):
    root = lay_out(tmp_path / "data", "coords")
    (root / "train/images/t1.png").write_bytes(b"")
    got = collect([root], diameter_px=10.0)
    assert got.collection.split.labelled == ("t3",)
    assert [f.path.name for f in got.failures] == ["t1.png"]


def test_labels_given_apart_win_over_the_layout(tmp_path):
    root = lay_out(tmp_path / "data", "beside")
    with pytest.raises(InputError, match="To search sub-folders"):
        collect([root], points(tmp_path / "t1.csv", (1, 2)), diameter_px=10.0)


# --- real data ---


@pytest.mark.data
@pytest.mark.parametrize("name", ["bgal_10017", "cryoppp_10059", "cryoppp_10947", "klh", "apoferritin_foilhole"])
def test_real_sets_join_without_a_warning_by_folder_and_by_star(real_data, name):
    folder = real_data / name
    by_folder = collect([folder / "images"], folder / "coords", diameter_px=30.0)
    by_star = collect([str(folder / "images" / "*.png")], folder / f"{name}.star", diameter_px=30.0)
    assert by_folder.warnings == by_star.warnings == ()
    assert sorted(by_folder.collection.picks) == sorted(by_star.collection.picks) == names(by_folder.collection)
    for micrograph_, picks in by_star.collection.picks.items():
        np.testing.assert_allclose(by_folder.collection.picks[micrograph_].xy, picks.xy, atol=0.01)


@pytest.mark.data
def test_the_pixel_size_of_a_real_stale_header_has_to_be_given(real_data):
    path = real_data / "mrc_samples" / "apoferritin_24dec03a_ds8.mrc"
    with pytest.raises(InputError, match="Give pixel_size_angstrom"):
        collect([path], diameter_angstrom=130.0)
    got = collect([path], diameter_angstrom=130.0, pixel_size_angstrom=6.32)
    assert got.collection.diameter_px == pytest.approx(20.6, abs=0.1)
    assert "option 6.32 Å, header 0.79 Å" in got.warnings[0]
