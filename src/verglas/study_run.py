"""One run of a study: train, pick the test micrographs, compare; what it is at lies in its folder alone.

``result.json``, written last, ends it; ``failed.json`` says why it could not end; else it goes on where it was.
"""

import datetime
import json
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from verglas import __version__
from verglas.config import RunConfig
from verglas.data import Stored
from verglas.errors import InputError
from verglas.io._base import write_text
from verglas.io.picks import read_picks, write_picks
from verglas.matching import Pool
from verglas.records import Failed, Record, Summary, plain
from verglas.runs import Run
from verglas.study import Cell, labels_digest, truth_path
from verglas.targets import distance_to_nearest
from verglas.types import Evaluation, Picks

RADII = "0.5", "0.3"
BINS = 10


class Verbs(NamedTuple):
    """What a run is made of: functions of ``api``, which other processes find by name."""

    train: Callable[..., Iterator[Record]]
    pick: Callable[..., Iterator[Record]]
    evaluate: Callable[..., Evaluation]


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """A run, the folder of its study, and how many threads it may use (0: as many as it likes)."""

    folder: Path
    cell: Cell
    threads: int
    verbs: Verbs

    @property
    def home(self) -> Path:
        """The folder of the run."""
        return run_folder(self.folder, self.cell.key)


def run_folder(folder: Path, key: str) -> Path:
    """Return the folder of a run."""
    return folder / "runs" / key


def ended(folder: Path, cell: Cell) -> bool:
    """Tell whether a run has its result."""
    return (run_folder(folder, cell.key) / "result.json").is_file()


def failure(home: Path) -> str | None:
    """Return why a run failed, if it did."""
    path = home / "failed.json"
    return json.loads(path.read_text(encoding="utf-8"))["reason"] if path.is_file() else None


def write_failure(home: Path, reason: str, trace: str = "") -> None:
    """Write down why a run failed."""
    _write(home / "failed.json", {"reason": reason, "trace": trace, "version": __version__})


def perform(task: Task, stop: threading.Event) -> None:
    """Train, pick and evaluate; leave a result, a reason why there is none, or what to go on from."""
    home = task.home
    with _alone(home) as alone:
        if not alone or ended(task.folder, task.cell):
            return
        (home / "failed.json").unlink(missing_ok=True)
        try:
            result = _result(task, stop)
        except Exception as error:  # whatever it is, the other runs must go on
            kind = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
            write_failure(home, f"{kind}{error}", traceback.format_exc())
            return
        if result is not None:
            shutil.rmtree(home / "maps", ignore_errors=True)
            _write(home / "result.json", result)


@contextmanager
def _alone(home: Path) -> Iterator[bool]:
    """Tell whether no other process is at this run, and keep others away; a lock ends with its process."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / "lock").open("w") as file:
        alone = True
        if sys.platform != "win32":
            import fcntl

            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                alone = False
        yield alone


def _result(task: Task, stop: threading.Event) -> dict[str, Any] | None:
    """Return what a run ends in; None where it was stopped before."""
    cell, home, began = task.cell, task.home, time.perf_counter()
    _write(home / "cell.json", cell.place | {"started_from": cell.start, "version": __version__})
    config = placed(task)
    if not _trained(task, config, stop):
        return None
    paths, truth = [m.path for m in cell.test], truth_path(task.folder, cell.data)
    records = list(task.verbs.pick(home / "run", paths, home / "picks.star", maps=home / "maps", stop=stop))
    if not isinstance(records[-1], Summary):
        return None
    evaluation = task.verbs.evaluate(home / "picks.star", truth, maps=home / "maps")
    run, picked = Run.open(home / "run"), records[-1].facts
    facts, known = run.facts(), read_picks(truth).by_name()
    pixels = evaluation.pooled["pixel"] | pixels_at_half(home / "maps", known, facts["diameter_px"])
    return {
        "figures": _figures(evaluation, pixels) | _calibration(home / "picks.star", known, facts["diameter_px"]) | {
            "training_seconds": facts["seconds"], "picking_seconds": picked["seconds"],
        },
        "chance": _chance(evaluation), "threshold_how": picked["threshold_how"], "algorithm": facts["algorithm"],
        "labels": {"micrographs": len(cell.labels.picks), "particles": len(cell.labels),
                   "are": cell.config.data.labels_are, "trained_on": facts["training_labels"],
                   "digest": labels_digest(cell.labels)},
        "unlabelled": len(run.split()["unlabelled"]), "started_from": cell.start,
        "test": {"micrographs": len(known), "particles": evaluation.pooled["n_labels"],
                 "seen_unlabelled": bool({m.name for m in cell.test} & set(run.split()["unlabelled"]))},
        "left_out": [record.reason for record in records if isinstance(record, Failed)] + [
            record["reason"] for record in run.records() if record["kind"] == "failed"],
        "doctor": _diagnosis(run), "stages": list(_stages(run)), "steps": facts["steps"],
        "best_step": facts["best_step"], "device": facts["device"], "threads": facts["threads"],
        "seconds": time.perf_counter() - began, "date": datetime.date.today().isoformat(), "version": __version__,
    }  # fmt: skip


def placed(task: Task) -> RunConfig:
    """Write the labels and the list of micrographs of a run; return its settings with these in place."""
    cell, home = task.cell, task.home.absolute()
    write_picks(home / "labels.star", cell.labels, counted_only=False)
    write_text(home / "micrographs.txt", "".join(f"{m.path.absolute()}\n" for m in cell.micrographs))
    data = replace(cell.config.data, micrographs=(str(home / "micrographs.txt"),), labels=str(home / "labels.star"))
    config = replace(cell.config, data=data)
    if cell.start is not None:
        begun = run_folder(task.folder, cell.start)
        if not (begun / "result.json").is_file():
            raise InputError(begun, "run to start from", found="not ended", expected="one with a result")
        config = config.with_train(start_from=str((begun / "run").absolute()))
    return config.with_train(threads=config.train.threads or task.threads)


def _trained(task: Task, config: RunConfig, stop: threading.Event) -> bool:
    """Train, or go on with a training; tell whether it has come to its end."""
    folder = task.home / "run"
    if (folder / "config.toml").is_file() and not (folder / "report.html").is_file():
        begun = RunConfig.load(folder / "config.toml")
        config = config.with_train(threads=begun.train.threads)  # a training goes on as it began
        if config.search.edge_px == "auto":
            config = replace(config, search=replace(config.search, edge_px=begun.search.edge_px))
        if begun != config or not (folder / "records.jsonl").is_file():
            shutil.rmtree(folder)  # the study was moved, or killed before there was anything to keep
    if not (folder / "report.html").is_file():
        for _ in task.verbs.train(config, folder, stop=stop):
            pass
    return (folder / "report.html").is_file()


def _figures(evaluation: Evaluation, pixels: Mapping[str, float]) -> dict[str, Any]:
    """Return the figures of particles at both radii, and of pixels against full discs."""
    at = evaluation.pooled["at_radius"]
    keys = ("ap", "f1", "precision", "recall", "best_f1")
    prior, ap = pixels["prior"], pixels["ap"]
    return {f"{key}@{radius}": at[radius][key] for radius in RADII for key in keys} | {
        "threshold": evaluation.pooled["threshold"], "pixel_precision": pixels["precision"],
        "pixel_recall": pixels["recall"], "pixel_f1": pixels["f1_at_0.5"], "pixel_best_f1": pixels["best_f1"],
        "pixel_ap": ap, "pixel_skill": (ap - prior) / (1 - prior) if prior < 1 else 0.0,
    }  # fmt: skip


def pixels_at_half(maps: Path, truth: Mapping[str, Picks], diameter_px: float) -> dict[str, float]:
    """Return precision and recall of the pixels above 0.5."""
    right = called = inside = 0
    for name in truth:
        if not Stored.exists(maps, name):
            continue
        found = Stored.open(maps, name).image()
        near = distance_to_nearest(truth[name].xy, found.grid, found.valid.shape, within=diameter_px / 2)
        disc, above = np.isfinite(near) & found.valid, (found.data > 0.5) & found.valid
        right, called, inside = right + int((disc & above).sum()), called + int(above.sum()), inside + int(disc.sum())
    return {"precision": right / max(1, called), "recall": right / max(1, inside)}


def _calibration(picks: Path, truth: Mapping[str, Picks], diameter_px: float) -> dict[str, float]:
    """Return the expected calibration error of the candidates' scores within half a diameter."""
    ranked = Pool.of(read_picks(picks).by_name(), truth).by_micrograph(diameter_px / 2)
    return {"calibration_error": calibration_error(ranked.right, ranked.score)}


def calibration_error(right: Bool[np.ndarray, " n"], score: Float[np.ndarray, " n"]) -> float:
    """Return by how much scores differ from the share that is right, over bins of equal width (arXiv 1706.04599)."""
    place = np.minimum((score * BINS).astype(int), BINS - 1)
    apart = np.bincount(place, score - right, BINS)
    return float(np.abs(apart).sum() / max(1, len(score)))


def _chance(evaluation: Evaluation) -> dict[str, Any]:
    baselines = evaluation.pooled["baselines"] or {}
    return {
        f"{name}_f1@{radius}": baselines[name][radius]["f1"]
        for name in ("grid", "random")
        for radius in RADII
        if name in baselines
    }


def _diagnosis(run: Run) -> dict[str, str | None]:
    """Return the gravest verdict of the doctor and the first cause that he names; None where he was not asked."""
    found = run.findings()
    verdicts = {one["verdict"] for one in found if one["kind"] == "checked"}
    verdict = next((v for v in ("fail", "warn", "info", "ok") if v in verdicts), None)
    return {"verdict": verdict, "cause": next((one["cause"] for one in found if one["kind"] == "diagnosed"), None)}


STAGED = ("unlabelled micrographs", "are picked", "another student", "back to step", "labels alone")
"""What is in the notes of a training that tell of its stages."""


def _stages(run: Run) -> Iterator[str]:
    """Yield in words when unlabelled micrographs or students came in or went, and what the guard ruled."""
    for record in run.records():
        if record["kind"] == "ruled":
            yield f"step {record['step']}: {record['code']} {record['verdict']}, {record['action']}"
        elif record["kind"] == "note" and any(sign in record["text"] for sign in STAGED):
            yield record["text"]


def _write(path: Path, values: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(plain(values), indent=1) + "\n")
