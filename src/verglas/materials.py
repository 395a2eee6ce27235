"""What a training works on: micrographs prepared and stored, by role, and the labels it is judged by."""

import threading
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from verglas.config import RunConfig
from verglas.data import Stored
from verglas.errors import InputError
from verglas.holdout import Holdout, plan, training_names
from verglas.io.micrographs import read_image
from verglas.preprocess import Preprocess
from verglas.records import Failed, Note, Prepared, Record
from verglas.ssl import Algorithm, make_algorithm
from verglas.types import Collection, Image, Picks


@dataclass(frozen=True, slots=True, eq=False)
class Materials:
    """All a training needs on disk: prepared micrographs by role, and what validation is held to."""

    labelled: tuple[Stored, ...]
    unlabelled: tuple[Stored, ...]
    validation: tuple[Stored, ...]
    holdout: Holdout
    truth: Mapping[str, Picks]
    prior: float


def gather(
    collection: Collection, config: RunConfig, recipe: Preprocess, folder: Path, stop: threading.Event
) -> Generator[Record, None, Materials | None]:
    """Prepare every micrograph that training needs, but for those that ``folder`` holds already.

    Yield records and return the materials; None where ``stop`` was set before all were prepared.
    """
    holdout = plan(collection, config.train.holdout, np.random.default_rng(config.train.seed))
    names = training_names(collection)
    if not names:
        raise InputError(
            "labels", "labelled micrographs", found="none", expected="one or more",
            remedy="Check that label files have the names of their micrographs; verglas inspect shows what matches.",
        )  # fmt: skip
    wanted = list(dict.fromkeys([*names, *holdout.areas]))
    if algorithm(config).strong_views:
        wanted += [m.name for m in collection.micrographs if m.name not in collection.picks]
    yield Note(f"validation: {holdout.how}")
    stored: dict[str, Stored] = {}
    micrographs, reading = collection.by_name(), config.data.reading()
    for done, name in enumerate(wanted, 1):
        if stop.is_set():
            return None
        if Stored.exists(folder, name):
            stored[name] = Stored.open(folder, name)
            continue
        try:
            image = recipe.prepare(read_image(micrographs[name], reading))
        except (InputError, OSError) as error:
            yield Failed(str(micrographs[name].path), str(error))
            continue
        stored[name] = Stored.write(folder, name, image, _masks(collection, config, holdout, name, image))
        yield Prepared(name, done, len(wanted), float(1 - image.valid.mean()))
    return _materials(collection, config, holdout, stored)


def _materials(collection: Collection, config: RunConfig, holdout: Holdout, stored: Mapping[str, Stored]) -> Materials:
    """Give each prepared micrograph its role; refuse what cannot teach."""
    teaching = [n for n in training_names(collection) if n not in holdout.areas or holdout.areas[n].partial]
    labelled = [stored[n] for n in teaching if n in stored]
    if not labelled:
        raise InputError("labels", "labelled micrographs", found="none that can be read", expected="one or more")
    validation = [stored[n] for n in holdout.areas if n in stored]
    truth = {s.name: holdout.inside(collection.picks[s.name]) for s in validation}
    unlabelled = [s for n, s in stored.items() if n not in collection.picks]
    prior = _prior(labelled)
    if prior == 1:
        raise InputError(
            "labels", "background", found="none that is known, as the labels are partial", expected="complete labels",
            remedy=f"{config.algorithm.name} cannot learn from particles alone. Label every particle of at least one "
            "micrograph and give --labels-are complete.",
        )  # fmt: skip
    if not prior:
        raise InputError(
            "labels", "labelled area for training", found="none", expected="some particles outside bad areas",
            remedy="Label more particles, or look at verglas inspect: are the labels where the particles are?",
        )  # fmt: skip
    return Materials(tuple(labelled), tuple(unlabelled), tuple(validation), holdout, truth, prior)


def algorithm(config: RunConfig) -> Algorithm:
    """Return the algorithm that the settings ask for."""
    return make_algorithm(config.algorithm.name, config.algorithm.options, config.loss)


def _masks(
    collection: Collection, config: RunConfig, holdout: Holdout, name: str, image: Image
) -> Sequence[np.ndarray]:
    """Return target and known, with the held-out area unknown; nothing for an unlabelled micrograph."""
    if name not in collection.picks:
        return ()
    target, known = config.target.draw(
        collection.picks[name], image, diameter_px=collection.diameter_px, complete=collection.complete
    )
    return (target, known & ~holdout.areas[name].mask(image)) if name in holdout.areas else (target, known)


def _prior(labelled: Sequence[Stored]) -> float:
    """Return the share of positive pixels among the known ones."""
    positive = known = 0
    for stored in labelled:  # one at a time: there may be thousands
        target, looked_at = stored.masks()[:2]
        positive += int((target & looked_at).sum())
        known += int(looked_at.sum())
    return positive / max(1, known)
