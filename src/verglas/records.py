"""What the long verbs yield: frozen records that a console, a page, a notebook and a test see alike."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar


@dataclass(frozen=True, slots=True)
class Record:
    """Something that happened. ``kind`` names the sort of record in JSON."""

    kind: ClassVar[str] = "record"

    def to_json(self) -> str:
        """Return the record as one line of JSON; what is not finite becomes null."""
        values = {f.name: plain(getattr(self, f.name)) for f in fields(self)}
        return json.dumps({"kind": self.kind, **values}, allow_nan=False)


@dataclass(frozen=True, slots=True)
class Note(Record):
    """A sentence for the user: a choice that was made, or a warning."""

    kind: ClassVar[str] = "note"
    text: str
    warning: bool = False


@dataclass(frozen=True, slots=True)
class Prepared(Record):
    """A micrograph was brought to the working scale."""

    kind: ClassVar[str] = "prepared"
    micrograph: str
    done: int
    total: int
    invalid_share: float


@dataclass(frozen=True, slots=True)
class Failed(Record):
    """A micrograph that could not be used; the run goes on."""

    kind: ClassVar[str] = "failed"
    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Progress(Record):
    """Training has come to ``step`` of ``steps``; ``watch`` holds what the algorithm and the trainer measured."""

    kind: ClassVar[str] = "progress"
    step: int
    steps: int
    seconds: float
    loss: float
    rate: float
    watch: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Validated(Record):
    """Figures on the validation part at ``step``; ``best`` where no earlier step was better beyond its error.

    ``watch`` holds what the training is watched by: see ``monitor``.
    """

    kind: ClassVar[str] = "validated"
    step: int
    ap: float
    best_f1: float
    threshold: float
    best: bool
    watch: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ruled(Record):
    """The guard found something at ``step``: by which rule, what it is called, what was done, why or what to do."""

    kind: ClassVar[str] = "ruled"
    step: int
    code: str
    verdict: str
    action: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Checked(Record):
    """The doctor answered the ``question`` of one check: see ``doctor.Finding``."""

    kind: ClassVar[str] = "checked"
    check: str
    question: str
    verdict: str
    code: str
    sentence: str
    evidence: Mapping[str, Any]
    remedy: str = ""
    figure: str = ""


@dataclass(frozen=True, slots=True)
class Diagnosed(Record):
    """A possible cause of what the checks found: how much speaks for it, and what speaks for and against."""

    kind: ClassVar[str] = "diagnosed"
    rank: int
    cause: str
    score: float
    sentence: str
    evidence_for: tuple[str, ...]
    evidence_against: tuple[str, ...]
    remedy: str


@dataclass(frozen=True, slots=True)
class Trained(Record):
    """Training has ended; ``stopped`` where a signal ended it and it can go on."""

    kind: ClassVar[str] = "trained"
    run: str
    steps: int
    seconds: float
    stopped: bool
    threshold: float | None
    threshold_how: str


@dataclass(frozen=True, slots=True)
class Written(Record):
    """A simulated micrograph was written, with its truth."""

    kind: ClassVar[str] = "written"
    path: str
    done: int
    total: int
    particles: int


@dataclass(frozen=True, slots=True)
class Picked(Record):
    """A micrograph was searched: how many candidates, how many of them count, None where that is decided at the end."""

    kind: ClassVar[str] = "picked"
    micrograph: str
    done: int
    total: int
    candidates: int
    counted: int | None


@dataclass(frozen=True, slots=True)
class Studied(Record):
    """A run of a study has ended, as ``done`` of ``total``: its place in the matrix and its main figures."""

    kind: ClassVar[str] = "studied"
    run: str
    about: str
    done: int
    total: int
    seconds: float
    ap: float
    f1: float


@dataclass(frozen=True, slots=True)
class Suggested(Record):
    """A micrograph worth labelling: its rank, the three numbers and why; see ``suggest.ranking``."""

    kind: ClassVar[str] = "suggested"
    rank: int
    micrograph: str
    path: str
    uncertainty: float
    disagreement: float
    novelty: float
    candidates: int
    counted: int
    reason: str


@dataclass(frozen=True, slots=True)
class Timed(Record):
    """What picking and a training of the default length take in one way of computing."""

    kind: ClassVar[str] = "timed"
    device: str
    threads: int
    precision: str
    micrographs_per_second: float
    step_seconds: float
    training_seconds: float


@dataclass(frozen=True, slots=True)
class Summary(Record):
    """The end of a verb: its key facts."""

    kind: ClassVar[str] = "summary"
    facts: Mapping[str, Any]


def plain(value: Any) -> Any:
    """Return ``value`` in types JSON knows; numbers that are not finite become None."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, str | bool | int) or value is None:
        return value
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return float(value) if math.isfinite(value) else None
