"""Semi-supervised learning against supervised, paired, on the real data sets.

    python benchmarks/semi.py --jobs 2                                  # one label, every algorithm, test micrographs
    python benchmarks/semi.py --labelled 1,2,5 --algorithms supervised,auto --pools rest,with-test
    python benchmarks/semi.py --on rest --sets bgal_10017               # choosing settings: never on test micrographs
    python benchmarks/semi.py --clicks 10,30,100 --algorithms pu,auto,self_training,background,complete
    python benchmarks/semi.py --algorithms supervised --over train.start_from=scratch    # what a default is worth
    python benchmarks/semi.py --table                                   # print what is in the results

Each row of ``results/semi.jsonl`` is one training; a row that is there is not computed again. Draw d labels the
micrographs d, d + 1, ... (around the end) of those not on the test list of ``meta.json``, in an order drawn once,
so that draws differ and 1 is inside 2 inside 5; its training seed is d. ``--pools``: the unlabelled micrographs are
the ``rest`` of those not on the test list, or these and the test images ``with-test`` (transductive). With
``--on rest`` figures are of the micrographs that are neither labelled nor test.

With ``--clicks n`` only n labels, drawn at random, of three micrographs are given: ``background`` takes the rest of
these micrographs for background, ``pu`` and ``self_training`` leave it open, ``auto`` lets the general network complete
the labels if it can, ``complete`` has all labels of the same micrographs. Clicks are learned from drawn weights, so all
of these begin with such.
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
from verglas.materials import of_clicks
from verglas.records import Note, Ruled, Summary, Validated

SETS = ("bgal_10017", "cryoppp_10059", "cryoppp_10947", "klh")
HERE = Path(__file__).parent
RESULTS = HERE / "results" / "semi.jsonl"
CLICKED, NO_SKILL = 3, 0.05
NAIVE = ("background", "complete")
"""What takes the labels of clicked micrographs for all there are; to be compared it begins as clicks do."""
STAGES = ("come in", "are picked", "back to", "what was clicked")
FIGURES = ("ap@0.5", "f1@0.5", "best_f1@0.5", "ap@0.3", "f1@0.3")


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
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--algorithms",
                        default="supervised,soft_teacher,mean_teacher,fixmatch,unimatch,self_training")  # fmt: skip
    parser.add_argument("--labelled", default="1", help="numbers of labelled micrographs")
    parser.add_argument("--clicks", help="numbers of clicked particles on three micrographs")
    parser.add_argument("--pools", default="rest")
    parser.add_argument("--draws", default="0,1,2")
    parser.add_argument("--on", choices=("test", "rest"), default="test")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--over", nargs="*", help="settings: gains of --set over these, not those of algorithms")
    parser.add_argument("--table", action="store_true")
    return parser.parse_args(arguments)


def _cells(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for draw in map(int, options.draws.split(",")):
        for name in options.sets.split(","):
            for count in map(int, (options.clicks or options.labelled).split(",")):
                for pool in options.pools.split(","):
                    for algorithm in options.algorithms.split(","):
                        alone = bool(options.clicks) or algorithm == "supervised"
                        cell = {"set": name, "clicks" if options.clicks else "labelled": count, "draw": draw,
                                "algorithm": algorithm, "pool": "none" if alone else pool, "on": options.on,
                                "settings": sorted(options.set), "version": __version__}  # fmt: skip
                        if not alone or pool == options.pools.split(",")[0]:
                            yield cell


def _run(data: Path, cell: dict[str, Any]) -> dict[str, Any]:
    folder = data / cell["set"]
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    rest = sorted(path.stem for path in (folder / "images").glob("*.png") if path.stem not in meta["test"])
    order = order_of(rest, cell["draw"])
    labelled = order[: CLICKED if "clicks" in cell else cell["labelled"]]
    others = order[len(labelled) :]
    unlabelled = {"none": [], "rest": others, "with-test": others + meta["test"]}[cell["pool"]]
    unseen = meta["test"] if cell["on"] == "test" else others
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        (work / "unseen").mkdir()
        for name in unseen:
            shutil.copy(folder / "coords" / f"{name}.csv", work / "unseen")
        _write_labels(folder / "coords", work / "labels", labelled, cell)
        images = tuple(str(folder / "images" / f"{name}.png") for name in labelled + unlabelled)
        where = DataSettings(
            images, str(work / "labels"), labels_are="partial" if _partial(cell) else "complete",
            diameter_px=meta["diameter_px"],
        )  # fmt: skip
        naive = cell["algorithm"] in NAIVE
        algorithm = "supervised" if naive else cell["algorithm"]
        settings = [f"algorithm.name={algorithm}", f"train.seed={cell['draw']}", "train.threads=1", *cell["settings"]]
        config = replace(RunConfig(), data=where).with_settings(settings)
        records = list(api.train(of_clicks(config) if naive else config, work / "run"))
        list(api.pick(work / "run", [folder / "images" / f"{name}.png" for name in unseen], work / "picks.star"))
        figures = to_json(api.evaluate(work / "picks.star", work / "unseen"))
        facts = json.loads((work / "run" / "model.json").read_text())
    row = {f"{key}@{radius}": figures["at_radius"][radius][key]
           for radius in ("0.5", "0.3") for key in ("ap", "f1", "best_f1")}  # fmt: skip
    trained = next(record.facts for record in reversed(records) if isinstance(record, Summary))
    skills = [record.watch.get("average_skill") for record in records if isinstance(record, Validated)]
    return row | {
        "labelled_names": labelled, "ran": facts["algorithm"], "precision": figures["precision"],
        "recall": figures["recall"], "threshold": figures["threshold"], "best_step": trained["best_step"],
        "train_seconds": trained["seconds"], "skill": skills[-1] if skills else None,
        "ruled": [f"{r.step} {r.code} {r.verdict}: {r.action}" for r in records if isinstance(r, Ruled)],
        "stages": [r.text for r in records if isinstance(r, Note) and any(sign in r.text for sign in STAGES)],
        "date": datetime.date.today().isoformat(),
    }  # fmt: skip


def _partial(cell: dict[str, Any]) -> bool:
    return "clicks" in cell and cell["algorithm"] not in NAIVE


def _write_labels(coordinates: Path, folder: Path, names: list[str], cell: dict[str, Any]) -> None:
    """Write all labels of these micrographs, or so many of them as were clicked."""
    folder.mkdir()
    lines = {name: (coordinates / f"{name}.csv").read_text(encoding="utf-8").splitlines() for name in names}
    chosen = [(name, row) for name, text in lines.items() for row in text[1:] if row]
    if "clicks" in cell and cell["algorithm"] != "complete":
        drawn = np.random.default_rng([cell["draw"], 1]).permutation(len(chosen))[: cell["clicks"]]
        chosen = [chosen[i] for i in drawn]
    for name, text in lines.items():
        rows = [row for owner, row in chosen if owner == name]
        if rows:
            (folder / f"{name}.csv").write_text("\n".join([text[0], *rows]) + "\n", encoding="utf-8")


def _line(row: dict[str, Any]) -> str:
    figures = "  ".join(f"{key} {row[key]:.3f}" for key in FIGURES)
    count = row.get("labelled") or f"{row['clicks']} clicks"
    about = f"{row['set']} {count} #{row['draw']} {row['algorithm']} {row['pool']} {row['settings']}"
    return f"{about}: {figures}  {row['train_seconds']:.0f} s {row['ruled']} {row['stages']}"


def _table(rows: list[dict[str, Any]], options: argparse.Namespace) -> Iterator[str]:
    """Yield a table in Markdown: means over draws, and the paired gain in AP.

    It is that over the first algorithm listed, or that of ``--set`` over the settings ``--over``.
    """
    kind = "clicks" if options.clicks else "labelled"
    counts = [int(c) for c in (options.clicks or options.labelled).split(",")]
    names = options.algorithms.split(",")
    chosen, usual = (
        {(r["set"], r[kind], r["algorithm"], r["pool"], r["draw"]): r for r in rows
         if r["on"] == options.on and r["settings"] == settings and kind in r
         and r["pool"] in ("none", *options.pools.split(","))}
        for settings in (sorted(options.set), sorted(options.over or []))
    )  # fmt: skip
    headings = ["data", kind, "algorithm", "pool", "draws", "AP .5 D", "gain (95 % interval)", "F1 .5 D", "AP .3 D",
                "gain .3 D", "F1 .3 D", "s"]  # fmt: skip
    yield "| " + " | ".join(headings) + " |"
    yield "|---|---|---|---|---|---|---|---|---|---|---|---|"
    cells = sorted({(k[0], k[1], k[3], names.index(k[2])) for k in chosen if k[1] in counts and k[2] in names},
                   key=lambda c: (c[0], c[1], c[2] != "none", c[2], c[3]))  # fmt: skip
    for name, count, pool, index in cells:
        group = {k[4]: r for k, r in chosen.items() if k[:4] == (name, count, names[index], pool)}
        over = (usual, names[index], pool) if options.over is not None else (chosen, names[0], "none")
        base = {k[4]: r for k, r in over[0].items() if k[:4] == (name, count, *over[1:])}
        seconds = f"{statistics.median(r['train_seconds'] for r in group.values()):.0f}"
        figures = [_mean(group, "ap@0.5"), _gain(group, base, "ap@0.5"), _mean(group, "f1@0.5"),
                   _mean(group, "ap@0.3"), _gain(group, base, "ap@0.3"), _mean(group, "f1@0.3")]  # fmt: skip
        yield "| " + " | ".join([name, str(count), names[index], pool, str(len(group)), *figures, seconds]) + " |"
    shown = [r for k, r in chosen.items() if k[1] in counts and k[2] in names]
    blind = [r for r in shown if r["skill"] is not None and r["skill"] < NO_SKILL]
    days = sorted({r["date"] for r in shown})
    yield f"\n{len(shown)} runs, of which {len(blind)} ended without skill in pixels (below {NO_SKILL})."
    yield f"Made on {' and '.join(days)}, verglas {__version__}."


def _mean(group: dict[int, dict[str, Any]], key: str) -> str:
    values = [row[key] for row in group.values()]
    return f"{statistics.mean(values):.3f} ({min(values):.3f}-{max(values):.3f})"


def _gain(group: dict[int, dict[str, Any]], base: dict[int, dict[str, Any]], key: str) -> str:
    """Return the mean paired difference over draws and its 95 % t interval."""
    apart = [group[draw][key] - base[draw][key] for draw in sorted(group.keys() & base.keys())]
    if group.keys() == base.keys() and not any(apart):
        return "-"
    return mean_and_interval(apart) if apart else ""


if __name__ == "__main__":
    main()
