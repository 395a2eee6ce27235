"""Does it help to label next what ``verglas suggest`` ranks first? Against random order, paired, on real micrographs.

    python benchmarks/suggest.py --jobs 2
    python benchmarks/suggest.py --on rest --sets klh   # choosing how to rank: never on test micrographs
    python benchmarks/suggest.py --table

Each row of ``results/suggest.jsonl`` is one chain of trainings; a row that is there is not computed again. A chain
begins with one labelled micrograph, trains, labels one more, trains anew, and so on. Draw d begins with micrograph d
of those not on the test list of ``meta.json``, in an order drawn once, and trains with seed d. The chain ``suggest``
labels what ranks first, by the run it has come to; ``random0`` to ``random2`` label in a random order. All chains of
a draw begin with the same run. Gains are over the mean of the random chains of the same draw. Figures are of the test
micrographs, which nothing else sees, or with ``--on rest`` of the others that the chain never labels.
"""

import argparse
import datetime
import json
import shutil
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from ledger import fill, mean_and_interval, missing, order_of, read

from verglas import __version__, api
from verglas.config import DataSettings, RunConfig
from verglas.evaluate import to_json
from verglas.io.collections import find_micrographs
from verglas.picker import Picker
from verglas.records import Suggested
from verglas.runs import Run
from verglas.suggest import suggestions

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "suggest.jsonl"
FIGURES = ("ap@0.5", "f1@0.5", "ap@0.3")


def main() -> None:
    options = _options(None)
    if not options.table:
        todo = missing(RESULTS, _cells(options))
        fill(RESULTS, todo, partial(_run, options.data), _line, jobs=options.jobs)
    print("\n".join(_table(read(RESULTS), options)))


def tables(arguments: list[str]) -> list[str]:
    """Return the table that these arguments print, for the docs."""
    return list(_table(read(RESULTS), _options(arguments)))


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=HERE.parents[1] / "shared" / "data")
    parser.add_argument("--sets", default="bgal_10017,cryoppp_10947")
    parser.add_argument("--chains", default="suggest,random0,random1,random2")
    parser.add_argument("--added", type=int, default=2, help="micrographs labelled after the first, one at a time")
    parser.add_argument("--draws", default="0,1,2,3")
    parser.add_argument("--on", choices=("test", "rest"), default="test")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--table", action="store_true")
    return parser.parse_args(arguments)


def _cells(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for draw in map(int, options.draws.split(",")):
        for name in options.sets.split(","):
            for chain in options.chains.split(","):
                yield {"set": name, "draw": draw, "chain": chain, "added": options.added, "on": options.on,
                       "settings": sorted(options.set), "version": __version__}  # fmt: skip


def _run(data: Path, cell: dict[str, Any]) -> dict[str, Any]:
    """Go along a chain; the first training is made where it is needed to suggest from, and its figures are kept."""
    folder = data / cell["set"]
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    rest = sorted(path.stem for path in (folder / "images").glob("*.png") if path.stem not in meta["test"])
    first, *others = order_of(rest, cell["draw"])
    if cell["on"] == "rest":  # half of them are seen by no chain, and take the place of the test micrographs
        others, unseen = others[::2], others[1::2]
    else:
        unseen = meta["test"]
    labelled, steps, said = [first], [], list[dict[str, Any]]()
    shuffled = None
    if cell["chain"] != "suggest":
        turn = int(cell["chain"].removeprefix("random"))
        shuffled = np.random.default_rng([cell["draw"], turn]).permutation(others).tolist()
        labelled.append(shuffled[0])
    while True:
        with tempfile.TemporaryDirectory() as scratch:
            steps.append(_trained(folder, meta, labelled, unseen, Path(scratch), cell))
            if len(labelled) > cell["added"]:
                break
            if shuffled is None:
                pool = [name for name in others if name not in labelled]
                said.append(_suggested(Path(scratch) / "run", folder / "images", labelled, pool))
        labelled.append(said[-1]["micrograph"] if shuffled is None else shuffled[len(labelled) - 1])
    return {"labelled_names": labelled, "steps": steps, "said": said, "date": datetime.date.today().isoformat()}


def _trained(
    folder: Path, meta: dict[str, Any], labelled: list[str], unseen: list[str], work: Path, cell: dict[str, Any]
) -> dict[str, Any]:
    """Train with these labels, and return the figures on micrographs unseen."""
    for kind, names in (("labels", labelled), ("unseen", unseen)):
        (work / kind).mkdir()
        for name in names:
            shutil.copy(folder / "coords" / f"{name}.csv", work / kind)
    images = tuple(str(folder / "images" / f"{name}.png") for name in labelled)
    where = DataSettings(images, str(work / "labels"), diameter_px=meta["diameter_px"])
    settings = [f"train.seed={cell['draw']}", "train.threads=1", *cell["settings"]]
    list(api.train(replace(RunConfig(), data=where).with_settings(settings), work / "run"))
    list(api.pick(work / "run", [folder / "images" / f"{name}.png" for name in unseen], work / "picks.star"))
    figures = to_json(api.evaluate(work / "picks.star", work / "unseen"))
    return {"labelled": len(labelled), "threshold": figures["threshold"]} | {
        f"{key}@{radius}": figures["at_radius"][radius][key]
        for radius in ("0.5", "0.3") for key in ("ap", "f1", "best_f1")
    }  # fmt: skip


def _suggested(run: Path, images: Path, labelled: list[str], pool: list[str]) -> dict[str, Any]:
    """Return what ranks first."""
    known, free = (find_micrographs([images / f"{n}.png" for n in names]).micrographs for names in (labelled, pool))
    records = suggestions(Run.open(run), Picker.load(run), known, free, most=1)
    first = next(record for record in records if isinstance(record, Suggested))
    return {key: value for key, value in json.loads(first.to_json()).items() if key not in ("kind", "rank", "path")}


def _line(row: dict[str, Any]) -> str:
    steps = "; ".join(
        f"{step['labelled']}: " + " ".join(f"{key} {step[key]:.3f}" for key in FIGURES) for step in row["steps"]
    )
    return f"{row['set']} #{row['draw']} {row['chain']} {row['settings']}: {steps}"


def _table(rows: list[dict[str, Any]], options: argparse.Namespace) -> Iterator[str]:
    """Yield a table in Markdown: means over draws, and the paired gain over random order."""
    shown = [r for r in rows if r["on"] == options.on and r["settings"] == sorted(options.set)
             and r["added"] == options.added]  # fmt: skip
    if not shown:
        yield "It has not been run."
        return
    at = {(r["set"], s["labelled"], r["draw"], r["chain"]): s for r in shown for s in r["steps"]}
    headings = ["data", "labelled", "draws", "AP .5 D suggest", "random", "gain (95 % interval)", "F1 .5 D gain",
                "AP .3 D gain", "won"]  # fmt: skip
    yield "| " + " | ".join(headings) + " |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for name, count in sorted({key[:2] for key in at}):
        pairs = [
            (step, chance) for (*place, draw, chain), step in at.items()
            if [name, count] == place and chain == "suggest"
            and (chance := [s for k, s in at.items() if k[:3] == (name, count, draw) and k[3] != "suggest"])
        ]  # fmt: skip
        if pairs:
            apart = [step["ap@0.5"] - one["ap@0.5"] for step, chance in pairs for one in chance]
            random = statistics.mean(one["ap@0.5"] for _, chance in pairs for one in chance)
            won = f"{sum(a > 0 for a in apart)} of {len(apart)}"
            cells = [name, count, len(pairs), f"{statistics.mean(s['ap@0.5'] for s, _ in pairs):.3f}", f"{random:.3f}",
                     *(_gain(pairs, key) for key in FIGURES), won]  # fmt: skip
        else:
            start = [s["ap@0.5"] for k, s in at.items() if k[:2] == (name, count) and k[3] == "suggest"]
            cells = [name, count, len(start), f"{statistics.mean(start):.3f}", "the same", "-", "-", "-", "-"]
        yield "| " + " | ".join(map(str, cells)) + " |"
    days = sorted({row["date"] for row in shown})
    yield f"\n{len(shown)} chains. Made on {' and '.join(days)}, verglas {__version__}."


def _gain(pairs: list[tuple[dict[str, Any], list[dict[str, Any]]]], key: str) -> str:
    """Return the mean over draws of the difference to the mean of the random chains, and its 95 % t interval."""
    apart = [step[key] - statistics.mean(one[key] for one in chance) for step, chance in pairs]
    return mean_and_interval(apart)


if __name__ == "__main__":
    main()
