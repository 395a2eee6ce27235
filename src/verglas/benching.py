"""How fast a machine picks and trains with which options: measured in less than two minutes, with advice."""

import math
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from verglas import model as network
from verglas.config import RunConfig
from verglas.materials import Materials, gathered, with_margin
from verglas.model import UNet
from verglas.picker import Picker
from verglas.predict import Precision, at_precision, resolved_device
from verglas.records import Note, Progress, Record, Summary, Timed, Validated
from verglas.train import Trainer
from verglas.types import Collection

SIMULATED = 3
"""Micrographs that are simulated to learn from, and to pick where none are given."""

STEPS, WARM = 30, 10
"""Steps of a training that are measured, and from which on; a validation comes at the end."""

PICKING_SECONDS = 4.0

DEADLINE_SECONDS = 60.0
"""No other way is begun after this time: on a slow machine the last one may take half a minute."""

WORTH = 1.05
"""An option must make things faster by this factor to be recommended."""

LARGER = 4
"""How many times the tiles are in the larger batch that is tried."""


@dataclass(frozen=True, slots=True)
class Way:
    """Where and how to compute."""

    device: torch.device
    threads: int
    precision: Precision


def ways(device: str, precision: str, threads: int) -> list[Way]:
    """Return what to compare, what happens without options first.

    The other precision, and one thread in place of all ``threads``; beside a GPU that was not asked for by name also
    the CPU.
    """
    main = resolved_device(device)
    usual = Way(main, threads, at_precision(precision, main))
    other: Precision = "float32" if usual.precision == "bfloat16" else "bfloat16"
    found = [usual, replace(usual, precision=other)]
    if main.type == "cpu":
        return found + [replace(usual, threads=1)] * (threads > 1)
    cpu = torch.device("cpu")
    return found + [Way(cpu, threads, at_precision(precision, cpu))] * (device == "auto")


def compare(
    config: RunConfig, taught: Collection, own: Collection, folder: Path, stop: threading.Event
) -> Iterator[Record]:
    """Train on ``taught``, pick ``own``, in every way; yield what each takes, then advice. ``folder`` is scratch."""
    before, began, timed = torch.get_num_threads(), time.perf_counter(), list[Timed]()
    usual_threads = config.train.threads or before
    config = with_margin(config, taught)
    try:
        materials = gathered(taught, config, folder)
        tried = ways(config.train.device, config.train.precision, usual_threads)
        for way in tried:
            if stop.is_set() or (timed and time.perf_counter() - began > DEADLINE_SECONDS):
                yield Note(f"{len(tried) - len(timed)} of {len(tried)} ways were not tried", warning=True)
                break
            timed.append(_timed(config, way, materials, taught, own))
            yield timed[-1]
        larger = None
        if timed and not stop.is_set() and time.perf_counter() - began < DEADLINE_SECONDS:
            larger = _trained(_larger(config), tried[0], materials, taught).step_seconds
    finally:
        torch.set_num_threads(before)
    said = advice(timed, config.train.batch, larger) if timed else []
    yield from (Note(sentence) for sentence in said)
    facts = {} if not timed else {
        "micrographs_per_second": timed[0].micrographs_per_second, "training_seconds": timed[0].training_seconds,
    }  # fmt: skip
    yield Summary({**facts, "ways": [asdict(one) for one in timed], "advice": said})


def advice(timed: Sequence[Timed], batch: int, larger: float | None) -> list[str]:
    """Say which options make a training and picking faster than the first of what was measured.

    ``larger`` is what a step on ``LARGER`` times as many tiles takes.
    """
    usual, said = timed[0], []
    learns = min(timed, key=lambda one: one.training_seconds)
    gain = usual.training_seconds / learns.training_seconds
    said.append(_advised("training", usual, learns, gain, _options(usual, learns)))
    picks = max(timed, key=lambda one: one.micrographs_per_second)
    gain = picks.micrographs_per_second / usual.micrographs_per_second
    options = _options(usual, picks)
    told = [f"verglas pick --device {picks.device}"] * ("device" in options)
    told += [f"OMP_NUM_THREADS={picks.threads} in the environment"] * ("threads" in options)
    told += [f"a run trained with --set train.precision={picks.precision}"] * ("precision" in options)
    said.append(_advised("picking", usual, picks, gain, dict.fromkeys(told, "")))
    if larger is not None:
        times = larger / usual.step_seconds
        many, worth = LARGER * batch, times < LARGER / 2
        what = f"--set train.batch={many} shows more tiles in little more time" if worth else f"keep a batch of {batch}"
        said.append(f"batch: a step on {many} tiles takes {times:.1f} times as long as one on {batch}; {what}")
    return said


def _advised(what: str, usual: Timed, best: Timed, gain: float, options: Mapping[str, str]) -> str:
    if best is usual or gain < WORTH:
        return f"{what}: leave device, threads and precision as they are; nothing that was tried is faster"
    return f"{what}: {' and '.join(text or key for key, text in options.items())}, {gain:.2f} times as fast"


def _options(usual: Timed, best: Timed) -> dict[str, str]:
    """Return the options of ``verglas train`` that lead from one way to the other."""
    options = {
        "device": f"--device {best.device}", "threads": f"--set train.threads={best.threads}",
        "precision": f"--set train.precision={best.precision}",
    }  # fmt: skip
    return {key: text for key, text in options.items() if getattr(usual, key) != getattr(best, key)}


@dataclass(frozen=True, slots=True)
class _Trained:
    step_seconds: float
    validation_seconds: float
    model: UNet


def _timed(config: RunConfig, way: Way, materials: Materials, taught: Collection, own: Collection) -> Timed:
    """Measure one way."""
    made, settings = _trained(config, way, materials, taught), config.train
    validations = math.ceil(settings.steps / settings.validate_every)
    picker = Picker(
        config, config.recipe(own.diameter_px), network.to_device(made.model, way.device), way.precision, None
    )
    return Timed(
        str(way.device), way.threads, way.precision, _picked(picker.folded(), own), made.step_seconds,
        settings.steps * made.step_seconds + validations * made.validation_seconds,
    )  # fmt: skip


def _trained(config: RunConfig, way: Way, materials: Materials, collection: Collection) -> _Trained:
    """Train for some steps and validate once."""
    torch.set_num_threads(way.threads)
    config = config.with_train(steps=10 * STEPS, validate_every=STEPS, save_every=10 * STEPS, precision=way.precision)
    trainer = Trainer(config, materials, collection, way.device, lambda _: None)
    at: dict[int, float] = {}
    for record in trainer.run(threading.Event()):
        now = time.perf_counter()
        if isinstance(record, Progress):
            at[record.step] = now
        if isinstance(record, Validated):
            return _Trained((at[STEPS] - at[WARM]) / (STEPS - WARM), now - at[STEPS], trainer.shipped())
    raise AssertionError("a training validates")


def _picked(picker: Picker, collection: Collection) -> float:
    """Return how many micrographs are picked in a second; they come again until time is over."""
    micrographs = collection.micrographs * 1000
    found, began, done = picker.pick_all(micrographs), 0.0, 0
    for number, (_, result) in enumerate(found):
        if isinstance(result, Exception):
            raise result
        if number < torch.get_num_threads():  # on the way at once: the first may wait for what is loaded only once
            began = time.perf_counter()
            continue
        done += 1
        if time.perf_counter() - began > PICKING_SECONDS:
            break
    return done / (time.perf_counter() - began)


def _larger(config: RunConfig) -> RunConfig:
    return config.with_train(batch=LARGER * config.train.batch)
