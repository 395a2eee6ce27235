"""What a student that begins anew learns from: picks of the model before it, drawn on whole micrographs."""

from dataclasses import dataclass, replace

import numpy as np

from verglas.completion import joined
from verglas.config import RunConfig
from verglas.data import Cropping, Stored
from verglas.materials import Materials, cropping, within
from verglas.types import Collection, Image, Picks


@dataclass(frozen=True, slots=True, eq=False)
class Lessons:
    """The micrographs that are picked for students, and what each round's student is to believe of them.

    With complete labels these are the unlabelled ones, and the score of a pick is how far it is believed in. Where
    labels leave particles out these are the labelled ones, whose labels the picks make complete. There a score says
    how like those clicked a place is, and not how likely a particle, so each pick above the threshold is taken for one.
    """

    materials: Materials
    collection: Collection
    config: RunConfig

    def __len__(self) -> int:
        return len(self.to_pick(0))

    def to_pick(self, student: int) -> tuple[Stored, ...]:
        """Return the micrographs that are picked for a student, as it sees them; the first student is 1."""
        stored = self.materials.unlabelled if self.collection.complete else self.materials.labelled
        return tuple(replace(one, belief=f".belief{student}.npy") for one in stored)

    def sources(self, student: int) -> tuple[tuple[Stored, ...], Cropping, tuple[Stored, ...]]:
        """Return what labelled tiles of a student are cut from, and how, and what unlabelled ones are cut from."""
        picked, how = self.to_pick(student), cropping(replace(self.collection, complete=True), self.config)
        return (self.materials.labelled, how, picked) if self.collection.complete else (picked, how, ())

    def write(self, stored: Stored, image: Image, picks: Picks, threshold: float) -> None:
        """Write down what a student is to believe of a micrograph by its picks."""
        draw, diameter_px = self.config.target, self.collection.diameter_px
        inside = within(self.collection, self.config, stored.name, image)
        if self.collection.complete:
            belief, known = draw.draw_scores(picks, image, diameter_px=diameter_px)
            stored.believe(belief, known & inside)
            return
        target, known = draw.draw(self.completed(picks.above(threshold)), image, diameter_px=diameter_px)
        areas = self.materials.holdout.areas
        held = areas[stored.name].mask(image) if stored.name in areas else np.zeros(known.shape, bool)
        stored.believe(target.astype(np.float32), known & inside & ~held)

    def completed(self, picks: Picks) -> Picks:
        """Return the labels of a micrograph, and the picks further than half a diameter from each."""
        return joined(self.collection.picks.get(picks.micrograph), picks, self.collection.diameter_px)
