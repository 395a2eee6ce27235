"""What it is worth to look at a micrograph in several orientations, and what it takes.

    python benchmarks/orientations.py             # on micrographs that are neither for testing nor labelled
    python benchmarks/orientations.py --table     # print what is in the results

Each row of ``results/orientations.jsonl`` is one training from one labelled micrograph, with the figures of picking by
the map of the micrograph as it is, of two, four and eight orientations; a row that is there is not computed again. Draw
d labels micrograph d of an order drawn once, its training seed is d. All picks count by the threshold of the run, which
is that of single maps. Places between the peaks are listed, too (``search.exhaustive``), but not on the clock.
"""

import argparse
import datetime
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from ledger import fill, key_of, mean_and_interval, missing, order_of, read

from verglas import __version__, api
from verglas.config import DataSettings, RunConfig
from verglas.evaluate import evaluate, to_json
from verglas.io.micrographs import read_micrograph
from verglas.io.picks import read_picks
from verglas.picker import Picker
from verglas.predict import ORIENTATIONS, ROTATIONS, all_around
from verglas.runs import Run
from verglas.types import PickSet

SETS = ("bgal_10017", "cryoppp_10059", "cryoppp_10947", "klh")
HERE = Path(__file__).parent
RESULTS = HERE / "results" / "orientations.jsonl"
ALONE = "as it is"
LOOKS = {
    ALONE: ROTATIONS[:1],
    "half turn": ROTATIONS[::2],
    "quarter turns": ROTATIONS,
    "all eight": ORIENTATIONS,
}
FIGURES = ("ap@0.5", "f1@0.5", "best_f1@0.5", "ap@0.3", "f1@0.3", "best_f1@0.3")


def main() -> None:
    options = _options(None)
    if not options.table:
        fill(RESULTS, missing(RESULTS, _cells(options)), partial(_run, options.data), _line)
    print("\n".join(_table(options)))


def tables(arguments: list[str]) -> list[str]:
    """Return the table that these arguments print, for the docs."""
    return list(_table(_options(arguments)))


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=HERE.parents[1] / "shared" / "data")
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--draws", type=int, default=2)
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--table", action="store_true")
    return parser.parse_args(arguments)


def _cells(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for draw in range(options.draws):
        for name in options.sets.split(","):
            yield {"set": name, "draw": draw, "looks": list(LOOKS), "settings": sorted(options.set),
                   "version": __version__}  # fmt: skip


def _run(data: Path, cell: dict[str, Any]) -> dict[str, Any]:
    folder = data / cell["set"]
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    rest = sorted(path.stem for path in (folder / "images").glob("*.png") if path.stem not in meta["test"])
    labelled, *unseen = order_of(rest, cell["draw"])
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        (work / "labels").mkdir()
        shutil.copy(folder / "coords" / f"{labelled}.csv", work / "labels")
        where = DataSettings(
            (str(folder / "images" / f"{labelled}.png"),), str(work / "labels"), diameter_px=meta["diameter_px"]
        )
        config = replace(RunConfig(), data=where).with_train(seed=cell["draw"], threads=1)
        config = config.with_settings(cell["settings"])
        list(api.train(config, work / "run"))
        picker, threshold = Picker.load(work / "run").folded(), Run.open(work / "run").operating_point().threshold
    truth = read_picks(folder / "coords").by_name()
    found: dict[str, Any] = {}
    for look, orientations in LOOKS.items():
        parts, seconds = [], 0.0
        for name in unseen:
            began, micrograph = time.process_time(), read_micrograph(folder / "images" / f"{name}.png")
            prepared = picker.prepare(micrograph)
            seen = all_around(picker.network, prepared, precision=picker.precision, orientations=orientations)
            seen = picker.known(prepared, seen)
            picker.find(micrograph, seen)
            seconds += (time.process_time() - began) / len(unseen)
            parts.append(picker.find(micrograph, seen, exhaustive=True))
        picks = PickSet(tuple(parts), threshold, diameter_px=meta["diameter_px"])
        told = {name: truth[name] for name in unseen}
        at = to_json(evaluate(picks, told, diameter_px=meta["diameter_px"], bootstraps=1))["at_radius"]
        figures = {figure: at[figure.split("@")[1]][figure.split("@")[0]] for figure in FIGURES}
        found[look] = figures | {"cpu_seconds": seconds}
    return {"labelled_name": labelled, "micrographs": len(unseen), "looked": found,
            "threads": torch.get_num_threads(), "date": datetime.date.today().isoformat()}  # fmt: skip


def _line(row: dict[str, Any]) -> str:
    looks = "; ".join(f"{look} {' '.join(f'{seen[f]:.3f}' for f in FIGURES)}" for look, seen in row["looked"].items())
    return f"{row['set']} #{row['draw']}: {looks}"


def _table(options: argparse.Namespace) -> Iterator[str]:
    """Yield the mean figures of each look, and what it gains over the micrograph as it is, over sets and draws."""
    wanted = {key_of(cell) for cell in _cells(options)}
    rows = [row for row in read(RESULTS) if row["key"] in wanted]
    if not rows:
        return
    yield "| orientations | AP .5 D | F1 .5 D | best F1 | AP .3 D | F1 .3 D | best F1 | cpu s a micrograph |"
    yield "|---|---|---|---|---|---|---|---|"
    for look in LOOKS:
        cells = [_mean(rows, look, figure) if look == ALONE else _gain(rows, look, figure) for figure in FIGURES]
        yield f"| {look} | {' | '.join(cells)} | {_mean(rows, look, 'cpu_seconds')} |"
    yield ""
    yield "| data | draw | " + " | ".join(f"AP {look}" for look in LOOKS) + " |"
    yield "|---" * (2 + len(LOOKS)) + "|"
    for row in sorted(rows, key=lambda row: (row["set"], row["draw"])):
        shown = " | ".join(f"{row['looked'][look]['ap@0.5']:.3f}" for look in LOOKS)
        yield f"| {row['set']} | {row['draw']} | {shown} |"
    days = sorted({row["date"] for row in rows})
    yield f"\n{len(rows)} trainings. Made on {' and '.join(days)}, verglas {__version__}."


def _mean(rows: list[dict[str, Any]], look: str, figure: str) -> str:
    return f"{statistics.mean(row['looked'][look][figure] for row in rows):.3f}"


def _gain(rows: list[dict[str, Any]], look: str, figure: str) -> str:
    return mean_and_interval([row["looked"][look][figure] - row["looked"][ALONE][figure] for row in rows])


if __name__ == "__main__":
    main()
