"""The run folder: enough to repeat a training and to pick with it."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from verglas import model as network
from verglas.config import RunConfig
from verglas.errors import InputError
from verglas.io._base import write_text
from verglas.io.picks import read_picks, write_picks
from verglas.model import UNet
from verglas.operating import AtLeast, OperatingPoint, choose_threshold
from verglas.preprocess import Preprocess
from verglas.records import Record, plain
from verglas.types import Collection, Picks, PickSet

FORMAT = 1
"""Version of the folder's layout."""

COMPLETED = "completed.star"
"""Labels that a training completed, where clicks were given."""

GENERAL = "general"
"""Name of the run that comes with verglas. It learned from simulated particles of every kind (``scripts/general``)."""


@dataclass(frozen=True, slots=True)
class Run:
    """An opened run folder.

    ``config.toml`` (resolved) · ``split.json`` · ``records.jsonl`` · ``model.safetensors`` and ``model.json`` ·
    ``operating_point.json`` · ``completed.star`` where labels were · ``doctor.json`` · ``report.html`` · while training
    also ``resume.pt`` and ``prepared/``.
    """

    folder: Path

    @classmethod
    def open(cls, folder: str | Path) -> "Run":
        """Open a finished run, or the one that is called ``GENERAL``; raise ``InputError`` where it is none."""
        ours = str(folder) == GENERAL and not Path(folder).exists()
        run = cls(Path(__file__).parent / GENERAL if ours else Path(folder))
        for name in ("config.toml", "model.json", "model.safetensors"):
            if not (run.folder / name).is_file():
                unfinished = (run.folder / "resume.pt").exists()
                raise InputError(
                    folder, name, found="missing", expected="the folder of a finished training",
                    remedy="Repeat the train command to finish it." if unfinished else "Give the --out of a training.",
                )  # fmt: skip
        if run.facts()["preprocess_hash"] != run.preprocess().hash:
            raise InputError(
                folder, "preprocess hash", found=run.facts()["preprocess_hash"], expected=run.preprocess().hash,
                remedy="The run was made by another version or its config.toml was edited; train again.",
            )  # fmt: skip
        return run

    @classmethod
    def general(cls) -> "Run":
        """Open the run that comes with verglas, whatever else is called like it."""
        return cls.open(Path(__file__).parent / GENERAL)

    @classmethod
    def begun(cls, folder: str | Path) -> "Run":
        """Open a run whose training may not have ended: its settings and records are there."""
        run = cls(Path(folder))
        for name in ("config.toml", "records.jsonl"):
            if not (run.folder / name).is_file():
                raise InputError(
                    folder, name, found="missing", expected="the folder of a training",
                    remedy="Give the --out of a train command.",
                )  # fmt: skip
        return run

    @property
    def config(self) -> RunConfig:
        """The resolved settings."""
        return RunConfig.load(self.folder / "config.toml")

    def facts(self) -> dict[str, Any]:
        """Return ``model.json``: shape, diameter, recipe hash, version and the key facts of the training."""
        return self._json("model.json")

    def preprocess(self) -> Preprocess:
        """Return the recipe that training used."""
        return self.config.recipe(self.facts()["diameter_px"])

    @property
    def any_particle(self) -> bool:
        """Whether the diameter is to be told, because it learned no particle of its own."""
        return bool(self.facts().get("any_particle", False))

    def model(self) -> UNet:
        """Load the network, ready to predict."""
        return network.load(self.folder, self.config.model)

    def operating_point(self) -> OperatingPoint:
        """Return the threshold chosen on validation."""
        return OperatingPoint.from_dict(self._json("operating_point.json"))

    def operating_point_for(self, precision: float) -> OperatingPoint:
        """Return the lowest threshold from which validation promises this precision."""
        candidates, truth = self.validation()
        diameter = self.facts()["diameter_px"]
        return choose_threshold(candidates, truth, diameter_px=diameter, goal=AtLeast("precision", precision))

    def validation(self) -> tuple[PickSet, dict[str, Picks]]:
        """Return all candidates in the held-out areas, and the labels there."""
        candidates, labels = (
            read_picks(self.folder / "validation" / f"{name}.star") for name in ("candidates", "labels")
        )
        return candidates, labels.by_name()

    def write_validation(self, candidates: PickSet, labels: Mapping[str, Picks]) -> None:
        """Keep what was found in the held-out areas, so that other thresholds can be chosen later."""
        for name, picks in (("candidates", candidates), ("labels", PickSet(tuple(labels.values())))):
            write_picks(self.folder / "validation" / f"{name}.star", picks, counted_only=False)

    def write_labels(self, collection: Collection) -> None:
        """Keep the labels that this training completed."""
        write_picks(self.folder / COMPLETED, PickSet(tuple(collection.picks.values())), counted_only=False)

    @property
    def completes(self) -> bool:
        """Whether this training completed labels."""
        return (self.folder / COMPLETED).is_file()

    def completed(self, collection: Collection) -> Collection:
        """Return the collection with the labels that this training completed, if it did."""
        if not self.completes:
            return collection
        return replace(collection, picks=read_picks(self.folder / COMPLETED).by_name(), complete=True)

    def split(self) -> dict[str, Any]:
        """Return which micrographs had which role, and what was held out."""
        return self._json("split.json")

    def findings(self) -> list[dict[str, Any]]:
        """Return what the doctor found, and the causes it named; nothing where it was not asked."""
        found = self._json("doctor.json")["records"] if (self.folder / "doctor.json").is_file() else []
        return list(found)

    def records(self) -> Iterator[dict[str, Any]]:
        """Yield the records of the training as dictionaries."""
        path = self.folder / "records.jsonl"
        with path.open(encoding="utf-8") as lines:
            yield from map(json.loads, lines)

    def write_json(self, name: str, values: Mapping[str, Any]) -> None:
        """Write one of the folder's JSON files, whole or not at all."""
        write_text(self.folder / name, json.dumps(plain(values), indent=1) + "\n")

    def count_records(self) -> int:
        """Return how many records there are."""
        with (self.folder / "records.jsonl").open("rb") as lines:
            return sum(1 for _ in lines)

    def rewind_records(self, count: int) -> None:
        """Keep the first ``count`` records: what came later will come again."""
        path = self.folder / "records.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        write_text(path, "".join(lines[:count]))

    def append(self, record: Record) -> None:
        """Add a line to ``records.jsonl``."""
        with (self.folder / "records.jsonl").open("a", encoding="utf-8") as file:
            file.write(record.to_json() + "\n")

    def _json(self, name: str) -> dict[str, Any]:
        path = self.folder / name
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(path, "file", found=str(error), expected="a JSON file of a run") from error
