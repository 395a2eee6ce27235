"""A training in a folder: what it begins with, how it goes on where it was stopped, and what it leaves.

Everything that decides what comes next is in ``resume.pt``, so a run that was stopped and one that was not end in the
same bytes on the same machine and number of threads.
"""

import hashlib
import shutil
import threading
from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from verglas import __version__
from verglas import model as network
from verglas.completion import completed
from verglas.config import RunConfig
from verglas.errors import InputError
from verglas.io._base import whole_file, write_text
from verglas.materials import chosen_algorithm, gather, with_margin
from verglas.operating import OperatingPoint
from verglas.predict import resolved_device
from verglas.preprocess import Preprocess
from verglas.records import Note, Record, Trained
from verglas.runs import COMPLETED, FORMAT, Run
from verglas.train import Trainer, start
from verglas.types import Collection, PickSet

T = TypeVar("T")

STATE = 2
"""Version of what is kept to go on from."""

_BEGUN = {"config.toml", "records.jsonl", "prepared", COMPLETED}
"""What a run holds that was stopped before its first state."""


def train(
    collection: Collection, config: RunConfig, folder: Path, *, stop: threading.Event | None = None
) -> Iterator[Record]:
    """Train, or go on with a training, and leave a finished run in ``folder``; ``stop`` ends it early, to go on later.

    Raises
    ------
    InputError
        If there are no labels, every labelled micrograph fails, or ``folder`` holds another run.
    """
    measured, config = config.search.edge_px == "auto", with_margin(config, collection)
    run, stop = Run(folder), stop or threading.Event()
    device = resolved_device(config.train.device)
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    fingerprint = _fingerprint(collection, config)
    chosen_algorithm(collection, config)  # these two refuse before anything is written
    begun = start(config, collection)
    saved = _begin(run, config, fingerprint)
    recipe = config.recipe(collection.diameter_px)
    prepared = folder / "prepared" / fingerprint
    collection = run.completed(collection)
    if saved is None:
        collection = yield from _logged(run, _whole(collection, config, run, device))
    yield from _logged(run, _told(collection, config, begun, measured))
    materials = yield from _logged(run, gather(collection, config, recipe, prepared, stop))
    if materials is None:
        yield Trained(str(folder), 0, 0.0, True, None, "stopped: repeat the command to go on")
        return
    if run.completes:
        holdout = materials.holdout
        told = f"{holdout.how}, labels completed by the general network"
        materials = replace(materials, holdout=replace(holdout, how=told))
    trainer = Trainer(config, materials, collection, device, lambda state: _save_state(run, state, fingerprint))
    if saved is not None:
        trainer.restore(saved)
        if saved["threads"] != torch.get_num_threads():
            threads = f"{saved['threads']} threads before, {torch.get_num_threads()} now"
            yield Note(f"{threads}: the result will differ slightly from an uninterrupted run", warning=True)
        yield Note(f"goes on at step {trainer.step} of {trainer.expected_steps()}")
    for record in trainer.run(stop):
        run.append(record)
        yield record
    if trainer.step < trainer.until:
        trainer.save()
        record = Trained(str(folder), trainer.step, trainer.seconds, True, None, "stopped: repeat the command to go on")
    else:
        candidates = trainer.candidates(trainer.shipped())
        point = trainer.operating_point(candidates)
        _finish(run, trainer, recipe, point, candidates, prepared)
        record = Trained(str(folder), trainer.step, trainer.seconds, False, point.threshold, point.how)
    run.append(record)
    yield record


def _told(
    collection: Collection, config: RunConfig, begun: Run | None, measured: bool
) -> Generator[Record, None, None]:
    """Say what was chosen for these data."""
    yield Note(f"algorithm: {chosen_algorithm(collection, config).name}")
    given = "drawn" if begun is None else f"those of {'the general network' if begun.any_particle else begun.folder}"
    yield Note(f"weights at the start: {given}")
    margin = config.search.edge_px
    if margin:
        how = "as labels do" if measured else "by search.edge_px"
        yield Note(f"{margin:.0f} px are kept from the border, {how}: nothing is learned or picked there")


def _whole(
    collection: Collection, config: RunConfig, run: Run, device: torch.device
) -> Generator[Record, None, Collection]:
    """Make clicks complete labels, if that can be and no algorithm was named that is to have the clicks."""
    if config.algorithm.name != "auto" or collection.complete:
        return collection
    made = yield from completed(collection, config, device)
    if made.complete:
        run.write_labels(made)
    return run.completed(collection)  # as it is read when the training goes on


def _logged(run: Run, records: Generator[Record, None, T]) -> Generator[Record, None, T]:
    """Pass records on and write each down; return what they end in."""
    while True:
        try:
            record = next(records)
        except StopIteration as end:
            made: T = end.value
            return made
        run.append(record)
        yield record


def _begin(run: Run, config: RunConfig, fingerprint: str) -> dict[str, Any] | None:
    """Open the folder for this training: new, or with the state to go on from."""
    path = run.folder / "resume.pt"
    if not path.exists():
        if (run.folder / "model.json").exists():
            raise InputError(
                run.folder, "run folder", found="a finished run", expected="a new folder",
                remedy="Choose another --out, or remove the folder.",
            )  # fmt: skip
        held = {file.name for file in run.folder.iterdir()} if run.folder.exists() else set()
        if held - _BEGUN or (held and "records.jsonl" not in held):
            raise InputError(
                run.folder, "run folder", found="a folder with other files", expected="a new or an empty one",
                remedy="Choose another --out.",
            )  # fmt: skip
        run.folder.mkdir(parents=True, exist_ok=True)
        write_text(run.folder / "records.jsonl", "")  # first: a folder with a configuration alone may be the user's
        config.save(run.folder / "config.toml")
        return None
    state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
    if state["fingerprint"] != fingerprint:
        raise InputError(
            run.folder, "run folder", found="an unfinished run with other settings, data or version of verglas",
            expected="the same ones",
            remedy="Repeat the command that began it, or choose another --out.",
        )  # fmt: skip
    run.rewind_records(state["lines"])
    return state


def _fingerprint(collection: Collection, config: RunConfig) -> str:
    """Identify settings and data, so that a run only goes on with its own."""
    digest = hashlib.blake2b(repr((STATE, config, collection.diameter_px)).encode(), digest_size=8)
    for micrograph in collection.micrographs:
        about = micrograph.path.stat()
        digest.update(repr((micrograph.name, micrograph.shape, about.st_size, about.st_mtime_ns)).encode())
    for name, picks in collection.picks.items():
        digest.update(name.encode() + picks.xy.tobytes())
    return digest.hexdigest()


def _save_state(run: Run, state: dict[str, Any], fingerprint: str) -> None:
    with whole_file(run.folder / "resume.pt") as path:
        torch.save(state | {"fingerprint": fingerprint, "lines": run.count_records()}, path)


def _finish(
    run: Run, trainer: Trainer, recipe: Preprocess, point: OperatingPoint, candidates: PickSet, prepared: Path
) -> None:
    """Write the shipped model and all that picking needs, then drop what only training needed."""
    network.save(trainer.shipped(), run.folder)
    run.write_json("operating_point.json", point.to_dict())
    materials = trainer.materials
    run.write_validation(candidates, materials.truth)
    run.write_json("split.json", {
        "labelled": [s.name for s in materials.labelled], "unlabelled": [s.name for s in materials.unlabelled],
        "validation": {name: asdict(area) for name, area in materials.holdout.areas.items()},
        "how": materials.holdout.how,
    })  # fmt: skip
    run.write_json("model.json", {
        "format": FORMAT, "version": __version__, "preprocess_hash": recipe.hash,
        "diameter_px": recipe.diameter_px, "pixel_size_angstrom": trainer.collection.micrographs[0].pixel_size_angstrom,
        "steps": trainer.step, "best_step": trainer.best_step, "validation_ap": trainer.shipped_ap,
        "seconds": trainer.seconds, "precision": trainer.precision, "device": str(trainer.device),
        "algorithm": trainer.algorithm.name, "threads": torch.get_num_threads(), "prior": materials.prior,
        "training_labels": trainer.training_labels(), "students": trainer.round,
        "grain_limit": materials.grain_limit, "started_from": trainer.started_from,
    })  # fmt: skip
    (run.folder / "resume.pt").unlink(missing_ok=True)
    shutil.rmtree(prepared, ignore_errors=True)
    with suppress(OSError):
        prepared.parent.rmdir()
