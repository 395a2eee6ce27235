"""The reports that verbs leave behind: which micrographs are shown, and what is summed up."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from verglas.config import RunConfig
from verglas.io.collections import find_micrographs
from verglas.io.picks import read_picks
from verglas.picker import Picker
from verglas.records import Summary
from verglas.report import Page, overlay_file, write_report
from verglas.runs import Run
from verglas.types import Collection, Evaluation, Micrograph, Picks, PickSet, nothing

MOST_PAGES = 12
"""Micrographs that are looked through for the best, the worst and the most uncertain of a report."""


def _pages(run: Path, micrographs: Sequence[Micrograph], picks: PickSet, labels: Mapping[str, Picks]) -> list[Page]:
    """Return micrographs as a report shows them."""
    picker, by_name, pages = Picker.load(run), picks.by_name(), []
    for micrograph in micrographs:
        image = picker.prepare(micrograph)
        seen = picker.probability(image)
        found = by_name.get(micrograph.name, nothing(micrograph.name))
        pages.append(Page(micrograph.name, image, found, labels.get(micrograph.name), picker.known(image, seen)))
    return pages


def lacks_report(folder: Path, config: RunConfig) -> bool:
    """Tell whether a training of these settings ended, and was interrupted before its report was written."""
    ended = (folder / "model.json").exists() and not (folder / "report.html").exists()
    return ended and Run(folder).config == config


def trained_summary(folder: Path, collection: Collection) -> Summary:
    """Write the report of a finished training, with the held-out micrographs as its pictures; sum it up."""
    run = Run.open(folder)
    candidates, truth = run.validation()
    shown = [collection.by_name()[name] for name in truth][:MOST_PAGES]
    path = write_report(run, _pages(folder, shown, candidates, truth), validation=(candidates, truth))
    point, known = run.operating_point(), run.facts()
    keys = ("steps", "best_step", "seconds", "validation_ap", "device", "precision")
    return Summary({"run": str(folder), **{key: known[key] for key in keys}} | {
        "threshold": point.threshold, "threshold_interval": point.interval, "threshold_how": point.how,
        "validation_f1": point.f1, "validation_precision": point.precision, "validation_recall": point.recall,
        "validation": run.split()["how"], "report": str(path),
    })  # fmt: skip


def picking_report(
    run: Path, files: Sequence[Path], picks: Path, labels: Path, evaluation: Evaluation
) -> tuple[Path, Path]:
    """Write the report of a run with its figures on labelled micrographs, and one picture beside it."""
    found, truth = read_picks(picks), read_picks(labels).by_name()
    pages = _pages(run, find_micrographs(files).micrographs[:MOST_PAGES], found, truth)
    opened = Run.open(run)
    path = write_report(opened, pages, evaluation=evaluation, validation=opened.validation())
    return path, overlay_file(
        run / "picture.png", pages[0], threshold=found.threshold, diameter_px=opened.facts()["diameter_px"]
    )
