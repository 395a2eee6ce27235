"""The pickers that are compared: each takes a task and returns its candidates on the test micrographs, and the cost."""

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from material import Labels, Material, write_labels
from topaz import DEFAULT_THRESHOLD, Cost, Topaz, in_micrograph, run

from verglas.evaluate import evaluate, to_json
from verglas.io.picks import read_picks
from verglas.targets import distance_to_border
from verglas.types import PickSet

DETECTORS = ("resnet8_u32", "resnet8_u64", "resnet16_u32", "resnet16_u64")
START = "resnet8_u32"
"""The detector of the architecture that ``topaz train`` has by default, and whose weights it starts from."""

CHOOSING = 3
"""Micrographs not for testing on which the working scale of a detector is chosen."""

WORKING_DIAMETERS_PX = (27.0, 19.0, 13.5, 9.5)
"""Diameters in shrunken pixels that the working scales aim at."""

EXHAUSTIVE = ("--set", "search.exhaustive=true")
"""Topaz lists the best pixel left again and again, and AP counts the whole list: ours is to be as long."""

FROM_SCRATCH = ("--set", "train.start_from=scratch")
"""Clicks are learned from drawn weights by default; so they are where they are taken for complete labels."""

TIMED, TIMED_OURS = 16, 160
"""Micrographs that are picked for the clock; one alone is picked before, and its time taken off."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """All candidates on the test micrographs, what they cost, and how they came about.

    ``thresholds`` are operating points to be reported beside that of the picks. ``first`` is what one micrograph costs
    where the clock is wanted, starting the program included. ``inside`` are the picks that keep ``margin_px`` from the
    border, at the threshold chosen from such ones: given where labels keep a margin of which the picker knows nothing.
    """

    picks: PickSet
    train: Cost
    pick: Cost
    facts: dict[str, Any] = field(default_factory=dict)
    thresholds: dict[str, float] = field(default_factory=dict)
    first: Cost = Cost()
    inside: PickSet | None = None
    margin_px: float = 0.0


@dataclass(frozen=True, slots=True)
class Task:
    """One row to be made; ``work`` is a folder to make it in."""

    material: Material
    labels: Labels | None
    method: str
    seed: int
    threads: int
    timing: bool
    updates: int
    topaz: Path
    work: Path

    def targets(self) -> list[Path]:
        """Return the pictures to pick: those of the test list, and for the clock copies of them."""
        tested = [self.material.images[name] for name in self.material.test]
        copies = []
        enough = TIMED_OURS if self.method.startswith("verglas") else TIMED
        for at in range(len(tested), enough if self.timing else 0):
            original = tested[at % len(tested)]
            copies.append(self.work / f"copy{at}{original.suffix}")
            copies[-1].write_bytes(original.read_bytes())
        return tested + copies

    def at(self, factor: int) -> Topaz:
        """Return Topaz at a working scale."""
        return Topaz(self.topaz, factor, self.material.diameter_px, self.threads, self.work)


def pretrained(task: Task, factor: int | None) -> Outcome:
    """Pick with a detector as Topaz brings it, at the scale that suits it best on micrographs not for testing."""
    tried = {} if factor else {f: _on_rest(task, f) for f in factors(task.material.diameter_px)}
    factor = factor or max(tried, key=lambda f: tried[f]["ap"])
    picks, cost, first = _extracted_all(task, task.at(factor), task.method, DEFAULT_THRESHOLD)
    others = {"0": 0.0} | ({"best on other micrographs": tried[factor]["best_threshold"]} if tried else {})
    return Outcome(picks, Cost(), cost, {"factor": factor, "tried": tried}, others, first)


def trained(task: Task, factor: int | None) -> Outcome:
    """Let Topaz learn from the labels, at the scale of the detector it starts from, and choose its threshold there."""
    assert task.labels is not None
    if factor is None:
        sys.exit(f"make the row of {START} on this set first: it chooses the scale")
    topaz, labels, images = task.at(factor), task.labels, task.material.images
    small, preparing = topaz.prepare([images[name] for name in labels.names])
    shapes = task.material.shapes(labels.names)
    model, learning = topaz.train(small, labels, shapes, task.updates, pretrained=task.method == "topaz")
    own, choosing = extracted(topaz, model, [images[name] for name in labels.names], task.material, None)
    threshold = chosen_threshold(own, labels, task.material.diameter_px)
    picks, cost, first = _extracted_all(task, topaz, model, threshold)
    inside, margin = None, labels.margin_px(shapes, task.material.diameter_px)
    if margin:
        counted = chosen_threshold(kept_from_border(own, margin), labels, task.material.diameter_px)
        inside = kept_from_border(replace(picks, threshold=counted), margin)
    costs = preparing + learning + choosing
    return Outcome(picks, costs, cost, {"factor": factor}, {"0": 0.0}, first, inside, margin)


def _extracted_all(task: Task, topaz: Topaz, model: str | Path, threshold: float | None) -> tuple[PickSet, Cost, Cost]:
    """Return what is found, its cost, and that of one micrograph where the clock is wanted."""
    first = Cost()
    if task.timing:
        _, first = extracted(topaz, model, task.targets()[:1], task.material, threshold)
    return *extracted(topaz, model, task.targets(), task.material, threshold), first


def verglas(task: Task, _: int | None) -> Outcome:
    """Let verglas learn from the labels by its command line, and pick at the threshold it chose."""
    assert task.labels is not None
    folder, run_folder = task.work / "labels", task.work / "run"
    write_labels(folder, task.labels.picks)
    supervised = task.method == "verglas supervised"
    scratch = FROM_SCRATCH if supervised or task.method == "verglas from scratch" else ()
    options = (
        "--labels", folder, "--diameter-px", task.material.diameter_px, "--seed", task.seed, "--labels-are",
        "complete" if supervised or task.labels.complete else "partial", "--algorithm",
        "supervised" if supervised else "auto", "--set", f"train.threads={task.threads}",
        *(() if task.timing else EXHAUSTIVE), *scratch,
    )  # fmt: skip
    shown = [word for name in task.labels.names for word in ("-m", task.material.images[name])]
    train = _verglas(task, "train", "--out", run_folder, *options, *shown)
    found, pick, first = _picked(task, run_folder)
    ran = json.loads((run_folder / "model.json").read_text(encoding="utf-8"))["algorithm"]
    return Outcome(found, train, pick, {"ran": ran}, first=first)


def general(task: Task, _: int | None) -> Outcome:
    """Pick with the network that comes with verglas, which lists peaks only.

    Beside its own threshold, that by the number of particles that micrographs not for testing have labels.
    """
    how = "general", "--diameter-px", task.material.diameter_px
    found, pick, first = _picked(task, *how)
    if task.timing:
        return Outcome(found, Cost(), pick, {"ran": "general"}, first=first)
    number = np.mean([len(part) for part in task.material.truth_of(task.material.order(0)[:CHOOSING])]).round()
    told, _, _ = _picked(task, *how, "--particles-per-micrograph", number)
    thresholds = {f"the score that keeps {number:.0f}": told.threshold} if told.threshold is not None else {}
    return Outcome(found, Cost(), pick, {"ran": "general"}, thresholds)


def _picked(task: Task, *network: object) -> tuple[PickSet, Cost, Cost]:
    """Return what is found, its cost, and that of one micrograph where the clock is wanted."""
    network, first = (*network, *(("--thorough",) if task.method.endswith("thorough") else ())), Cost()
    if task.timing:
        first = _verglas(task, "pick", *network, "--out", task.work / "first.star", "-m", task.targets()[0])
    out = task.work / "found.star"
    cost = _verglas(task, "pick", *network, "--out", out, *(w for image in task.targets() for w in ("-m", image)))
    return read_picks(out), cost, first


def _verglas(task: Task, *arguments: object) -> Cost:
    command = [sys.executable, "-c", "from verglas.cli import main; main()", *map(str, arguments)]
    return run(command, {**os.environ, "OMP_NUM_THREADS": str(task.threads)}, task.work / "verglas.log")


PICKERS: dict[str, Callable[[Task, int | None], Outcome]] = {
    **dict.fromkeys(DETECTORS, pretrained),
    "verglas general": general,
    "verglas general thorough": general,
    "verglas": verglas,
    "verglas thorough": verglas,
    "verglas from scratch": verglas,
    "verglas supervised": verglas,
    "topaz": trained,
    "topaz from scratch": trained,
}


def factors(diameter_px: float) -> list[int]:
    """Return the whole factors that bring the diameter near to each of those that are tried."""
    return sorted({max(1, round(diameter_px / aim)) for aim in WORKING_DIAMETERS_PX})


def extracted(
    topaz: Topaz, model: str | Path, images: list[Path], material: Material, threshold: float | None
) -> tuple[PickSet, Cost]:
    """Prepare and pick pictures with Topaz; the clock's copies are picked and then left out."""
    small, preparing = topaz.prepare(images)
    file, picking = topaz.extract(model, small)
    shapes = material.shapes([image.stem for image in images if image.stem in material.images])
    return in_micrograph(file, shapes, topaz.factor, topaz.diameter_px, threshold), preparing + picking


def kept_from_border(picks: PickSet, margin_px: float) -> PickSet:
    """Return the picks that keep a margin from the border of their micrograph."""
    parts = [part.where(distance_to_border(part.xy, picks.shapes[part.micrograph]) >= margin_px) for part in picks]
    return replace(picks, picks=tuple(parts))


def chosen_threshold(picks: PickSet, labels: Labels, diameter_px: float) -> float:
    """Return the score from which a pick counts, by what Topaz found on the labelled micrographs.

    With complete labels the best F1, as its manual has it. With clicks, which say nothing of precision, the score
    down to which there are as many picks as Topaz was told to expect.
    """
    if labels.complete:
        best = evaluate(picks, labels.picks.by_name(), diameter_px=diameter_px, bootstraps=1).pooled["best_threshold"]
        return DEFAULT_THRESHOLD if best is None else float(best)
    scores = sorted((score for part in picks for score in part.score.tolist()), reverse=True)
    return scores[min(labels.particles, len(scores)) - 1] if scores else DEFAULT_THRESHOLD


def _on_rest(task: Task, factor: int) -> dict[str, float]:
    names = task.material.order(0)[:CHOOSING]
    images = [task.material.images[name] for name in names]
    picks, _ = extracted(task.at(factor), task.method, images, task.material, None)
    truth = task.material.truth_of(names).by_name()
    figures = to_json(evaluate(picks, truth, diameter_px=task.material.diameter_px, bootstraps=1))
    return {key: figures[key] for key in ("ap", "best_f1", "best_threshold")}
