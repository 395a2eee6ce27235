"""The committed studies: rows as in the reports, each can be planned, and one script runs, collects and draws them."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
import reports
import studies

from test_cli import given, verglas
from toy import DIAMETER, SETTINGS, write_toy
from verglas.config import RunConfig
from verglas.errors import InputError
from verglas.io.collections import collect
from verglas.simulate import DEMO, Simulator
from verglas.study import Amount, Study, divide, labels_of, planned
from verglas.types import Collection, Micrograph, Picks

ROOT = Path(__file__).parents[1]
FILES = ROOT / "benchmarks" / "studies"
SCRIPT = ROOT / "benchmarks" / "studies.py"


@pytest.mark.parametrize(
    ("name", "presets", "left_out"),
    [
        ("report-a", reports.GROUP_A | reports.GROUP_SA, {"A6s", "SA7"}),  # A0 at 1 % labels; no training
        ("report-b", reports.GROUP_B, {"BA"}),  # the same training as B70
    ],
)
def test_the_rows_of_the_reports_are_those_of_the_presets(
    name: str, presets: dict[str, reports.Preset], left_out: set[str]
) -> None:
    plan = Study.load(FILES / f"{name}.toml")
    assert plan.rows.keys() == presets.keys() - left_out
    for row in plan.rows:
        preset = presets[row]
        found, wanted = plan.config("simulated", row), RunConfig().with_settings(preset.settings)
        wanted = wanted.with_train(steps=max(1, round(130 * preset.times)))
        if found.loss.focal == 0:
            wanted = wanted.merged({"loss": {"focal_alpha": found.loss.focal_alpha}}, where="of no effect")
        for key in ("target", "train", "model", "algorithm", "guard", "photometry"):
            assert getattr(found, key) == getattr(wanted, key), (row, key)
        for key in ("bce", "focal", "dice", "tversky", "focal_alpha", "pos_weight", "tversky_fp", "tversky_fn"):
            assert getattr(found.loss, key) == pytest.approx(getattr(wanted.loss, key), rel=1e-5), (row, key)
        assert (plan.start(row, Amount("ratio", 0.1)) is not None) == (preset.stages > 1)


@pytest.mark.parametrize("name", ["simulated", "report-a", "report-b"])
def test_a_committed_study_can_be_tried_on_other_data(name: str, tmp_path: Path) -> None:
    write_toy(tmp_path, micrographs=8, labelled=8)
    where = ["--micrographs", "mics", "--labels", "labels", "--diameter-px", DIAMETER]
    asked = ["study", "--config", FILES / f"{name}.toml", *where, *given(), "--out", "x", "--dry-run", "--json"]
    facts = json.loads(verglas(*map(str, asked), cwd=tmp_path).stdout)
    assert facts["to_do"] == facts["runs"] >= 9
    assert facts["hours"] > 0
    assert not (tmp_path / "x").exists()


def test_the_simulated_study_is_of_the_scene_that_is_simulated_and_its_shares_are_whole_micrographs() -> None:
    plan = Study.load(FILES / "simulated.toml")
    for name in ("simulated", "report-a", "report-b"):
        assert Study.load(FILES / f"{name}.toml").data["simulated"]["diameter_px"] == Simulator(DEMO).diameter_px
    names = [f"mic_{k:04}" for k in range(studies.SIMULATED)]
    picks = MappingProxyType({name: Picks(name, np.ones((3, 2)), np.ones(3)) for name in names})
    collection = Collection(tuple(Micrograph(n, Path(n), (9, 9)) for n in names), picks, 31.25)
    division = divide(collection, 0, (), plan.test_share)
    assert (len(division.test), len(division.training)) == (40, 200)
    labelled = [len(labels_of(collection, division, of, 0, 3).by_name()) for of in plan.amounts()]
    assert labelled == [2, 10, 20]


def test_the_curves_are_tested_on_the_lists_of_the_data(real_data: Path) -> None:
    plan = studies.study("curves", studies._options(["--data", str(real_data)]))
    collections = {}
    for name, data in plan.data.items():
        meta = json.loads((real_data / name / "meta.json").read_text())
        assert {*plan.test[name]} == {*meta["test"]}
        assert data["diameter_px"] == meta["diameter_px"]
        collections[name] = collect(data["micrographs"], data["labels"], diameter_px=data["diameter_px"]).collection
    cells, _ = planned(plan, collections)
    assert len(cells) == 2 * 6 * 4 * 3
    assert len({cell.key for cell in cells}) == 2 * (3 * 3 + 3 * 4) * 3, "of whole micrographs two rows are one"


# --- the script


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a study of toy data, named ``small``, laid out as that of the benchmarks."""
    write_toy(tmp_path / "data" / "toy", micrographs=8, labelled=8)
    (tmp_path / "studies").mkdir()
    settings = "".join(f"{setting}\n" for setting in SETTINGS)
    (tmp_path / "studies" / "small.toml").write_text(f"""
micrographs = [2]
particles = [12]
seeds = [0]
[data.toy]
micrographs = ["toy/mics"]
labels = "toy/labels"
diameter_px = {DIAMETER}
[settings]
{settings}guard.active = false
[rows.supervised]
algorithm.name = "supervised"
[rows.default]
[rows.fixmatch]
algorithm.name = "fixmatch"
""")
    return tmp_path


def given_to(folder: Path, *more: str) -> list[str]:
    named = {"data": "data", "work": "work", "results": "results.jsonl", "figures": "figures"}
    return ["--studies", "small", *(w for k, v in named.items() for w in (f"--{k}", str(folder / v))), *more]


def started(folder: Path) -> subprocess.Popen[str]:
    code = f"import sys; sys.path.insert(0, {str(SCRIPT.parent)!r}); import studies, pathlib; "
    code += f"studies.HERE = pathlib.Path({str(folder)!r}); sys.argv[1:] = {given_to(folder)!r}; studies.main()"
    return subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def test_a_killed_reproduction_is_taken_up_and_leaves_results_tables_and_curves(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = started(folder)
    runs = folder / "work" / "small" / "runs"
    for _ in range(1200):
        done = [*runs.glob("*/result.json")]
        if done:
            break
        time.sleep(0.1)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    before = {path: path.stat().st_mtime_ns for path in runs.glob("*/result.json")}
    assert 1 <= len(before) < 5
    assert not (folder / "results.jsonl").exists()
    again = started(folder)
    said, _ = again.communicate(timeout=240)
    assert again.returncode == 0, said
    assert {path: path.stat().st_mtime_ns for path in before} == before, "what was done is not done again"

    rows = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    assert len(rows) == 3 * 2
    assert len({row["run"] for row in rows}) == 5, "default and supervised share a run of complete labels"
    for row in rows:
        assert (runs / row["run"] / "run" / "report.html").is_file()
    monkeypatch.setattr(studies, "HERE", folder)
    table = studies.tables(given_to(folder))
    assert "\n".join(table) in said
    for kind in ("micrographs", "particles"):
        assert f"](figures/study_small_{kind}.svg)" in "\n".join(table)
        assert 1000 < (folder / "figures" / f"study_small_{kind}.svg").stat().st_size < 100_000
    assert sum(line.startswith("| toy |") for line in table) == 6


def test_a_study_that_has_not_been_run_is_said_to_be_so(folder: Path) -> None:
    assert studies.tables(given_to(folder)) == ["`small` has not been run."]


def test_a_study_that_is_not_there_is_refused() -> None:
    with pytest.raises(InputError, match=r"other\.toml"):
        studies.study("other", studies._options([]))
