"""Topaz, the picker people have, beside verglas: same labels, same micrographs, same scores.

    python benchmarks/peers/install.py                  # once: Topaz in an environment of its own
    python benchmarks/peers/compare.py                  # every row that is not there yet, those worth most first
    python benchmarks/peers/compare.py --sets klh --labels 0,1 --draws 0
    python benchmarks/peers/compare.py --timing         # on a quiet machine: the clock, with every core
    python benchmarks/peers/compare.py --table          # print the results; so with --timing, --control, --away

Each row of ``results/peers.jsonl`` is one picker with one draw of labels on one set; a row that is there is not
computed again, so an interrupted call goes on. ``--labels``: ``0`` for none (the detectors that Topaz brings, and
ours), ``1`` and ``2`` labelled micrographs, ``30c`` and ``100c`` clicks on three. Draws and test sets are those of
``semi.py``; ``simulated`` adds ice, carbon and crystals, with and without particles. Both pickers run as programs, on
one thread but for ``--timing``, and are scored as ``verglas evaluate`` does. README.md says how Topaz is run.
"""

import argparse
import datetime
import hashlib
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from install import TOPAZ, VERSION
from material import SIMULATED, Material, simulated, write_labels
from pickers import DETECTORS, PICKERS, START, Outcome, Task, trained
from scipy.spatial import cKDTree

from verglas import __version__, api
from verglas.evaluate import to_json
from verglas.io.picks import write_picks
from verglas.matching import match
from verglas.targets import distance_to_nearest
from verglas.types import Grid, PickSet

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results" / "peers.jsonl"
SETS = ("bgal_10017", "cryoppp_10059", "cryoppp_10947", "klh", SIMULATED)
UNTAUGHT = (*DETECTORS, "verglas general", "verglas general thorough")
TAUGHT = ("verglas", "verglas thorough", "verglas from scratch", "verglas supervised")
GROUPS = (UNTAUGHT, TAUGHT, ("topaz", "topaz from scratch"))
UPDATES = 400
"""Updates of Topaz, in place of 10,000: its training then takes at most ten times the processor time of ours."""

RADII, FIGURES = ("0.5", "0.3"), ("ap", "f1", "best_f1")


def main() -> None:
    options = _options(None)
    if not options.table:
        done = {row["key"] for row in _rows()}
        for cell in _cells(options):
            if _key(cell) not in done:
                row = _row(cell, options)
                with RESULTS.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
                print(_line(row), flush=True)
    print("\n".join(_shown(options)))


def tables(arguments: list[str]) -> list[str]:
    """Return the table that these arguments print, for the docs."""
    return list(_shown(_options(arguments)))


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=HERE.parents[2] / "shared" / "data")
    parser.add_argument("--topaz", type=Path, default=TOPAZ, help="the environment that install.py made")
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--labels", default="0,1,30c,2,100c")
    parser.add_argument("--methods", default=",".join(PICKERS))
    parser.add_argument("--draws", default="0,1,2")
    parser.add_argument("--updates", type=int, default=UPDATES, help="how long Topaz is trained")
    for kind in ("--timing", "--control", "--away", "--table"):
        parser.add_argument(kind, action="store_true")
    return parser.parse_args(arguments)


def _cells(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield the rows to be made: detectors first, then verglas, then Topaz trained, draw by draw."""
    for group in GROUPS:
        for draw in [0] if group is UNTAUGHT or options.timing else map(int, options.draws.split(",")):
            for amount in options.labels.split(","):
                for name in options.sets.split(","):
                    for method in group:
                        if method in options.methods.split(",") and _meant(method, amount, options.timing):
                            length = {"updates": options.updates} if PICKERS[method] is trained else {}
                            yield {"set": name, "labels": amount, "draw": draw, "method": method,
                                   "timing": options.timing, "threads": os.cpu_count() if options.timing else 1,
                                   "topaz": VERSION, "version": __version__} | length  # fmt: skip


def _meant(method: str, amount: str, timing: bool) -> bool:
    """Tell whether a picker goes with these labels: with complete ones, verglas is supervised anyway."""
    if method in UNTAUGHT:
        return amount == "0"
    if timing:
        return amount == "1" and method in ("verglas", "verglas thorough", "topaz")
    wanted = {"verglas supervised": amount.endswith("c"), "verglas from scratch": amount == "1"}
    return amount != "0" and wanted.get(method, True)


def _key(cell: dict[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(cell, sort_keys=True).encode(), digest_size=6).hexdigest()


def _row(cell: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    program = options.topaz / "bin" / "topaz"
    if not program.exists():
        sys.exit(f"{program} is missing: run install.py, or name the environment it made with --topaz")
    ours = cell["set"] == SIMULATED
    material = Material.open(simulated(TOPAZ.parent / "peers" / SIMULATED) if ours else options.data / cell["set"])
    labels = None if cell["labels"] == "0" else material.labels(cell["labels"], cell["draw"])
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as scratch:
        task = Task(material, labels, cell["method"], cell["draw"], cell["threads"], cell["timing"],
                    cell.get("updates", UPDATES), program.absolute(), Path(scratch))  # fmt: skip
        outcome = PICKERS[cell["method"]](task, _factor(cell))
        figures = scored(outcome, material, task.work)
        picked = len(task.targets())
    return {
        "key": _key(cell), **cell, **figures, **outcome.facts, "labelled_names": labels.names if labels else [],
        "n_labels_given": len(labels.picks) if labels else 0, "train": asdict(outcome.train),
        "pick": asdict(outcome.pick), "first": asdict(outcome.first), "picked": picked, "load": load,
        "cores": os.cpu_count(), "date": datetime.date.today().isoformat(),
    }  # fmt: skip


def _factor(cell: dict[str, Any]) -> int | None:
    """Return the scale chosen before for this set, for Topaz trained that of the detector it starts from; None if none.

    A detector's own row chooses anew.
    """
    if cell["method"] in DETECTORS and not cell["timing"]:
        return None
    detector = cell["method"] if cell["method"] in DETECTORS else START
    chosen = [r for r in _rows() if (r["set"], r["method"], r["timing"]) == (cell["set"], detector, False)]
    return None if not chosen else chosen[-1]["factor"]


def scored(outcome: Outcome, material: Material, work: Path) -> dict[str, Any]:
    """Return the figures of candidates at their own operating point, and at others."""
    names = list(material.test)
    write_labels(work / "truth", material.truth_of(names))
    found = outcome.picks.by_name()

    def at(picks: PickSet, threshold: float | None) -> dict[str, Any]:
        write_picks(work / "picks.star", picks, counted_only=False)
        return _at(work, threshold) | away_from_labels(picks, threshold, material)

    return at(outcome.picks, outcome.picks.threshold) | {
        "offset_px": offset_px(outcome.picks, material),
        "others": {how: at(outcome.picks, threshold) for how, threshold in outcome.thresholds.items()},
        "inside": None if outcome.inside is None else at(outcome.inside, outcome.inside.threshold),
        "margin_px": outcome.margin_px,
        "candidates": sum(len(found[name]) for name in names),
    }


def _at(work: Path, threshold: float | None) -> dict[str, Any]:
    figures = to_json(api.evaluate(work / "picks.star", work / "truth", threshold=threshold))
    empty = [row["n_picks"] for row in figures["per_micrograph"] if not row["n_labels"]]
    row = {f"{key}@{radius}": figures["at_radius"][radius][key] for radius in RADII for key in FIGURES}
    told = {key: figures[key] for key in ("precision", "recall", "threshold", "n_picks", "n_labels", "n_micrographs")}
    return row | told | {"false_picks_on_empty": empty}


def away_from_labels(picks: PickSet, threshold: float | None, material: Material) -> dict[str, float]:
    """Return how many picks are more than a diameter from every label, and in how many areas of 1024 x 1024."""
    count, pixels = 0, 0
    for name, shape in material.shapes(list(material.test)).items():
        part, truth = picks.by_name()[name], material.truth_of([name]).picks[0]
        counted = part if threshold is None else part.above(threshold)
        distance = distance_to_nearest(truth.xy, Grid(), shape, within=material.diameter_px)
        pixels += int(np.isinf(distance).sum())
        nearest = cKDTree(truth.xy).query(counted.xy)[0] if len(truth) else np.full(len(counted), np.inf)
        count += int((nearest > material.diameter_px).sum())
    return {"away_picks": count, "away_areas": pixels / 1024**2}


def offset_px(picks: PickSet, material: Material) -> list[float]:
    """Return the median of pick minus label in x and y: any shift of coordinates stands out there."""
    apart = [np.zeros((0, 2))]
    for name in material.test:
        part, truth = picks.by_name()[name], material.truth_of([name]).picks[0]
        right, label = match(part.xy, part.score, truth.xy, 0.3 * material.diameter_px)
        apart.append(part.xy[right] - truth.xy[label[right]])
    pooled = np.concatenate(apart)
    return np.median(pooled, axis=0).tolist() if len(pooled) else []


def _rows() -> list[dict[str, Any]]:
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def _line(row: dict[str, Any]) -> str:
    figures = "  ".join(f"{key}@{radius} {row[f'{key}@{radius}']:.3f}" for radius in RADII for key in FIGURES)
    costs = f"train {row['train']['cpu_seconds']:.0f} s, pick {row['pick']['cpu_seconds'] / row['picked']:.1f} s each"
    about = f"{row['set']} {row['labels']} #{row['draw']} {row['method']}"
    return f"{about}: {figures}  {row['n_picks']} picks for {row['n_labels']}; {costs}, offset {row['offset_px']}"


def _shown(options: argparse.Namespace) -> Iterator[str]:
    """Yield the table that is asked for, in Markdown, and of what rows it is made."""
    rows = [
        row for row in _rows()
        if row["timing"] == options.timing and row["version"] == __version__
        and row["labels"] in options.labels.split(",") and row["method"] in options.methods.split(",")
        and row["set"] in ([SIMULATED] if options.control else options.sets.split(","))
    ]  # fmt: skip
    kinds = ((options.control, control_table), (options.away, away_table), (options.timing, timing_table))
    table = next((made for asked, made in kinds if asked), quality_table)
    yield from table(rows)
    if rows:
        days = " and ".join(sorted({row["date"] for row in rows}))
        yield f"\nMade on {days}, verglas {__version__}, topaz-em {VERSION}."


def _groups(rows: list[dict[str, Any]]) -> Iterator[tuple[tuple[str, str, str], list[dict[str, Any]]]]:
    """Yield rows that differ in the draw only, set by set, fewest labels first, in the order of the pickers.

    Trainings of other lengths are groups of their own, of the same key.
    """
    amounts = ["0", "1", "2", "30c", "100c"]

    def place(row: dict[str, Any]) -> tuple[str, int, int, int]:
        return row["set"], amounts.index(row["labels"]), [*PICKERS].index(row["method"]), row.get("updates", 0)

    for _, group in groupby(sorted(rows, key=place), place):
        same = list(group)
        yield (same[0]["set"], same[0]["labels"], same[0]["method"]), same


def quality_table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yield figures, mean and lowest to highest over draws, and processor seconds on one thread."""
    yield _joined("data", "labels", "picker", "runs", "AP .5 D", "F1 .5 D", "best F1", "AP .3 D", "F1 .3 D", "best F1",
                  "picks / labels", "train cpu s", "pick cpu s", "MiB")  # fmt: skip
    yield "|---" * 14 + "|"
    usual = {key: group for key, group in _groups(rows) if key[2] == "verglas"}
    for (name, amount, method), group in _groups(rows):
        cells = _figures(group)
        ours = usual.get((name, amount, "verglas"))
        times = (
            f" ({_median(group, 'train') / _median(ours, 'train'):.1f}x ours)" if ours and "updates" in group[0] else ""
        )
        costs = [f"{_median(group, 'train'):.0f}{times}", f"{_median(group, 'pick'):.1f}", _peak(group)]
        count = f"{len(group)}" if amount != "0" else "-"
        yield _joined(name, amount, _about(method, group), count, *cells, _share(group), *costs)
        inside = [row["inside"] for row in group if row.get("inside")]
        if inside:
            about = "... without the margin that labels keep"
            yield _joined(name, amount, about, f"{len(inside)}", *_figures(inside), _share(inside), *[""] * 3)
        for how in group[0]["others"]:
            other = [row["others"][how] for row in group]
            f1 = [spread([o[f"f1@{radius}"] for o in other]) for radius in RADII]
            yield _joined(name, amount, f"... at {how}", count, "", f1[0], "", "", f1[1], "", _share(other), *[""] * 3)


def _figures(group: list[dict[str, Any]]) -> list[str]:
    return [spread([row[f"{key}@{radius}"] for row in group]) for radius in RADII for key in FIGURES]


def timing_table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yield seconds by the clock with all cores: of one micrograph, start included, and of each further one."""
    usual = {key: _further(group) for key, group in _groups(rows) if key[2] == "verglas general"}
    yield _joined("data", "labels", "picker", "threads", "train s", "one micrograph s", "each further s",
                  "times verglas general", "peak MiB", "load before")  # fmt: skip
    yield "|---" * 10 + "|"
    for (name, amount, method), group in _groups(rows):
        further, ours = _further(group), usual.get((name, "0", "verglas general"))
        costs = [f"{_median(group, 'train', 'seconds'):.0f}", f"{group[0]['first']['seconds']:.1f}",
                 f"{further:.3f}", f"{further / ours:.1f}" if ours else "", _peak(group)]  # fmt: skip
        yield _joined(name, amount, _about(method, group), str(group[0]["threads"]), *costs, f"{group[0]['load']:.1f}")


def _further(group: list[dict[str, Any]]) -> float:
    """Return the seconds that each micrograph after the first takes."""
    return statistics.median((r["pick"]["seconds"] - r["first"]["seconds"]) / (r["picked"] - 1) for r in group)


def control_table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yield false picks on simulated 1024 x 1024 micrographs without a particle, and what is found where some are."""
    yield "| labels | picker | operating point | false picks per empty micrograph | most | AP .5 D | F1 .5 D |"
    yield "|---|---|---|---|---|---|---|"
    for (_, amount, method), group in _groups(rows):
        for how, made in _points(group).items():
            counts = [n for row in made for n in row["false_picks_on_empty"]]
            yield _joined(amount, _about(method, group), how, f"{statistics.mean(counts):.1f}", str(max(counts)),
                          spread([r["ap@0.5"] for r in made]), spread([r["f1@0.5"] for r in made]))  # fmt: skip


def away_table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yield how many picks there are where no label is within a diameter, for 1024 x 1024 pixels of such area."""
    yield "| data | labels | picker | operating point | areas of 1024 × 1024 | picks in each |"
    yield "|---|---|---|---|---|---|"
    for (name, amount, method), group in _groups([row for row in rows if row.get("away_areas")]):
        for how, made in _points(group).items():
            density = [row["away_picks"] / row["away_areas"] for row in made]
            areas = f"{made[0]['away_areas']:.2f}"
            yield _joined(name, amount, _about(method, group), how, areas, f"{statistics.mean(density):.1f}")


def _points(group: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Return the figures of rows at each operating point."""
    return {"its own": group} | {how: [row["others"][how] for row in group] for how in group[0]["others"]}


def spread(values: list[float]) -> str:
    """Return the mean, and the lowest and highest where there are several."""
    mean = f"{statistics.mean(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.3f}-{max(values):.3f})"


def _about(method: str, group: list[dict[str, Any]]) -> str:
    row = group[0]
    if "ran" in row:
        return method if row["ran"] in method else f"{method} ({row['ran']})"
    shrunken = f"{'topaz ' if method in DETECTORS else ''}{method}, 1/{row['factor']}"
    return f"{shrunken}, {row['updates']} updates" if "updates" in row else shrunken


def _median(group: list[dict[str, Any]], what: str, key: str = "cpu_seconds") -> float:
    return statistics.median(row[what][key] / (row["picked"] if what == "pick" else 1) for row in group)


def _peak(group: list[dict[str, Any]]) -> str:
    return f"{max(max(row[what]['peak_mib'] for what in ('train', 'pick')) for row in group):.0f}"


def _share(group: list[dict[str, Any]]) -> str:
    return f"{statistics.mean(row['n_picks'] / max(row['n_labels'], 1) for row in group):.2f}"


def _joined(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
