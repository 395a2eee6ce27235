"""Ways in which something may be wrong, as data: the first that holds is told."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

from verglas.doctor._base import Finding, Verdict

Seen = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Kind:
    """A way to be wrong: how grave, what it is called, when it holds, and what to say and to do.

    ``sentence`` and ``remedy`` are filled in with what was seen. Before the step ``earliest`` it only says that it is
    too early to judge.
    """

    verdict: Verdict
    code: str
    holds: Callable[[Seen], bool]
    sentence: str
    remedy: str = ""
    earliest: int = 0

    def met(self, seen: Seen) -> bool:
        """Tell whether it holds; not if something was not measured."""
        try:
            return self.holds(seen)
        except KeyError:
            return False


def first(kinds: Sequence[Kind], seen: Seen, steps: int) -> Finding | None:
    """Return the finding of the first kind that holds after so many steps; None if there is none.

    What it is too early for comes after faults that can be told at once.
    """
    numbers = {key: value for key, value in seen.items() if isfinite(value)}
    early: Finding | None = None
    for kind in filter(lambda kind: kind.met(seen), kinds):
        told = kind.sentence.format_map(seen)
        if steps < kind.earliest:
            because = f"After {steps} steps it is too early to judge. {told}"
            early = early or Finding("info", because, numbers, "TOO_EARLY", "More steps (--steps).")
        elif early is None or kind.verdict in ("fail", "warn"):
            return Finding(kind.verdict, told, numbers, kind.code, kind.remedy.format_map(seen))
    return early
