"""``verglas study`` as a user meets it: options make the study, exit codes tell how it went."""

import json
from pathlib import Path

import pytest

from test_cli import given, verglas
from toy import write_toy
from verglas import api
from verglas.errors import InputError
from verglas.study import Study

DATA = ["study", "--micrographs", "mics", "--labels", "labels", "--diameter-px", "16", "--out", "x"]
ASKED = [*DATA, "--algorithms", "supervised", "--labelled-micrographs", "2", "--seeds", "1", *given()]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_toy(tmp_path, micrographs=4, labelled=4)


def test_a_study_runs_from_options_and_goes_on_from_a_file(data: Path) -> None:
    told = verglas(*ASKED, "--json", cwd=data)
    assert json.loads(told.stdout)["runs"] == 1
    assert "data supervised micrographs_2 seed 0: AP" in told.stderr
    (report,) = (data / "x" / "runs").glob("*/run/report.html")
    assert str(report.relative_to(data / "x")) in (data / "x" / "study.html").read_text()

    (data / "s.toml").write_text('seeds = [5]\nmicrographs = [2]\n[rows.supervised]\nalgorithm.name = "supervised"\n')
    told = verglas(*DATA, "--config", "s.toml", "--seeds", "2", "--dry-run", *given(), "--json", cwd=data)
    facts = json.loads(told.stdout)
    assert (facts["runs"], facts["to_do"], facts["estimated_from"]) == (2, 1, "ended runs: 1")
    for seed, state in ((0, "done"), (1, "to do")):
        assert f"data supervised micrographs_2 seed {seed}: {state}" in told.stderr


def test_a_run_that_fails_shows_in_the_exit_code(data: Path) -> None:
    told = verglas(*ASKED, "--set", "train.device=nowhere", cwd=data, code=4)
    assert "device is nowhere" in told.stderr
    assert "1 of 1 runs have no result" in told.stderr


def test_a_folder_without_a_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a readable TOML file"):
        list(api.study(tmp_path))


def test_a_study_whose_data_are_missing_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    plan = Study.of({"data": {"a": {"diameter_px": 9}}, "rows": {"a": {}}, "micrographs": [1]}, "here")
    with pytest.raises(InputError, match="data: micrographs is none"):
        list(api.study(tmp_path / "x", plan))
    assert not (tmp_path / "x").exists()
