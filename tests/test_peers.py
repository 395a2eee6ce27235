"""The comparison with Topaz: coordinates, labels, thresholds and rows are what they are said to be. No Topaz needed."""

import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow
from scipy.signal import resample

from verglas.io._base import write_text
from verglas.types import Picks, PickSet

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def _loaded(*names: str) -> list[ModuleType]:
    sys.path[:0] = [str(BENCHMARKS / "peers"), str(BENCHMARKS)]
    try:
        return [importlib.import_module(name) for name in names]
    finally:
        del sys.path[:2]


install, material, topaz, pickers, compare, semi = _loaded(
    "install", "material", "topaz", "pickers", "compare", "semi"
)  # fmt: skip


def _labels(*counts: int, complete: bool = True, particles: int | None = None) -> Any:
    rng = np.random.default_rng(0)
    parts = tuple(Picks(f"m{at}", rng.uniform(0, 99, (n, 2)), np.ones(n)) for at, n in enumerate(counts))
    return material.Labels(PickSet(parts), complete, sum(counts) if particles is None else particles)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data set of six small pictures, two of them for testing."""
    rng, folder = np.random.default_rng(1), tmp_path / "set"
    (folder / "images").mkdir(parents=True)
    for name in "abcdef":
        Pillow.fromarray(np.zeros((40, 50), np.uint8)).save(folder / "images" / f"{name}.png")
        rows = [f"{x:.2f},{y:.2f}" for x, y in rng.uniform(0, 39, (int(rng.integers(5, 20)), 2))]
        write_text(folder / "coords" / f"{name}.csv", "\n".join(["x,y", *rows, ""]))
    write_text(folder / "meta.json", json.dumps({"diameter_px": 6, "test": ["c", "f"]}))
    return folder


@pytest.mark.parametrize("factor", [1, 2, 3, 4])
def test_a_blob_in_the_shrunken_picture_is_found_where_it_was(factor: int, tmp_path: Path) -> None:
    x, y, (h, w) = 121.3, 101.8, (167, 158)
    rows, columns = np.mgrid[:h, :w]
    image = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 9.0**2))
    small = resample(resample(image, h // factor, axis=0), w // factor, axis=1)
    i, j = np.mgrid[: h // factor, : w // factor]
    weight = np.where(small > 0.05, small, 0)
    cx, cy = (weight * j).sum() / weight.sum(), (weight * i).sum() / weight.sum()
    write_text(tmp_path / "e.txt", f"image_name\tx_coord\ty_coord\tscore\nm\t{cx}\t{cy}\t1.5\n")
    picks = topaz.in_micrograph(tmp_path / "e.txt", {"m": (h, w)}, factor, 20.0, -6.0)
    np.testing.assert_allclose(picks.picks[0].xy, [[x, y]], atol=0.1)
    assert picks.picks[0].score == 1.5
    assert picks.threshold == -6
    assert picks.diameter_px == 20


def test_a_picture_without_picks_is_kept_and_one_that_was_not_asked_for_is_not(tmp_path: Path) -> None:
    write_text(tmp_path / "e.txt", "image_name\tx_coord\ty_coord\tscore\na\t3\t4\t0.5\na\t5\t9\t0.7\nz\t1\t1\t1\n")
    picks = topaz.in_micrograph(tmp_path / "e.txt", {"a": (30, 21), "b": (30, 21)}, 3, 9.0, None).by_name()
    assert {name: part.xy.tolist() for name, part in picks.items()} == {"a": [[9, 12], [15, 27]], "b": []}
    write_text(tmp_path / "e.txt", "image_name\tx_coord\ty_coord\tscore\n")
    assert len(topaz.in_micrograph(tmp_path / "e.txt", {"a": (30, 20)}, 3, 9.0, None).picks) == 1


def test_labels_given_to_topaz_come_back_within_half_a_shrunken_pixel(tmp_path: Path) -> None:
    labels, shapes = _labels(20, 7), {"m0": (203, 203), "m1": (200, 201)}
    text = topaz.target_text(labels.picks, shapes, 4)
    write_text(tmp_path / "t.txt", text)
    back = topaz.in_micrograph(tmp_path / "t.txt", shapes, 4, 9.0, None)
    assert len(text.splitlines()) == 28
    for before, after in zip(labels.picks, back, strict=True):
        assert np.abs(before.xy - after.xy).max() <= 2.04


def test_topaz_is_told_the_share_of_pixels_on_particles_whatever_it_counts_itself() -> None:
    complete = topaz.aims(_labels(30, 20), 10_000)
    assert complete == ["--method", "PN", "--pi", pytest.approx(29 * 50 / 10_000)]
    _, method, _, told = topaz.aims(_labels(10, complete=False, particles=40), 10_000)
    observed_by_topaz = 10 * 203 / 10_000
    assert method == "GE-binomial"
    assert told - observed_by_topaz == pytest.approx(29 * 30 / 10_000)


def test_half_a_diameter_and_the_scales_tried_follow_from_the_diameter(tmp_path: Path) -> None:
    assert topaz.Topaz(tmp_path, 2, 27.0, 1, tmp_path).radius == 7
    assert pickers.factors(27.0) == [1, 2, 3]
    assert pickers.factors(84.0) == [3, 4, 6, 9]


def test_a_program_that_fails_says_why_and_one_that_ends_says_what_it_cost(tmp_path: Path) -> None:
    cost = topaz.run([sys.executable, "-c", "x = b'1' * (80 << 20)"], {}, tmp_path / "log")
    assert cost.peak_mib > 80
    assert cost.cpu_seconds > 0
    assert cost.seconds > 0
    with pytest.raises(RuntimeError, match="no such particle"):
        topaz.run([sys.executable, "-c", "raise SystemExit('no such particle')"], {}, tmp_path / "log")
    both = topaz.Cost(1, 2, 30) + topaz.Cost(10, 20, 3)
    assert both == topaz.Cost(11, 22, 30)


def test_an_environment_without_topaz_has_no_version(tmp_path: Path) -> None:
    assert install.version(tmp_path) == ""
    write_text(tmp_path / "bin" / "topaz", f"#!{sys.executable}\nprint('TOPAZ 0.3.20')\n")
    (tmp_path / "bin" / "topaz").chmod(0o755)
    assert install.version(tmp_path) == "0.3.20"


@pytest.mark.parametrize(("amount", "cell"), [("2", {"labelled": 2}), ("30c", {"clicks": 30}), ("9c", {"clicks": 9})])
@pytest.mark.parametrize("draw", [0, 2])
def test_labels_are_those_of_the_semi_supervised_benchmark(
    amount: str, cell: dict[str, Any], draw: int, data: Path
) -> None:
    given = material.Material.open(data)
    labels = given.labels(amount, draw)
    count = cell.get("labelled", semi.CLICKED)
    theirs = data.parent / "labels"
    semi._write_labels(data / "coords", theirs, given.order(draw)[:count], cell | {"draw": draw, "algorithm": "pu"})
    material.write_labels(data.parent / "ours", labels.picks)
    assert {path.name for path in theirs.iterdir()} == {path.name for path in (data.parent / "ours").iterdir()}
    for part in labels.picks:
        want = np.loadtxt(theirs / f"{part.micrograph}.csv", delimiter=",", skiprows=1, ndmin=2)
        got = np.loadtxt(data.parent / "ours" / f"{part.micrograph}.csv", delimiter=",", skiprows=1, ndmin=2)
        np.testing.assert_allclose(np.sort(got[:, :2], 0), np.sort(want, 0))
    assert labels.particles == sum(len(given.truth[name]) for name in labels.names)
    assert not set(labels.names) & set(given.test)


def test_simulated_micrographs_are_made_once_and_some_hold_no_particle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(material, "SCENE", replace(material.SCENE, shape_px=(96, 96), particles=4.0))
    folder = material.simulated(tmp_path / "s")
    made = material.Material.open(folder)
    empty = [name for name in made.test if name.startswith("empty")]
    assert len(empty) == material.EMPTY
    assert sum(len(made.truth_of([name])) for name in empty) == 0
    assert len(made.order(0)) == material.LABELLED
    assert len(made.truth_of(made.order(0))) > 0
    before = (folder / "meta.json").stat().st_mtime_ns
    assert material.simulated(folder) == folder
    assert (folder / "meta.json").stat().st_mtime_ns == before


def test_the_threshold_is_the_best_f1_of_complete_labels_and_the_expected_number_for_clicks() -> None:
    labels = _labels(10)
    right = labels.picks.picks[0].xy
    found = PickSet((Picks("m0", np.concatenate([right, right + 500]), np.r_[np.full(10, 3.0), np.full(10, -2.0)]),))
    assert -2 < pickers.chosen_threshold(found, labels, 8.0) <= 3
    clicked = replace(labels, complete=False, particles=12)
    counted = found.picks[0].above(pickers.chosen_threshold(found, clicked, 8.0))
    assert len(counted) == 20  # the twelfth of twenty shares its score with the rest
    assert pickers.chosen_threshold(found, replace(clicked, particles=10), 8.0) == 3
    assert pickers.chosen_threshold(found, replace(clicked, particles=99), 8.0) == -2
    nothing = PickSet((found.picks[0].above(9.0),))
    for given in (labels, clicked):
        assert pickers.chosen_threshold(nothing, given, 8.0) == topaz.DEFAULT_THRESHOLD


def test_a_shift_of_all_picks_is_reported(data: Path) -> None:
    given = material.Material.open(data)
    spread_out = replace(given, truth={name: Picks(name, np.array([[5.0, 5], [30, 20]]), np.ones(2)) for name in "cf"})
    shifted = PickSet(tuple(replace(part, xy=np.add(part.xy, (0.5, -1.0))) for part in spread_out.truth.values()))
    assert compare.offset_px(shifted, spread_out) == [0.5, -1.0]


def test_the_margin_is_that_of_labels_and_picks_in_it_are_left_out(data: Path) -> None:
    given = replace(material.Material.open(data), diameter_px=8.0)
    x, y = np.meshgrid(np.arange(8.5, 42), np.arange(8.5, 32))
    inner = Picks("a", np.column_stack([x.ravel(), y.ravel()]), np.ones(x.size))
    labels = material.Labels(PickSet((inner,)), True, len(inner))
    shapes = given.shapes(["a"])
    assert labels.margin_px(shapes, given.diameter_px) == 8
    assert replace(labels, complete=False).margin_px(shapes, given.diameter_px) < 8
    xy = np.array([[7.4, 20.0], [7.5, 20.0], [41.5, 20], [41.6, 20], [20, 7.4], [20, 31.6]])
    kept = pickers.kept_from_border(PickSet((Picks("a", xy, np.ones(6)),), shapes=shapes), 8.0)
    assert kept.picks[0].xy.tolist() == [[7.5, 20.0], [41.5, 20.0]]
    assert kept.shapes == shapes


def test_picks_without_the_margin_are_scored_beside_all(data: Path, tmp_path: Path) -> None:
    given, shapes = material.Material.open(data), dict.fromkeys("cf", (40, 50))
    every = [given.truth[name] for name in "cf"]
    stray = [Picks(part.micrograph, np.array([[0.0, 39.0]]), np.full(1, 9.0)) for part in every]
    both = PickSet(
        tuple(
            replace(part, xy=np.concatenate([part.xy, more.xy]), score=np.r_[part.score, more.score])
            for part, more in zip(every, stray, strict=True)
        ),
        0.5, diameter_px=6.0, shapes=shapes,
    )  # fmt: skip
    cost = topaz.Cost()
    inside = pickers.kept_from_border(both, 2.0)
    figures = compare.scored(pickers.Outcome(both, cost, cost, inside=inside, margin_px=2.0), given, tmp_path)
    assert figures["n_picks"] == len(both)
    assert figures["inside"]["n_picks"] == len(inside) < len(both)
    assert figures["margin_px"] == 2
    assert compare.scored(pickers.Outcome(both, cost, cost), given, tmp_path)["inside"] is None


def test_picks_far_from_every_label_are_counted_and_so_is_the_area_where_they_may_be(data: Path) -> None:
    given = replace(material.Material.open(data), diameter_px=8.0)
    truth = {name: Picks(name, np.array([[20.0, 20]]), np.ones(1)) for name in given.test}
    told = replace(given, truth=truth)
    xy = np.array([[20.0, 20], [20, 27], [20, 29], [35, 35]])
    found = PickSet(tuple(Picks(name, xy, np.array([0.9, 0.8, 0.7, 0.1])) for name in given.test))
    assert compare.away_from_labels(found, None, told)["away_picks"] == 2 * len(given.test)
    away = compare.away_from_labels(found, 0.5, told)
    assert away["away_picks"] == len(given.test)
    whole = sum(height * width for height, width in given.shapes(list(given.test)).values())
    near = sum(x * x + y * y <= 64 for x in range(-8, 9) for y in range(-8, 9))
    assert away["away_areas"] * 1024**2 == whole - near * len(given.test)
    rows = [{"set": "klh", "labels": "0", "method": "verglas general", "ran": "general", "others": {}, **away}]
    assert f"| {len(given.test) / away['away_areas']:.1f} |" in list(compare.away_table(rows))[-1]


def _cells(*arguments: str) -> list[dict[str, Any]]:
    return list(compare._cells(compare._options([*arguments])))


def test_each_picker_is_asked_with_the_labels_that_go_with_it() -> None:
    cells = _cells("--sets", "klh")
    assert len({compare._key(cell) for cell in cells}) == len(cells)
    asked = {(cell["method"], cell["labels"]) for cell in cells}
    assert [(cell["labels"], cell["draw"]) for cell in cells if cell["method"] in compare.UNTAUGHT] == [("0", 0)] * 6
    assert {labels for method, labels in asked if method == "topaz"} == {"1", "2", "30c", "100c"}
    assert {labels for method, labels in asked if method == "verglas supervised"} == {"30c", "100c"}
    first, last = cells[0], cells[-1]
    assert first["method"] in pickers.DETECTORS
    assert last["method"] == "topaz from scratch"
    timed = _cells("--sets", "klh", "--timing")
    assert {(cell["method"], cell["labels"], cell["draw"]) for cell in timed} == {
        *((method, "0", 0) for method in compare.UNTAUGHT), ("verglas", "1", 0),
        ("verglas thorough", "1", 0), ("topaz", "1", 0),
    }  # fmt: skip
    assert not {compare._key(cell) for cell in timed} & {compare._key(cell) for cell in cells}


def _row(cell: dict[str, Any], options: Any = None) -> dict[str, Any]:
    figures = {f"{key}@{radius}": 0.5 for radius in compare.RADII for key in compare.FIGURES}
    own = figures | {"n_picks": 8, "n_labels": 10, "false_picks_on_empty": [1, 2] * (cell["set"] == "simulated")}
    cost = {"seconds": 8.0, "cpu_seconds": 4.0, "peak_mib": 100.0}
    told = {"factor": 3} if "verglas" not in cell["method"] else {"ran": "supervised"}
    return {
        "key": compare._key(cell), **cell, **own, **told, "others": {"0": own} if cell["labels"] == "0" else {},
        "train": cost, "pick": cost, "picked": 4, "load": 0.1, "offset_px": [0, 0], "date": "2026-01-01",
    }  # fmt: skip


def test_a_row_that_is_there_is_not_made_again_and_tables_show_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made: list[str] = []
    monkeypatch.setattr(compare, "RESULTS", tmp_path / "peers.jsonl")
    monkeypatch.setattr(compare, "_row", lambda cell, options: made.append(compare._key(cell)) or _row(cell))
    for draws in ("0", "0,1"):
        monkeypatch.setattr(sys, "argv", ["compare", "--sets", "klh,simulated", "--draws", draws])
        compare.main()
    assert len(made) == len(set(made)) == len(_cells("--sets", "klh,simulated", "--draws", "0,1"))
    assert "| klh | 1 | verglas (supervised) | 2 |" in capsys.readouterr().out
    quality, control = compare.tables([]), compare.tables(["--control"])
    assert "... at 0" in "\n".join(quality)
    assert "without the margin" not in "\n".join(quality)
    rows = [row | {"inside": dict.fromkeys(row, 0.25)} for row in compare._rows() if row["method"] == "topaz"]
    (within,) = {text for text in compare.quality_table(rows) if text.startswith("| klh | 1 | ... without the margin")}
    assert within.split(" | ")[3:10] == ["2", *["0.250 (0.250-0.250)"] * 6]
    trained = next(text for text in quality if text.startswith("| klh | 1 | topaz, 1/3, 400 updates | 2 |"))
    assert "| 4 (1.0x ours) |" in trained
    monkeypatch.setattr(sys, "argv", ["compare", "--sets", "klh", "--methods", "topaz", "--updates", "800"])
    compare.main()
    longer = [text for text in compare.tables(["--methods", "topaz,verglas"]) if text.startswith("| klh | 1 | topaz")]
    assert [text.split(" | ")[2:4] for text in longer] == [
        ["topaz, 1/3, 400 updates", "2"],
        ["topaz, 1/3, 800 updates", "3"],
    ]
    assert "| 0 | topaz resnet8_u32, 1/3 | 0 | 1.5 | 2 | 0.500 | 0.500 |" in control
    assert not any("klh" in text for text in control)
    for table in (quality, control):
        assert len({text.count("|") for text in table if text.startswith("|")}) == 1


def test_the_clock_of_a_further_micrograph_is_that_of_many_less_that_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare, "RESULTS", tmp_path / "peers.jsonl")
    rows = []
    for cell in _cells("--sets", "klh", "--timing"):
        row = _row(cell) | {"picked": 16, "threads": 2}
        one, many = (4, 34) if cell["method"] == "resnet8_u32" else (2, 5)
        rows.append(row | {"first": row["pick"] | {"seconds": one}, "pick": row["pick"] | {"seconds": many}})
    write_text(tmp_path / "peers.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    table = list(compare.tables(["--timing"]))
    assert "| 4.0 | 2.000 | 10.0 |" in next(text for text in table if "resnet8_u32" in text)
    assert "| 2.0 | 0.200 | 1.0 |" in next(text for text in table if "| 0 | verglas general" in text)


def test_a_scale_chosen_before_is_taken_up_but_a_detector_chooses_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare, "RESULTS", tmp_path / "peers.jsonl")
    detector, *_ = _cells("--sets", "klh", "--methods", pickers.START)
    learner, *_ = _cells("--sets", "klh", "--methods", "topaz", "--labels", "1")
    assert compare._factor(learner) is None
    write_text(tmp_path / "peers.jsonl", json.dumps(_row(detector)) + "\n")
    assert compare._factor(learner) == 3
    assert compare._factor(detector) is None
    assert compare._factor(detector | {"timing": True}) == 3
