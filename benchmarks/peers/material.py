"""What both pickers are given: the micrographs, the labels of a draw, and what is held back to report on.

Draws are those of ``semi.py``: draw d labels the micrographs d, d + 1, ... (around the end) of those not on the test
list, in an order drawn once, and clicks are drawn at random from the labels of three micrographs.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from verglas import api
from verglas.io._base import write_text
from verglas.io.micrographs import read_micrograph
from verglas.io.picks import read_picks, write_picks
from verglas.labels import margin_px
from verglas.simulate import DEMO
from verglas.types import Collection, Micrograph, Picks, PickSet, nothing

CLICKED = 3
SIMULATED = "simulated"
SCENE = replace(DEMO, shape_px=(1024, 1024), particles=300.0, carbon=0.5, contaminants=3.2)
LABELLED, TEST, EMPTY = 3, 4, 8
"""How many simulated micrographs are for labels, for reports, and for reports without a particle."""


@dataclass(frozen=True, slots=True)
class Labels:
    """What is labelled: all particles of some micrographs, or a number of clicks on three."""

    picks: PickSet
    complete: bool
    particles: int
    """How many particles the labelled micrographs hold, clicked or not."""

    @property
    def names(self) -> list[str]:
        """The micrographs that bear a label."""
        return [part.micrograph for part in self.picks]

    def margin_px(self, shapes: Mapping[str, tuple[int, int]], diameter_px: float) -> float:
        """Return how wide a margin these labels keep along the border, as verglas measures it."""
        seen = tuple(Micrograph(name, Path(name), shapes[name]) for name in self.names)
        return margin_px(Collection(seen, self.picks.by_name(), diameter_px, complete=self.complete))


@dataclass(frozen=True, slots=True)
class Material:
    """A data set: pictures and truth by name, and the names of the test list."""

    images: Mapping[str, Path]
    truth: Mapping[str, Picks]
    diameter_px: float
    test: tuple[str, ...]

    @classmethod
    def open(cls, folder: Path) -> "Material":
        """Read a folder with ``images``, ``coords`` and ``meta.json``."""
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        images = {path.stem: path for path in sorted((folder / "images").iterdir())}
        return cls(images, read_picks(folder / "coords").by_name(), meta["diameter_px"], tuple(meta["test"]))

    def order(self, draw: int) -> list[str]:
        """Return the micrographs not for testing, those to be labelled first."""
        rest = sorted(name for name in self.images if name not in self.test)
        return np.roll(np.random.default_rng(0).permutation(rest), -draw).tolist()

    def labels(self, amount: str, draw: int) -> Labels:
        """Return the labels of a draw: of ``2`` micrographs, or ``30c`` for 30 clicks."""
        clicks = int(amount[:-1]) if amount.endswith("c") else None
        names = self.order(draw)[: int(amount) if clicks is None else CLICKED]
        owner = np.repeat(np.arange(len(names)), [len(self.truth[name]) for name in names])
        chosen = np.ones(len(owner), bool)
        if clicks is not None:
            chosen = np.isin(np.arange(len(owner)), np.random.default_rng([draw, 1]).permutation(len(owner))[:clicks])
        parts = [self.truth[name].where(chosen[owner == at]) for at, name in enumerate(names)]
        picks = PickSet(tuple(part for part in parts if len(part)))
        return Labels(picks, clicks is None, sum(len(self.truth[part.micrograph]) for part in picks))

    def shapes(self, names: list[str]) -> dict[str, tuple[int, int]]:
        """Return (rows, columns) of micrographs."""
        return {name: read_micrograph(self.images[name]).shape for name in names}

    def truth_of(self, names: list[str]) -> PickSet:
        """Return the truth of micrographs, those without a particle included."""
        return PickSet(tuple(self.truth.get(name, nothing(name)) for name in names))


def write_labels(folder: Path, picks: PickSet) -> None:
    """Write a file for each micrograph, as a person's labels come."""
    for part in picks:
        write_picks(folder / f"{part.micrograph}.csv", PickSet((part,)), counted_only=False)


def simulated(folder: Path) -> Path:
    """Return a data set of simulated ice, carbon and crystals, partly without any particle; make it once."""
    if (folder / "meta.json").exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    for kind, count, scene, seed in (
        ("mic", LABELLED + TEST, SCENE, 0), ("empty", EMPTY, replace(SCENE, particles=0.0), 1),
    ):  # fmt: skip
        list(api.simulate(folder / "made", scene, micrographs=count, seed=seed))
        for place, made, suffix in (("images", "micrographs", ".mrc"), ("coords", "truth", ".csv")):
            (folder / place).mkdir(exist_ok=True)
            for file in (folder / "made" / made).glob(f"*{suffix}"):
                file.rename(folder / place / file.name.replace("mic", kind))
        about = json.loads((folder / "made" / "truth.json").read_text(encoding="utf-8"))
        shutil.rmtree(folder / "made")
    test = sorted(path.stem for path in (folder / "images").iterdir())
    meta = {"diameter_px": about["diameter_px"], "test": [name for name in test if name not in _for_labels()]}
    write_text(folder / "meta.json", json.dumps(meta))
    return folder


def _for_labels() -> list[str]:
    return [f"mic_{number:04d}" for number in range(LABELLED)]
