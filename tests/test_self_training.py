"""Self-training: labels alone to the end, then a new student that learns what the first one picks."""

import math
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from test_semi_training import collection, decided, flat, plainly, result, ruling, run, stages, trainer, warmed
from toy import DIAMETER, SIDE, configured, write_toy
from verglas.doctor.subject import opened
from verglas.gates import Guard, GuardSettings
from verglas.pick import find
from verglas.predict import all_around
from verglas.records import Picked, Progress, Record, Ruled, Validated
from verglas.runs import Run
from verglas.train import Trainer
from verglas.training import train

SETTINGS = (
    "algorithm.name=self_training", "train.steps=12", "train.validate_every=4", "train.save_every=5",
    "train.rate=0.01", "guard.skill=0.1", "guard.harm=1",
)  # fmt: skip
COMES_IN = "step 12: micrographs are picked, and a new student learns from that"
BACK = "back to step 12, before the last student began: the one before it is shipped"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return warmed(tmp_path_factory.mktemp("anew"))


def anew(data: Path, *settings: str) -> tuple[str, ...]:
    return (*SETTINGS, f"train.start_from={data / 'warm'}", *settings)


def states(made: Trainer, look: Callable[[Trainer], Tensor]) -> dict[int, Tensor]:
    """Train; return what is there at each validation, before anything is made of it."""
    return {record.step: look(made) for record in made.run(threading.Event()) if isinstance(record, Validated)}


def test_labels_alone_teach_to_the_end_and_then_a_new_student_learns(data: Path, tmp_path: Path) -> None:
    records = run(data, tmp_path / "a", *anew(data))
    assert stages(records) == [COMES_IN]
    watched = {r.step: "unsupervised" in r.watch for r in records if isinstance(r, Validated)}
    assert watched == {4: False, 8: False, 12: False, 16: True, 20: True, 24: True}
    assert {r.steps for r in records if isinstance(r, Progress)} == {24}
    assert Run.open(tmp_path / "a").facts()["steps"] == 24


def test_the_student_begins_with_weights_of_its_own_and_a_schedule_of_its_own(data: Path, tmp_path: Path) -> None:
    made = trainer(data, tmp_path, *SETTINGS, "guard.active=false")
    first, rates = flat(made.student.state_dict()), []
    for record in made.run(threading.Event()):
        if isinstance(record, Picked):
            begun, average = flat(made.student.state_dict()), flat(made.average.state_dict())
        if isinstance(record, Progress):
            rates.append(record.rate)
    assert torch.equal(begun, average)
    assert not torch.equal(begun, first)
    assert rates[-1] < 0.1 * max(rates), "the rate has fallen again"
    assert made.begun, made.until == (12, 24)


def test_before_that_it_is_the_supervised_training_to_the_bit(data: Path, tmp_path: Path) -> None:
    def weights(made: Trainer) -> Tensor:
        return torch.cat([flat(made.student.state_dict()), flat(made.average.state_dict())])

    ours = states(trainer(data, tmp_path / "a", *anew(data)), weights)
    theirs = states(trainer(data, tmp_path / "b", *anew(data, "algorithm.name=supervised")), weights)
    assert [*theirs] == [4, 8, 12]
    assert all(torch.equal(ours[step], theirs[step]) for step in theirs)


def test_a_student_that_labels_alone_outdo_is_dropped(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pool of noise teaches nothing here: what harms is that the bar is set above what can be reached."""
    original = Guard.outdone
    monkeypatch.setattr(Guard, "outdone", lambda self, ap, clicks: original(self, ap - 1, clicks))
    records = run(data, tmp_path / "a", *anew(data, "guard.harm=0.02"))
    monkeypatch.undo()
    run(data, tmp_path / "supervised", *anew(data, "algorithm.name=supervised"))
    assert stages(records) == [COMES_IN, BACK]
    ruled = [(r.step, r.code, r.verdict, r.action) for r in records if isinstance(r, Ruled) and r.code == "R7"]
    assert ruled == [(24, "R7", "SSL_HARM", "go back")]
    assert result(tmp_path / "a") == result(tmp_path / "supervised")


@pytest.mark.parametrize(("ap", "harm"), [(0.781, False), (0.779, True), (0.9, False)])
def test_a_student_is_held_to_labels_alone(ap: float, harm: bool) -> None:
    guard = Guard(GuardSettings(), 12, opened=12, ap_at_opening=0.8)
    assert (guard.outdone(ap) is not None) == harm
    assert Guard(GuardSettings(active=False), 12, opened=12, ap_at_opening=0.8).outdone(0.1) is None


@pytest.mark.parametrize(("ap", "clicks", "harm"), [(0.701, 64, False), (0.699, 64, True), (0.779, 6400, True)])
def test_with_clicks_it_is_held_to_them_within_their_error(ap: float, clicks: int, harm: bool) -> None:
    guard = Guard(GuardSettings(), 12, opened=12, ap_at_opening=0.8)
    assert (guard.outdone(ap, clicks) is not None) == harm


def test_without_skill_no_student_begins(data: Path, tmp_path: Path) -> None:
    records = run(data, tmp_path / "a", *SETTINGS, "train.steps=4", "guard.skill=1")
    run(data, tmp_path / "supervised", *SETTINGS, "train.steps=4", "algorithm.name=supervised")
    assert stages(records) == []
    assert result(tmp_path / "a") == result(tmp_path / "supervised")


def test_each_round_begins_with_a_student_that_learns_from_the_one_before(data: Path, tmp_path: Path) -> None:
    made = trainer(data, tmp_path, *anew(data, "algorithm.options.rounds=2"))
    rounds = states(made, lambda t: torch.tensor([t.round, t.begun, t.until]))
    assert {step: state.tolist() for step, state in rounds.items()} == {
        4: [0, 0, 12], 8: [0, 0, 12], 12: [0, 0, 12],
        16: [1, 12, 24], 20: [1, 12, 24], 24: [1, 12, 24], 28: [2, 24, 36], 32: [2, 24, 36], 36: [2, 24, 36],
    }  # fmt: skip
    one, two = (np.load(tmp_path / "prepared" / f"m2.belief{n}.npy") for n in (1, 2))
    assert not np.array_equal(one, two)


def test_what_is_learned_are_the_picks_from_all_sides(data: Path, tmp_path: Path) -> None:
    """In the margin along the border nothing is learned, whatever is found there."""
    made = trainer(data, tmp_path, *anew(data, "search.edge_px=20"))
    for record in made.run(threading.Event()):
        if isinstance(record, Validated) and record.step == 12:
            model = made.shipped()
        if isinstance(record, Picked):
            break
    (stored,) = made.lessons.to_pick(1)  # type: ignore[union-attr]
    search = {"least_score": 0.0001, "score_radius": 0.1, "separation": 0.45}
    found = all_around(model, stored.image(), precision=made.precision)
    picks = find(found, made.micrographs["m2"], diameter_px=DIAMETER, **search)
    belief, known = np.load(tmp_path / "prepared" / "m2.belief1.npy")
    assert len(picks) > 5
    drawn, sure = made.config.target.draw_scores(picks, stored.image(), diameter_px=DIAMETER)
    assert np.array_equal(belief, drawn.astype(np.float16))
    inside = np.zeros((SIDE, SIDE), bool)
    inside[20 : SIDE - 20, 20 : SIDE - 20] = True
    assert np.array_equal(known, sure & inside)
    assert (sure & ~inside).any()
    at = np.rint(stored.grid.from_micrograph(picks.xy)).astype(int)
    assert belief[at[:, 1], at[:, 0]] == pytest.approx(picks.score, rel=2e-3)
    assert (belief[~sure] == 0).all()
    assert 0 < (belief > 0).mean() < 0.3


def test_only_as_many_micrographs_are_picked_as_the_crops_can_show(tmp_path: Path) -> None:
    folder = write_toy(tmp_path, micrographs=9)
    for steps, number in ((20, 1), (200, 4), (600, 7)):
        made = trainer(folder, tmp_path / str(steps), *SETTINGS, f"train.steps={steps}")
        shown, seen = steps * 64**2, 8 * 160**2
        assert len(made.materials.unlabelled) == number == min(7, math.ceil(shown / seen))


@pytest.mark.parametrize("when", ["validations", "opening"])
def test_stopped_and_gone_on_with_it_ends_in_the_same_bytes(data: Path, tmp_path: Path, when: str) -> None:
    settings = anew(data, "algorithm.options.rounds=2")
    whole = run(data, tmp_path / "whole", *settings)

    def halted(record: Record) -> bool:
        return isinstance(record, Validated) if when == "validations" else stages([record]) == [COMES_IN]

    for _ in range(20):
        records = run(data, tmp_path / "a", *settings, until=halted)
        if not records[-1].stopped:  # type: ignore[attr-defined]
            break
    assert stages(whole) == [COMES_IN]
    assert result(tmp_path / "a") == result(tmp_path / "whole")
    assert decided(tmp_path / "a") == decided(tmp_path / "whole")


def test_a_kill_while_the_student_learns_changes_nothing(data: Path, tmp_path: Path) -> None:
    """What was picked for a later round does not spoil the state of an earlier one."""
    settings = anew(data, "algorithm.options.rounds=2")
    run(data, tmp_path / "whole", *settings)
    for kind, step in ((Picked, 12), (Validated, 16), (Validated, 24), (Picked, 24), (Validated, 28)):
        stream, at = train(collection(data), configured(data, *settings), tmp_path / "a"), 0
        for record in stream:
            at = getattr(record, "step", at)
            if isinstance(record, kind) and at >= step:
                break
        stream.close()
    run(data, tmp_path / "a", *settings)
    assert result(tmp_path / "a") == result(tmp_path / "whole")


def test_a_stop_while_picking_is_heeded_and_nothing_is_picked_twice(tmp_path: Path) -> None:
    folder, settings = write_toy(tmp_path, micrographs=5), (*SETTINGS, "train.steps=400", "guard.active=false")
    made, stop = trainer(folder, tmp_path, *settings), threading.Event()
    made.step = 399
    records = []
    for record in made.run(stop):
        records.append(record)
        if isinstance(record, Picked):
            stop.set()
    assert [r.done for r in records if isinstance(r, Picked)] == [1]
    stop.clear()
    again = [r.done for r in made._pick(stop) if isinstance(r, Picked)]
    assert again == [2, 3]
    assert list(made._pick(stop)) == []


def test_a_rule_that_goes_back_at_the_end_lets_no_other_student_begin(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    back = replace(ruling("go back"), code="R3")
    monkeypatch.setattr("verglas.gates.RULES", (back, ruling("lower rate")))
    records = run(data, tmp_path / "a", *anew(data, "algorithm.options.rounds=2"))
    monkeypatch.setattr("verglas.gates.RULES", ())
    run(data, tmp_path / "supervised", *anew(data, "algorithm.name=supervised"))
    assert stages(records) == [COMES_IN, BACK]
    assert [(r.step, r.code) for r in records if isinstance(r, Ruled)] == [(24, "R3")]
    assert result(tmp_path / "a") == result(tmp_path / "supervised")


def test_what_can_only_be_said_at_the_end_is_only_said(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("verglas.gates.RULES", (ruling("lower rate"),))
    ruled = [r for r in run(data, tmp_path / "a", *anew(data)) if isinstance(r, Ruled)]
    assert [(r.step, r.action) for r in ruled] == [(24, "say")]


def test_the_doctor_judges_what_is_shipped(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the student that was dropped."""
    original = Guard.outdone
    monkeypatch.setattr(Guard, "outdone", lambda self, ap, clicks: original(self, ap - 1, clicks))
    run(data, tmp_path / "a", *anew(data, "guard.harm=0.02"))
    config = configured(data, *anew(data))
    with opened(Run.open(tmp_path / "a"), collection(data), config) as (_, outcome):
        assert outcome is not None
        assert max(record["step"] for record in outcome.watched()) == 12
        assert outcome.own_steps(24) == outcome.own_steps(12) == 12
        assert outcome.own_steps(13) == 1


def test_a_state_that_was_restored_is_the_one_that_was_saved(data: Path, tmp_path: Path) -> None:
    saved, again = [], []  # type: ignore[var-annotated]
    first, stop = trainer(data, tmp_path, *anew(data)), threading.Event()
    for record in first.run(stop):
        if isinstance(record, Validated) and record.step == 16:
            stop.set()
    first.keep = saved.append
    first.save()
    second = trainer(data, tmp_path, *anew(data), kept=again)
    second.restore(saved[0])
    second.save()
    assert {key for key, value in plainly(saved[0]).items() if repr(value) != repr(again[0][key])} == set()
    assert second.guard.steps == 24
