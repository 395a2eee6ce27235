"""What checks look at: the data before a training, and what it led to. All is made when first asked for."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float

from verglas.config import RunConfig
from verglas.data import Cropping, Stored
from verglas.errors import InputError
from verglas.holdout import Holdout, plan, training_names
from verglas.io.micrographs import read_image
from verglas.materials import (
    Materials,
    Shelf,
    alone,
    chosen_algorithm,
    cropping,
    unlabelled_names,
    with_margin,
)
from verglas.model import UNet
from verglas.monitor import masks_on_logits
from verglas.picker import Picker
from verglas.runs import Run
from verglas.ssl import Algorithm
from verglas.train import beginning, start
from verglas.types import Collection, Image

MOST_LABELLED, MOST_UNLABELLED = 6, 2
"""Micrographs that are prepared for checks; more would take time and tell little more."""


class Data:
    """Data and settings of a training to be, with a few micrographs prepared as training would.

    ``scratch`` is a folder for prepared micrographs, which the caller removes. Micrographs that cannot be read are
    left out: training says why.
    """

    def __init__(self, collection: Collection, config: RunConfig, scratch: Path) -> None:
        self.collection, self.config, self.scratch = collection, with_margin(config, collection), scratch
        self.recipe = config.recipe(collection.diameter_px)

    @cached_property
    def holdout(self) -> Holdout:
        """The areas that training would hold out."""
        return plan(self.collection, self.config.train.holdout, np.random.default_rng(self.config.train.seed))

    @cached_property
    def images(self) -> Mapping[str, Image]:
        """A few prepared micrographs: those that teach and are held out by turns, then unlabelled ones."""
        held = [name for name in self.holdout.areas if name in self.collection.picks]
        teach = [name for name in training_names(self.collection) if name not in held]
        wanted = [name for pair in _by_turns(teach, held) for name in pair][:MOST_LABELLED]
        wanted += unlabelled_names(self.collection)[:MOST_UNLABELLED]
        micrographs, found = self.collection.by_name(), {}
        for name in wanted:
            try:
                found[name] = self.recipe.prepare(read_image(micrographs[name], self.config.data.reading()))
            except (InputError, OSError):
                continue
        return found

    @cached_property
    def materials(self) -> Materials:
        """The same micrographs, stored with their masks and given their roles."""
        shelf = Shelf(self.collection, self.config, self.holdout, self.scratch / "prepared")
        for name, image in self.images.items():
            shelf.store(name, image)
        return shelf.materials()

    @property
    def algorithm(self) -> Algorithm:
        """The algorithm as training would make it."""
        return chosen_algorithm(self.collection, self.config)

    @property
    def alone(self) -> Algorithm:
        """What learns from labels alone, as training would make it."""
        return alone(self.collection, self.config, self.algorithm)

    @property
    def cropping(self) -> Cropping:
        """How training cuts its tiles."""
        return cropping(self.collection, self.config)

    @cached_property
    def start(self) -> Run | None:
        """The run whose weights training starts from."""
        return start(self.config, self.collection)

    def network(self) -> UNet:
        """Return a network as training would begin with."""
        return beginning(self.config, self.materials, self.start)

    def drawn(self) -> UNet:
        """Return a network that has learned nothing."""
        return beginning(self.config, self.materials, None)

    def generator(self, consumer: str) -> torch.Generator:
        """Return a stream of the consumer's own."""
        return torch.Generator().manual_seed(sum(map(ord, consumer)) + self.config.train.seed)


@dataclass(frozen=True, slots=True, eq=False)
class Looked:
    """A micrograph as a trained run sees it: image, probability, and per logit what is known of it.

    ``teaches``: known, and labels there taught; ``held``: known, and held out; ``unseen``: where nobody looked, though
    there are clicks.
    """

    name: str
    image: Image
    found: Image
    target: Bool[np.ndarray, "p q"]
    teaches: Bool[np.ndarray, "p q"]
    unseen: Bool[np.ndarray, "p q"]
    held: Bool[np.ndarray, "p q"]


class Outcome:
    """A run, with the data it was made from. Until it is finished there are only its records."""

    def __init__(self, run: Run, data: Data) -> None:
        self.run, self.data = run, data

    @property
    def finished(self) -> bool:
        """Whether the training has ended."""
        return (self.run.folder / "model.json").is_file()

    @cached_property
    def picker(self) -> Picker:
        """The picker that the run made."""
        return Picker.load(self.run.folder)

    @cached_property
    def records(self) -> list[dict[str, Any]]:
        """All records of the training, but for what was measured of a student that was dropped at its end."""
        records, measured = list(self.run.records()), ("progress", "validated")
        last = int(self.run.facts()["steps"]) if self.finished and self._anew else math.inf
        return [record for record in records if record["kind"] not in measured or record["step"] <= last]

    def own_steps(self, step: int) -> int:
        """Return how many steps the network of this step has learned for: a student that begins anew starts from 0."""
        return (step - 1) % self.data.config.train.steps + 1 if self._anew else step

    @property
    def steps(self) -> int:
        """Steps that what is shipped has learned for."""
        return self.own_steps(int(self.run.facts()["steps"]))

    @property
    def _anew(self) -> bool:
        return self.data.algorithm.teacher == "picks"

    def watched(self) -> list[dict[str, Any]]:
        """Return the records of the validations, each with what it was watched by."""
        return [record for record in self.records if record["kind"] == "validated"]

    @cached_property
    def looked(self) -> tuple[Looked, ...]:
        """The prepared micrographs of ``data``, each with its map."""
        m = self.data.materials
        each = {stored.name: stored for stored in (*m.validation, *m.labelled, *m.unlabelled)}
        return tuple(map(self._look, each.values()))

    def held_out(self) -> tuple[Bool[np.ndarray, " n"], Float[np.ndarray, " n"]]:
        """Return which held-out pixels are particle cores, and what the run believes of them.

        Where labels are partial only cores are known, and nothing that is not.
        """
        some = [one for one in self.looked if one.held.any()]
        target = [one.target[one.held] for one in some]
        belief = [one.found.data[one.held] for one in some]
        return np.concatenate([np.zeros(0, bool), *target]), np.concatenate([np.zeros(0), *belief])

    def _look(self, stored: Stored) -> Looked:
        image = stored.image()
        found = self.picker.probability(image)
        masks = masks_on_logits(stored, self.data.config.model.stem, found.data.shape)
        return Looked(stored.name, image, found, *masks)


@contextmanager
def opened(run: Run | None, collection: Collection, config: RunConfig) -> Iterator[tuple[Data, Outcome | None]]:
    """Give what checks look at, with a scratch folder that goes when they are done."""
    with TemporaryDirectory(prefix="verglas-doctor-") as scratch:
        data = Data(collection, config, Path(scratch))
        yield data, None if run is None else Outcome(run, data)


def _by_turns(a: list[str], b: list[str]) -> Iterator[tuple[str, ...]]:
    for i in range(max(len(a), len(b))):
        yield (*a[i : i + 1], *b[i : i + 1])
