"""The doctor as a whole: verdicts, causes, exit codes, the report, and what is said during training."""

import json
import subprocess
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

from test_cli import given, verglas
from toy import configured, write_toy
from verglas import api
from verglas.doctor import in_short
from verglas.doctor.causes import diagnose
from verglas.doctor.outputs import Outputs
from verglas.errors import InputError
from verglas.records import Checked, Diagnosed, Summary
from verglas.runs import Run

DATA = ["--micrographs", "mics", "--labels", "labels", "--diameter-px", "16", *given()]


def found(check: str, verdict: str, code: str = "") -> Checked:
    return Checked(check, "Is it?", verdict, code, "It is.", {}, "Do it." if code else "")


def shift(folder: Path) -> None:
    """Give corners of boxes instead of centres."""
    for path in (folder / "labels").glob("*.csv"):
        xy = np.loadtxt(path, delimiter=",", skiprows=1) - 12
        np.savetxt(path, xy, "%.3f", ",", header="x,y", comments="")


def test_nothing_found_is_no_cause() -> None:
    assert list(diagnose([found("labels", "ok"), found("outputs", "info", "MISCALIBRATED")])) == []


def test_a_measured_fault_comes_before_what_it_leads_to() -> None:
    said = [
        found("registration", "fail", "FLIP_Y"),
        found("pu", "fail", "PU_CEILING"),
        found("outputs", "fail", "NO_SKILL"),
    ]
    causes = [one.cause for one in diagnose(said)]
    assert causes[0] == "FLIP_Y"
    assert causes.index("FLIP_Y") < causes.index("PU_CEILING")


def test_a_symptom_alone_names_the_most_general_cause() -> None:
    assert [one.cause for one in diagnose([found("outputs", "fail", "NO_SKILL")])] == ["TOO_LITTLE_LEARNED"]


def test_what_speaks_against_a_cause_is_said() -> None:
    said = [
        found("outputs", "fail", "INPUT_INDEPENDENT"),
        found("bn_mode", "fail", "NORM_MISMATCH"),
        found("norm_parity", "ok"),
    ]
    (cause,) = (one for one in diagnose(said) if one.cause == "NORM_MISMATCH")
    assert any(text.startswith("norm_parity=ok") for text in cause.evidence_against)


def test_the_verdict_is_the_gravest() -> None:
    assert in_short([found("a", "warn", "PIXEL_SIZES"), found("b", "fail", "NO_SKILL")])["verdict"] == "fail"
    assert in_short([found("a", "warn", "PIXEL_SIZES"), found("b", "info")])["verdict"] == "warn"
    assert in_short([found("a", "skipped"), found("b", "info")])["verdict"] == "ok"


def test_a_finished_run_has_findings_in_its_report(trained: Path) -> None:
    kept = Run.open(trained / "run").findings()
    assert {one["kind"] for one in kept} <= {"checked", "diagnosed"}
    assert len(kept) > 10
    html = (trained / "run" / "report.html").read_text(encoding="utf-8")
    assert "The doctor" in html
    assert all(one["question"] in html for one in kept if one["kind"] == "checked" and "'" not in one["question"])


def test_asking_again_renews_what_is_kept(trained: Path) -> None:
    (trained / "run" / "doctor.json").unlink()
    *_, summary = api.doctor(trained / "run")
    assert isinstance(summary, Summary)
    assert summary.facts["verdict"] == "ok"
    assert len(Run.open(trained / "run").findings()) == len(summary.facts["findings"])


def test_one_check_changes_nothing_that_is_kept(trained: Path) -> None:
    before = (trained / "run" / "doctor.json").read_bytes()
    list(api.doctor(trained / "run", checks=["labels"]))
    assert (trained / "run" / "doctor.json").read_bytes() == before


def test_a_check_that_breaks_ends_nothing(trained: Path) -> None:
    with patch.object(Outputs, "check", side_effect=KeyError("pixel_ap")):
        said = {one.check: one for one in api.doctor(trained / "run") if isinstance(one, Checked)}
    assert said["outputs"].verdict == "skipped"
    assert "KeyError" in said["outputs"].sentence
    assert said["picks"].verdict == "ok"


def test_a_check_that_does_not_exist_is_refused_with_a_list(trained: Path) -> None:
    with pytest.raises(InputError, match="registration"):
        list(api.doctor(trained / "run", checks=["registratoin"]))


def test_without_a_subject_it_says_what_it_needs() -> None:
    with pytest.raises(InputError, match="folder of a run"):
        list(api.doctor())


def test_an_unfinished_training_can_be_asked_about(tmp_path: Path) -> None:
    config = configured(write_toy(tmp_path), "train.steps=40", "train.save_every=4")
    for record in api.train(config, tmp_path / "run"):
        if record.kind == "progress" and record.step >= 8:
            break
    said = {one.check: one for one in api.doctor(tmp_path / "run") if isinstance(one, Checked)}
    assert said["outputs"].verdict == "skipped"
    assert "not ended" in said["outputs"].sentence
    assert said["trace"].verdict != "skipped"


def test_empty_labels_are_a_fault_with_a_remedy(tmp_path: Path) -> None:
    folder = write_toy(tmp_path)
    for path in (folder / "labels").glob("*.csv"):
        path.write_text("x,y\n")
    said = list(api.doctor(config=configured(folder)))
    causes = [one.cause for one in said if isinstance(one, Diagnosed)]
    assert causes[:1] == ["LABELS_EMPTY"]


def test_training_warns_of_shifted_labels_before_its_first_step(tmp_path: Path) -> None:
    folder = write_toy(tmp_path, micrographs=4, labelled=4)
    shift(folder)
    said = [(record.kind, getattr(record, "code", "")) for record in api.train(configured(folder), tmp_path / "run")]
    kinds = [kind for kind, _ in said]
    codes = {code for kind, code in said[: kinds.index("progress")] if kind == "checked"}
    assert "LABEL_SHIFT" in codes


def test_exit_codes_tell_a_healthy_collection_from_a_sick_one(tmp_path: Path) -> None:
    folder = write_toy(tmp_path)
    verglas("doctor", "data", *DATA, cwd=folder)
    for path in (folder / "labels").glob("*.csv"):
        path.write_text("x,y\n")
    done = verglas("doctor", "data", *DATA, cwd=folder, code=1)
    assert "LABELS_EMPTY" in done.stdout
    assert "What to do" in done.stdout


def test_json_is_one_object_and_nothing_else(trained: Path) -> None:
    done = verglas("doctor", "run", "run", "--json", cwd=trained)
    facts = json.loads(done.stdout)
    assert set(facts) == {"verdict", "findings", "causes"}
    assert facts["verdict"] == "ok"


def test_one_check_by_name(trained: Path) -> None:
    done: subprocess.CompletedProcess[str] = verglas("doctor", "check", "outputs", "run", cwd=trained)
    assert "outputs" in done.stdout
    assert "labels:" not in done.stdout


def test_a_folder_that_is_no_run_is_bad_input(tmp_path: Path) -> None:
    assert "config.toml" in verglas("doctor", "run", "nowhere", cwd=tmp_path, code=3).stderr
