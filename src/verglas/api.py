"""The verbs. Long ones are iterators of records and do no work before the first record is asked for."""

import json
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from verglas.errors import InputError
from verglas.io._base import FormatOptions, write_text
from verglas.records import Checked, Failed, Note, Record, Suggested, Summary, Trained, Written
from verglas.types import Collection, Evaluation, nothing

if TYPE_CHECKING:
    from verglas.config import RunConfig
    from verglas.doctor import Said
    from verglas.io.collections import Collected, Found
    from verglas.simulate import Scene
    from verglas.study import Study

__all__ = ["bench", "demo", "doctor", "evaluate", "export", "inspect", "pick", "simulate", "study", "suggest", "train"]


def simulate(folder: str | Path, scene: "Scene", *, micrographs: int, seed: int = 0) -> Iterator[Record]:
    """Write simulated micrographs with their truth."""
    from verglas.simulate import write_dataset

    for done, made in enumerate(write_dataset(folder, scene, micrographs, seed), 1):
        yield Written(str(made.path), done, micrographs, made.particles)
    yield Summary({"folder": str(folder), "micrographs": micrographs, "seed": seed})


def inspect(config: "RunConfig", out: str | Path) -> Iterator[Record]:
    """Show labels over micrographs, and measure whether they fit, before anything is trained."""
    from verglas.io.micrographs import read_image
    from verglas.labels import label_facts
    from verglas.materials import with_margin
    from verglas.report import Page, write_inspection
    from verglas.reporting import MOST_PAGES

    collected = _collect(config)
    yield from _said(collected)
    collection, pages = collected.collection, []
    recipe = config.recipe(collection.diameter_px)
    labelled_first = sorted(collection.micrographs, key=lambda micrograph: micrograph.name not in collection.picks)
    for micrograph in labelled_first[:MOST_PAGES]:
        try:
            image = recipe.prepare(read_image(micrograph, config.data.reading()))
        except (InputError, OSError) as error:
            yield Failed(str(micrograph.path), str(error))
            continue
        labels = collection.picks.get(micrograph.name)
        pages.append(Page(micrograph.name, image, labels or nothing(micrograph.name), labels, None))
    facts = label_facts(collection, {page.name: page.image for page in pages})
    for sentence in facts.warnings:
        yield Note(sentence, warning=True)
    numbers = {**facts.numbers, "margin_px": with_margin(config, collection).search.edge_px}
    path = write_inspection(Path(out), pages, numbers, [*collected.warnings, *facts.warnings])
    yield Summary({**numbers, "page": str(path)})


def train(config: "RunConfig", out: str | Path, *, stop: threading.Event | None = None) -> Iterator[Record]:
    """Learn to pick from labelled micrographs and leave a run folder; go on where an earlier call was stopped."""
    from verglas.doctor import examined, examined_run
    from verglas.materials import with_margin
    from verglas.reporting import lacks_report, trained_summary
    from verglas.runs import Run
    from verglas.training import train as learn

    collected = _collect(config)
    yield from _said(collected)
    folder, collection, before = Path(out), collected.collection, list["Said"]()
    if not lacks_report(folder, with_margin(config, collection)):
        before = list(examined(collection, config))
        yield from _faults(before)
        end: Record | None = None
        for end in learn(collection, config, folder, stop=stop):
            yield end
        if not isinstance(end, Trained) or end.stopped:
            return
    collection = Run(folder).completed(collection)
    told = {one.code for one in _faults(before)}
    after = examined_run(folder, collection, known=before, figures=False)
    yield from (one for one in _faults(after) if one.code not in told)
    yield trained_summary(folder, collection)


def doctor(
    run: str | Path | None = None,
    config: "RunConfig | None" = None,
    *,
    checks: Sequence[str] | None = None,
    slow: bool = False,
) -> Iterator[Record]:
    """Measure what may be wrong with data or a run, and yield what each check found, then the causes, best first.

    Parameters
    ----------
    run
        The folder of a training, ended or not; what is found is kept there, in ``doctor.json`` and in its report.
    config
        Without a run: the settings and data of a training to be.
    checks
        Names of the checks to ask; by default all but slow ones. ``slow`` adds those.
    """
    from verglas.doctor import examined, examined_run, in_short
    from verglas.reporting import trained_summary
    from verglas.runs import Run

    if config is None:
        if run is None:
            raise InputError("doctor", "subject", found="nothing", expected="the folder of a run, or data and settings")
        config = Run.begun(run).config
    collected = _collect(config)
    yield from _said(collected)
    collection, found = collected.collection, list[Record]()
    collection = collection if run is None else Run(Path(run)).completed(collection)
    records = examined(collection, config, checks, slow) if run is None else examined_run(run, collection, checks, slow)
    for record in records:
        found.append(record)
        yield record
    if run is not None and (Path(run) / "report.html").exists():
        trained_summary(Path(run), collection)
    yield Summary(in_short(found))


def pick(
    run: str | Path,
    micrographs: Sequence[str | Path],
    out: str | Path,
    *,
    threshold: float | None = None,
    expected_precision: float | None = None,
    particles_per_micrograph: float | None = None,
    diameter_px: float | None = None,
    diameter_angstrom: float | None = None,
    pixel_size_angstrom: float | None = None,
    thorough: bool = False,
    device: str = "auto",
    maps: str | Path | None = None,
    stop: threading.Event | None = None,
) -> Iterator[Record]:
    """Pick micrographs with a trained run; every candidate is kept, and the threshold says which count.

    Parameters
    ----------
    run
        The folder of a training, or ``general``: the network that comes with verglas, for particles nobody labelled.
    diameter_px, diameter_angstrom
        One of the two where it is not that of the training, as in micrographs of another pixel size; ``general`` has
        none of its own.
    out
        The pick file, ``.star``. Repeated with the same inputs, the call goes on where it was stopped.
    threshold, expected_precision, particles_per_micrograph
        One of them replaces the threshold that validation chose; by the last so many picks count on average, those of
        micrographs without any included.
    thorough
        Score by the mean over four orientations of each micrograph (test-time augmentation): a better ranking, in
        two to four times the time. The threshold stays that of single looks.
    maps
        A folder for the probability maps, which ``evaluate`` can take for pixel figures.
    """
    from verglas.io.collections import diameter_in_px, find_micrographs
    from verglas.picker import Picker
    from verglas.picking import pick_into, threshold_of
    from verglas.predict import resolved_device
    from verglas.runs import Run

    if not micrographs:
        raise InputError("--micrographs", "micrographs", found="none", expected="files, folders or patterns")
    chosen, how = threshold_of(run, threshold, expected_precision, particles_per_micrograph)
    picker = replace(Picker.load(run, device=resolved_device(device)).folded(), thorough=thorough)
    told = pixel_size_angstrom or picker.config.data.pixel_size_angstrom
    found = find_micrographs(micrographs, pixel_size_angstrom=told)
    yield from _said(found)
    if Run.open(run).any_particle or diameter_px is not None or diameter_angstrom is not None:
        size = next((m.pixel_size_angstrom for m in found.micrographs), None)
        picker = picker.for_diameter(diameter_in_px(found.micrographs, diameter_px, diameter_angstrom), size)
    yield from pick_into(out, picker, found, chosen, how, maps=maps, stop=stop)


def suggest(
    run: str | Path,
    micrographs: Sequence[str | Path] = (),
    out: str | Path = "suggest.csv",
    *,
    most: int = 20,
    device: str = "auto",
    stop: threading.Event | None = None,
) -> Iterator[Record]:
    """Rank micrographs without labels by what labelling them next would teach a trained run.

    Parameters
    ----------
    micrographs
        To choose from; by default those of the training that have no labels.
    out
        The table to write, ``.csv``.
    most
        How many are ranked; all are looked at.
    """
    from verglas.holdout import training_names
    from verglas.io.collections import find_micrographs
    from verglas.materials import unlabelled_names
    from verglas.picker import Picker
    from verglas.predict import resolved_device
    from verglas.runs import Run
    from verglas.suggest import suggestions, write_csv

    opened = Run.open(run)
    collected = _collect(opened.config)
    yield from _said(collected)
    collection, known = collected.collection, collected.collection.by_name()
    pool = [known[name] for name in unlabelled_names(collection)]
    if micrographs:
        found = find_micrographs(micrographs, pixel_size_angstrom=opened.config.data.pixel_size_angstrom)
        yield from _said(found)
        pool = [micrograph for micrograph in found.micrographs if micrograph.name not in collection.picks]
    labelled = [known[name] for name in training_names(collection)]
    suggested, picker = list[Suggested](), Picker.load(run, device=resolved_device(device))
    for record in suggestions(opened, picker, labelled, pool, most=most, stop=stop):
        suggested += [record] if isinstance(record, Suggested) else []
        yield record
    if not suggested:
        raise InputError(out, "micrographs", found=f"none of {len(pool)} that can be picked", expected="one or more")
    write_csv(out, suggested)
    yield Summary({
        "table": str(out), "labelled": len(labelled), "without_labels": len(pool),
        "suggested": [json.loads(record.to_json()) for record in suggested],
    })  # fmt: skip


def evaluate(
    picks: str | Path,
    labels: str | Path,
    *,
    diameter_px: float | None = None,
    threshold: float | None = None,
    radius: float = 0.5,
    maps: str | Path | None = None,
    options: FormatOptions | None = None,
    seed: int = 0,
) -> Evaluation:
    """Compare a pick file with labels, by the protocol of the manual: one to one, within ``radius`` diameters."""
    from verglas.data import Stored
    from verglas.evaluate import evaluate as compare
    from verglas.io.picks import read_picks

    options = options or FormatOptions()
    found, truth = read_picks(picks, options), read_picks(labels, options).counted()
    diameter = diameter_px or found.diameter_px
    if diameter is None:
        raise InputError(
            picks, "diameter", found="not in the file", expected="a diameter", remedy="Give --diameter-px."
        )
    known = found.by_name()
    if not known.keys() & truth.by_name().keys():
        raise InputError(
            labels, "micrographs", found=", ".join([*truth.by_name()][:3]),
            expected=f"names such as {next(iter(known), '-')}",
            remedy="No labelled micrograph was picked: file names without suffix must agree.",
        )  # fmt: skip
    if threshold is not None:
        found = replace(found, threshold=threshold, threshold_how="given by the user")
    at_hand = {}
    if maps is not None:
        at_hand = {name: Stored.open(Path(maps), name).image() for name in truth.by_name() if name in known}
    found = replace(found, shapes={**found.shapes, **truth.shapes})
    figures = compare(found, truth.by_name(), diameter_px=diameter, radius=radius, seed=seed, probability=at_hand)
    return replace(
        figures, how={**figures.how, "labelled_but_not_picked": sorted(truth.by_name().keys() - known.keys())}
    )


def export(
    picks: str | Path,
    out: str | Path,
    *,
    threshold: float | None = None,
    everything: bool = False,
    format_name: str | None = None,
    micrographs_star: str | Path | None = None,
    options: FormatOptions | None = None,
) -> Summary:
    """Write the picks that count (or ``everything``) in another format.

    ``relion-folder`` is what RELION extracts from; ``micrographs_star`` names the micrographs as RELION does.
    """
    from verglas.io.picks import read_picks, relion_folder, write_picks

    options = options or FormatOptions()
    found = read_picks(picks, options)
    if threshold is not None:
        found = replace(found, threshold=threshold, threshold_how="given by the user")
    kept = found if everything else found.counted()
    facts: dict[str, Any] = {"picks": len(kept), "candidates": len(found), "threshold": found.threshold}
    if format_name == "relion-folder":
        star = None if micrographs_star is None else Path(micrographs_star)
        dropped = relion_folder(Path(out), kept, micrographs_star=star)
        return Summary(facts | {"out": str(out), "dropped_outside": sum(dropped.values())})
    files = write_picks(out, kept, options, counted_only=False, format_name=format_name)
    return Summary(facts | {"out": str(out), "files": len(files)})


def demo(out: str | Path, *, seed: int = 0, stop: threading.Event | None = None) -> Iterator[Record]:
    """Simulate a small data set, learn from two labelled micrographs, pick the rest and hold it to the truth."""
    from verglas.config import DataSettings, RunConfig
    from verglas.evaluate import to_json
    from verglas.reporting import picking_report
    from verglas.simulate import DEMO, Simulator

    out = Path(out)
    data, run, picks = out / "data", out / "run", out / "picks.star"
    yield Note("simulating 10 micrographs")
    yield from simulate(data, DEMO, micrographs=10, seed=seed)
    files = sorted((data / "micrographs").glob("*.mrc"))
    for folder, chosen in ((out / "labels", files[:2]), (out / "test-labels", files[2:])):
        for file in chosen:
            write_text(folder / f"{file.stem}.csv", (data / "truth" / f"{file.stem}.csv").read_text(encoding="utf-8"))
    yield Note("learning from 2 labelled micrographs")
    where = DataSettings(
        (str(data / "micrographs"),), str(out / "labels"), diameter_angstrom=Simulator(DEMO).particle.diameter_angstrom
    )
    if (run / "report.html").exists():
        yield Note(f"{run} has learned already; remove it to learn anew")
    else:
        yield from train(replace(RunConfig(), data=where).with_train(seed=seed), run, stop=stop)
    if stop is not None and stop.is_set():
        return
    yield Note("picking the other 8 and comparing them with the truth")
    yield from pick(run, files[2:], picks, stop=stop)
    if stop is not None and stop.is_set():
        return
    evaluation = evaluate(picks, out / "test-labels")
    figures = to_json(evaluation)
    path, picture = picking_report(run, files[2:], picks, out / "test-labels", evaluation)
    keys = ("ap", "f1", "precision", "recall", "threshold", "n_labels", "n_picks")
    yield Summary({**{key: figures[key] for key in keys}, "report": str(path), "picture": str(picture)})


def bench(config: "RunConfig | None" = None, *, stop: threading.Event | None = None) -> Iterator[Record]:
    """Measure how fast this machine picks and trains with which options, in two minutes at most, and say what to set.

    Parameters
    ----------
    config
        Settings to measure with; micrographs named there are picked, with their diameter, else simulated ones.
    """
    from tempfile import TemporaryDirectory

    from verglas.benching import SIMULATED, compare
    from verglas.config import DataSettings, RunConfig
    from verglas.simulate import DEMO, Simulator

    config, stop = config or RunConfig(), stop or threading.Event()
    own = _collect(config) if config.data.micrographs else None
    if own is not None:
        yield from _said(own)
    yield Note(f"simulating {SIMULATED} micrographs; whatever else runs on this machine makes the figures worse")
    with TemporaryDirectory() as scratch:
        data = Path(scratch) / "data"
        for record in simulate(data, DEMO, micrographs=SIMULATED):
            if not isinstance(record, Summary):
                yield record
        diameter = Simulator(DEMO).particle.diameter_angstrom
        where = DataSettings((str(data / "micrographs"),), str(data / "truth"), diameter_angstrom=diameter)
        taught = _collect(replace(config, data=where)).collection
        yield from compare(config, taught, own.collection if own else taught, Path(scratch) / "prepared", stop)


def study(
    folder: str | Path,
    plan: "Study | None" = None,
    *,
    jobs: int = 1,
    executor: Literal["local", "slurm"] = "local",
    cluster: Mapping[str, str] | None = None,
    dry_run: bool = False,
    gaps: bool = False,
    stop: threading.Event | None = None,
) -> Iterator[Record]:
    """Train and compare over data sets, amounts of labels, rows of settings and seeds; go on where it was stopped.

    Parameters
    ----------
    plan
        Without one nothing is trained: the results in ``folder`` are collected and shown.
    jobs
        How many runs at once, each in a process of its own; one runs here.
    cluster
        With ``slurm``, options of its jobs: partition, account, minutes, cpus, gpus, memory_gb, at_once.
    dry_run
        Only say what would run, and for how long; nothing is written.
    gaps
        Show results although runs are missing.
    """
    from verglas.study_report import write_results
    from verglas.study_run import Verbs
    from verglas.studying import chosen_way, conduct, foreseen, tasks_of

    folder, collections = Path(folder), dict[str, Collection]()
    if plan is None:
        yield Summary(write_results(folder, gaps=gaps))
        return
    for name in plan.data:
        collected = _collect(plan.config(name, next(iter(plan.rows))))
        yield from _said(collected)
        collections[name] = collected.collection
    verbs = Verbs(train, pick, evaluate)
    if dry_run:
        yield from foreseen(tasks_of(plan, collections, folder, verbs)[0], jobs)
        return
    way, threads = chosen_way(folder, executor, jobs, cluster or {})
    yield from conduct(plan, collections, folder, verbs, way, threads=threads, gaps=gaps, stop=stop)


def _collect(config: "RunConfig") -> "Collected":
    from verglas.io.collections import collect

    data = config.data
    if not data.micrographs:
        raise InputError("data", "micrographs", found="none", expected="files, folders or patterns",
                         remedy="Give --micrographs, or data.micrographs in the configuration.")  # fmt: skip
    return collect(
        data.micrographs, data.labels, diameter_px=data.diameter_px, diameter_angstrom=data.diameter_angstrom,
        pixel_size_angstrom=data.pixel_size_angstrom, complete=data.labels_are == "complete",
        options=FormatOptions(cs_y=data.cs_y),
    )  # fmt: skip


def _said(collected: "Collected | Found") -> Iterator[Record]:
    """Yield what the user should know of a collection: warnings, and files that failed."""
    for sentence in collected.warnings:
        yield Note(sentence, warning=True)
    for failure in collected.failures:
        yield Failed(str(failure.path), failure.reason)


def _faults(said: "Iterable[Said]") -> Iterator[Checked]:
    """Yield the findings that warn or fail."""
    return (one for one in said if isinstance(one, Checked) and one.verdict in ("warn", "fail"))
