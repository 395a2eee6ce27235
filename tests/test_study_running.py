"""The runs of a study: each ends once, goes on where it was, and takes no other with it when it fails."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from toy import DIAMETER, PIXEL_SIZE, SIDE, write_toy
from verglas import api, training
from verglas.config import RunConfig
from verglas.data import Stored
from verglas.errors import InputError
from verglas.io.collections import collect
from verglas.io.micrographs import read_image, write_mrc
from verglas.records import Failed, Note, Record, Summary, Validated
from verglas.runs import Run
from verglas.study import Study, planned, truth_path, write_plan
from verglas.study_report import write_results
from verglas.study_run import Task, Verbs, ended, failure, perform, pixels_at_half
from verglas.studying import (
    Studied,
    carried_out,
    chosen_way,
    conduct,
    foreseen,
    here,
    in_processes,
    on_cluster,
    tasks_of,
)
from verglas.types import Collection, Grid, Image, Micrograph, Picks, nothing

SETTINGS: dict[str, Any] = {
    "model": {"width": 4, "depth": 2}, "preprocess": {"working_diameter_px": 16}, "search": {"least_score": 0.0001},
    "train": {"steps": 6, "crop": 64, "batch": 2, "validate_every": 3, "save_every": 3, "precision": "float32"},
    "guard": {"active": False},
}  # fmt: skip


def learn(config: RunConfig, out: Path, *, stop: threading.Event | None = None) -> Iterator[Record]:
    """Train as ``api.train`` does, without asking the doctor and without pictures."""
    yield from training.train(collection_of(config), config, out, stop=stop)
    if stop is None or not stop.is_set():
        (out / "report.html").touch()


VERBS = Verbs(learn, api.pick, api.evaluate)


def collection_of(config: RunConfig) -> Collection:
    data, labels = config.data, config.data.labels
    return collect(data.micrographs, labels, diameter_px=DIAMETER, complete=data.labels_are == "complete").collection


def study(data: Path, **changes: Any) -> Study:
    where = {"micrographs": [str(data / "mics")], "labels": str(data / "labels"), "diameter_px": DIAMETER}
    rows = {"supervised": {"algorithm": {"name": "supervised"}}, "teacher": {"algorithm": {"name": "mean_teacher"}}}
    tree = {"data": {"toy": where}, "rows": rows, "ratios": [0.2, 0.6], "seeds": [0, 1], "settings": SETTINGS}
    return Study.of(tree | changes, "here")


def small(data: Path, **changes: Any) -> Study:
    """Return a study of one run for each seed."""
    return study(data, **{"rows": {"supervised": {}}, "micrographs": [1], "ratios": [], "seeds": [0]} | changes)


def run(plan: Study, folder: Path, stop: threading.Event | None = None, verbs: Verbs = VERBS) -> list[Record]:
    return list(conduct(plan, collections(plan), folder, verbs, here, stop=stop))


def collections(plan: Study) -> dict[str, Collection]:
    return {name: collection_of(plan.config(name, next(iter(plan.rows)))) for name in plan.data}


def tasks(plan: Study, folder: Path, verbs: Verbs = VERBS) -> list[Task]:
    return tasks_of(plan, collections(plan), folder, verbs)[0]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy(tmp_path_factory.mktemp("study"), micrographs=7, labelled=7)


@pytest.fixture(scope="module")
def done(toy: Path) -> tuple[Path, list[Record]]:
    """A study that has ended, 2 rows x 2 amounts x 2 seeds, and what it said; do not write there."""
    records = run(study(toy), toy / "done")
    return toy / "done", records


# --- what a study leaves


def test_every_run_ends_in_a_result_and_all_in_a_summary(done: tuple[Path, list[Record]]) -> None:
    folder, records = done
    ends = [record for record in records if isinstance(record, Studied)]
    assert [record.done for record in ends] == list(range(1, 9))
    assert isinstance(records[-1], Summary)
    assert (folder / "study.html").is_file()
    names = {path.name for path in (folder / "results" / "toy").iterdir()}
    rows = ("supervised", "teacher")
    assert names == {f"ssl_eval_{row}_ratio_{amount}.json" for row in rows for amount in ("0.2", "0.6")}


def test_a_result_holds_the_figures_of_its_picks_on_the_test(done: tuple[Path, list[Record]]) -> None:
    folder, _ = done
    for home in (folder / "runs").iterdir():
        result = json.loads((home / "result.json").read_text())
        figures = api.evaluate(home / "picks.star", truth_path(folder, "toy")).pooled["at_radius"]
        for radius in ("0.5", "0.3"):
            for key in ("ap", "f1", "best_f1"):
                assert result["figures"][f"{key}@{radius}"] == figures[radius][key]
        p, r, f1 = (result["figures"][f"pixel_{key}"] for key in ("precision", "recall", "f1"))
        assert f1 == pytest.approx(2 * p * r / max(p + r, 1e-9)), "the same pixels as those of the F1 of evaluate"
        assert result["doctor"] == {"verdict": None, "cause": None}
        assert not (home / "maps").exists()
        cell = json.loads((home / "cell.json").read_text())
        assert result["labels"]["micrographs"] == (1 if cell["value"] == 0.2 else 3)
        assert any("come in" in stage for stage in result["stages"]) == (cell["row"] == "teacher")
        assert result["unlabelled"] == (0 if cell["row"] == "supervised" else 5 - result["labels"]["micrographs"])


def test_pixels_above_half_are_held_to_full_discs(tmp_path: Path) -> None:
    found = np.full((40, 40), 0.49, np.float32)
    found[10:15, 10:15] = 0.9
    found[30:, 30:] = 0.9
    valid = np.ones((40, 40), bool)
    valid[30:, 30:] = False
    Stored.write(tmp_path, "m", Image(found, Grid(), valid))
    one = {"m": Picks("m", np.array([[12.0, 12.0]]), np.ones(1)), "not_picked": nothing("not_picked")}
    inside = sum(x * x + y * y <= 16 for x in range(-4, 5) for y in range(-4, 5))
    assert pixels_at_half(tmp_path, one, 8.0) == {"precision": 1.0, "recall": 25 / inside}
    one["m"] = replace(one["m"], xy=one["m"].xy + 100)
    assert pixels_at_half(tmp_path, one, 8.0) == {"precision": 0.0, "recall": 0.0}


def test_no_training_has_read_a_test_micrograph(done: tuple[Path, list[Record]]) -> None:
    folder, _ = done
    test = {*json.loads((folder / "splits" / "toy_0.json").read_text())["test"]}
    for home in (folder / "runs").iterdir():
        prepared = {r["micrograph"] for r in Run(home / "run").records() if r["kind"] == "prepared"}
        assert prepared
        assert not prepared & test


def test_a_study_that_has_ended_only_collects(done: tuple[Path, list[Record]], toy: Path) -> None:
    folder, _ = done
    before = {path: path.stat().st_mtime_ns for path in (folder / "runs").rglob("*") if path.is_file()}
    again = run(study(toy), folder)
    assert [type(record) for record in again] == [Note, Summary]
    assert {path: path.stat().st_mtime_ns for path in (folder / "runs").rglob("*") if path.is_file()} == before


def test_results_are_collected_without_the_data(done: tuple[Path, list[Record]], tmp_path: Path) -> None:
    shutil.copytree(done[0], tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / "results")
    assert write_results(tmp_path / "copy")["runs"] == 8
    assert len([*(tmp_path / "copy" / "results" / "toy").iterdir()]) == 4


def test_more_seeds_are_added_to_what_is_there(done: tuple[Path, list[Record]], toy: Path) -> None:
    folder, _ = done
    more = tasks(study(toy, seeds=[0, 1, 2]), folder)
    assert sum(ended(folder, task.cell) for task in more) == 8
    assert len(more) == 12


def test_a_picture_of_the_test_that_also_teaches_is_told(
    done: tuple[Path, list[Record]], toy: Path, tmp_path: Path
) -> None:
    found = json.loads((done[0] / "splits" / "toy_leakage.json").read_text())
    assert found["highest_correlation"] < 0.1
    assert found["compared"] == found["of"] == 7
    shutil.copytree(toy / "mics", tmp_path / "mics")
    shutil.copytree(toy / "labels", tmp_path / "labels")
    image = read_image(Micrograph("m0", tmp_path / "mics" / "m0.mrc", (SIDE, SIDE)))
    noisy = image + np.random.default_rng(0).normal(size=image.shape).astype(np.float32) * image.std() / 2
    write_mrc(tmp_path / "mics" / "m6.mrc", noisy, PIXEL_SIZE)
    plan = small(tmp_path, test={"toy": ["m6"]})
    records = run(plan, tmp_path / "x")
    (told,) = [record for record in records if isinstance(record, Note) and record.warning]
    assert "m6, of the test, looks like m0" in told.text
    assert "m6, of the test, looks like m0" in (tmp_path / "x" / "study.html").read_text()


# --- going on


def stopped(at: int, train: Callable[..., Iterator[Record]] = learn) -> tuple[Verbs, threading.Event]:
    """Return verbs of which training asks for a stop at a step."""
    stop = threading.Event()

    def stopping(config: RunConfig, out: Path, *, stop: threading.Event) -> Iterator[Record]:
        for record in train(config, out, stop=stop):
            if isinstance(record, Validated) and record.step >= at:
                stop.set()
            yield record

    return Verbs(stopping, api.pick, api.evaluate), stop


def test_a_stopped_study_goes_on_and_ends_as_one_that_was_not(toy: Path, tmp_path: Path) -> None:
    verbs, stop = stopped(3)
    records = run(small(toy), tmp_path / "a", stop, verbs)
    assert "repeat the command" in str(records[-1])
    (home,) = (tmp_path / "a" / "runs").iterdir()
    assert (home / "run" / "resume.pt").is_file()
    assert not (home / "result.json").exists()
    assert failure(home) is None
    run(small(toy), tmp_path / "a")
    run(small(toy), tmp_path / "b")
    notes = [r["text"] for r in Run(home / "run").records() if r["kind"] == "note"]
    a, b = (tmp_path / name / "runs" / home.name / "run" / "model.safetensors" for name in "ab")
    assert a.read_bytes() == b.read_bytes()
    assert notes


def test_a_training_goes_on_with_the_threads_it_began_with(toy: Path, tmp_path: Path) -> None:
    verbs, stop = stopped(3)
    run(small(toy), tmp_path, stop, verbs)
    (task,) = tasks(small(toy), tmp_path)
    perform(replace(task, threads=2), threading.Event())
    assert ended(task.folder, task.cell)
    assert Run.open(task.home / "run").config.train.threads == 0


def test_a_training_whose_margin_was_measured_goes_on(toy: Path, tmp_path: Path) -> None:
    plan, (verbs, stop) = small(toy, rows={"supervised": {"search": {"edge_px": "auto"}}}), stopped(3, api.train)
    told: list[Record] = []

    def telling(config: RunConfig, out: Path, *, stop: threading.Event) -> Iterator[Record]:
        for record in api.train(config, out, stop=stop):
            told.append(record)
            yield record

    run(plan, tmp_path, stop, verbs)
    run(plan, tmp_path, verbs=VERBS._replace(train=telling))
    assert any("goes on at step" in record.text for record in told if isinstance(record, Note))


def test_a_study_that_was_moved_begins_its_unfinished_run_anew(toy: Path, tmp_path: Path) -> None:
    verbs, stop = stopped(3)
    run(small(toy), tmp_path / "a", stop, verbs)
    (tmp_path / "a").rename(tmp_path / "b")
    records = run(small(toy), tmp_path / "b")
    assert isinstance(records[-1], Summary)
    assert "missing" not in records[-1].facts


def test_a_run_that_fails_is_recorded_and_stops_no_other_and_is_tried_again(toy: Path, tmp_path: Path) -> None:
    def failing(config: RunConfig, out: Path, *, stop: threading.Event) -> Iterator[Record]:
        if config.train.seed == 0:
            raise RuntimeError("no such luck")
        return learn(config, out, stop=stop)

    plan = small(toy, seeds=[0, 1])
    records = run(plan, tmp_path / "a", verbs=Verbs(failing, api.pick, api.evaluate))
    (failed,) = [record for record in records if isinstance(record, Failed)]
    assert (failed.path, failed.reason) == ("toy supervised micrographs_1 seed 0", "RuntimeError: no such luck")
    assert isinstance(records[-1], Summary)
    assert records[-1].facts["missing"] == 1
    assert not (tmp_path / "a" / "study.html").exists(), "a table with gaps has to be asked for"
    records = run(plan, tmp_path / "a")
    assert [record.about for record in records if isinstance(record, Studied)] == [failed.path]
    assert not [*(tmp_path / "a").rglob("failed.json")]


def test_a_run_that_another_process_is_at_is_left_alone(toy: Path, tmp_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    (task,) = tasks(small(toy), tmp_path)
    task.home.mkdir(parents=True)
    with (task.home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _, record = carried_out([task], here, threading.Event())
    assert record == Failed(str(task.cell), "another process is at this run")
    assert [path.name for path in task.home.iterdir()] == ["lock"]


def test_a_second_stage_starts_from_the_weights_of_the_first(toy: Path, tmp_path: Path) -> None:
    rows = {"first": {}, "second": {"start": {"row": "first", "amount": 1}, "train": {"rate": 1e-9}}}
    run(small(toy, rows=rows), tmp_path)
    cells = json.loads((tmp_path / "cells.json").read_text())["cells"]
    first, second = (tmp_path / "runs" / cell["key"] for cell in cells)
    assert Run.open(second / "run").config.train.start_from == str(first / "run")
    assert json.loads((second / "result.json").read_text())["started_from"] == first.name
    a, b = (json.loads((home / "result.json").read_text())["figures"]["pixel_ap"] for home in (first, second))
    assert a == pytest.approx(b, abs=1e-3), "at so small a rate the weights stay"


def test_runs_that_start_from_others_wait_for_all_of_these(toy: Path, tmp_path: Path) -> None:
    rows = {"third": {"start": {"row": "second", "amount": 1}}, "second": {"start": {"row": "first", "amount": 1}}}
    waves: list[list[str]] = []

    def way(wave: Sequence[Task], stop: threading.Event) -> Iterator[Task]:
        waves.append([task.cell.row for task in wave])
        yield from ()

    todo = tasks(small(toy, rows=rows | {"first": {}, "alone": {"train": {"rate": 0.5}}}), tmp_path)
    list(carried_out(todo, way, threading.Event()))
    assert waves == [["first", "alone"], ["second"], ["third"]]


def test_a_second_stage_fails_with_its_first(toy: Path, tmp_path: Path) -> None:
    def failing(config: RunConfig, out: Path, *, stop: threading.Event) -> Iterator[Record]:
        raise RuntimeError("no")

    rows = {"first": {}, "second": {"start": {"row": "first", "amount": 1}}}
    records = run(small(toy, rows=rows), tmp_path, verbs=Verbs(failing, api.pick, api.evaluate))
    reasons = [record.reason for record in records if isinstance(record, Failed)]
    assert reasons[0] == "RuntimeError: no"
    assert "run to start from is not ended" in reasons[1]


# --- before it begins


def test_a_dry_run_tells_time_and_disk_and_writes_nothing(toy: Path, tmp_path: Path) -> None:
    *notes, summary = foreseen(tasks(small(toy, seeds=[0, 1]), tmp_path / "a"), 2)
    assert isinstance(summary, Summary)
    assert all("to do" in str(note) for note in notes)
    assert summary.facts["to_do"] == 2
    assert summary.facts["hours"] == pytest.approx(summary.facts["seconds_for_a_run"] / 3600)
    assert summary.facts["disk_gb"] > 0
    assert not (tmp_path / "a").exists()


def test_a_dry_run_learns_from_runs_that_have_ended(done: tuple[Path, list[Record]], toy: Path) -> None:
    folder, records = done
    summary = list(foreseen(tasks(study(toy, seeds=[0, 1, 2]), folder), 1))[-1]
    assert isinstance(summary, Summary)
    ends = [record for record in records if isinstance(record, Studied)]
    medians = [np.median([end.seconds for end in ends if row in end.about]) for row in ("supervised", "teacher")]
    assert summary.facts["hours"] == pytest.approx(2 * sum(medians) / 3600), "each row costs what it did"
    assert (summary.facts["runs"], summary.facts["to_do"]) == (12, 4)


def test_a_trial_tells_short_runs_from_long_ones_and_dear_ones_from_cheap_ones(toy: Path, tmp_path: Path) -> None:
    def hours(**row: Any) -> float:
        rows = {"row": {"algorithm": {"name": "supervised"}} | row}
        summary = list(foreseen(tasks(small(toy, rows={"first": {}} | rows), tmp_path), 1))[-1]
        assert isinstance(summary, Summary)
        return summary.facts["hours"]

    alone = hours()
    assert hours(train={"steps": 60_000}) > 100 * alone
    assert hours(algorithm={"name": "fixmatch"}, train={"steps": 60_000}) > 100 * alone


def test_a_student_that_completes_clicks_costs_time_without_unlabelled_micrographs(toy: Path, tmp_path: Path) -> None:
    def seconds(name: str) -> float:
        rows = {
            "first": {"algorithm": {"name": "pu"}},
            "row": {"algorithm": {"name": name}, "train": {"steps": 60_000}},
        }
        plan = small(toy, rows=rows, micrographs=[], particles=[8])
        return float(list(foreseen(tasks(plan, tmp_path), 1))[-1].facts["hours"])  # type: ignore[attr-defined]

    alone = seconds("pu")
    assert seconds("self_training") > 1.5 * alone
    assert seconds("auto") > 1.5 * alone


# --- other ways


def endless(config: RunConfig, out: Path, *, stop: threading.Event) -> Iterator[Record]:
    """Train until something ends it."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "pid").write_text(str(os.getpid()))
    stop.wait(60)
    (out / "stopped").touch()
    yield Note("stopped")


def awaited(path: Path) -> None:
    for _ in range(600):
        if path.is_file() and path.stat().st_size:
            return
        time.sleep(0.1)
    raise TimeoutError(path)


def test_a_process_that_is_killed_fails_alone_and_one_that_is_told_to_stop_stops(toy: Path, tmp_path: Path) -> None:
    verbs, stop = Verbs(endless, api.pick, api.evaluate), threading.Event()
    todo = tasks(small(toy, seeds=[0, 1]), tmp_path, verbs)

    def interfere() -> None:
        for task in todo:
            awaited(task.home / "run" / "pid")
        os.kill(int((todo[0].home / "run" / "pid").read_text()), signal.SIGKILL)
        awaited(todo[0].home / "failed.json")
        stop.set()

    thread = threading.Thread(target=interfere)
    thread.start()
    records = list(carried_out(todo, in_processes(2), stop))
    thread.join()
    (failed,) = [record for record in records if isinstance(record, Failed)]
    assert failed.path.endswith("seed 0")
    assert failed.reason.startswith("its process ended with -9")
    assert (todo[1].home / "run" / "stopped").is_file()
    assert failure(todo[1].home) is None
    assert "repeat the command" in str(records[-1])
    assert not multiprocessing.active_children()


def test_the_way_is_chosen_with_its_threads(tmp_path: Path) -> None:
    assert chosen_way(tmp_path, "local", 1, {}) == (here, 0)
    assert chosen_way(tmp_path, "local", 3, {})[1] == 1, "one thread of the tests cannot be shared"
    with pytest.raises(InputError, match="jobs is 0"):
        chosen_way(tmp_path, "local", 0, {})
    with pytest.raises(InputError, match="executor is 'cloud'"):
        chosen_way(tmp_path, "cloud", 1, {})


def test_jobs_of_a_cluster_leave_what_runs_here_leave(done: tuple[Path, list[Record]], toy: Path) -> None:
    pytest.importorskip("submitit")
    folder, _ = done
    plan = study(toy, ratios=[0.2], seeds=[0], rows={"supervised": {"algorithm": {"name": "supervised"}}})
    (task,) = tasks(plan, toy / "cluster", Verbs(api.train, api.pick, api.evaluate))
    way = on_cluster(toy / "cluster", {"minutes": "5"}, "local")
    write_plan(toy / "cluster", plan, [task.cell], *planned(plan, collections(plan))[1:], collections(plan))
    _, record = carried_out([task], way, threading.Event())
    assert isinstance(record, Studied), record
    mine, here_ = (
        {key: value for key, value in json.loads(path.read_text())["figures"].items() if "seconds" not in key}
        for path in (f / "runs" / task.cell.key / "result.json" for f in (toy / "cluster", folder))
    )
    assert mine == pytest.approx(here_, rel=1e-4, abs=1e-5), "the number of threads may differ"


def test_options_of_a_cluster_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit")
    with pytest.raises(InputError, match="option is time"):
        on_cluster(tmp_path, {"time": "5"}, "local")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="executor is slurm"):
        on_cluster(tmp_path, {"minutes": "5"})
    monkeypatch.setitem(__import__("sys").modules, "submitit", None)
    with pytest.raises(InputError, match="without submitit"):
        on_cluster(tmp_path, {})


@pytest.mark.slow
def test_a_real_cluster_ends_a_study(toy: Path) -> None:
    answered = shutil.which("sinfo") and subprocess.run(["sinfo", "--noheader"], capture_output=True, check=False)
    if not answered or not answered.stdout:
        pytest.skip("no SLURM answers on this machine (see scripts/slurm): the array job itself was not tried")
    folder = toy / "slurm"
    *_, summary = api.study(
        folder, small(toy, seeds=[0, 1]), executor="slurm", cluster={"minutes": "10", "at_once": "2"}
    )
    assert isinstance(summary, Summary)
    assert all(ended(folder, task.cell) for task in tasks(small(toy, seeds=[0, 1]), folder))
    assert len(list((folder / "jobs").glob("*_submission.sh"))) == 1, "one array job"
