"""Quality against labels: the studies of ``benchmarks/studies``, run, collected and drawn for the docs.

    python benchmarks/studies.py --jobs 2                     # all of it; repeat the command after an interruption
    python benchmarks/studies.py --jobs 2 --studies report-a  # the tables of a report, as a study
    python benchmarks/studies.py --dry-run                    # what is left, and for how long
    python benchmarks/studies.py --table                      # print what is in the results

Runs are kept in ``--work``, where each study has its page, ``study.html``; what is done is not done again. Each line of
``results/studies.jsonl`` is one place in the matrix with the run that stands there; the lines of a study are written
when all of its runs have ended. The simulated micrographs are made there, too, by the scene of the demo.
"""

import argparse
import json
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ledger import read

from verglas import api
from verglas.records import Failed, Studied, Summary
from verglas.simulate import DEMO
from verglas.study import Amount, Study, read_tree
from verglas.study_report import Group, amount, collect, curves, summed_up

HERE = Path(__file__).parent
RESULTS, FIGURES = HERE / "results" / "studies.jsonl", HERE.parent / "docs" / "figures"
SIMULATED = 240
DRAWN = "ap@0.5"
KEPT = (
    "ap@0.5", "f1@0.5", "best_f1@0.5", "ap@0.3", "f1@0.3", "pixel_precision", "pixel_recall", "pixel_f1", "pixel_ap",
    "pixel_skill", "calibration_error", "training_seconds",
)  # fmt: skip
ABOUT = ("algorithm", "labels", "unlabelled", "doctor", "stages", "seconds", "device", "threads", "date", "version")


def main() -> None:
    options = _options(None)
    if not options.table:
        for name in options.studies.split(","):
            if not _carry_out(name, options):
                sys.exit(f"{name}: not all runs have ended; repeat the command")
    print("\n".join(_tables(options)))


def tables(arguments: list[str]) -> list[str]:
    """Return the figures and the table that these arguments print, for the docs."""
    return list(_tables(_options(arguments)))


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=HERE.parents[1] / "shared" / "data")
    parser.add_argument("--work", type=Path, default=HERE / "work" / "studies")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--figures", type=Path, default=FIGURES)
    parser.add_argument("--studies", default="curves,simulated")
    parser.add_argument("--seeds", type=int, help="how many, else those of the file")
    parser.add_argument("--steps", type=int, help="for a trial, with other --work and --results")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--table", action="store_true")
    return parser.parse_args(arguments)


def study(name: str, options: argparse.Namespace) -> Study:
    """Return a committed study with its paths below the data; simulated micrographs are in ``--work``."""
    path = HERE / "studies" / f"{name}.toml"
    tree = read_tree(path)
    for of, data in tree["data"].items():
        root = options.work / "data" if of == "simulated" else options.data
        data["micrographs"] = [str(root / pattern) for pattern in data["micrographs"]]
        data["labels"] = str(root / data["labels"])
    if options.seeds:
        tree["seeds"] = list(range(options.seeds))
    if options.steps:
        tree["set"] = [f"train.steps={options.steps}"]
    return Study.of(tree, str(path))


def _carry_out(name: str, options: argparse.Namespace) -> bool:
    """Carry out what is left of a study; tell whether all has ended, and if so keep its results."""
    plan, folder, stop = study(name, options), options.work / name, threading.Event()
    if "simulated" in plan.data:
        _simulate(options.work / "data" / "simulated")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    last = None
    for last in api.study(folder, plan, jobs=options.jobs, dry_run=options.dry_run, stop=stop):
        if isinstance(last, Studied | Failed | Summary):
            print(f"{name}: {last}", flush=True)
    if options.dry_run:
        return True
    if not isinstance(last, Summary) or "missing" in last.facts:
        return False
    others = [row for row in read(options.results) if row["study"] != name]
    lines = [json.dumps(row) + "\n" for row in (*others, *_rows(name, folder))]
    partial = options.results.with_suffix(".part")
    partial.write_text("".join(lines), encoding="utf-8")
    partial.replace(options.results)
    _draw(name, options)
    return True


def _simulate(folder: Path) -> None:
    """Write the simulated set, unless it is there whole: runs are known by the dates of its files."""
    there = folder / "truth.json"
    if not there.exists() or len(json.loads(there.read_text(encoding="utf-8"))["micrographs"]) < SIMULATED:
        list(api.simulate(folder, DEMO, micrographs=SIMULATED, seed=0))


def _rows(name: str, folder: Path) -> Iterator[dict[str, Any]]:
    """Yield what is kept of each place in the matrix of a study."""
    for group in collect(folder):
        for seed, (key, result) in group.runs.items():
            place = {"study": name, "data": group.data, "row": group.row, "kind": group.amount.kind,
                     "value": group.amount.value, "seed": seed, "run": key}  # fmt: skip
            figures = {key: round(value, 5) for key in KEPT if (value := result["figures"].get(key)) is not None}
            yield place | {"figures": figures, "cores": os.cpu_count()} | {key: result[key] for key in ABOUT}


def _groups(rows: list[dict[str, Any]]) -> list[Group]:
    """Return the runs in groups of one data set, amount and row, in the order of the results."""
    groups: dict[tuple[str, Amount, str], dict[int, tuple[str, Any]]] = {}
    for row in rows:
        place = row["data"], Amount(row["kind"], row["value"]), row["row"]
        groups.setdefault(place, {})[row["seed"]] = (row["run"], row)
    return [Group(data, row, amount, len(runs), runs) for (data, amount, row), runs in groups.items()]


def _draw(name: str, options: argparse.Namespace) -> None:
    """Draw the curves of a study, a picture for each way to count labels."""
    groups = _groups([row for row in read(options.results) if row["study"] == name])
    for kind in dict.fromkeys(group.amount.kind for group in groups):
        pairs = [(g, r) for g, r in zip(groups, summed_up(groups), strict=True) if g.amount.kind == kind]
        options.figures.mkdir(parents=True, exist_ok=True)
        (options.figures / _figure(name, kind)).write_text(curves(pairs, DRAWN), encoding="utf-8")


def _figure(name: str, kind: str) -> str:
    return f"study_{name}_{kind}.svg"


def _tables(options: argparse.Namespace) -> Iterator[str]:
    """Yield the figures of each study, and a table in Markdown: means over seeds, and the paired gain."""
    for name in options.studies.split(","):
        rows = [row for row in read(options.results) if row["study"] == name]
        if not rows:
            yield f"`{name}` has not been run."
            continue
        groups = _groups(rows)
        for kind in dict.fromkeys(group.amount.kind for group in groups):
            yield f"![AP within half a diameter against {kind} labelled](figures/{_figure(name, kind)})\n"
        headings = ["data", "labels", "row", "runs", "AP .5 D", "gain (95 % interval)", "F1 .5 D", "AP .3 D",
                    "gain .3 D", "pixels above .5: P, R, F1", "skill", "calibration", "verdicts"]  # fmt: skip
        yield "| " + " | ".join(headings) + " |"
        yield "|" + "---|" * len(headings)
        for group, row in zip(groups, summed_up(groups), strict=True):
            yield "| " + " | ".join(_cells(group, row)) + " |"
        different = {row["run"]: row for row in rows}.values()
        hours = sum(row["seconds"] * max(1, row["threads"]) for row in different) / 3600
        days = " and ".join(sorted({row["date"] for row in rows}))
        cores = " or ".join(sorted({str(row["cores"]) for row in rows}))
        versions = " and ".join(sorted({row["version"] for row in rows}))
        yield f"\n{len(different)} runs, {hours:.1f} hours of one core. Made on {days} with {cores} cores, " \
              f"verglas {versions}."  # fmt: skip


def _cells(group: Group, row: dict[str, Any]) -> list[str]:
    found = row["figures"]

    def mean(figure: str) -> str:
        of = found[figure]
        return f"{of['mean']:.3f}" + ("" if of["sd"] is None else f" ± {of['sd']:.3f}")

    def gained(figure: str) -> str:
        of = row["gain"].get(figure)
        if of is None:
            return "-"
        return f"{of['mean']:+.3f}" + ("" if of["low"] is None else f" ({of['low']:+.3f} to {of['high']:+.3f})")

    half = ", ".join(f"{found[f'pixel_{key}']['mean']:.2f}" for key in ("precision", "recall", "f1"))
    verdicts = ", ".join(f"{word} {n}" for word, n in Counter(row["verdicts"]).most_common())
    return [
        group.data, amount(group.amount), group.row, str(len(group.runs)), mean("ap@0.5"), gained("ap@0.5"),
        mean("f1@0.5"), mean("ap@0.3"), gained("ap@0.3"), half, mean("pixel_skill"), mean("calibration_error"),
        verdicts,
    ]  # fmt: skip


if __name__ == "__main__":
    main()
