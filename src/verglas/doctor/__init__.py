"""The doctor measures data, labels, views, teacher, outputs and thresholds, and says what is wrong and what helps."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from verglas import __version__
from verglas.config import RunConfig
from verglas.doctor._base import Check, DataCheck, Finding, RunCheck, skipped
from verglas.doctor.bn_mode import BnMode
from verglas.doctor.calibrate import Calibrate
from verglas.doctor.causes import diagnose
from verglas.doctor.confidence import Confidence
from verglas.doctor.consistency import Consistency
from verglas.doctor.crops import Crops
from verglas.doctor.diameter import Diameter
from verglas.doctor.ema import Ema
from verglas.doctor.gradscale import GradScale
from verglas.doctor.init import Init
from verglas.doctor.labels import Labels
from verglas.doctor.noop_config import NoopConfig
from verglas.doctor.norm_parity import NormParity
from verglas.doctor.outputs import Outputs
from verglas.doctor.overfit import Overfit
from verglas.doctor.picks import Picks
from verglas.doctor.pixel_sizes import PixelSizes
from verglas.doctor.pu import Pu
from verglas.doctor.purity import Purity
from verglas.doctor.registration import Registration
from verglas.doctor.split import Split
from verglas.doctor.ssl_ablate import SslAblate
from verglas.doctor.subject import Data, Outcome, opened
from verglas.doctor.trace import Trace
from verglas.doctor.views import Views
from verglas.errors import InputError
from verglas.records import Checked, Diagnosed, Record, plain
from verglas.runs import Run
from verglas.types import Collection

DATA_CHECKS: tuple[type[DataCheck], ...] = (
    NoopConfig, Labels, Registration, Diameter, PixelSizes, Split, NormParity, Views, Crops, Init, Ema, Consistency,
    GradScale, Overfit,
)  # fmt: skip
RUN_CHECKS: tuple[type[RunCheck], ...] = (
    Trace, Outputs, BnMode, Calibrate, Pu, Picks, Confidence, Purity, SslAblate,
)  # fmt: skip
"""In the order in which they are asked: what is found later may follow from what was found before."""

__all__ = [
    "DATA_CHECKS", "RUN_CHECKS", "Check", "DataCheck", "Finding", "RunCheck", "examined", "examined_run", "in_short",
    "skipped",
]  # fmt: skip

Said = Checked | Diagnosed


def examined(
    collection: Collection, config: RunConfig, checks: Sequence[str] | None = None, slow: bool = False
) -> Iterator[Said]:
    """Ask about data and settings before a training, and yield what each check found; then the causes.

    Raises
    ------
    InputError
        If one of ``checks`` does not exist, or asks about runs.
    """
    with opened(None, collection, config) as (data, _):
        yield from _answers(DATA_CHECKS, checks, slow, data, None)


def examined_run(
    folder: str | Path,
    collection: Collection,
    checks: Sequence[str] | None = None,
    slow: bool = False,
    known: Iterable[Said] = (),
    figures: bool = True,
) -> Iterator[Said]:
    """Ask about a run and the data it was made from; without names of checks all that is said is kept in the run.

    What is ``known`` of the data from before the training is not asked again. Without ``figures`` only faults are
    drawn: drawing takes longer than measuring.
    """
    run, said = Run.begun(folder), list[Said]()
    with opened(run, collection, run.config) as (data, outcome):
        for one in _answers((*DATA_CHECKS, *RUN_CHECKS), checks, slow, data, outcome, known, figures):
            said.append(one)
            yield one
    if not checks:
        run.write_json("doctor.json", {"version": __version__, "records": [json.loads(one.to_json()) for one in said]})


def in_short(said: Iterable[Record]) -> dict[str, Any]:
    """Return verdict, findings and causes in plain types, the gravest verdict first."""
    said = list(said)
    checked = [one for one in said if isinstance(one, Checked)]
    verdict = next((v for v in ("fail", "warn") if any(one.verdict == v for one in checked)), "ok")
    return {
        "verdict": verdict,
        "findings": [plain(asdict(replace(one, figure=""))) for one in checked],
        "causes": [plain(asdict(one)) for one in said if isinstance(one, Diagnosed)],
    }


def _answers(
    kinds: Sequence[type[Check]],
    names: Sequence[str] | None,
    slow: bool,
    data: Data,
    outcome: Outcome | None,
    known: Iterable[Said] = (),
    figures: bool = True,
) -> Iterator[Said]:
    named = {kind.name: kind for kind in kinds}
    for name in names or ():
        if name not in named:
            remedy = "" if outcome else "Checks of runs need the folder of one."
            raise InputError("doctor", "check", found=name, expected=f"one of {', '.join(named)}", remedy=remedy)
    before, found = {one.check: one for one in known if isinstance(one, Checked)}, []
    for name, kind in named.items():
        if name in names if names else slow or not kind.slow:
            found.append(before.get(name) or _answer(kind(), data, outcome, figures))
            yield found[-1]
    yield from diagnose(found)


def _answer(check: Check, data: Data, outcome: Outcome | None, figures: bool) -> Checked:
    """Return what a check found; one that cannot be answered stops no other."""
    try:
        found = _asked(check, data, outcome)
    except Exception as error:  # the doctor must not be what ends a training
        found = skipped(f"This could not be measured: {type(error).__name__}: {error}")
    evidence = plain(found.evidence)
    told = found.verdict, found.code, found.sentence, evidence, found.remedy
    drawn = found.figure() if found.figure and (figures or found.verdict in ("warn", "fail")) else ""
    return Checked(check.name, check.question, *told, drawn)


def _asked(check: Check, data: Data, outcome: Outcome | None) -> Finding:
    if isinstance(check, DataCheck):
        return check.check(data)
    assert isinstance(check, RunCheck), "a check is of data or of runs"
    assert outcome is not None, "runs are asked about where there is one"
    return skipped("The training has not ended.") if check.finished and not outcome.finished else check.check(outcome)
