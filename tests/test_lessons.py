"""What a student that begins anew is to believe, and how a training on clicks ends in one."""

import math
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from test_semi_training import collection, decided, result, stages, warmed
from toy import DIAMETER, configured, write_toy
from verglas.batch import Labelled
from verglas.config import RunConfig
from verglas.data import Stored, labelled_batch
from verglas.gates import Guard, Ruling
from verglas.lessons import Lessons
from verglas.materials import gathered
from verglas.operating import choose_threshold
from verglas.records import Note, Picked, Record, Validated
from verglas.runs import Run
from verglas.train import Trainer
from verglas.training import train
from verglas.types import Collection, Picks

SETTINGS = (
    "algorithm.name=self_training", "train.steps=12", "train.validate_every=4", "train.save_every=5",
    "train.rate=0.01", "guard.active=false",
)  # fmt: skip


HARM = Ruling("R7", "SSL_HARM", "go back", "made up")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return warmed(tmp_path_factory.mktemp("lessons"))


def clicked(data: Path, *, complete: bool = False) -> Collection:
    """Two micrographs on which every other particle was clicked, and one without labels."""
    whole = collection(data)
    picks = {name: each.where(np.arange(len(each)) % 2 == 0) for name, each in whole.picks.items()}
    return replace(whole, picks=picks, complete=complete)


def lessons(data: Path, folder: Path, *, complete: bool = False) -> Lessons:
    config, some = configured(data, *SETTINGS), clicked(data, complete=complete)
    return Lessons(gathered(some, config, folder), some, config)


def trainer(some: Collection, config: RunConfig, folder: Path) -> Trainer:
    return Trainer(config, gathered(some, config, folder), some, torch.device("cpu"), lambda _: None)


def run(some: Collection, config: RunConfig, out: Path) -> list[Record]:
    return list(train(some, config, out))


def named(stored: tuple[Stored, ...]) -> list[tuple[str, str]]:
    return [(one.name, one.belief) for one in stored]


def test_with_complete_labels_unlabelled_micrographs_are_picked(data: Path, tmp_path: Path) -> None:
    found = lessons(data, tmp_path, complete=True)
    taught, _, pool = found.sources(2)
    assert named(taught) == [("m0", ""), ("m1", "")]
    assert named(found.to_pick(2)) == named(pool) == [("m2", ".belief2.npy")]
    assert len(found) == 1


def test_with_clicks_the_clicked_micrographs_are_picked_and_no_others_prepared(data: Path, tmp_path: Path) -> None:
    found = lessons(data, tmp_path)
    taught, _, pool = found.sources(1)
    assert named(found.to_pick(1)) == named(taught) == [("m0", ".belief1.npy"), ("m1", ".belief1.npy")]
    assert pool == found.materials.unlabelled == ()
    assert len(found) == 2


def test_labels_are_completed_by_the_picks_that_count(data: Path, tmp_path: Path) -> None:
    """Not by those that show a click once more, nor in what is held out to judge by."""
    found = lessons(data, tmp_path)
    stored = found.to_pick(1)[0]
    clicks, image = found.collection.picks["m0"].xy, stored.image()
    middle, aside = clicks.mean(axis=0), np.array([DIAMETER, 0])
    other, beside, faint = middle + aside, clicks[0] + 0.45 * aside, middle - 2 * aside
    assert np.hypot(*(clicks - other).T).min() > DIAMETER / 2 + 1, "a place of its own"
    picks = Picks("m0", np.stack([other, beside, faint]), np.array([0.7, 0.9, 0.69]))
    found.write(stored, image, picks, 0.7)
    belief, known = np.load(tmp_path / "m0.belief1.npy")
    expected = Picks("m0", np.stack([*clicks, other]), np.ones(len(clicks) + 1))
    drawn, sure = found.config.target.draw(expected, image, diameter_px=DIAMETER)
    held = found.materials.holdout.areas["m0"].mask(image)
    assert held.any()
    assert np.array_equal(belief, drawn)
    assert np.array_equal(known, sure & ~held)


def test_what_is_believed_takes_the_place_of_labels(data: Path, tmp_path: Path) -> None:
    found = lessons(data, tmp_path)
    taught, how, _ = found.sources(1)
    for stored in taught:
        shape = stored.shape
        stored.believe(np.ones(shape, np.float32), np.broadcast_to(np.arange(shape[1]) < shape[1] // 2, shape))

    def cut(stored: tuple[Stored, ...]) -> Labelled:
        return labelled_batch(stored, replace(how, batch=16), torch.Generator().manual_seed(0))

    plain, completed = cut(found.materials.labelled), cut(taught)
    assert torch.equal(plain.image, completed.image)
    assert plain.unseen.any()
    assert not completed.unseen.any()
    assert completed.target[completed.known].eq(1).all()
    assert 0.2 < completed.known.float().mean() < 0.8


def test_tiles_of_a_student_are_cut_anywhere_unless_it_is_set(data: Path, tmp_path: Path) -> None:
    found = lessons(data, tmp_path)
    assert found.sources(1)[1].centred == 0
    asked = replace(found, config=found.config.with_settings(["train.centred=0.3"]))
    assert asked.sources(1)[1].centred == 0.3


def test_clicks_are_learned_first_and_then_their_completed_labels(data: Path, tmp_path: Path) -> None:
    records = run(clicked(data), configured(data, *SETTINGS), tmp_path / "a")
    assert stages(records) == ["step 12: micrographs are picked, and a new student learns from that"]
    assert [r.micrograph for r in records if isinstance(r, Picked)] == ["m0", "m1"]
    clicks, student = {"risk", "supervised"}, {"supervised"}
    terms = {"risk", "supervised", "unsupervised"}
    watched = {r.step: terms & r.watch.keys() for r in records if isinstance(r, Validated)}
    assert watched == {4: clicks, 8: clicks, 12: clicks, 16: student, 20: student, 24: student}
    assert Run.open(tmp_path / "a").facts()["steps"] == 24


def test_until_then_it_is_the_training_on_clicks_to_the_bit(data: Path, tmp_path: Path) -> None:
    def at_the_end(name: str) -> list[torch.Tensor]:
        config, some = configured(data, *SETTINGS, f"algorithm.name={name}"), clicked(data)
        made = trainer(some, config, tmp_path / name)
        for record in made.run(threading.Event()):
            if isinstance(record, Validated) and record.step == 12:
                break
        return [*made.student.state_dict().values(), *made.average.state_dict().values()]

    assert all(torch.equal(a, b) for a, b in zip(at_the_end("self_training"), at_the_end("pu"), strict=True))


def test_a_training_on_clicks_that_was_stopped_goes_on_to_the_same_bytes(data: Path, tmp_path: Path) -> None:
    some, config = clicked(data), configured(data, *SETTINGS)
    run(some, config, tmp_path / "whole")
    for kind, step in ((Validated, 4), (Picked, 12), (Validated, 20)):
        stream, at = train(some, config, tmp_path / "a"), 0
        for record in stream:
            at = getattr(record, "step", at)
            if isinstance(record, kind) and at >= step:
                break
        stream.close()
    run(some, config, tmp_path / "a")
    assert result(tmp_path / "a") == result(tmp_path / "whole")
    assert decided(tmp_path / "a") == decided(tmp_path / "whole")


def test_without_skill_beyond_error_no_student_begins(tmp_path: Path) -> None:
    folder = write_toy(tmp_path)
    config = configured(folder, *SETTINGS, "guard.active=true", "guard.skill=1", "train.steps=4")
    records = run(clicked(folder), config, tmp_path / "a")
    assert stages(records) == []
    assert any(isinstance(r, Note) and r.text.startswith("labels alone: skill") for r in records)
    last = [r.watch for r in records if isinstance(r, Validated)][-1]
    skill, error = last["average_skill"], last["average_skill_error"]
    clicks = last["labels_seen"]
    assert error == pytest.approx(2 * (((1 + skill) / 2) * ((1 - skill) / 2) / clicks) ** 0.5)
    assert skill + error < 1


def test_a_click_in_the_margin_is_not_held_against_a_student(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No pick is ever listed there, so a click would be one that nobody can find."""
    given, seen = clicked(data), list[Mapping[str, Picks]]()
    straying = {n: replace(p, xy=np.concatenate([p.xy, np.full((9, 2), 3.0) + np.arange(9)[:, None] * (0, 7)]),
                           score=np.ones(len(p) + 9)) for n, p in given.picks.items()}  # fmt: skip
    made = trainer(replace(given, picks=straying), configured(data, *SETTINGS, "search.edge_px=12"), tmp_path)
    list(made.run(threading.Event()))
    assert made.round
    monkeypatch.setattr(
        "verglas.train.choose_threshold",
        lambda picks, truth, **how: seen.append(truth) or choose_threshold(picks, truth, **how),
    )
    made.operating_point(made.candidates(made.shipped()))
    (truth,) = seen
    assert sum(map(len, truth.values()))
    assert all((picks.xy >= 12).all() for picks in truth.values())


def test_the_threshold_suits_clicks_completed_by_what_was_picked(data: Path, tmp_path: Path) -> None:
    """Also those of the first model near the held-out clicks: a few clicks alone would leave it to chance."""
    made = trainer(clicked(data), configured(data, *SETTINGS), tmp_path)
    clicks = made.materials.held_labels
    for record in made.run(threading.Event()):
        if isinstance(record, Validated) and record.step == 12:
            first = made.operating_point(made._seen_all_around(made.shipped()))
    candidates = made.candidates(made.shipped())
    last = made.operating_point(candidates)
    assert made.picks_above == first.threshold
    assert first.how.startswith("recall >= ")
    before = made._seen_all_around(made._with(made.picks_with))
    beside = {
        found.micrograph: made.materials.holdout.inside(made.lessons.completed(found.above(first.threshold)))  # type: ignore[union-attr]
        for found in before
    }
    expected = choose_threshold(candidates, beside, diameter_px=DIAMETER)
    completed = sum(map(len, beside.values()))
    assert completed > clicks
    assert (last.threshold, last.interval) == (expected.threshold, expected.interval)
    assert last.how.endswith(f", where {completed - clicks} picks complete the labels")
    assert first.n_labels == last.n_labels == clicks, "figures are of clicks: nobody labelled the rest"
    assert last.precision < expected.precision


@pytest.mark.parametrize("micrographs", [2, 5])
def test_clicks_with_skill_lead_to_a_student_under_the_guard(tmp_path: Path, micrographs: int) -> None:
    """Also where whole micrographs are held out, as of four or more."""
    folder = write_toy(tmp_path, micrographs=micrographs, labelled=micrographs)
    config = configured(folder, *SETTINGS, "guard.active=true", "train.steps=60", "train.rate=0.03", "train.batch=4")
    records = run(clicked(folder), config, tmp_path / "a")
    watched = [r.watch for r in records if isinstance(r, Validated) and r.step == 60]
    assert watched[0]["average_skill"] > 0.2
    assert stages(records)[:1] == ["step 60: micrographs are picked, and a new student learns from that"]
    assert Run.open(tmp_path / "a").facts()["students"] == 1


def test_who_finds_none_of_the_clicks_teaches_nobody(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("verglas.train.average_precision", lambda *_: 0.0)
    assert stages(run(clicked(data), configured(data, *SETTINGS), tmp_path / "a")) == []
    assert Run.open(tmp_path / "a").facts()["students"] == 0


def test_going_back_to_a_student_it_is_judged_by_what_it_learned_from(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not by its own picks, which the student that was dropped had learned from."""
    made = trainer(clicked(data), configured(data, *SETTINGS, "algorithm.options.rounds=2"), tmp_path)
    monkeypatch.setattr(Guard, "outdone", lambda self, ap, clicks: HARM if self.opened == 24 else None)
    picks_with = {}
    for record in made.run(threading.Event()):
        if isinstance(record, Validated) and record.step in (16, 28):
            picks_with[record.step] = made.picks_with, made.picks_above
    assert (made.step, made.round) == (24, 1)
    for key, value in picks_with[16][0].items():
        assert torch.equal(value, made.picks_with[key])
    assert made.picks_above == picks_with[16][1] != picks_with[28][1]


@pytest.mark.parametrize(("complete", "trusted"), [(True, math.inf), (False, 4)])
def test_a_few_clicks_are_not_trusted_as_labels_are(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, complete: bool, trusted: float
) -> None:
    told = []
    monkeypatch.setattr(Guard, "outdone", lambda self, ap, clicks: told.append(clicks))
    run(clicked(data, complete=complete), configured(data, *SETTINGS), tmp_path / "a")
    assert told == [trusted]
