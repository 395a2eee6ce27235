"""Write, read: what comes back is what went in, for picks, names and texts that no example thought of."""

import string
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verglas.io._base import FormatOptions, PicksFormat, micrograph_name
from verglas.io.picks import FORMATS, format_named, read_picks, relion_folder, write_picks
from verglas.io.star import Block, format_star, read_star
from verglas.types import Picks, PickSet

few = settings(max_examples=40, deadline=None)
coordinate = st.floats(-5000, 40_000, width=32)
score = st.floats(0, 1, width=32)
names = st.text(string.ascii_letters + string.digits + "-_. '#;\"é", min_size=1, max_size=12).filter(
    lambda name: (
        name == name.strip() and name[0] != "." and micrograph_name(name + ".box") == micrograph_name(name) == name
    )
)
words = st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=12)


Drawn = dict[str, tuple[list[tuple[float, float, float]], tuple[int, int]]]
rows = st.lists(st.tuples(coordinate, coordinate, score), max_size=5)
sizes = st.tuples(st.integers(16, 9000), st.integers(16, 9000))
tables = st.dictionaries(names, st.tuples(rows, sizes), min_size=1, max_size=4)


def made(drawn: Drawn) -> PickSet:
    """Build the picks outside the strategy: type checks draw at random, which hypothesis forbids in one."""
    arrays = {name: np.array(rows, float).reshape(-1, 3) for name, (rows, _) in drawn.items()}
    parts = tuple(Picks(name, array[:, :2], array[:, 2]) for name, array in arrays.items())
    return PickSet(parts, shapes={name: size for name, (_, size) in drawn.items()})


@few
@given(drawn=tables, box_px=st.integers(1, 600), way=st.sampled_from(["asis", "flip"]))
@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_positions_and_scores_return(form: PicksFormat, drawn: Drawn, box_px: int, way: str) -> None:
    picks = made(drawn)
    options = FormatOptions(box_px, "flip" if way == "flip" else "asis")
    with TemporaryDirectory() as folder:
        path = Path(folder) / (f"all{form.suffixes[0]}" if form.many else "new")
        write_picks(path, picks, options, counted_only=False, format_name=form.name)
        found = read_picks(path, options).by_name()
    assert set(found) <= {part.micrograph for part in picks}
    for part in picks:
        back = found.get(part.micrograph, part.where(np.zeros(len(part), bool)))
        # a fraction in 32 bits resolves less, the further outside the micrograph
        loss = np.abs(part.xy).max(initial=0) * 1e-6 if form.name == "cryosparc" else 1e-9
        assert back.xy.shape == part.xy.shape
        assert np.abs(back.xy - part.xy).max(initial=0) <= form.precision_px + loss
        np.testing.assert_allclose(back.score, part.score if form.keeps_score else 1.0, atol=1e-6)


@few
@given(
    drawn=tables,
    threshold=st.none() | score,
    how=words,
    diameter_px=st.none() | st.floats(1, 1000),
    pixel_size=st.none() | st.floats(0.1, 20),
)
def test_a_pick_file_returns_all_it_was_given(
    drawn: Drawn, threshold: float | None, how: str, diameter_px: float | None, pixel_size: float | None
) -> None:
    picks = made(drawn)
    given_ = replace(
        picks, threshold=threshold, threshold_how=how, diameter_px=diameter_px, pixel_size_angstrom=pixel_size
    )
    with TemporaryDirectory() as folder:
        write_picks(Path(folder) / "p.star", given_, counted_only=False)
        found = read_picks(Path(folder) / "p.star")
        write_picks(Path(folder) / "q.star", found, counted_only=False)
        assert (Path(folder) / "p.star").read_bytes() == (Path(folder) / "q.star").read_bytes()
    assert [(p.micrograph, len(p)) for p in found] == [(p.micrograph, len(p)) for p in picks]
    assert dict(found.shapes) == dict(picks.shapes)
    assert found.threshold_how == " ".join(how.replace('"', "'").split())
    for name in ("threshold", "diameter_px", "pixel_size_angstrom"):
        assert getattr(found, name) == pytest.approx(getattr(given_, name), abs=5.1e-7)


@few
@given(
    table=st.integers(1, 4).flatmap(
        lambda width: st.lists(st.lists(words, min_size=width, max_size=width), max_size=5)
    ),
    pairs=st.dictionaries(st.sampled_from(["_rlnA", "_rlnB#", "_c"]), words),
)
def test_any_text_survives_a_star_file(table: list[list[str]], pairs: dict[str, str]) -> None:
    def writable(text: str) -> bool:
        return not (text.rstrip().endswith(('"', "'")) or '" ' in text or "' " in text)

    table = [[cell if writable(cell) else "x" for cell in row] for row in table]
    pairs = {label: value if writable(value) else "x" for label, value in pairs.items()}
    columns = {f"_rln{at}": list(column) for at, column in enumerate(zip(*table, strict=True))}
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.star"
        path.write_text(format_star([Block("one", pairs), Block("two", columns=columns)]), encoding="utf-8")
        one, two = read_star(path).values()
    assert one.pairs == pairs
    assert two.columns == columns
    assert len(two.lines) == len(table)


@few
@given(centre=st.integers(-100, 100), side=st.integers(1, 99))
def test_a_box_of_any_side_returns_whole_pixels_exactly(centre: int, side: int) -> None:
    """Half a box forgotten, or an odd one rounded to the wrong side, would show."""
    with TemporaryDirectory() as folder:
        picks = PickSet((Picks("m", np.full((1, 2), float(centre)), np.ones(1)),))
        for suffix in (".box", ".cbox"):
            write_picks(Path(folder) / f"m{suffix}", picks, FormatOptions(side), counted_only=False)
            assert read_picks(Path(folder) / f"m{suffix}").picks[0].xy.tolist() == [[centre, centre]]
        x, y, width, height = map(int, (Path(folder) / "m.box").read_text().split())
    assert (width, height) == (side, side)
    # the pixels covered are symmetric about the centre, or as nearly as an even number can be
    assert centre - x in ((side - 1) // 2, side // 2)
    assert x == y


@few
@given(drawn=tables)
def test_relion_gets_every_pick_that_is_inside_once(drawn: Drawn) -> None:
    picks = made(drawn)
    with TemporaryDirectory() as folder:
        dropped = relion_folder(Path(folder), picks)
        for part in picks:
            height, width = picks.shapes[part.micrograph]
            (found,) = read_picks(Path(folder) / f"{part.micrograph}_verglas.star").picks
            whole = np.floor(part.xy + 0.5)
            inside = (whole >= 0).all(axis=1) & (whole[:, 0] < width) & (whole[:, 1] < height)
            np.testing.assert_array_equal(found.xy, whole[inside])
            assert dropped.get(part.micrograph, 0) == len(part) - len(found)
            # what RELION truncates is what was meant
            np.testing.assert_array_equal(np.trunc(found.xy), found.xy)
            assert np.abs(found.xy - part.xy[inside]).max(initial=0) <= 0.5


@few
@given(positions=st.lists(st.sampled_from([(1.0, 2.0), (1.0, 2.5), (3.0, 4.0)]), max_size=12))
def test_numbers_of_cryosparc_picks_are_unique_and_stable(positions: list[tuple[float, float]]) -> None:
    xy = np.array(positions, float).reshape(-1, 2)
    picks = PickSet((Picks("m", xy, np.ones(len(xy)), "a"),), shapes={"m": (10, 10)})
    with TemporaryDirectory() as folder:
        written = []
        for path in (Path(folder) / "a.cs", Path(folder) / "b.cs"):
            format_named("cryosparc").write(path, picks, FormatOptions(cs_y="asis"))
            written.append(np.load(path, allow_pickle=False)["uid"].tolist())
    assert written[0] == written[1]
    assert len(set(written[0]) - {0}) == len(positions)


@few
@given(drawn=tables, seed=st.integers(0, 99))
def test_the_order_of_the_files_in_a_folder_does_not_matter(drawn: Drawn, seed: int) -> None:
    picks = made(drawn)
    order = np.random.default_rng(seed).permutation(len(picks.picks))
    shuffled = replace(picks, picks=tuple(picks.picks[i] for i in order))
    found = []
    for one in (picks, shuffled):
        with TemporaryDirectory() as folder:
            write_picks(folder, one, FormatOptions(10), counted_only=False, format_name="box")
            found.append([(part.micrograph, part.xy.tolist()) for part in read_picks(folder)])
    assert found[0] == found[1]
