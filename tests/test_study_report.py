"""What a study says: every run once, means with honest intervals, and a page that needs nothing but its folder."""

import csv
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from verglas.errors import InputError
from verglas.study import Amount, Study
from verglas.study_report import Group, _least, collect, curves, spread, summed_up, write_results
from verglas.study_run import calibration_error

ROWS = {"supervised": {}, "mean_teacher": {"algorithm": {"name": "mean_teacher"}}}
AP = {("supervised", 0.1): [0.5, 0.6, 0.7], ("mean_teacher", 0.1): [0.55, 0.6, 0.8],
      ("supervised", 0.5): [0.8, 0.8, 0.8], ("mean_teacher", 0.5): [0.7, 0.8, 0.81]}  # fmt: skip


def result(ap: float, **changes: Any) -> dict[str, Any]:
    figures = {f"{key}@{radius}": ap for key in ("ap", "f1", "best_f1") for radius in ("0.5", "0.3")}
    figures |= {"pixel_skill": ap, "pixel_precision": ap, "pixel_recall": ap, "pixel_f1": ap}
    return {
        "figures": figures, "doctor": {"verdict": None, "cause": None}, "stages": [], "version": "1", "device": "cpu",
        "threads": 1, "test": {"seen_unlabelled": False}, "labels": {"digest": str(ap)}, **changes,
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a study whose twelve runs have ended."""
    study = Study.of({"data": {"toy": {"diameter_px": 9.0}}, "rows": ROWS, "ratios": [0.1, 0.5]}, "here")
    study.save(tmp_path / "study.toml")
    cells = []
    for _, row, amount, seed in study.cells():
        key = f"{row}{amount.value}{seed}"
        cells.append({"data": "toy", "row": row, "kind": "ratio", "value": amount.value, "seed": seed, "key": key})
        write(tmp_path / "runs" / key / "result.json", result(AP[row, amount.value][seed]))
    write(tmp_path / "cells.json", {"cells": cells})
    return tmp_path


def write(path: Path, values: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))


def test_a_missing_run_is_refused_or_shown_as_a_gap(folder: Path) -> None:
    (folder / "runs" / "mean_teacher0.51" / "result.json").unlink()
    with pytest.raises(InputError, match=r"runs without result is toy mean_teacher ratio_0.5 1;"):
        write_results(folder)
    assert not (folder / "summary.json").exists()
    assert write_results(folder, gaps=True)["groups_with_gaps"] == 1
    summary = json.loads((folder / "summary.json").read_text())
    (group,) = [g for g in summary["groups"] if g["runs"] == 2]
    assert summary["gaps"] == ["toy mean_teacher ratio_0.5"]
    assert group["gain"]["ap@0.5"]["n"] == 2
    assert "2 of 3 runs ended" in (folder / "study.html").read_text()


def test_a_place_with_two_runs_is_refused(folder: Path) -> None:
    listed = json.loads((folder / "cells.json").read_text())
    write(folder / "cells.json", {"cells": [*listed["cells"], listed["cells"][0] | {"key": "other"}]})
    with pytest.raises(InputError, match=r"toy supervised ratio_0\.1 0 is twice"):
        collect(folder, gaps=True)


def test_a_list_of_runs_that_is_not_that_of_the_study_is_refused(folder: Path) -> None:
    listed = json.loads((folder / "cells.json").read_text())
    write(folder / "cells.json", {"cells": listed["cells"][1:]})
    with pytest.raises(InputError, match=r"toy supervised ratio_0\.1 0 is not in both"):
        collect(folder, gaps=True)


def test_differences_are_taken_pair_by_pair_with_the_interval_of_a_paired_t_test(folder: Path) -> None:
    found = {(row["row"], row["value"]): row for row in summed_up(collect(folder))}
    for value in (0.1, 0.5):
        ours, theirs = AP["mean_teacher", value], AP["supervised", value]
        wanted = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
        gained = found["mean_teacher", value]["gain"]["ap@0.3"]
        np.testing.assert_allclose((gained["low"], gained["high"]), (wanted.low, wanted.high))
        assert gained["n"] == 3
        assert gained["mean"] == pytest.approx(np.mean(ours) - np.mean(theirs))
        assert found["supervised", value]["gain"] == {}


def test_a_pair_needs_both_seeds() -> None:
    def group(row: str, values: dict[int, float]) -> Group:
        runs = {seed: (f"{row}{seed}", result(value)) for seed, value in values.items()}
        return Group("toy", row, Amount("ratio", 0.1), 3, runs)

    rows = summed_up([group("a", {0: 0.1, 1: 0.2}), group("b", {1: 0.5, 2: 0.9})])
    assert rows[1]["gain"]["ap@0.5"] == pytest.approx(spread([0.3]), nan_ok=True)


def test_rows_that_share_their_runs_have_no_gain_and_the_page_says_so(folder: Path) -> None:
    listed = json.loads((folder / "cells.json").read_text())["cells"]
    for cell in listed:
        cell["key"] = cell["key"].replace("mean_teacher", "supervised")
    write(folder / "cells.json", {"cells": listed})
    write_results(folder)
    assert not any(row["gain"] for row in summed_up(collect(folder)))
    text = re.sub(r"\s+", " ", (folder / "study.html").read_text())
    assert "toy, 10 %, 50 %: supervised and mean_teacher come to the same settings, so the same runs." in text


def test_the_page_says_where_all_seeds_have_the_same_labels(folder: Path) -> None:
    for path in (folder / "runs").glob("*0.5*/result.json"):
        write(path, json.loads(path.read_text()) | {"labels": {"digest": "all there are"}})
    write_results(folder)
    found = re.findall(r"toy, (\d+ %): all seeds have the same labels", (folder / "study.html").read_text())
    assert found == ["50 %"]


@pytest.mark.parametrize(("values", "n", "sd"), [([], 0, None), ([0.4], 1, None), ([0.4, 0.6], 2, 0.02**0.5)])
def test_few_values_claim_no_interval(values: list[float], n: int, sd: float | None) -> None:
    found = spread(values)
    assert (found["n"], found["sd"]) == (n, pytest.approx(sd))
    assert (found["low"] is None) == (n < 2)


def test_the_files_say_the_same(folder: Path) -> None:
    write_results(folder)
    groups = json.loads((folder / "summary.json").read_text())["groups"]
    lines = list(csv.DictReader((folder / "summary.csv").read_text().splitlines()))
    assert len(lines) == sum(len(group["figures"]) for group in groups)
    for group in groups:
        path = folder / "results" / "toy" / f"ssl_eval_{group['row']}_ratio_{group['value']:g}.json"
        alone = json.loads(path.read_text())
        assert [run["seed"] for run in alone.pop("all")] == [0, 1, 2]
        assert alone == group
        (line,) = [x for x in lines if (x["row"], float(x["value"]), x["figure"]) == (group["row"], group["value"], "ap@0.5")]  # fmt: skip  # noqa: E501
        assert float(line["mean"]) == group["figures"]["ap@0.5"]["mean"]
        assert line["gain"] == str(group["gain"].get("ap@0.5", {}).get("mean", ""))
        assert line["verdicts"].split("; ") == group["verdicts"] == ["learned"] * 3


class Links(HTMLParser):
    """Gathers what a page links to or loads."""

    def __init__(self) -> None:
        super().__init__()
        self.href, self.src = list[str](), list[str]()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("href", "src") and value:
                getattr(self, name).append(value)


def test_the_page_links_to_each_run_and_loads_nothing(folder: Path) -> None:
    write_results(folder)
    page = Links()
    text = (folder / "study.html").read_text()
    page.feed(text)
    keys = {cell["key"] for cell in json.loads((folder / "cells.json").read_text())["cells"]}
    assert {*page.href} == {f"runs/{key}/run/report.html" for key in keys}
    assert page.src
    assert all(source.startswith("data:") for source in page.src)
    assert "default-src 'none'" in text
    assert "<script" not in text


def test_the_page_says_what_spoils_a_comparison(folder: Path) -> None:
    write(folder / "runs" / "supervised0.10" / "result.json", result(0.5, version="2"))
    seen = result(0.01, test={"seen_unlabelled": True}, doctor={"verdict": "fail", "cause": "F01"})
    write(folder / "runs" / "mean_teacher0.10" / "result.json", seen)
    blind = result(0.0)["figures"] | {"pixel_skill": 0.3}
    write(folder / "runs" / "mean_teacher0.11" / "result.json", result(0.0, figures=blind))
    listed = json.loads((folder / "cells.json").read_text())["cells"]
    for cell in listed:
        cell["key"] = cell["key"].replace("supervised0.5", "supervised0.1")
    write(folder / "cells.json", {"cells": listed})
    write_results(folder)
    text = re.sub(r"\s+", " ", (folder / "study.html").read_text())
    assert "Runs differ in version: 1, 2." in text
    assert "Transductive:" in text
    assert "10 % and 50 % are the same micrographs, so the same runs" in text
    assert "seed 0</a>: no skill (F01)" in text
    assert "seed 1</a>: no pick is right" in text


def test_rows_differ_in_line_and_mark_and_each_data_set_has_a_panel() -> None:
    pairs = [
        (group, summed_up([group])[0])
        for data in ("one", "two")
        for row in "abcd"
        for value in (0.01, 0.1)
        for group in [Group(data, row, Amount("ratio", value), 1, {0: ("key", result(0.5))})]
    ]
    drawn, alone = curves(pairs, "ap@0.5"), curves(pairs[:2], "ap@0.5")
    assert drawn == curves(pairs, "ap@0.5"), "the same numbers, the same bytes"
    assert len(re.findall(r'id="axes_\d+"', drawn)) == 2
    assert len(set(re.findall(r"stroke-dasharray: ([\d., ]+)", drawn))) >= 3 > len(re.findall("dasharray", alone))


def test_the_axis_shows_what_there_is_and_nothing_below_it() -> None:
    def least(*values: float) -> float:
        runs = {seed: (f"k{seed}", result(value)) for seed, value in enumerate(values)}
        group = Group("toy", "a", Amount("ratio", 0.1), len(values), runs)
        return _least([(group, summed_up([group])[0])], "ap@0.5")

    assert least(0.75) == 0.7
    assert least(0.0, 0.9) == 0
    assert least(0.84, 0.86) == 0.7, "the interval is wider than the runs"
    assert _least([], "ap@0.5") == 0


def test_the_error_of_calibration_is_that_of_its_definition() -> None:
    score = np.repeat([0.25, 0.85], [40, 60])
    right = np.concatenate([np.arange(40) < 10, np.arange(60) < 30])
    assert calibration_error(right, score) == pytest.approx(0.4 * 0 + 0.6 * 0.35)
    assert calibration_error(np.ones(3, bool), np.ones(3)) == 0
    assert calibration_error(np.zeros(0, bool), np.zeros(0)) == 0
