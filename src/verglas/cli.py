"""The command line: each command is one call of ``api``, and draws the records that come."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from verglas import __version__, api
from verglas.console import complain, print_evaluation, show, show_diagnosis
from verglas.errors import InputError
from verglas.options import (
    Algorithm,
    AsJson,
    BoxPx,
    Config,
    CsY,
    Device,
    DiameterAngstrom,
    DiameterPx,
    Gaps,
    Labels,
    LabelsAre,
    Micrographs,
    MicrographsStar,
    PixelSize,
    Set,
    Slow,
    Strict,
)
from verglas.records import Record

app = typer.Typer(
    help="Pick cryo-EM particles from a handful of labels.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)

doctor = typer.Typer(
    help="Measure data, labels, views, teacher, outputs and thresholds; say what is wrong and what helps.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(doctor, name="doctor")

study = typer.Typer(
    help="Compare trainings: quality over amounts of labels, algorithms, settings and seeds.",
    invoke_without_command=True,
    rich_markup_mode=None,
)
app.add_typer(study, name="study")

NO, BAD_INPUT, PARTIAL, OUT_OF_MEMORY, INTERRUPTED = 1, 3, 4, 5, 130

_OUT_OF_MEMORY = "out of memory", "allocate memory"  # torch on a GPU, and on a CPU


@app.command()
def simulate(
    folder: Path,
    micrographs: Annotated[int, typer.Option(help="How many.")] = 20,
    seed: Annotated[int, typer.Option(help="Same seed, same micrographs.")] = 0,
    set_: Set = None,
    as_json: AsJson = False,
) -> None:
    """Simulate micrographs with known particles."""
    from verglas.simulate import DEMO, scene_with

    _show(api.simulate(folder, scene_with(DEMO, set_ or []), micrographs=micrographs, seed=seed), as_json)


@app.command()
def inspect(
    micrographs: Micrographs = None,
    labels: Labels = None,
    diameter_px: DiameterPx = None,
    diameter_angstrom: DiameterAngstrom = None,
    pixel_size_angstrom: PixelSize = None,
    cs_y: CsY = None,
    config: Config = None,
    set_: Set = None,
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("inspect.html"),
    as_json: AsJson = False,
) -> None:
    """Show labels over micrographs and measure whether they fit, before training."""
    data = _data(micrographs, labels, None, diameter_px, diameter_angstrom, pixel_size_angstrom) | _given(cs_y=cs_y)
    _show(api.inspect(_config(config, {"data": data}, set_), out), as_json)


@app.command()
def train(
    out: Annotated[Path, typer.Option(help="The run folder to write.")],
    micrographs: Micrographs = None,
    labels: Labels = None,
    labels_are: LabelsAre = None,
    diameter_px: DiameterPx = None,
    diameter_angstrom: DiameterAngstrom = None,
    pixel_size_angstrom: PixelSize = None,
    algorithm: Algorithm = None,
    steps: Annotated[int | None, typer.Option(help="Length of the training.")] = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same machine and threads: same run.")] = None,
    device: Device = None,
    cs_y: CsY = None,
    config: Config = None,
    set_: Set = None,
    as_json: AsJson = False,
) -> None:
    """Learn to pick from labelled micrographs. Repeat the command to go on after an interruption."""
    tree = {
        "data": _data(micrographs, labels, labels_are, diameter_px, diameter_angstrom, pixel_size_angstrom)
        | _given(cs_y=cs_y),
        "train": _given(steps=steps, seed=seed, device=device),
        "algorithm": _given(name=algorithm),
    }
    with stop_on_signal() as stop:
        _show(api.train(_config(config, tree, set_), out, stop=stop), as_json, stop)


@doctor.command("data")
def doctor_data(
    micrographs: Micrographs = None,
    labels: Labels = None,
    labels_are: LabelsAre = None,
    diameter_px: DiameterPx = None,
    diameter_angstrom: DiameterAngstrom = None,
    pixel_size_angstrom: PixelSize = None,
    algorithm: Algorithm = None,
    cs_y: CsY = None,
    config: Config = None,
    set_: Set = None,
    slow: Slow = False,
    strict: Strict = False,
    as_json: AsJson = False,
) -> None:
    """Before a training: labels, geometry, split, pixel sizes, settings, and the way to the network."""
    data = _data(micrographs, labels, labels_are, diameter_px, diameter_angstrom, pixel_size_angstrom)
    tree = {"data": data | _given(cs_y=cs_y), "algorithm": _given(name=algorithm)}
    _diagnosis(api.doctor(config=_config(config, tree, set_), slow=slow), strict, as_json)


@doctor.command("run")
def doctor_run(run: Path, slow: Slow = False, strict: Strict = False, as_json: AsJson = False) -> None:
    """During or after a training: all that was asked before it, and what it has led to."""
    _diagnosis(api.doctor(run, slow=slow), strict, as_json)


@doctor.command("check")
def doctor_check(
    name: Annotated[str, typer.Argument(help="Such as registration or outputs; another name lists them.")],
    run: Annotated[Path | None, typer.Argument(help="The folder of a training, or data by the options.")] = None,
    micrographs: Micrographs = None,
    labels: Labels = None,
    labels_are: LabelsAre = None,
    diameter_px: DiameterPx = None,
    diameter_angstrom: DiameterAngstrom = None,
    pixel_size_angstrom: PixelSize = None,
    algorithm: Algorithm = None,
    config: Config = None,
    set_: Set = None,
    strict: Strict = False,
    as_json: AsJson = False,
) -> None:
    """Ask one check, of a run or of data."""
    data = _data(micrographs, labels, labels_are, diameter_px, diameter_angstrom, pixel_size_angstrom)
    tree = {"data": data, "algorithm": _given(name=algorithm)}
    settings = None if run is not None else _config(config, tree, set_)
    _diagnosis(api.doctor(run, settings, checks=[name]), strict, as_json)


@study.callback()
def study_run(
    context: typer.Context,
    out: Annotated[Path | None, typer.Option(help="The folder of the study.")] = None,
    micrographs: Micrographs = None,
    labels: Labels = None,
    labels_are: LabelsAre = None,
    diameter_px: DiameterPx = None,
    diameter_angstrom: DiameterAngstrom = None,
    pixel_size_angstrom: PixelSize = None,
    cs_y: CsY = None,
    labelled_ratios: Annotated[str | None, typer.Option(help="Shares of training micrographs: 0.01,0.05.")] = None,
    labelled_micrographs: Annotated[str | None, typer.Option(help="Numbers of labelled micrographs: 1,2,5.")] = None,
    labelled_particles: Annotated[str | None, typer.Option(help="Numbers of clicked particles: 30,100.")] = None,
    algorithms: Annotated[str | None, typer.Option(help="Rows to compare, the others with the first.")] = None,
    seeds: Annotated[int | None, typer.Option(help="How many draws of labelled micrographs.")] = None,
    pool: Annotated[
        Literal["rest", "with-test"] | None, typer.Option(help="Unlabelled: the rest, or the test micrographs too.")
    ] = None,
    test: Annotated[list[str] | None, typer.Option(help="A test micrograph, by name; repeatable.")] = None,
    test_share: Annotated[float | None, typer.Option(help="Else: share of labelled micrographs to test on.")] = None,
    config: Annotated[Path | None, typer.Option(help="A TOML file of a study; options overrule it.")] = None,
    set_: Set = None,
    jobs: Annotated[int, typer.Option(help="Runs at once.")] = 1,
    executor: Annotated[Literal["local", "slurm"], typer.Option(help="Where runs are carried out.")] = "local",
    slurm: Annotated[list[str] | None, typer.Option(help="partition=P, minutes=M, cpus=N, gpus=N; repeatable.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would run, and for how long.")] = False,
    gaps: Gaps = False,
    as_json: AsJson = False,
) -> None:
    """Compare trainings. Repeat the command to go on after an interruption."""
    from verglas.study import Study, read_tree

    if context.invoked_subcommand is not None:
        return
    if out is None:
        raise InputError("verglas study", "--out", found="missing", expected="a folder")
    data = _data(micrographs, labels, labels_are, diameter_px, diameter_angstrom, pixel_size_angstrom)
    data |= _given(cs_y=cs_y)
    options = _given(
        ratios=_listed(labelled_ratios), micrographs=_listed(labelled_micrographs),
        particles=_listed(labelled_particles), seeds=None if seeds is None else list(range(seeds)), pool=pool,
        test={"data": test} if test else None, test_share=test_share, set=set_, data={"data": data} if data else None,
        rows={name: {"algorithm": {"name": name}} for name in algorithms.split(",")} if algorithms else None,
    )  # fmt: skip
    plan = Study.of((read_tree(config) if config else {}) | options, str(config or "command line"))
    cluster = dict(text.partition("=")[::2] for text in slurm or [])
    with stop_on_signal() as stop:
        stream = api.study(
            out, plan, jobs=jobs, executor=executor, cluster=cluster, dry_run=dry_run, gaps=gaps, stop=stop
        )
        _show(stream, as_json, stop)


@study.command("report")
def study_report(folder: Path, gaps: Gaps = False, as_json: AsJson = False) -> None:
    """Collect the results of a study and write its tables and its page; nothing is trained."""
    _show(api.study(folder, gaps=gaps), as_json)


@app.command()
def pick(
    run: Annotated[Path, typer.Argument(help="The folder of a training, or 'general' for no training at all.")],
    out: Annotated[Path, typer.Option(help="The pick file to write, .star.")],
    micrographs: Micrographs = None,
    threshold: Annotated[float | None, typer.Option(help="The score from which a candidate counts.")] = None,
    expected_precision: Annotated[
        float | None, typer.Option(help="Let validation find the threshold for this.")
    ] = None,
    particles_per_micrograph: Annotated[
        float | None, typer.Option(help="About how many there are: the threshold that keeps so many on average.")
    ] = None,
    diameter_px: DiameterPx = None,
    diameter_angstrom: DiameterAngstrom = None,
    pixel_size_angstrom: PixelSize = None,
    thorough: Annotated[
        bool,
        typer.Option("--thorough", help="Look in four orientations: a better ranking, in two to four times the time."),
    ] = False,
    device: Device = None,
    maps: Annotated[Path | None, typer.Option(help="Also keep the probability maps, in this folder.")] = None,
    as_json: AsJson = False,
) -> None:
    """Pick micrographs with a trained run, or without one: `verglas pick general` needs the diameter and no labels.

    Repeat the command to go on after an interruption.
    """
    with stop_on_signal() as stop:
        stream = api.pick(
            run, micrographs or [], out, threshold=threshold, expected_precision=expected_precision,
            particles_per_micrograph=particles_per_micrograph, diameter_px=diameter_px,
            diameter_angstrom=diameter_angstrom, pixel_size_angstrom=pixel_size_angstrom, thorough=thorough,
            device=device or "auto", maps=maps, stop=stop,
        )  # fmt: skip
        _show(stream, as_json, stop)


@app.command()
def suggest(
    run: Path,
    micrographs: Micrographs = None,
    out: Annotated[Path, typer.Option(help="The table to write, .csv.")] = Path("suggest.csv"),
    most: Annotated[int, typer.Option(min=1, help="How many to rank; all are looked at.")] = 20,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Rank micrographs without labels by what labelling them next would teach."""
    with stop_on_signal() as stop:
        _show(api.suggest(run, micrographs or [], out, most=most, device=device or "auto", stop=stop), as_json, stop)


@app.command()
def evaluate(
    picks: Path,
    labels: Annotated[Path, typer.Option(help="Labels to hold the picks to: a folder or a file.")],
    diameter_px: DiameterPx = None,
    threshold: Annotated[float | None, typer.Option(help="Overrules the one in the pick file.")] = None,
    radius: Annotated[float, typer.Option(help="How far a pick may be off, in diameters.")] = 0.5,
    maps: Annotated[Path | None, typer.Option(help="Probability maps of verglas pick, for pixel figures.")] = None,
    cs_y: CsY = None,
    as_json: AsJson = False,
) -> None:
    """Compare picks with labels: average precision, F1, chance, and their uncertainty."""
    from verglas.evaluate import to_json
    from verglas.io._base import FormatOptions

    options = FormatOptions(cs_y=cs_y)
    evaluation = api.evaluate(
        picks, labels, diameter_px=diameter_px, threshold=threshold, radius=radius, maps=maps, options=options
    )
    print_evaluation(to_json(evaluation), as_json)


@app.command()
def export(
    picks: Path,
    out: Path,
    threshold: Annotated[float | None, typer.Option(help="Overrules the one in the pick file.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Also the candidates below the threshold.")] = False,
    format_name: Annotated[
        str | None, typer.Option("--format", help="Such as relion-folder, box, cbox, topaz.")
    ] = None,
    micrographs_star: MicrographsStar = None,
    box_px: BoxPx = None,
    cs_y: CsY = None,
    as_json: AsJson = False,
) -> None:
    """Write the picks that count in another format, chosen by the suffix of OUT or --format."""
    from verglas.io._base import FormatOptions

    options = FormatOptions(box_px=box_px, cs_y=cs_y)
    summary = api.export(
        picks, out, threshold=threshold, everything=everything, format_name=format_name,
        micrographs_star=micrographs_star, options=options,
    )  # fmt: skip
    _show(iter([summary]), as_json)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="The folder to write.")] = Path("verglas-demo"),
    seed: Annotated[int, typer.Option(help="Another seed, another data set.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Simulate, learn from two labelled micrographs, pick the rest and compare with the truth."""
    with stop_on_signal() as stop:
        _show(api.demo(out, seed=seed, stop=stop), as_json, stop)


@app.command()
def bench(
    micrographs: Micrographs = None,
    diameter_px: DiameterPx = None,
    diameter_angstrom: DiameterAngstrom = None,
    pixel_size_angstrom: PixelSize = None,
    device: Device = None,
    config: Config = None,
    set_: Set = None,
    as_json: AsJson = False,
) -> None:
    """Measure how fast this machine picks and trains, and say which options to set. Takes two minutes at most."""
    data = _data(micrographs, None, None, diameter_px, diameter_angstrom, pixel_size_angstrom)
    tree = {"data": data, "train": _given(device=device)}
    with stop_on_signal() as stop:
        _show(api.bench(_config(config, tree, set_), stop=stop), as_json, stop)


def main() -> None:
    """Run the command line, and turn what goes wrong into a sentence and an exit code."""
    try:
        app()
    except InputError as error:
        complain(str(error))
        sys.exit(BAD_INPUT)
    except OSError as error:
        complain(f"{error}. Check the path, its permissions and the space left on the disk.")
        sys.exit(BAD_INPUT)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not any(words in str(error) for words in _OUT_OF_MEMORY):
            raise
        complain("Out of memory. Use a smaller --set train.batch=2 or train.crop=128, or another --device.")
        sys.exit(OUT_OF_MEMORY)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _show(stream: Iterator[Record], as_json: bool, stop: threading.Event | None = None) -> None:
    """Draw records as they come, and leave with the exit code that they ask for."""
    failed = show(stream, as_json)
    if stop is not None and stop.is_set():
        raise typer.Exit(INTERRUPTED)
    if failed:
        raise typer.Exit(PARTIAL)


def _diagnosis(stream: Iterator[Record], strict: bool, as_json: bool) -> None:
    """Draw what the doctor says; leave with 1 where a check failed, or warned and that counts."""
    grave = {"fail", "warn"} if strict else {"fail"}
    if show_diagnosis(stream, as_json) in grave:
        raise typer.Exit(NO)


@contextmanager
def stop_on_signal() -> Iterator[threading.Event]:
    """Give an event that Ctrl-C and SIGTERM set; a second Ctrl-C interrupts at once."""
    stop, before = threading.Event(), {}

    def ask(number: int, frame: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        before[number] = signal.signal(number, ask)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _config(path: Path | None, tree: dict[str, dict[str, Any]], settings: list[str] | None) -> Any:
    """Return the settings of a run: defaults, then the file, then options, then ``--set``."""
    from verglas.config import RunConfig

    config = RunConfig.load(path) if path is not None else RunConfig()
    return config.merged(tree, where="command line").with_settings(settings or [])


def _data(
    micrographs: list[str] | None, labels: str | None, labels_are: str | None,
    diameter_px: float | None, diameter_angstrom: float | None, pixel_size_angstrom: float | None,
) -> dict[str, Any]:  # fmt: skip
    return _given(
        micrographs=tuple(micrographs or ()) or None, labels=labels, labels_are=labels_are, diameter_px=diameter_px,
        diameter_angstrom=diameter_angstrom, pixel_size_angstrom=pixel_size_angstrom,
    )  # fmt: skip


def _listed(text: str | None) -> list[str] | None:
    return None if text is None else text.split(",")


def _given(**options: Any) -> dict[str, Any]:
    return {key: value for key, value in options.items() if value is not None}


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False) -> None:
    if version:
        print(__version__)
        raise typer.Exit
