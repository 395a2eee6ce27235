"""Topaz, the picker people have, beside verglas: same labels, same micrographs, same scores.

    python benchmarks/peers/install.py                  # once: Topaz in an environment of its own
    python benchmarks/peers/compare.py                  # every row that is not there yet, those worth most first
    python benchmarks/peers/compare.py --sets klh --labels 0,1 --draws 0
    python benchmarks/peers/compare.py --timing         # on a quiet machine: the clock, with every core
    python benchmarks/peers/compare.py --table          # print what is in the results; so with --timing, --control

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
from pathlib import Path
from typing import Any

import numpy as np
from install import TOPAZ, VERSION
from material import SIMULATED, Material, simulated, write_labels
from pickers import DETECTORS, PICKERS, START, UPDATES, Outcome, Task, trained

from verglas import __version__, api
from verglas.evaluate import to_json
from verglas.io.picks import write_picks
from verglas.matching import match
from verglas.types import PickSet

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results" / "peers.jsonl"
SETS = ("bgal_10017", "cryoppp_10059", "cryoppp_10947", "klh", SIMULATED)
UNTAUGHT = (*DETECTORS, "verglas general")
GROUPS = (UNTAUGHT, ("verglas", "verglas supervised"), ("topaz", "topaz from scratch"))
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
    for kind in ("--timing", "--control", "--table"):
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
                            yield {"set": name, "labels": amount, "draw": draw, "method": method,
                                   "timing": options.timing, "threads": os.cpu_count() if options.timing else 1,
                                   "topaz": VERSION, "version": __version__} | _length(method)  # fmt: skip


def _meant(method: str, amount: str, timing: bool) -> bool:
    """Tell whether a picker goes with these labels: with complete ones, verglas is supervised anyway."""
    if method in UNTAUGHT:
        return amount == "0"
    if timing:
        return amount == "1" and method in ("verglas", "topaz")
    return amount.endswith("c") or (amount != "0" and method != "verglas supervised")


def _length(method: str) -> dict[str, int]:
    return {"updates": UPDATES} if PICKERS[method] is trained else {}


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
                    program.absolute(), Path(scratch))  # fmt: skip
        outcome = PICKERS[cell["method"]](task, _factor(cell))
        figures = scored(outcome, material, task.work)
        picked = len(task.targets())
    return {
        "key": _key(cell), **cell, **figures, **outcome.facts, "labelled_names": labels.names if labels else [],
        "n_labels_given": len(labels.picks) if labels else 0, "train": asdict(outcome.train),
        "pick": asdict(outcome.pick), "picked": picked, "load": load, "cores": os.cpu_count(),
        "date": datetime.date.today().isoformat(),
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
    write_picks(work / "picks.star", outcome.picks, counted_only=False)
    write_labels(work / "truth", material.truth_of(names))
    own = _at(work, outcome.picks.threshold)
    found = outcome.picks.by_name()
    return own | {
        "offset_px": offset_px(outcome.picks, material),
        "others": {how: _at(work, threshold) for how, threshold in outcome.thresholds.items()},
        "candidates": sum(len(found[name]) for name in names),
    }


def _at(work: Path, threshold: float | None) -> dict[str, Any]:
    figures = to_json(api.evaluate(work / "picks.star", work / "truth", threshold=threshold))
    empty = [row["n_picks"] for row in figures["per_micrograph"] if not row["n_labels"]]
    row = {f"{key}@{radius}": figures["at_radius"][radius][key] for radius in RADII for key in FIGURES}
    told = {key: figures[key] for key in ("precision", "recall", "threshold", "n_picks", "n_labels", "n_micrographs")}
    return row | told | {"false_picks_on_empty": empty}


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
    table = control_table if options.control else timing_table if options.timing else quality_table
    yield from table(rows)
    if rows:
        days = " and ".join(sorted({row["date"] for row in rows}))
        yield f"\nMade on {days}, verglas {__version__}, topaz-em {VERSION}."


def _groups(rows: list[dict[str, Any]]) -> Iterator[tuple[tuple[str, str, str], list[dict[str, Any]]]]:
    """Yield rows that differ in the draw only, set by set, fewest labels first, in the order of the pickers."""
    amounts = ["0", "1", "2", "30c", "100c"]
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["set"], row["labels"], row["method"]), []).append(row)
    yield from sorted(groups.items(), key=lambda g: (g[0][0], amounts.index(g[0][1]), [*PICKERS].index(g[0][2])))


def quality_table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yield figures, mean and lowest to highest over draws, and processor seconds on one thread."""
    yield _joined("data", "labels", "picker", "draws", "AP .5 D", "F1 .5 D", "best F1", "AP .3 D", "F1 .3 D", "best F1",
                  "picks / labels", "train cpu s", "pick cpu s", "MiB")  # fmt: skip
    yield "|---" * 14 + "|"
    groups = dict(_groups(rows))
    for (name, amount, method), group in groups.items():
        cells = [spread([r[f"{key}@{radius}"] for r in group]) for radius in RADII for key in FIGURES]
        ours = groups.get((name, amount, "verglas"))
        times = f" ({_median(group, 'train') / _median(ours, 'train'):.1f}x ours)" if ours and group is not ours else ""
        costs = [f"{_median(group, 'train'):.0f}{times}", f"{_median(group, 'pick'):.1f}", _peak(group)]
        count = f"{len(group)}" if amount != "0" else "-"
        yield _joined(name, amount, _about(method, group), count, *cells, _share(group), *costs)
        for how in group[0]["others"]:
            other = [row["others"][how] for row in group]
            f1 = [spread([o[f"f1@{radius}"] for o in other]) for radius in RADII]
            yield _joined(name, amount, f"... at {how}", count, "", f1[0], "", "", f1[1], "", _share(other), *[""] * 3)


def timing_table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yield seconds by the clock with all cores, starting the program included."""
    yield "| data | labels | picker | threads | train s | pick s per micrograph | peak MiB | load before |"
    yield "|---|---|---|---|---|---|---|---|"
    for (name, amount, method), group in _groups(rows):
        costs = [f"{_median(group, 'train', 'seconds'):.0f}", f"{_median(group, 'pick', 'seconds'):.2f}", _peak(group)]
        yield _joined(name, amount, _about(method, group), str(group[0]["threads"]), *costs, f"{group[0]['load']:.1f}")


def control_table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yield false picks on simulated 1024 x 1024 micrographs without a particle, and what is found where some are."""
    yield "| labels | picker | operating point | false picks per empty micrograph | most | AP .5 D | F1 .5 D |"
    yield "|---|---|---|---|---|---|---|"
    for (_, amount, method), group in _groups(rows):
        points = {"its own": group} | {how: [r["others"][how] for r in group] for how in group[0]["others"]}
        for how, made in points.items():
            counts = [n for row in made for n in row["false_picks_on_empty"]]
            yield _joined(amount, _about(method, group), how, f"{statistics.mean(counts):.1f}", str(max(counts)),
                          spread([r["ap@0.5"] for r in made]), spread([r["f1@0.5"] for r in made]))  # fmt: skip


def spread(values: list[float]) -> str:
    """Return the mean, and the lowest and highest where there are several."""
    mean = f"{statistics.mean(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.3f}-{max(values):.3f})"


def _about(method: str, group: list[dict[str, Any]]) -> str:
    row = group[0]
    if "ran" in row:
        return f"{method} ({row['ran']})" if row["ran"] != method.removeprefix("verglas ") else method
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
