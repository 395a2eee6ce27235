"""Training with unlabelled micrographs: they come in when the model has skill, and harm is undone to the bit."""

import hashlib
import math
import re
import threading
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from toy import DIAMETER, configured, write_toy
from verglas import data as batches
from verglas.batch import Labelled
from verglas.config import DataSettings, RunConfig
from verglas.errors import InputError
from verglas.gates import RULES, Guard, Rule
from verglas.io.collections import collect
from verglas.materials import AUTO, AUTO_PARTIAL, chosen_algorithm, gather, gathered
from verglas.records import Note, Record, Ruled, Trained, Validated
from verglas.runs import Run
from verglas.train import Trainer, _streams, start
from verglas.training import train
from verglas.types import Collection, Split

TAUGHT = ("soft_teacher", "unimatch")  # one of each kind: the others share all they remember
STAGED = ("train.steps=12", "train.validate_every=2", "train.save_every=3", "train.rate=0.01", "guard.skill=0.1")
STAGES = [
    "step 4: unlabelled micrographs come in",
    "back to step 4, before unlabelled micrographs came in: half their weight if they come again",
    "step 6: unlabelled micrographs come in",
    "back to step 6, before unlabelled micrographs came in: labels alone teach from here",
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return warmed(tmp_path_factory.mktemp("semi"))


def warmed(folder: Path) -> Path:
    """Two labelled micrographs and an unlabelled one; ``warm`` is a run that has learned a little."""
    write_toy(folder)
    settings = ("train.steps=60", "train.validate_every=60", "train.rate=0.03", "train.batch=4", "guard.active=false")
    list(train(collection(folder), configured(folder, "algorithm.name=supervised", *settings), folder / "warm"))
    return folder


def collection(data: Path, diameter_px: float = DIAMETER) -> Collection:
    return collect([data / "mics"], data / "labels", diameter_px=diameter_px).collection


def staged(data: Path, name: str, *settings: str) -> tuple[str, ...]:
    """Settings under which unlabelled tiles come in at step 4 of 12, and after harm once more at step 6."""
    return (*STAGED, f"train.start_from={data / 'warm'}", f"algorithm.name={name}", *settings)


def run(data: Path, out: Path, *settings: str, until: Callable[[Record], bool] | None = None) -> list[Record]:
    """Train; ask for a stop at the first record that ``until`` names."""
    records, stop = [], threading.Event()
    for record in train(collection(data), configured(data, *settings), out, stop=stop):
        records.append(record)
        if until is not None and until(record):
            stop.set()
    return records


def trainer(
    data: Path, folder: Path, *settings: str, diameter_px: float = DIAMETER, kept: list[Any] | None = None
) -> Trainer:
    """All that a training has before its first step; states are kept in ``kept``."""
    config, everything = configured(data, *settings), collection(data, diameter_px)
    materials = gathered(everything, config, folder / "prepared")
    keep = [] if kept is None else kept
    return Trainer(config, materials, everything, torch.device("cpu"), lambda state: keep.append(plainly(state)))


def plainly(state: Any) -> Any:
    """Return a state in types that compare, detached from what it is the state of."""
    if isinstance(state, dict):
        return {key: plainly(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return [plainly(value) for value in state]
    return state.tolist() if isinstance(state, Tensor) else state


def end(stream: Generator[Any, None, Any]) -> Any:
    """Exhaust a generator; return what it ends in."""
    while True:
        try:
            next(stream)
        except StopIteration as stop:
            return stop.value


def result(folder: Path) -> tuple[str, str]:
    """The model's bytes, in short, and the operating point."""
    weights = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    return weights, (folder / "operating_point.json").read_text()


def stages(records: list[Record]) -> list[str]:
    """What was said of the stage, without the number of micrographs."""
    signs = (" come in", " are picked", "back to step")
    said = [r.text for r in records if isinstance(r, Note) and any(sign in r.text for sign in signs)]
    return [re.sub(r": \d+ ", ": ", text) for text in said]


def decided(folder: Path) -> list[dict[str, Any]]:
    """Everything in the records that must not depend on interruptions."""
    kinds = ("progress", "validated", "ruled")
    return [{k: v for k, v in r.items() if k != "seconds"} for r in Run(folder).records() if r["kind"] in kinds]


def harmed(monkeypatch: pytest.MonkeyPatch, *, times: int = 2, rules: tuple[Rule, ...] = ()) -> None:
    """Let the guard find harm at the second validation of so many stages, and follow no other rules than these."""

    def harm(self: Guard) -> bool:
        return self.opened is not None and self.returns < times and len(self.history) > 1

    monkeypatch.setattr(Guard, "_harm", harm)
    monkeypatch.setattr("verglas.gates.RULES", rules)


def within(seen: Any) -> bool:
    """A condition that holds in the stage of unlabelled tiles only."""
    return "unsupervised" in seen


def ruling(action: Any, condition: Callable[[Any], bool] = within) -> Rule:
    """A rule that holds at one validation."""
    return Rule("R0", action.upper(), condition, 1, action, "Why.")


# --- which algorithm ---


def test_auto_says_what_it_chose(data: Path, tmp_path: Path) -> None:
    assert Note(f"algorithm: {AUTO}") in run(data, tmp_path / "a")
    assert Run.open(tmp_path / "a").facts()["algorithm"] == AUTO


def test_without_unlabelled_micrographs_auto_is_supervised(tmp_path: Path) -> None:
    folder = write_toy(tmp_path, micrographs=2)
    assert chosen_algorithm(collection(folder), configured(folder)).name == "supervised"


def test_with_partial_labels_auto_takes_what_is_not_labelled_for_unknown(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the general network does not know what was clicked."""
    monkeypatch.setattr("verglas.completion.LEAST_SKILL", 1.1)
    partial = replace(collection(data), complete=False)
    records = list(train(partial, configured(data), tmp_path / "a"))
    assert Note(f"algorithm: {AUTO_PARTIAL}") in records
    assert Run.open(tmp_path / "a").facts()["algorithm"] == AUTO_PARTIAL == "self_training"


@pytest.mark.parametrize("kept", [False, True])
def test_micrographs_kept_for_a_test_are_not_learned_from(data: Path, tmp_path: Path, kept: bool) -> None:
    everything, config = collection(data), configured(data, "algorithm.name=soft_teacher")
    if kept:
        everything = replace(everything, split=Split(labelled=("m0", "m1"), test=("m2",)))
    materials = end(gather(everything, config, config.recipe(DIAMETER), tmp_path, threading.Event()))
    assert [stored.name for stored in materials.unlabelled] == ([] if kept else ["m2"])


@pytest.mark.parametrize("name", ["supervised", "soft_teacher"])
def test_partial_labels_are_refused_by_an_algorithm_that_needs_background(
    data: Path, tmp_path: Path, name: str
) -> None:
    partial = replace(collection(data), complete=False)
    with pytest.raises(InputError, match="with labels that leave particles out") as caught:
        list(train(partial, configured(data, f"algorithm.name={name}"), tmp_path / "a"))
    assert "--algorithm auto" in caught.value.remedy
    assert "--labels-are complete" in caught.value.remedy


def test_who_follows_the_remedy_may_keep_the_folder(data: Path, tmp_path: Path) -> None:
    partial = replace(collection(data), complete=False)
    with pytest.raises(InputError):
        list(train(partial, configured(data, "algorithm.name=supervised"), tmp_path / "a"))
    assert isinstance(list(train(partial, configured(data, "algorithm.name=pu"), tmp_path / "a"))[-1], Trained)


# --- coming in ---


def test_unlabelled_tiles_come_in_once_within_their_time(data: Path, tmp_path: Path) -> None:
    records = run(data, tmp_path / "a", *staged(data, "soft_teacher"))
    assert stages(records) == STAGES[:1], "0.3 x 12 = 3.6"
    assert {r.step: within(r.watch) for r in records if isinstance(r, Validated)} == {
        2: False, 4: False, 6: True, 8: True, 10: True, 12: True
    }  # fmt: skip


def test_without_skill_the_training_is_the_supervised_one(data: Path, tmp_path: Path) -> None:
    """The network has hardly begun: it never has the skill asked for."""
    settings = ("train.steps=8", "train.validate_every=2", "guard.skill=0.5")
    run(data, tmp_path / "supervised", *settings, "algorithm.name=supervised")
    for name in ("soft_teacher", "unimatch"):
        assert stages(run(data, tmp_path / name, *settings, f"algorithm.name={name}")) == []
        assert result(tmp_path / name) == result(tmp_path / "supervised")


def test_no_fault_is_found_with_a_mask_that_is_not_in_use_yet(data: Path, tmp_path: Path) -> None:
    records = run(data, tmp_path / "a", *staged(data, "unimatch", "guard.skill=1", "train.rate=0.03"))
    assert stages(records) == []
    assert not {"R5", "R6"} & {r.code for r in records if isinstance(r, Ruled)}


def test_labelled_and_unlabelled_tiles_have_streams_of_their_own() -> None:
    drawn = [torch.rand(4, generator=stream).tolist() for seed in range(3) for stream in _streams(seed)]
    assert len({tuple(each) for each in drawn}) == 6


def test_labelled_crops_are_the_same_with_and_without_unlabelled_ones(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Tensor] = []

    def spy(*arguments: Any) -> Labelled:
        made = batches.labelled_batch(*arguments)
        seen.append(made.image)
        return made

    monkeypatch.setattr("verglas.train.labelled_batch", spy)
    monkeypatch.setattr("verglas.gates.RULES", ())
    crops, losses = {}, {}
    for name in ("supervised", "unimatch"):
        seen.clear()
        records = run(data, tmp_path / name, *staged(data, name, "guard.harm=1"))
        crops[name] = torch.stack(seen)
        losses[name] = [r.watch["supervised"] for r in records if isinstance(r, Validated)]
    assert torch.equal(crops["supervised"], crops["unimatch"]), "before the opening and after it"
    assert losses["supervised"][:2] == losses["unimatch"][:2]
    assert losses["supervised"][3] != losses["unimatch"][3], "unlabelled tiles teach something"


# --- stepping aside ---


@pytest.fixture(scope="module")
def supervised(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What labels alone teach where no rule acts."""
    folder = tmp_path_factory.mktemp("supervised") / "run"
    run(data, folder, *staged(data, "supervised", "guard.active=false"))
    return folder


@pytest.mark.parametrize("name", TAUGHT)
def test_after_harm_and_harm_again_the_training_ends_as_the_supervised_one(
    data: Path, tmp_path: Path, supervised: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    harmed(monkeypatch)
    records = run(data, tmp_path / "a", *staged(data, name))
    assert stages(records) == STAGES
    steps = [r.step for r in records if isinstance(r, Validated)]
    assert steps == [2, 4, 6, 8, 6, 8, 10, 8, 10, 12]
    ruled = [(r.step, r.code, r.verdict, r.action) for r in records if isinstance(r, Ruled)]
    assert ruled == [(8, "R7", "SSL_HARM", "go back"), (10, "R7", "SSL_HARM", "go back")]
    written = [line for line in Run(tmp_path / "a").records() if line["kind"] == "ruled"]
    assert [line["sentence"] for line in written] == [r.sentence for r in records if isinstance(r, Ruled)]
    assert all(r.warning for r in records if isinstance(r, Note) and "back to step" in r.text)
    ours, theirs = Run.open(tmp_path / "a"), Run.open(supervised)
    assert result(ours.folder) == result(theirs.folder)
    assert ours.facts()["best_step"] == theirs.facts()["best_step"]
    assert ours.facts()["validation_ap"] == theirs.facts()["validation_ap"]


@pytest.mark.parametrize(
    "rules",
    [RULES, (ruling("renew teacher", lambda s: True),), (ruling("lower rate", lambda s: True),)],
    ids=["all rules", "a rule that renews the teacher", "a rule that lowers the rate"],
)
def test_rules_that_hold_with_labels_alone_act_alike_with_and_without_unlabelled_micrographs(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rules: tuple[Rule, ...]
) -> None:
    harmed(monkeypatch, rules=rules)
    run(data, tmp_path / "supervised", *staged(data, "supervised"))
    assert len(stages(run(data, tmp_path / "a", *staged(data, "soft_teacher")))) == 4
    assert result(tmp_path / "a") == result(tmp_path / "supervised")


@pytest.mark.parametrize("action", ["renew teacher", "lower rate"])
def test_what_is_ruled_beside_a_return_does_not_touch_the_state_returned_to(
    data: Path, tmp_path: Path, supervised: Path, monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    """Rules may come before and after the one that goes back; two may go back at once."""
    rules = ruling(action), ruling("go back"), replace(ruling("go back"), code="R00"), replace(ruling(action), code="R")
    monkeypatch.setattr("verglas.gates.RULES", rules)
    assert len(stages(run(data, tmp_path / "a", *staged(data, "soft_teacher")))) == 4
    assert result(tmp_path / "a") == result(supervised)


def test_the_second_try_has_half_the_weight(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    harmed(monkeypatch)
    records = run(data, tmp_path / "a", *staged(data, "soft_teacher", "algorithm.options.ramp_until=0"))
    weights = [r.watch["weight"] for r in records if isinstance(r, Validated) and "weight" in r.watch]
    assert weights == [1.0, 1.0, 0.5, 0.5]


@pytest.mark.parametrize(
    ("action", "changes"),
    [("say", {}), ("lower weight", {"weight": 0.5}), ("lower rate", {"rate": 0.5}), ("renew teacher", {"apart": 0.0})],
)
def test_the_trainer_does_what_a_rule_says(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, action: Any, changes: dict[str, float]
) -> None:
    """A rule that holds at the first validation within the stage, at step 6."""
    found = []
    for rules in ((), (ruling(action),)):
        monkeypatch.setattr("verglas.gates.RULES", rules)
        settings = staged(data, "soft_teacher", "train.average=0.5", "guard.harm=1")
        made, stop = trainer(data, tmp_path, *settings), threading.Event()
        for record in made.run(stop):
            if isinstance(record, Validated) and record.step == 6:
                stop.set()
        apart = flat(made.average.state_dict()) - flat(made.student.state_dict())
        found.append([float(made.algorithm.trust), made._rate(), float(apart.norm())])
    ratio = dict(zip(("weight", "rate", "apart"), np.divide(found[1], found[0]), strict=True))
    assert ratio == pytest.approx({"weight": 1.0, "rate": 1.0, "apart": 1.0} | changes)


def test_going_back_is_to_all_that_was(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also to the model that would be shipped, the rate and the count of clipped gradients; but for the weight."""
    harmed(monkeypatch)
    made, before = trainer(data, tmp_path, *staged(data, "unimatch")), None
    for record in made.run(threading.Event()):
        if isinstance(record, Validated) and record.step == 4 and before is None:
            before = plainly(made._position())
        if isinstance(record, Validated) and record.step == 6:
            made.slower, made.clipped, made.best_ap, made.shipped_ap, made.best_step = 0.5, 0.4, 2.0, 2.0, 6
            made.best = {key: torch.zeros_like(value) for key, value in made.best.items()}
        if stages([record]) == STAGES[1:2]:
            break
    assert before is not None
    assert before["algorithm"].pop("trust") == before["alone"].pop("trust") == 1.0
    after = plainly(made._position())
    assert after["algorithm"].pop("trust") == after["alone"].pop("trust") == 0.5
    assert {key for key in before if repr(before[key]) != repr(after[key])} == set()


# --- interrupted ---


def test_a_state_that_was_restored_is_the_one_that_was_saved(data: Path, tmp_path: Path) -> None:
    saved: list[Any] = []
    again: list[Any] = []
    settings = staged(data, "unimatch", "train.average=0.5", "guard.harm=1")
    first, stop = trainer(data, tmp_path, *settings), threading.Event()
    for record in first.run(stop):
        if isinstance(record, Validated) and record.step == 8:
            stop.set()
    first.slower, first.clipped, first.best_ap, first.best_step = 0.5, 0.4, 2.0, 2
    first.best = {key: torch.full_like(value, 3) for key, value in first.best.items()}
    first.keep = saved.append
    first.save()
    second = trainer(data, tmp_path, *settings, kept=again)
    second.restore(saved[0])
    second.save()
    assert {key for key, value in plainly(saved[0]).items() if repr(value) != repr(again[0][key])} == set()


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Runs that were not interrupted, with harm in the first stage and none in the second, which lasts to the end."""
    folder = tmp_path_factory.mktemp("whole")

    def made(name: str) -> Path:
        if not (folder / name).exists():
            with pytest.MonkeyPatch.context() as monkeypatch:
                harmed(monkeypatch, times=1)
                assert stages(run(data, folder / name, *staged(data, name))) == STAGES[:3]
        return folder / name

    return made


@pytest.mark.parametrize("name", TAUGHT)
def test_a_run_that_is_stopped_again_and_again_ends_in_the_bytes_of_one_that_was_not(
    data: Path,
    tmp_path: Path,
    supervised: Path,
    whole: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    """Stopped at every validation: before the stage, where it opens, within it, and after going back."""
    harmed(monkeypatch, times=1)
    for _ in range(20):
        records = run(data, tmp_path / "a", *staged(data, name), until=lambda record: isinstance(record, Validated))
        assert isinstance(records[-1], Trained)
        if not records[-1].stopped:
            break
    assert result(tmp_path / "a") == result(whole(name))
    assert result(tmp_path / "a") != result(supervised), "unlabelled tiles teach something"
    assert decided(tmp_path / "a") == decided(whole(name))
    assert Run.open(tmp_path / "a").facts()["best_step"] == Run.open(whole(name)).facts()["best_step"]


@pytest.mark.parametrize("sentence", STAGES[:3])
def test_a_kill_between_two_states_changes_nothing(
    data: Path, tmp_path: Path, whole: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, sentence: str
) -> None:
    """Killed where the stage opens, at the return, and where it opens again: the last state may be older."""
    harmed(monkeypatch, times=1)
    stream = train(collection(data), configured(data, *staged(data, "unimatch")), tmp_path / "a")
    assert any(stages([record]) == [sentence] for record in stream)
    stream.close()
    assert not (tmp_path / "a" / "model.safetensors").exists()
    run(data, tmp_path / "a", *staged(data, "unimatch"))
    assert result(tmp_path / "a") == result(whole("unimatch"))
    assert decided(tmp_path / "a") == decided(whole("unimatch"))


# --- teachers ---


def flat(state: dict[str, Tensor]) -> Tensor:
    """All numbers of a model, running statistics included."""
    return torch.cat([value.flatten().double() for value in state.values()])


def stepped(made: Trainer, look: Callable[[Trainer], Tensor]) -> list[Tensor]:
    """Train, validating at each step; return what was there after each."""
    return [look(made) for record in made.run(threading.Event()) if isinstance(record, Validated)]


UNGUARDED = ("train.steps=12", "train.validate_every=1", "train.rate=0.01", "guard.active=false", "guard.earliest=0.25")


@pytest.mark.parametrize("name", ["soft_teacher", "unimatch"])
def test_the_average_is_its_closed_form_while_it_teaches(data: Path, tmp_path: Path, name: str) -> None:
    """What the teacher is shown leaves no trace in it: all of it, running statistics too, is the student's past."""
    made = trainer(data, tmp_path, *UNGUARDED, "train.average=0.2", f"algorithm.name={name}")
    students = stepped(made, lambda t: flat(t.student.state_dict()))
    assert made.guard.opened == 3
    keep = [min(1 - 1 / (step + 1), 2 ** (-1 / (0.2 * 12))) for step in range(12)]
    weights = [(1 - keep[i]) * math.prod(keep[i + 1 :]) for i in range(12)]
    assert sum(weights) == pytest.approx(1)
    floating = torch.cat([torch.full((v.numel(),), v.is_floating_point()) for v in made.average.state_dict().values()])
    expected = sum(weight * student for weight, student in zip(weights, students, strict=True))
    assert isinstance(expected, Tensor)
    average = flat(made.average.state_dict())
    torch.testing.assert_close(average[floating], expected[floating], rtol=1e-4, atol=1e-6)
    assert torch.equal(average[~floating], students[-1][~floating])
    assert (average - students[-1]).abs().max() > 1e-3, "else this would show nothing"


# --- what is watched ---


def test_a_validation_carries_all_that_a_training_is_watched_by(data: Path, tmp_path: Path) -> None:
    always = {
        "average_skill", "student_skill", "average_pixel_ap", "student_pixel_ap", "keep_positive", "keep_negative",
        "purity", "pseudo_positive_share", "held_prior", "agreement", "map_correlation", "mode_gap", "mode_sd_ratio",
        "weight_norm_ratio", "belief_sd", "clip_rate", "gradient_norm", "labelled_input_mean", "labelled_input_sd",
    }  # fmt: skip
    staging = {"weak_input_mean", "weak_input_sd", "strong_input_mean", "strong_input_sd", "unsupervised"}
    records = run(data, tmp_path / "a", *staged(data, "soft_teacher", "guard.harm=1"))
    for record in (r for r in records if isinstance(r, Validated)):
        assert always <= record.watch.keys(), record.step
        assert staging & record.watch.keys() == (staging if record.step > 4 else set()), record.step
        assert all(math.isfinite(value) for value in record.watch.values())
    written = [line["watch"] for line in Run(tmp_path / "a").records() if line["kind"] == "validated"]
    assert all(always <= line.keys() for line in written)


def test_the_last_validation_carries_as_much_as_the_others(data: Path, tmp_path: Path) -> None:
    records = run(data, tmp_path / "a", "train.steps=9", "train.validate_every=4", "algorithm.name=supervised")
    *_, before, last = (r.watch.keys() for r in records if isinstance(r, Validated))
    assert last - {"loss"} == before - {"loss"}


def test_the_share_of_clipped_gradients_is_counted(data: Path, tmp_path: Path) -> None:
    for bound, rate in ((1e-9, 1.0), (1e9, 0.0), (0.0, 0.0)):
        made = trainer(data, tmp_path, f"train.clip_norm={bound}", "algorithm.name=supervised", "train.steps=4")
        (seen,) = (r.watch for r in made.run(threading.Event()) if isinstance(r, Validated))
        assert (seen["clip_rate"], seen["clipped_steps"]) == (rate, 4.0)
        assert seen["gradient_norm"] > 1e-9


# --- two stages and balanced sampling ---


def test_a_training_starts_from_the_weights_of_another(data: Path, tmp_path: Path) -> None:
    made, warm = trainer(data, tmp_path, f"train.start_from={data / 'warm'}"), Run.open(data / "warm").model()
    for model in (made.student, made.average):
        assert torch.equal(flat(model.state_dict()), flat(warm.state_dict()))
    assert all(module.training for module in made.student.modules())
    assert not any(module.training for module in made.average.modules())


@pytest.mark.parametrize(
    "settings",
    [("model.width=8",), ("model.norm='group'",), ("preprocess.clip=4",)],
    ids=["another width", "another normalisation", "another preprocessing"],
)
def test_a_start_from_another_network_is_refused(data: Path, tmp_path: Path, settings: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match=r"train: start_from is .*Both stages need the same diameter"):
        trainer(data, tmp_path, f"train.start_from={data / 'warm'}", *settings)


def test_a_start_from_another_diameter_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"start_from is .*diameter_px=16\.0.*; expected .*diameter_px=20\.0"):
        trainer(data, tmp_path, f"train.start_from={data / 'warm'}", diameter_px=20.0)


@pytest.mark.parametrize(
    ("settings", "general"),
    [
        ((), True),
        (("train.start_from=general",), True),
        (("train.start_from=scratch",), False),
        (("model.width=8",), False),
        (("preprocess.clip=4",), False),
    ],
)
def test_a_training_starts_from_the_general_network_where_it_fits(
    data: Path, settings: tuple[str, ...], general: bool
) -> None:
    begun = start(RunConfig().with_settings(settings), collection(data))
    assert (begun is not None and begun.any_particle) == general


@pytest.mark.parametrize("completed", [False, True])
def test_clicks_are_learned_from_scratch_unless_another_start_is_asked_for(data: Path, completed: bool) -> None:
    clicks = replace(collection(data), complete=completed)
    config = RunConfig().with_settings(["data.labels_are=partial"])
    assert start(config, clicks) is None
    assert start(config.with_train(start_from="general"), clicks) is not None


def test_a_folder_called_general_is_not_taken_for_the_general_network(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "general").mkdir()
    monkeypatch.chdir(tmp_path)
    begun = start(RunConfig(), collection(data))
    assert begun is not None
    assert begun.any_particle


def test_the_general_network_is_no_start_for_another_shape(data: Path) -> None:
    wanted = RunConfig().with_settings(["train.start_from=general", "model.width=8"])
    with pytest.raises(InputError, match=r"train: start_from is .*Both stages need"):
        start(wanted, collection(data))


def test_weights_are_those_of_the_general_network_and_it_is_said(data: Path, tmp_path: Path) -> None:
    given = DataSettings((str(data / "mics"),), str(data / "labels"), diameter_px=DIAMETER)
    config = replace(RunConfig(), data=given).with_settings(["train.steps=1", "train.rate=1e-9", "search.edge_px=0"])
    records = list(train(collection(data), config, tmp_path / "run"))
    assert "weights at the start: those of the general network" in [r.text for r in records if isinstance(r, Note)]
    told = Run.open(tmp_path / "run").facts()["started_from"]
    assert told["run"] == "general"
    assert len(told["weights"]) == 16
    ours, theirs = Run.open(tmp_path / "run").model().state_dict(), Run.general().model().state_dict()
    learned = [key for key in ours if "running" not in key and "num_batches" not in key]
    torch.testing.assert_close([ours[key] for key in learned], [theirs[key] for key in learned], atol=1e-6, rtol=0)


def test_a_start_from_what_is_no_run_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="finished training"):
        trainer(data, tmp_path, f"train.start_from={data / 'mics'}")


@pytest.mark.parametrize("centred", [0.0, 1.0])
def test_centred_crops_show_a_label_that_teaches(tmp_path: Path, centred: float) -> None:
    """One label teaches, another is held out; crops are a sixth of the micrograph."""
    folder = write_toy(tmp_path, micrographs=2)
    (folder / "labels" / "m1.csv").unlink()
    (folder / "labels" / "m0.csv").write_text("x,y\n24,24\n136,136\n")
    made = trainer(folder, tmp_path, f"train.centred={centred}", "train.batch=40")
    (taught,) = made.materials.labelled[0].centres
    assert taught in ((24.0, 24.0), (136.0, 136.0))
    labelled, _ = made._batches()
    shown = (labelled.known & (labelled.target > 0)).flatten(1).any(1)
    assert shown.all() if centred else 0 < int(shown.sum()) < 25


# --- partial labels ---


def test_partial_labels_leave_the_rest_open(data: Path, tmp_path: Path) -> None:
    config, partial = configured(data), replace(collection(data), complete=False)
    stream = gather(partial, config, config.recipe(DIAMETER), tmp_path / "prepared", threading.Event())
    materials = end(stream)
    (stored, _), areas = materials.labelled, materials.holdout.areas
    target, known, unseen, held, valid = stored.masks()
    area = areas[stored.name].mask(stored.image())
    assert known.any()
    assert held.any()
    assert not (known & ~target).any()
    assert not (unseen & known).any()
    assert not ((unseen | known) & area).any()
    assert not (held & ~(area & target)).any()
    assert (unseen & ~target & valid).sum() > 0.3 * valid.sum()
