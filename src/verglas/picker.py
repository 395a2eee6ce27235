"""Pick micrographs one after the other: reading, resizing and inference overlap, and a bad file stops nothing."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from verglas import model as network
from verglas.config import RunConfig
from verglas.errors import InputError
from verglas.grain import coarser
from verglas.io.micrographs import read_image, read_micrograph
from verglas.model import UNet
from verglas.pick import find
from verglas.predict import ROTATIONS, Precision, all_around, at_logits, at_precision, probability
from verglas.preprocess import Preprocess
from verglas.runs import Run
from verglas.targets import away_from_border
from verglas.types import Image, Micrograph, Picks

T = TypeVar("T")

AHEAD = 1
"""Micrographs that may be done before they are asked for, beyond those in work; memory holds no more."""

MOST_WORKERS = 8
"""Micrographs in work at once on a machine of many cores, for the sake of its memory."""

_WRONG_SIZE = 0.01


@dataclass(frozen=True, slots=True, eq=False)
class Searched:
    """All candidates of a micrograph, the probability map they are peaks of, and the share of it that is strange.

    Strange is what has a coarser grain than all that was labelled, carbon above all; nothing is found there.
    """

    picks: Picks
    probability: Image
    strange: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Picker:
    """A trained network with the recipe it was trained with.

    A ``thorough`` one scores by the mean over four orientations of each micrograph (test-time augmentation).
    """

    config: RunConfig
    recipe: Preprocess
    network: UNet
    precision: Precision
    pixel_size_angstrom: float | None
    thorough: bool = False
    grain_limit: float | None = None

    @classmethod
    def load(cls, run: str | Path, *, device: torch.device | None = None) -> "Picker":
        """Load a finished run; raise ``InputError`` where the folder is none."""
        opened, device = Run.open(run), device or torch.device("cpu")
        config = opened.config
        return cls(
            config, opened.preprocess(), network.to_device(opened.model(), device),
            at_precision(config.train.precision, device), opened.facts()["pixel_size_angstrom"],
            grain_limit=opened.facts().get("grain_limit"),
        )  # fmt: skip

    def folded(self) -> "Picker":
        """Return a picker that finds the same in less time and can no longer be asked about its batch norms."""
        return replace(self, network=network.folded(self.network))

    def for_diameter(self, diameter_px: float, pixel_size_angstrom: float | None) -> "Picker":
        """Return a picker of particles of this diameter, on micrographs of this pixel size where it is known."""
        recipe, search = replace(self.recipe, diameter_px=diameter_px), self.config.search
        margin = float(search.edge_px) * diameter_px / self.recipe.diameter_px
        config = replace(self.config, search=replace(search, edge_px=margin))
        return replace(self, config=config, recipe=recipe, pixel_size_angstrom=pixel_size_angstrom)

    def pick(self, path: str | Path) -> Picks:
        """Return all candidates of one micrograph, best first."""
        micrograph = read_micrograph(path)
        return self.search(micrograph).picks

    def pick_all(self, micrographs: Sequence[Micrograph]) -> Iterator[tuple[Micrograph, "Searched | Exception"]]:
        """Yield what was found on each micrograph in turn, or why nothing could be."""
        return self.each(self.search, micrographs)

    def each(
        self, work: Callable[[Micrograph], T], micrographs: Sequence[Micrograph]
    ) -> Iterator[tuple[Micrograph, T | Exception]]:
        """Yield what ``work`` makes of each micrograph in turn, or why it makes nothing.

        Each core takes a micrograph of its own from file to picks: reading, resizing, the network and the search for
        peaks overlap, and no core waits for another; a GPU is fed by all. Memory holds a few micrographs, however many
        come.
        """
        workers = min(torch.get_num_threads(), MOST_WORKERS)
        workers = workers if self.device.type == "cpu" else max(2, workers)
        with _single_threaded(self.device):
            for micrograph, made in _ahead(work, micrographs, workers):
                try:
                    yield micrograph, made.result()
                except (InputError, OSError, ValueError) as error:  # a bad file must not end a batch
                    yield micrograph, error

    def search(self, micrograph: Micrograph) -> "Searched":
        """Return what is found on a micrograph."""
        image = self.prepare(micrograph)
        seen = self.probability(image)
        found = self.known(image, seen)
        return Searched(self.find(micrograph, found), found, float((found.data != seen.data).mean()))

    def known(self, image: Image, found: Image) -> Image:
        """Return the map of a prepared micrograph with 0 where its grain is coarser than on all that was labelled."""
        strange = coarser(image, self.recipe.working_diameter_px, self.grain_limit)
        there = at_logits(strange, self.network.shape.stem, found.data.shape)
        return replace(found, data=np.where(there, 0, found.data))

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.network.parameters()).device

    def prepare(self, micrograph: Micrograph) -> Image:
        """Read a micrograph and bring it to the working scale."""
        ours, its = self.pixel_size_angstrom, micrograph.pixel_size_angstrom
        told = self.config.data.pixel_size_angstrom is not None  # then the files were overruled in training, too
        if ours and its and not told and abs(its / ours - 1) > _WRONG_SIZE:
            raise InputError(
                micrograph.path, "pixel size", found=f"{its:.4g} Å", expected=f"{ours:.4g} Å, as in training",
                remedy="Give --pixel-size-angstrom if the header is wrong; else the diameter in these micrographs.",
            )  # fmt: skip
        return self.recipe.prepare(read_image(micrograph, self.config.data.reading()))

    def probability(self, image: Image) -> Image:
        """Return the probability map of a prepared micrograph."""
        if self.thorough:
            return all_around(self.network, image, precision=self.precision, orientations=ROTATIONS)
        return probability(self.network, image, precision=self.precision)

    def inside(self, micrograph: Micrograph, found: Image) -> Image:
        """Return a map with what is nearer to the border than a pick may be marked invalid."""
        kept = away_from_border(found, micrograph.shape, float(self.config.search.edge_px))
        return replace(found, valid=found.valid & kept)

    def find(self, micrograph: Micrograph, found: Image, **changes: float) -> Picks:
        """Return the peaks of a probability map, by the settings of the run but for ``changes``; see ``pick.find``."""
        search = self.config.search.peaks() | changes
        return find(found, micrograph, diameter_px=self.recipe.diameter_px, **search)


@contextmanager
def _single_threaded(device: torch.device) -> Iterator[None]:
    """Let each operation on the CPU run on the thread that calls it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1 if device.type == "cpu" else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _ahead(
    work: Callable[[Micrograph], T], items: Sequence[Micrograph], workers: int
) -> Iterator[tuple[Micrograph, Future[T]]]:
    """Yield each item with its work, which ``workers`` threads do a few items ahead."""
    with ThreadPoolExecutor(workers) as pool:
        waiting = iter(items)
        queue = deque((item, pool.submit(work, item)) for item in islice(waiting, workers + AHEAD))
        while queue:
            yield queue.popleft()
            queue.extend((item, pool.submit(work, item)) for item in islice(waiting, 1))
