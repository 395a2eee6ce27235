"""Learn from one (or a few) labelled micrographs of each real data set and report on its test micrographs.

    python benchmarks/few_labels.py                                   # the table of the manual: test micrographs
    python benchmarks/few_labels.py --on rest --set model.width=24    # choosing settings: never on test micrographs
    python benchmarks/few_labels.py --on test --table                 # print what is in the results

Each row of ``results/few_labels.jsonl`` is one training. A row that is there is not computed again, so an
interrupted call goes on. The labelled micrographs of draw d are drawn by ``default_rng(d)`` from those not on the
test list of ``meta.json``; the training seed is d. Checkpoint and threshold come from the labelled micrographs.
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
import torch
from ledger import fill, missing, read

from verglas import __version__, api
from verglas.config import DataSettings, RunConfig
from verglas.evaluate import to_json
from verglas.records import Summary

SETS = ("bgal_10017", "cryoppp_10059", "cryoppp_10947", "klh")
HERE = Path(__file__).parent
RESULTS = HERE / "results" / "few_labels.jsonl"


def main() -> None:
    options = _options(None)
    if not options.table:
        fill(RESULTS, missing(RESULTS, _cells(options)), partial(_run, options.data), _line)
    print("\n".join(_table([row for row in read(RESULTS) if row["on"] == options.on])))


def tables(arguments: list[str]) -> list[str]:
    """Return the table that these arguments print, for the docs."""
    options = _options(arguments)
    return list(_table([row for row in read(RESULTS) if row["on"] == options.on]))


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=HERE.parents[1] / "shared" / "data")
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--labelled", default="1", help="numbers of labelled micrographs")
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--on", choices=("test", "rest"), default="test")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--table", action="store_true")
    return parser.parse_args(arguments)


def _cells(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for name in options.sets.split(","):
        for labelled in map(int, options.labelled.split(",")):
            for draw in range(options.draws):
                yield {"set": name, "labelled": labelled, "draw": draw, "on": options.on,
                       "settings": sorted(options.set), "version": __version__}  # fmt: skip


def _run(data: Path, cell: dict[str, Any]) -> dict[str, Any]:
    folder = data / cell["set"]
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    rest = sorted(path.stem for path in (folder / "images").glob("*.png") if path.stem not in meta["test"])
    labelled = np.random.default_rng(cell["draw"]).permutation(rest)[: cell["labelled"]].tolist()
    unseen = meta["test"] if cell["on"] == "test" else [name for name in rest if name not in labelled]
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        for place, names in (("labels", labelled), ("unseen", unseen)):
            (work / place).mkdir()
            for name in names:
                shutil.copy(folder / "coords" / f"{name}.csv", work / place)
        images = tuple(str(folder / "images" / f"{name}.png") for name in labelled)
        where = DataSettings(images, str(work / "labels"), diameter_px=meta["diameter_px"])
        config = replace(RunConfig(), data=where).with_train(seed=cell["draw"]).with_settings(cell["settings"])
        trained = _summary(api.train(config, work / "run"))
        picked = _summary(
            api.pick(work / "run", [folder / "images" / f"{name}.png" for name in unseen], work / "picks.star")
        )
        figures = to_json(api.evaluate(work / "picks.star", work / "unseen"))
    row = {f"{key}@{radius}": figures["at_radius"][radius][key]
           for radius in ("0.5", "0.3") for key in ("ap", "f1", "best_f1")}  # fmt: skip
    row |= {f"grid_f1@{radius}": figures["baselines"]["grid"][radius]["f1"] for radius in ("0.5", "0.3")}
    return row | {
        "labelled_names": labelled, "precision": figures["precision"], "recall": figures["recall"],
        "threshold": figures["threshold"], "validation_f1": trained["validation_f1"], "best_step": trained["best_step"],
        "train_seconds": trained["seconds"], "micrographs_per_second": picked["micrographs_per_second"],
        "threads": torch.get_num_threads(), "date": datetime.date.today().isoformat(),
    }  # fmt: skip


def _summary(records: Iterator[Any]) -> Any:
    return [record for record in records if isinstance(record, Summary)][-1].facts


def _line(row: dict[str, Any]) -> str:
    figures = "  ".join(f"{key} {row[key]:.3f}" for key in ("ap@0.5", "f1@0.5", "best_f1@0.5", "ap@0.3", "f1@0.3"))
    return f"{row['set']} {row['labelled']} #{row['draw']} {row['settings']}: {figures}  {row['train_seconds']:.0f} s"


def _table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yield a table in Markdown: mean and spread (lowest to highest) over draws."""
    yield "| data | labelled | AP .5 D | F1 .5 D | best F1 | AP .3 D | F1 .3 D | grid F1 .5 / .3 | train s | settings |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((tuple(row["settings"]), row["set"], row["labelled"]), []).append(row)
    for (settings, name, labelled), group in sorted(groups.items()):
        cells = [_spread(group, key) for key in ("ap@0.5", "f1@0.5", "best_f1@0.5", "ap@0.3", "f1@0.3")]
        grid = " / ".join(f"{group[0][f'grid_f1@{radius}']:.2f}" for radius in ("0.5", "0.3"))
        seconds = f"{statistics.median(row['train_seconds'] for row in group):.0f}"
        about = ", ".join(settings) or "defaults"
        yield "| " + " | ".join([name, f"{labelled} x {len(group)}", *cells, grid, seconds, about]) + " |"
    days = sorted({row["date"] for row in rows})
    yield f"\nMade on {' and '.join(days)}, verglas {__version__}."


def _spread(group: list[dict[str, Any]], key: str) -> str:
    values = [row[key] for row in group]
    return f"{statistics.mean(values):.3f} ({min(values):.3f}-{max(values):.3f})"


if __name__ == "__main__":
    main()
