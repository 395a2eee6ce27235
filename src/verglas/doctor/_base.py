"""What a check is: it measures one thing and says what it found, in one finding."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from verglas.doctor.subject import Data, Outcome

Verdict = Literal["ok", "info", "warn", "fail", "skipped"]
"""``info``: worth knowing and no fault; ``skipped``: cannot be told here, and the sentence says why."""

Value = float | int | str | None


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found.

    ``code`` names a fault in capitals (one of ``causes.CODES``), and is empty where there is none. ``evidence`` are the
    numbers the verdict rests on, with units in their names; ``remedy`` is the option or command that helps, and
    ``figure`` draws an SVG, if there is something to see.
    """

    verdict: Verdict
    sentence: str
    evidence: Mapping[str, Value] = field(default_factory=dict)
    code: str = ""
    remedy: str = ""
    figure: Callable[[], str] | None = None

    def __post_init__(self) -> None:
        bad = [key for key, value in self.evidence.items() if isinstance(value, float) and not math.isfinite(value)]
        if bad:
            raise ValueError(f"evidence that is not finite: {', '.join(bad)}")
        if self.verdict in ("warn", "fail") and not (self.code and self.remedy):
            raise ValueError("a fault needs a code and a remedy")


class Check(ABC):
    """A question about a training, and how to answer it by measuring. A check reads and never writes.

    ``slow`` checks take longer, or teach more than they find: they are asked only when named or when all are.
    """

    name: ClassVar[str]
    question: ClassVar[str]
    slow: ClassVar[bool] = False


class DataCheck(Check, ABC):
    """A check of data, settings and the way from micrographs to batches: it needs no training."""

    @abstractmethod
    def check(self, data: Data) -> Finding:
        """Return what was found."""


class RunCheck(Check, ABC):
    """A check of what a training led to. One that is not of ``finished`` runs alone reads records only."""

    finished: ClassVar[bool] = True

    @abstractmethod
    def check(self, outcome: Outcome) -> Finding:
        """Return what was found."""


def skipped(why: str) -> Finding:
    """Return that the question cannot be answered here, and why."""
    return Finding("skipped", why)
