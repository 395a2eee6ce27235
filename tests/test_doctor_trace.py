"""What the doctor reads from the records of a training: each course that can go wrong, and healthy ones."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from verglas.doctor import opened
from verglas.doctor._base import Finding
from verglas.doctor.trace import KINDS, Trace
from verglas.io.collections import collect
from verglas.records import plain
from verglas.runs import Run

WATCH = {
    "average_pixel_ap": 0.8, "average_skill": 0.78, "average_best_f1": 0.75, "average_f1_half": 0.7,
    "average_trivial_f1": 0.1, "student_pixel_ap": 0.82, "student_skill": 0.8, "weight_norm_ratio": 1.0,
    "belief_sd": 0.1, "prior": 0.05, "map_correlation": 0.01, "map_variance_between": 1.0, "mode_gap": 0.1,
    "mode_sd_ratio": 1.1, "clip_rate": 0.01, "clipped_steps": 500.0, "labels_seen": 200.0,
}  # fmt: skip
BLIND = {
    "average_pixel_ap": 0.05, "average_skill": 0.0, "average_best_f1": 0.1, "average_f1_half": 0.0,
    "student_pixel_ap": 0.05, "student_skill": 0.0,
}  # fmt: skip


def drawn(found: Finding) -> str:
    """Return the figure of a finding."""
    return found.figure() if found.figure else ""


def going(until: int = 500, first: float = 0.5, last: float = 0.1, rate: float = 1e-3, **watch: Any) -> list[dict]:
    """Return records of steps with a loss that goes from first to last."""
    steps = range(10, until + 1, 10)
    return [
        {"kind": "progress", "step": s, "steps": until, "seconds": 1.0, "rate": rate, "watch": watch,
         "loss": first + (last - first) * s / until}
        for s in steps
    ]  # fmt: skip


def validated(*each: dict[str, Any], every: int = 100, ap: float | list[float] = 0.9) -> list[dict]:
    """Return records of validations, each with what it differs in from a healthy one."""
    aps = ap if isinstance(ap, list) else [ap] * len(each)
    return [
        {"kind": "validated", "step": every * i, "ap": value, "best_f1": 0.8, "threshold": 0.4, "best": True,
         "watch": WATCH | one}
        for i, (one, value) in enumerate(zip(each, aps, strict=True), 1)
    ]  # fmt: skip


def traced(toy: Path, records: list[dict], *, finished: bool = False) -> Finding:
    """Return what is found in these records of a training that has not ended, or has."""
    run = Run(toy / "run")
    (run.folder / "records.jsonl").write_text("".join(json.dumps(plain(one)) + "\n" for one in records))
    if not finished:
        (run.folder / "model.json").unlink()
    data = run.config.data
    collection = collect(data.micrographs, data.labels, diameter_px=data.diameter_px).collection
    with opened(run, collection, run.config) as (_, outcome):
        assert outcome is not None
        return Trace().check(outcome)


def test_the_training_of_the_toy_went_well(trained):
    before = [json.loads(line) for line in (trained / "run" / "records.jsonl").read_text().splitlines()]
    found = traced(trained, before, finished=True)
    assert found.verdict in ("ok", "info"), found.sentence
    assert found.code in ("", "TOO_EARLY")
    assert 0.5 < found.evidence["weight_growth"] < 5
    assert "<svg" in drawn(found)


FIVE = ({}, {}, {}, {}, {})
IN = {"unsupervised": 0.2}
OPENED = ({}, {}, IN, IN, IN)
HARM = validated(*OPENED, ap=[0.8, 0.9, 0.8, 0.7, 0.6])
BACK = [{"kind": "ruled", "step": 400, "code": "R7", "verdict": "SSL_HARM", "action": "go back", "sentence": ""}]

COURSES: dict[str, tuple[list[dict], str, str]] = {
    "healthy": (going() + validated(*FIVE), "ok", ""),
    "not validated yet": (going(20), "ok", ""),
    "healthy with unlabelled": (going() + validated(*OPENED), "ok", ""),
    "loss not a number": (going(last=float("nan")), "fail", "DIVERGED"),
    "loss explodes": (going(last=40.0), "fail", "DIVERGED"),
    "loss explodes at a high rate": (going(last=40.0, rate=0.1), "fail", "LR_TOO_HIGH"),
    "rate above the weights": (going(rate=1.0), "fail", "LR_TOO_HIGH"),
    "maps alike": (going() + validated({}, *[{"map_correlation": 0.9}] * 2), "fail", "INPUT_INDEPENDENT"),
    "maps were alike once": (going() + validated({"map_correlation": 0.9}, {"map_correlation": 0.9}, {}), "info", ""),
    "teacher behind": (going() + validated(*[{"average_pixel_ap": 0.3}] * 2), "fail", "TEACHER_STALE"),
    "teacher behind once": (going() + validated({}, {"average_pixel_ap": 0.3}), "ok", ""),
    "nothing learned": (going() + validated(*[BLIND | {"belief_sd": 0.0}] * 3), "fail", "NO_SKILL"),
    "nothing learned but by luck": (
        going(last=0.5) + validated(*[BLIND | {"belief_sd": 0.0, "average_best_f1": 0.12}] * 3), "fail", "NO_SKILL"
    ),
    "nothing learned yet": (going(200) + validated(*[BLIND] * 3, every=60), "info", "TOO_EARLY"),
    "no term on unlabelled": (going() + validated({}, *[{"unsupervised": 0.0}] * 2), "fail", "NOOP_UNSUP"),
    "no term once": (going() + validated({}, {"unsupervised": 0.0}, {"unsupervised": 0.1}), "ok", ""),
    "harm": (going() + HARM, "warn", "SSL_HARM"),
    "no harm beyond the error": (going() + validated(*OPENED, ap=[0.8, 0.9, 0.8, 0.87, 0.87]), "ok", ""),
    "harm undone": (going() + HARM + BACK + validated({}, {}, {})[2:], "info", "SSL_HARM"),
    "statistics disagree": (going() + validated(*[{"mode_gap": 1.0}] * 2), "info", "NORM_MISMATCH"),
    "gradients clipped": (going(600) + validated(*[{"clip_rate": 0.7}] * 2), "warn", "LR_TOO_HIGH"),
    "cut at one half": (going() + validated(*[{"average_f1_half": 0.1}] * 2), "info", "MISCALIBRATED"),
}  # fmt: skip


@pytest.mark.parametrize("course", COURSES)
def test_each_course_of_a_training_is_told(trained, course):
    records, verdict, code = COURSES[course]
    found = traced(trained, records)
    assert (found.verdict, found.code) == (verdict, code), found.sentence
    json.dumps(dict(found.evidence), allow_nan=False)


def test_what_held_only_early_is_named_as_passed(trained):
    found = traced(trained, COURSES["maps were alike once"][0])
    assert "INPUT_INDEPENDENT, which passed" in found.sentence


def test_the_loss_on_labels_is_watched_where_others_are_added(trained):
    more = going(last=3.0, supervised=0.2, unsupervised=2.8)
    assert traced(trained, more + validated(*FIVE)).verdict == "ok"


def test_weights_that_have_grown_tell_a_rate_that_is_too_high(trained):
    path = trained / "run" / "model.safetensors"
    save_file({name: tensor * 30 if tensor.ndim > 1 else tensor for name, tensor in load_file(path).items()}, path)
    found = traced(trained, going() + validated(*FIVE), finished=True)
    assert (found.verdict, found.code) == ("fail", "LR_TOO_HIGH")
    assert found.evidence["weight_growth"] > 10


def test_without_records_there_is_nothing_to_read(trained):
    assert traced(trained, []).verdict == "skipped"


def test_every_fault_has_a_remedy():
    assert all(kind.remedy for kind in KINDS if kind.verdict in ("warn", "fail"))
