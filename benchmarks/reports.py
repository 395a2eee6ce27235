"""The configurations of two failure reports, run in this pipeline: what becomes of each.

    python benchmarks/reports.py --jobs 2                         # everything
    python benchmarks/reports.py --group A,SA,B --steps 130       # the rows of the reports, after one epoch of report A
    python benchmarks/reports.py --group faults --data simulated  # the same with the faults that are suspected
    python benchmarks/reports.py --table                          # print what is in the results

Report A: Mean Teacher "fails completely" at 10 % labels after one epoch (130 steps), whatever the loss, and works at
1 %. Report B: FixMatch with the mask max(p, 1 - p) >= threshold loses recall. Ids of rows are those of the method
page; ``PRESETS`` has their settings. As in the reports labels are full discs, the rate is constant and gradients are
not clipped, and every part of a micrograph is learned from and searched; nothing is undone by the guard, and
unlabelled micrographs come in after a tenth of the steps.

Each row of ``results/reports.jsonl`` is one training; a row that is there is not computed again, and rows of equal
settings are one training. ``real``: one labelled micrograph of cryoppp_10059, figures of its test micrographs.
``simulated``: 60 micrographs, of which 10 are kept for figures and 1 (1 %) or 6 (10 %) are labelled. Pixels are held
to full discs of D/2. Verdicts are those of rules R1 and R2.

Faults are put in by this file alone. At evaluation, on the same trained run: F01, the network learned from z-scored
pictures and is shown x/255; F03, running statistics of batch normalisation are lost. At training: F06, a running
average of .999 without warm-up, which is teacher and is evaluated; F09, the strong view is turned and mirrored, its
pseudo-label is not. ``usual`` is no fault but what the reports did and verglas does not: weights are drawn as PyTorch
draws them, so that the output begins near p = .5 (that of verglas begins at the prior, where F1 at .5 is 0 by right),
and the running statistics of batch normalisation stay as training left them.
"""

import argparse
import datetime
import json
import shutil
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import torch
from ledger import fill, key_of, missing, order_of, read
from torch import nn

from verglas import __version__, api
from verglas import picker as picking
from verglas import train as training
from verglas.batch import Unlabelled
from verglas.config import DataSettings, RunConfig
from verglas.data import Cropping, Stored, unlabelled_batch
from verglas.evaluate import to_json
from verglas.io.micrographs import read_image
from verglas.io.picks import read_picks
from verglas.model import Shape, UNet
from verglas.monitor import pixel_figures
from verglas.picker import Picker
from verglas.preprocess import resize
from verglas.records import Note, Ruled, Validated
from verglas.simulate import DEMO, scene_with
from verglas.targets import Disc
from verglas.types import Image, Micrograph

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "reports.jsonl"
REAL = "cryoppp_10059"
SCENE = scene_with(DEMO, ["particles=120"])  # so many that discs cover a third, as in report A
SIMULATED, KEPT = 60, 10
LABELLED = {"real": {"few": 1, "more": 1}, "simulated": {"few": 1, "more": 6}}
FULL = Disc(core=1.0, ring=1.0)

COMMON = (
    "target.core=1", "target.ring=1", "train.rate=1e-4", "train.warmup=0", "train.last_rate=1", "train.clip_norm=0",
    "guard.active=false", "guard.earliest=0", "guard.latest=1", "search.edge_px=0", "search.grain=0",
    "train.start_from=scratch",
)  # fmt: skip
MEAN_TEACHER = (*COMMON, "train.batch=4", "algorithm.name=mean_teacher")
FIXMATCH = (*COMMON, "train.batch=2", "algorithm.name=fixmatch")
UNTOUCHED = (
    "photometry.noise=0", "photometry.coloured_noise=0", "photometry.blur=0", "photometry.sharpen=0",
    "photometry.contrast=1", "photometry.offset=0", "photometry.gamma=1", "photometry.ramp=0",
)  # fmt: skip
BY_CONFIDENCE = (*FIXMATCH, "algorithm.options.mask=fixed")


class Preset(NamedTuple):
    """A row of a report: what it is, its settings, its labels, its steps as a multiple of ``--steps``, its faults."""

    about: str
    settings: tuple[str, ...]
    labels: str = "more"
    times: float = 1.0
    stages: int = 1
    faults: tuple[str, ...] = ()


def folded(alpha: float, pos_weight: float) -> tuple[float, float]:
    """Return the one alpha with the odds of both weights, and the factor that makes the loss the same function.

    Positives weigh alpha · pos_weight and negatives 1 - alpha. verglas refuses the two together, since neither
    number shows the ratio.
    """
    positive, negative = alpha * pos_weight, 1 - alpha
    return positive / (positive + negative), positive + negative


def _focal_dice(alpha: float, pos_weight: float = 1.0) -> tuple[str, ...]:
    """Return report A's loss, .7 focal + .3 Dice, with both class weights in one."""
    one, factor = folded(alpha, pos_weight)
    return "loss.bce=0", f"loss.focal={0.7 * factor:.6g}", "loss.dice=0.3", f"loss.focal_alpha={one:.6g}"


def _masked(threshold: float) -> tuple[str, ...]:
    return *BY_CONFIDENCE, f"algorithm.options.threshold={threshold:g}"


A2 = (*MEAN_TEACHER, *_focal_dice(0.7))
GROUP_A = {
    "A0": Preset("original: alpha .25 and pos_weight 5, as alpha .625", (*MEAN_TEACHER, *_focal_dice(0.25, 5))),
    "A1": Preset("alpha .5 and pos_weight 2.33, as alpha .7", (*MEAN_TEACHER, *_focal_dice(0.5, 2.33))),
    "A2": Preset("alpha .7", A2),
    "A3": Preset("A2, rate 1e-5", (*A2, "train.rate=1e-5")),
    "A4": Preset("alpha .9", (*MEAN_TEACHER, *_focal_dice(0.9))),
    "A5": Preset("Dice only", (*MEAN_TEACHER, "loss.bce=0", "loss.focal=0", "loss.dice=1")),
    "A6": Preset("A0, 1 % labels, their epoch", (*MEAN_TEACHER, *_focal_dice(0.25, 5)), "few", 0.1),
    "A6s": Preset("A0, 1 % labels, equal steps", (*MEAN_TEACHER, *_focal_dice(0.25, 5)), "few"),
    "A7": Preset("untrained", (*A2, "train.rate=1e-12"), times=0),
    "AL": Preset("A2 on labels alone", (*A2, "algorithm.name=supervised")),
}
GROUP_SA = {
    "SA1": Preset("A2, gradient clipped at 1", (*A2, "train.clip_norm=1")),
    "SA2": Preset("A2, warm-up of 10 %", (*A2, "train.warmup=0.1")),
    "SA3": Preset("A2, half the crops around a label", (*A2, "train.centred=0.5")),
    "SA4": Preset("Tversky .3 FP, .7 FN", (*MEAN_TEACHER, "loss.bce=0", "loss.dice=0", "loss.tversky=1",
                                           "loss.tversky_fp=0.3", "loss.tversky_fn=0.7")),
    "SA5": Preset("A2 after A2 on 1 % labels", A2, stages=2),
    "SA6": Preset("A2, batch 1, equal steps", (*A2, "train.batch=1")),
    "SA6t": Preset("A2, batch 1, equal tiles", (*A2, "train.batch=1"), times=4),
    "SA7": Preset("positive shares of 1 %, 10 %, all", ()),
}  # fmt: skip
GROUP_B = {
    **{f"B{round(100 * t)}": Preset(f"max(p, 1 - p) >= {t:g}", _masked(t))
       for t in (0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0)},
    "BA": Preset("1/2 + abs(p - 1/2) >= .7: the same mask as B70, so the same training", _masked(0.7)),
    "BB": Preset("p >= .6 or p <= .4", (*FIXMATCH, "algorithm.options.mask=class", "algorithm.options.positive=0.6",
                                        "algorithm.options.negative=0.4")),
    "BS": Preset("no mask, weight max(p, 1 - p)", (*FIXMATCH, "algorithm.options.mask=weighted")),
    "BQ": Preset("quantiles of each class", (*FIXMATCH, "algorithm.options.mask=quantile")),
    "BT": Preset("soft targets, no threshold", (*FIXMATCH, "algorithm.name=soft_teacher")),
    "BL": Preset("labels alone", (*FIXMATCH, "algorithm.name=supervised")),
}  # fmt: skip
_REPORTED = {**GROUP_A, **GROUP_SA, **GROUP_B}
GROUP_FAULTS = {
    **{name: _REPORTED[name] for name in ("A0", "A1", "A2", "A3", "A4", "A5", "B70", "B95", "BQ")},
    **{f"{name}u": _REPORTED[name]._replace(about=f"{name} as usual", faults=("usual",))
       for name in ("A0", "A1", "A2", "A3", "A4", "A5", "A6", "A7", "SA5")},
    "A2nu": Preset("A2 as usual, grey values left alone", (*A2, *UNTOUCHED), faults=("usual",)),
    **{f"{name}-{fault}": _REPORTED[name]._replace(about=f"{name} with {fault}", faults=(fault,))
       for name, fault in (("A2", "F06"), ("A2", "F09"), ("B70", "F09"), ("B95", "F09"), ("BQ", "F09"))},
    "A2u-F06": Preset("A2 as usual, with F06", A2, faults=("usual", "F06")),
}  # fmt: skip
GROUPS = {"A": GROUP_A, "SA": GROUP_SA, "B": GROUP_B, "faults": GROUP_FAULTS}
PRESETS = {name: preset for group in GROUPS.values() for name, preset in group.items()}


def main() -> None:
    options = _options(None)
    if not options.table:
        names = dict[str, list[str]]()
        for name, cell in _cells(options):
            names.setdefault(key_of(cell), []).append(name)
        todo = missing(RESULTS, (cell for _, cell in _cells(options)))
        if any(cell["data"] == "simulated" for cell in todo):
            _simulate(options.work / "simulated")

        def line(row: dict[str, Any]) -> str:
            return f"{','.join(dict.fromkeys(names[row['key']]))} {_line(row)}"

        fill(RESULTS, todo, partial(_row, options.folder, options.work), line, jobs=options.jobs)
    print("\n".join(_report(options)))


def tables(arguments: list[str]) -> list[str]:
    """Return the tables that these arguments print, for the docs."""
    return list(_report(_options(arguments)))


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--group", default=",".join(GROUPS), help="some of A, SA, B, faults")
    parser.add_argument("--presets", help="only these rows of the groups")
    parser.add_argument("--data", default="real,simulated")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--steps", default="130,400", help="130 is report A's epoch at 10 %% labels")
    parser.add_argument("--set", action="append", default=[], help="changes every row")
    parser.add_argument("--folder", type=Path, default=HERE.parents[1] / "shared" / "data", help="of the real data")
    parser.add_argument("--work", type=Path, default=HERE / "work" / "reports", help="where simulated data are kept")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--table", action="store_true")
    return parser.parse_args(arguments)


def _cells(options: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each row that is asked for: the name of its preset, and all that decides its figures."""
    groups = [GROUPS[name] for name in options.group.split(",")]
    wanted = options.presets.split(",") if options.presets else list(PRESETS)
    for seed in map(int, options.seeds.split(",")):
        for data in options.data.split(","):
            for steps in map(int, options.steps.split(",")):
                for name in dict.fromkeys(name for group in groups for name in group if name in wanted):
                    yield name, _cell(name, data, steps, seed, options.set)


def _cell(name: str, data: str, steps: int, seed: int, changes: Sequence[str]) -> dict[str, Any]:
    preset = PRESETS[name]
    cell = {"data": data, "draw": seed, "version": __version__}
    if name == "SA7":
        return cell | {"shares": True}
    late = name[0] in "AS" and set(preset.faults) <= {"usual"}
    return cell | {
        "labelled": LABELLED[data][preset.labels], "first": LABELLED[data]["few"] if preset.stages > 1 else None,
        "steps": max(1, round(preset.times * steps)), "settings": _merged(preset.settings, changes),
        "faults": list(preset.faults), "judged": ["healthy", *(FAULTS_LATE if late else ())],
    }  # fmt: skip


def _merged(*settings: Sequence[str]) -> list[str]:
    """Return settings, of which a later one replaces an earlier one of the same key."""
    values = dict(text.split("=", 1) for some in settings for text in some)
    return [f"{key}={value}" for key, value in sorted(values.items())]


def _simulate(folder: Path) -> None:
    """Write the simulated set, unless it is there whole."""
    there = folder / "truth.json"
    if not there.exists() or len(json.loads(there.read_text(encoding="utf-8"))["micrographs"]) < SIMULATED:
        list(api.simulate(folder, SCENE, micrographs=SIMULATED, seed=0))


class Source(NamedTuple):
    """A data set of one draw: images by name, in the order in which they are labelled, and those kept for figures."""

    images: dict[str, Path]
    coordinates: Path
    order: list[str]
    kept: list[str]
    diameter_px: float


def _source(data: str, folder: Path, work: Path, draw: int) -> Source:
    if data == "real":
        images = {path.stem: path for path in sorted((folder / REAL / "images").glob("*.png"))}
        meta = json.loads((folder / REAL / "meta.json").read_text(encoding="utf-8"))
        coordinates, kept, diameter_px = folder / REAL / "coords", meta["test"], meta["diameter_px"]
    else:
        images = {path.stem: path for path in sorted((work / "simulated" / "micrographs").glob("*.mrc"))}
        coordinates, kept = work / "simulated" / "truth", list(images)[-KEPT:]
        diameter_px = json.loads((work / "simulated" / "truth.json").read_text(encoding="utf-8"))["diameter_px"]
    rest = [name for name in images if name not in kept]
    order = order_of(rest, draw)
    return Source(images, coordinates, order, kept, diameter_px)


def _row(folder: Path, work: Path, cell: dict[str, Any]) -> dict[str, Any]:
    source = _source(cell["data"], folder, work, cell["draw"])
    found = _shares(source, cell["data"]) if "shares" in cell else _run(source, cell)
    return {**found, "date": datetime.date.today().isoformat()}


def _shares(source: Source, data: str) -> dict[str, Any]:
    """Return which share of the valid pixels full discs cover, for few labels, more, and all."""
    recipe, covered = RunConfig().recipe(source.diameter_px), []
    for name in source.order:
        image = recipe.prepare(read_image(source.images[name]))
        truth = read_picks(source.coordinates / f"{name}.csv").by_name()[name]
        target, known = FULL.draw(truth, image, diameter_px=source.diameter_px)
        covered.append((int((target & known).sum()), int(known.sum())))
    counts = {**LABELLED[data], "all": len(covered)}
    return {kind: sum(a for a, _ in covered[:n]) / sum(b for _, b in covered[:n]) for kind, n in counts.items()}


def _run(source: Source, cell: dict[str, Any]) -> dict[str, Any]:
    """Train once, and evaluate in each of the ways that the cell names."""
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        work = Path(scratch)
        for fault in cell["faults"]:
            for name, wrong in FAULTS_EARLY[fault].items():
                stack.enter_context(patch.object(training, name, wrong))
        start: list[str] = []
        if cell["first"] is not None:
            _train(source, cell, source.order[: cell["first"]], work / "first", [])
            start = [f"train.start_from={work / 'first' / 'run'}"]
        learned = _train(source, cell, source.order[: cell["labelled"]], work / "last", start)
        judged = {kind: _judge(work / "last" / "run", source, work / kind, KINDS[kind]) for kind in cell["judged"]}
    return {"labelled_names": source.order[: cell["labelled"]], **learned, "figures": judged}


def _train(source: Source, cell: dict[str, Any], labelled: list[str], work: Path, more: list[str]) -> dict[str, Any]:
    _copy(source, labelled, work / "labels")
    micrographs = tuple(str(source.images[name]) for name in source.order)
    where = DataSettings(micrographs, str(work / "labels"), diameter_px=source.diameter_px)
    settings = [*cell["settings"], *more, f"train.steps={cell['steps']}", f"train.seed={cell['draw']}",
                f"train.validate_every={max(1, cell['steps'] // 10)}", "train.threads=1"]  # fmt: skip
    records = list(api.train(replace(RunConfig(), data=where).with_settings(settings), work / "run"))
    facts = json.loads((work / "run" / "model.json").read_text(encoding="utf-8"))
    last = [record.watch for record in records if isinstance(record, Validated)][-1]
    return {
        "best_step": facts["best_step"], "train_seconds": facts["seconds"], "prior": facts["prior"],
        **{key: last.get(key) for key in ("student_skill", "average_skill", "kept", "kept_positive")},
        "ruled": [f"{r.step} {r.code} {r.verdict}" for r in records if isinstance(r, Ruled)],
        "opened": [r.text for r in records if isinstance(r, Note) and "come in" in r.text],
    }  # fmt: skip


def _judge(run: Path, source: Source, work: Path, kind: type[Picker]) -> dict[str, float]:
    """Pick the micrographs kept for figures with this kind of picker, and hold picks and pixels to the truth."""
    _copy(source, source.kept, work / "truth")
    with patch.object(picking, "Picker", kind):
        list(api.pick(run, [source.images[n] for n in source.kept], work / "picks.star", maps=work / "maps"))
    figures = to_json(api.evaluate(work / "picks.star", work / "truth"))
    particles = {f"{key}@{radius}": figures["at_radius"][radius][key]
                 for radius in ("0.5", "0.3") for key in ("ap", "f1", "best_f1")}  # fmt: skip
    truth, parts = read_picks(work / "truth").by_name(), []
    for name in source.kept:
        found = Stored.open(work / "maps", name).image()
        target, known = FULL.draw(truth[name], found, diameter_px=source.diameter_px)
        parts.append((target[known], found.data[known]))
    target, belief = (np.concatenate(part) for part in zip(*parts, strict=True))
    extra = {key: figures[key] for key in ("precision", "recall", "threshold")}
    return particles | extra | pixels(target, belief)


def _copy(source: Source, names: list[str], folder: Path) -> None:
    folder.mkdir(parents=True)
    for name in names:
        shutil.copy(source.coordinates / f"{name}.csv", folder)


def pixels(target: np.ndarray, belief: np.ndarray) -> dict[str, float]:
    """Return figures of pixels, and how the beliefs lie."""
    p = belief.astype(float).clip(1e-6, 1 - 1e-6)
    logit, called = np.log(p / (1 - p)), belief >= 0.5
    hits = float((called & target).sum())
    return {
        **pixel_figures(target, belief), "share": float(target.mean()),
        "precision_half": hits / max(1.0, float(called.sum())), "recall_half": hits / max(1.0, float(target.sum())),
        "mean_p": float(belief.mean()), "max_p": float(belief.max()), "mean_logit": float(logit.mean()),
        "sd_logit": float(logit.std()), "over_half": float(called.sum()), "pixels": float(len(belief)),
    }  # fmt: skip


def verdict(figures: Mapping[str, float]) -> str:
    """Return what rules R1 and R2 make of the pixels."""
    if figures["skill"] < 0.05 and figures["best_f1"] < 1.1 * figures["trivial_f1"]:
        return "collapsed"
    if figures["skill"] < 0.2:
        return "weak"
    return "miscalibrated" if figures["f1_half"] < 0.5 * figures["best_f1"] else "healthy"


def signature(figures: Mapping[str, float], healthy: Mapping[str, float] | None) -> str:
    """Return whose report the figures look like, beside the healthy run of the same seed.

    A: hardly a pixel above .5 and a mean well below. B: precision up, recall down by a fifth, and AP within .1.
    """
    if figures["f1_half"] < 0.02 and figures["mean_p"] < 0.4:
        return "A"
    if healthy is not None:
        fewer = figures["recall_half"] < 0.8 * healthy["recall_half"]
        surer = figures["precision_half"] > healthy["precision_half"]
        if fewer and surer and abs(figures["pixel_ap"] - healthy["pixel_ap"]) < 0.1:
            return "B"
    return "-"


class Shown255(Picker):
    """F01: the network learned from z-scored pictures and is shown grey values of 0 to 255, divided by 255.

    The prepared picture, of median 0 and deviation 1, gets back the mean and the deviation that it has on disk.
    """

    def prepare(self, micrograph: Micrograph) -> Image:
        """Return the picture at the scale of x/255."""
        image = super().prepare(micrograph)
        levels = grey(read_image(micrograph, self.config.data.reading()))
        small = resize(levels, self.recipe.working_shape(levels.shape))
        return replace(image, data=(image.data * small.std() + small.mean()).clip(0, 1))


class Forgetful(Picker):
    """F03: the running statistics of batch normalisation are 0 and 1 again."""

    @classmethod
    def load(cls, run: str | Path, *, device: torch.device | None = None) -> Picker:
        """Load a run and reset its statistics."""
        made = super().load(run, device=device)
        for module in made.network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.reset_running_stats()
        return made


def grey(data: np.ndarray) -> np.ndarray:
    """Return grey values as an 8-bit picture has them, over 255; other pictures are stretched over 3 deviations."""
    whole = float(data.min()) >= 0 and float(data.max()) <= 255 and bool((data == np.rint(data)).all())
    if whole and data.max() > 100:
        return data / np.float32(255)
    return np.clip(0.5 + (data - data.mean()) / (6 * data.std()), 0, 1).astype(np.float32)


def usual_start(shape: Shape, *, prior: float) -> UNet:
    """Return a network whose convolutions are as PyTorch draws them: its output begins near p = .5."""
    made = UNet(shape, prior=prior)
    for module in made.modules():
        if isinstance(module, nn.Conv2d):
            module.reset_parameters()
    return made


def as_it_was(model: UNet, *others: Any) -> UNet:
    """Return the model with the running statistics that training left."""
    return model


def cold_average(average: nn.Module, student: nn.Module, step: int, span: float) -> None:
    """F06: a running average of .999 from the first step on, which long remembers the initial weights."""
    with torch.no_grad():
        for old, new in zip(average.state_dict().values(), student.state_dict().values(), strict=True):
            if old.is_floating_point():
                old.lerp_(new, 0.001)
            else:
                old.copy_(new)


def turned_batch(
    stored: Sequence[Stored], how: Cropping, views: int, cutmix: float, generator: torch.Generator
) -> Unlabelled:
    """F09: turn and mirror each strong view by lot; the weak view, which is labelled, stays as it is."""
    made = unlabelled_batch(stored, how, views, cutmix, generator)
    lots = torch.Generator()
    lots.set_state(generator.get_state())  # so that the tiles are those of the healthy run
    strong = made.strong.clone()
    for tile in strong.flatten(0, 1):
        way = int(torch.randint(8, (), generator=lots))
        turned = torch.rot90(tile, way % 4, (-2, -1))
        tile.copy_(turned.flip(-1) if way >= 4 else turned)
    return replace(made, strong=strong)


FAULTS_EARLY: dict[str, dict[str, Callable[..., Any]]] = {
    "usual": {"UNet": usual_start, "recalibrated": as_it_was},
    "F06": {"update_average": cold_average},
    "F09": {"unlabelled_batch": turned_batch},
}
"""What of the trainer is replaced, and by what."""

KINDS: dict[str, type[Picker]] = {"healthy": Picker, "F01": Shown255, "F03": Forgetful}
FAULTS_LATE = ("F01", "F03")


def _line(row: dict[str, Any]) -> str:
    if "shares" in row:
        return f"{row['data']} #{row['draw']} positive shares: {row['few']:.3f} {row['more']:.3f} {row['all']:.3f}"
    found = "; ".join(
        f"{kind} {verdict(f)} skill {f['skill']:.2f} F* {f['best_f1']:.2f} F1@.5 {f['f1_half']:.2f} p {f['mean_p']:.2f}"
        for kind, f in row["figures"].items()
    )
    return f"{row['data']} {row['steps']} #{row['draw']}: {found}  {row['train_seconds']:.0f} s {row['ruled']}"


Runs = dict[str, list[dict[str, Any]]]
"""The rows that are there, by the name of their preset; seeds in order."""


def _report(options: argparse.Namespace) -> Iterator[str]:
    """Yield all tables in Markdown."""
    rows = {row["key"]: row for row in read(RESULTS)}
    used = []
    for data in options.data.split(","):
        for steps in options.steps.split(","):
            runs: Runs = {}
            asked = argparse.Namespace(**{**vars(options), "data": data, "steps": steps})
            for name, cell in _cells(asked):
                if key_of(cell) in rows:
                    runs.setdefault(name, []).append(rows[key_of(cell)])
            trained = {name: found for name, found in runs.items() if name != "SA7"}
            if trained:
                where = REAL if data == "real" else "simulated"
                yield from (f"\n**{where}, {steps} steps**\n", *_outcomes(trained), *_faults(trained), "")
                yield from _predictions(trained)
            used += [row for found in runs.values() for row in found]
        for row in runs.get("SA7", []):
            yield (f"\nSA7, {data}, draw {row['draw']}: full discs cover {row['few']:.1%} of the micrograph labelled "
                   f"first, {row['more']:.1%} of all labelled ones, {row['all']:.1%} of all.")  # fmt: skip
    yield f"\nMade on {' and '.join(sorted({row['date'] for row in used}))}, verglas {__version__}."


def _outcomes(runs: Runs) -> Iterator[str]:
    """Yield what becomes of each preset without an evaluation fault."""
    yield from _head("row", "what", "runs", "skill", "AP", "F* (trivial)", "F1 at .5", "P, R at .5", "mean p",
                     "logit (SD)", "px > .5", "AP .5 D", "F1 .5 D", "AP .3 D", "F1 .3 D", "verdict",
                     "like report")  # fmt: skip
    for name, rows in runs.items():
        f = [row["figures"]["healthy"] for row in rows]
        cells = [
            name, PRESETS[name].about, str(len(f)), _spread(f, "skill"), _mean(f, "pixel_ap"),
            f"{_mean(f, 'best_f1')} ({_mean(f, 'trivial_f1')})", _spread(f, "f1_half"), _at_half(f),
            _mean(f, "mean_p"), f"{_mean(f, 'mean_logit')} ({_mean(f, 'sd_logit')})", _over_half(f),
            *(_mean(f, key) for key in ("ap@0.5", "f1@0.5", "ap@0.3", "f1@0.3")),
            _counted(map(verdict, f)), _counted(signature(one, None) for one in f),
        ]  # fmt: skip
        yield "| " + " | ".join(cells) + " |"


def _faults(runs: Runs) -> Iterator[str]:
    """Yield what faults make of the same presets, and whose report that looks like."""
    lines = list(_faulty(runs))
    if lines:
        yield ""
        yield from _head("row", "fault", "runs", "skill", "AP", "F* (trivial)", "F1 at .5", "P, R at .5",
                         "mean p", "max p", "logit (SD)", "px > .5", "F1 .5 D", "verdict", "like report")  # fmt: skip
        for name, fault, f, healthy in lines:
            cells = [
                name, fault, str(len(f)), _spread(f, "skill"), _mean(f, "pixel_ap"),
                f"{_mean(f, 'best_f1')} ({_mean(f, 'trivial_f1')})", _spread(f, "f1_half"), _at_half(f),
                _mean(f, "mean_p"), _mean(f, "max_p"),
                f"{_mean(f, 'mean_logit')} ({_mean(f, 'sd_logit')})", _over_half(f), _mean(f, "f1@0.5"),
                _counted(map(verdict, f)), _counted(signature(a, b) for a, b in zip(f, healthy, strict=True)),
            ]  # fmt: skip
            yield "| " + " | ".join(cells) + " |"


def _faulty(runs: Runs) -> Iterator[tuple[str, str, list[dict[str, float]], list[dict[str, float] | None]]]:
    """Yield preset and fault, the figures of each seed, and those of the healthy run beside it."""
    for name, rows in runs.items():
        for fault in FAULTS_LATE:
            both = [row["figures"] for row in rows if fault in row["figures"]]
            if both:
                yield name, fault, [f[fault] for f in both], [f["healthy"] for f in both]
        if set(PRESETS[name].faults) - {"usual"}:
            base = {row["draw"]: row["figures"]["healthy"] for row in runs.get(name.split("-")[0], [])}
            found = [row["figures"]["healthy"] for row in rows]
            yield name, "at training", found, [base.get(row["draw"]) for row in rows]


def _predictions(runs: Runs) -> Iterator[str]:
    """Yield in how many runs each prediction held that was made before anything was run."""
    late = {(name, fault): list(zip(f, healthy, strict=True)) for name, fault, f, healthy in _faulty(runs)}

    def pooled(names: Sequence[str], fault: str) -> list[dict[str, float]]:
        return [f for name in names for f, _ in late.get((name, fault), [])]

    def chance_or_nothing(f: Mapping[str, float]) -> bool:
        return f["f1_half"] < 0.02 or abs(f["f1_half"] / f["trivial_f1"] - 1) < 0.1

    def healthy(*names: str) -> list[dict[str, float]]:
        return [row["figures"]["healthy"] for name in names for row in runs.get(name, [])]

    losses = ("A0", "A1", "A2", "A4", "A5")
    usual = [f"{name}u" for name in (*losses, "A3")]
    for sentence, held in (
        ("Without a fault, A0 to A5 but A3 have a skill of .2", [f["skill"] >= 0.2 for f in healthy(*losses)]),
        ("The same as usual", [f["skill"] >= 0.2 for f in healthy(*(f"{name}u" for name in losses))]),
        ("F01, else as usual: F1 at .5 is about 0 (below .02), whatever the loss",
         [f["f1_half"] < 0.02 for f in pooled(usual, "F01")]),
        ("Seen instead: there it is about 0 or trivial", [chance_or_nothing(f) for f in pooled(usual, "F01")]),
        ("F01 after a tenth of the steps (A6u): F1 at .5 is about 0 or trivial",
         [chance_or_nothing(f) for f in pooled(["A6u"], "F01")]),
        ("F01 after two stages (SA5u): F1 at .5 is at most trivial",
         [f["f1_half"] < 1.1 * f["trivial_f1"] for f in pooled(["SA5u"], "F01")]),
        ("F06: hardly any skill (below .2)",
         [f["skill"] < 0.2 for f in pooled(["A2-F06", "A2u-F06"], "at training")]),
        ("F09: precision up, recall down, AP flat, as in report B",
         [signature(*pair) == "B" for name in ("B70-F09", "B95-F09") for pair in late.get((name, "at training"), [])]),
        ("B50 = B40 = B30 = B0 to the last digit", list(_equal(runs, ("B50", "B40", "B30", "B0")))),
        ("BB = B60 to the last digit (but for ties)", list(_equal(runs, ("B60", "BB")))),
    ):  # fmt: skip
        if held:
            yield f"- {sentence}: {sum(held)} of {len(held)} runs."


def _equal(runs: Runs, names: Sequence[str]) -> Iterator[bool]:
    """Yield for each seed whether all these presets have the same figures."""
    by_draw = [{row["draw"]: row["figures"]["healthy"] for row in runs.get(name, [])} for name in names]
    for draw in sorted(set.intersection(*map(set, by_draw))):
        yield all(figures[draw] == by_draw[0][draw] for figures in by_draw)


def _head(*columns: str) -> Iterator[str]:
    yield "| " + " | ".join(columns) + " |"
    yield "|" + "---|" * len(columns)


def _mean(figures: Sequence[Mapping[str, float]], key: str) -> str:
    return f"{statistics.mean(f[key] for f in figures):.2f}"


def _spread(figures: Sequence[Mapping[str, float]], key: str) -> str:
    values = [f[key] for f in figures]
    if max(values) - min(values) < 0.005:
        return f"{statistics.mean(values):.2f}"
    return f"{statistics.mean(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def _at_half(figures: Sequence[Mapping[str, float]]) -> str:
    return f"{_mean(figures, 'precision_half')}, {_mean(figures, 'recall_half')}"


def _over_half(figures: Sequence[Mapping[str, float]]) -> str:
    share = 100 * sum(f["over_half"] for f in figures) / sum(f["pixels"] for f in figures)
    return f"{share:.1f} %" if share >= 0.1 or not share else f"{share:.1g} %"


def _counted(words: Iterator[str]) -> str:
    """Return the words, the most frequent first, with their number where they differ."""
    found = list(words)
    each = sorted(set(found), key=lambda word: (-found.count(word), word))
    return each[0] if len(each) == 1 else ", ".join(f"{word} {found.count(word)}" for word in each)


if __name__ == "__main__":
    main()
