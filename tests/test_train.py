"""Training: the same bytes however often it is interrupted, nothing of the test set, the best model shipped."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from toy import DIAMETER, configured, write_toy
from verglas.errors import InputError
from verglas.io.collections import collect
from verglas.io.micrographs import write_mrc
from verglas.records import Note, Prepared, Progress, Record, Trained, Validated
from verglas.runs import Run
from verglas.train import update_average
from verglas.training import train
from verglas.types import Collection


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_toy(tmp_path)


def collection(data: Path) -> Collection:
    return collect([data / "mics"], data / "labels", diameter_px=DIAMETER).collection


def run(data: Path, name: str, *settings: str, stop: threading.Event | None = None, at: int = 0) -> list[Record]:
    """Train; ask for a stop once step ``at`` is reached."""
    records = []
    for record in train(collection(data), configured(data, *settings), data / name, stop=stop):
        records.append(record)
        if stop is not None and isinstance(record, Validated) and record.step >= at:
            stop.set()
    return records


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(data: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run(data, name, f"train.seed={seed}")
    assert weights(data / "a") == weights(data / "b") != weights(data / "c")


def test_a_run_that_was_stopped_ends_in_the_bytes_of_one_that_was_not(data: Path) -> None:
    run(data, "whole")
    stop = threading.Event()
    records = run(data, "parts", stop=stop, at=4)
    assert isinstance(records[-1], Trained)
    assert records[-1].stopped
    assert not (data / "parts" / "model.safetensors").exists()
    with pytest.raises(InputError, match="Repeat the train command"):
        Run.open(data / "parts")
    records = run(data, "parts")
    assert any(isinstance(record, Note) and "goes on at step 4 of 8" in record.text for record in records)
    assert weights(data / "parts") == weights(data / "whole")
    same = "operating_point.json"
    assert (data / "parts" / same).read_text() == (data / "whole" / same).read_text()


def test_a_stop_while_tiles_are_cut_ahead_changes_nothing(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes effect after the step of those tiles: at 1, a step that is recorded, the next ones are being cut."""
    settings = "train.validate_every=5", "train.save_every=5", "train.steps=9"
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    run(data, "whole", *settings)
    stop = threading.Event()
    for record in train(collection(data), configured(data, *settings), data / "parts", stop=stop):
        if isinstance(record, Progress):
            stop.set()
    assert isinstance(record, Trained)
    assert (record.stopped, record.steps) == (True, 2)
    run(data, "parts", *settings)
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    monkeypatch.setattr(ThreadPoolExecutor, "submit", None)
    run(data, "in-turn", *settings)
    assert weights(data / "parts") == weights(data / "whole") == weights(data / "in-turn")


def test_a_stop_while_preparing_loses_no_prepared_micrograph(data: Path) -> None:
    stop = threading.Event()
    stream = train(collection(data), configured(data), data / "a", stop=stop)
    prepared = next(record for record in stream if isinstance(record, Prepared))
    stop.set()
    last = list(stream)[-1]
    assert isinstance(last, Trained)
    assert (last.stopped, last.steps) == (True, 0)
    again = [record.micrograph for record in run(data, "a") if isinstance(record, Prepared)]
    assert prepared.micrograph not in again
    run(data, "whole")
    assert weights(data / "a") == weights(data / "whole")


def test_an_unfinished_run_goes_on_only_with_its_own_settings_and_labels(data: Path) -> None:
    stop = threading.Event()
    run(data, "parts", stop=stop, at=4)
    with pytest.raises(InputError, match="other settings, data or version"):
        run(data, "parts", "train.rate=0.002")
    (data / "labels" / "m1.csv").write_text("x,y\n20,20\n60,60\n100,100\n")
    with pytest.raises(InputError, match="other settings, data or version"):
        run(data, "parts")


def test_a_finished_run_is_not_overwritten(data: Path) -> None:
    run(data, "a")
    before = weights(data / "a")
    with pytest.raises(InputError, match="Choose another --out"):
        run(data, "a")
    assert weights(data / "a") == before


def test_records_are_streamed_and_written(data: Path) -> None:
    records = run(data, "a", "algorithm.name=supervised")
    kinds = [type(record) for record in records]
    assert kinds[0] is Note
    assert kinds.count(Prepared) == 2, "the unlabelled micrograph is not needed by supervised learning"
    assert [r.step for r in records if isinstance(r, Progress)] == [1, 8]
    assert [r.step for r in records if isinstance(r, Validated)] == [4, 8]
    written = [json.loads(line) for line in (data / "a" / "records.jsonl").read_text().splitlines()]
    assert written == [json.loads(record.to_json()) for record in records]


@pytest.mark.parametrize(("name", "unlabelled"), [("supervised", []), ("soft_teacher", ["m2"])])
def test_unlabelled_micrographs_are_prepared_where_they_teach(data: Path, name: str, unlabelled: list[str]) -> None:
    records = run(data, "a", f"algorithm.name={name}")
    assert {r.micrograph for r in records if isinstance(r, Prepared)} == {"m0", "m1", *unlabelled}
    assert Run.open(data / "a").split()["unlabelled"] == unlabelled


def test_the_folder_says_enough_to_repeat_it(data: Path) -> None:
    run(data, "a")
    opened = Run.open(data / "a")
    assert opened.config == configured(data)
    assert opened.facts()["preprocess_hash"] == opened.preprocess().hash
    candidates, truth = opened.validation()
    assert {p.micrograph for p in candidates} == set(truth) == {"m0", "m1"}
    assert opened.operating_point_for(0.01).threshold <= max(p.score.max() for p in candidates)
    assert not (data / "a" / "prepared").exists()
    assert not (data / "a" / "resume.pt").exists()


def test_a_recipe_that_was_edited_is_refused(data: Path) -> None:
    run(data, "a")
    config = data / "a" / "config.toml"
    config.write_text(config.read_text().replace("clip = 5.0", "clip = 4.0"))
    with pytest.raises(InputError, match="preprocess hash"):
        Run.open(data / "a")


def test_held_out_labels_teach_nothing(data: Path) -> None:
    """Other labels inside the held-out strips give the same weights, up to which step is shipped."""
    run(data, "a", "train.validate_every=8")
    held = Run.open(data / "a").split()["validation"]
    for name, area in held.items():
        path = data / "labels" / f"{name}.csv"
        xy = np.loadtxt(path, delimiter=",", skiprows=1)
        low, high = (area[end] if area[end] is not None else far for end, far in (("low", -np.inf), ("high", np.inf)))
        inside = (xy[:, area["axis"]] > low + DIAMETER) & (xy[:, area["axis"]] < high - DIAMETER)
        assert inside.any()
        xy[inside] += np.where(np.arange(2) == area["axis"], 0.0, 5.0)
        np.savetxt(path, xy, "%.3f", ",", header="x,y", comments="")
    run(data, "b", "train.validate_every=8")
    assert Run.open(data / "b").split()["validation"] == held
    assert weights(data / "a") == weights(data / "b")


def test_bad_labelled_micrographs_are_passed_over_until_none_is_left(data: Path) -> None:
    for number in range(2):
        path = data / "mics" / f"m{number}.mrc"
        held = bytearray(path.read_bytes())
        held[-4:] = np.float32(np.nan).tobytes()
        path.write_bytes(held)
        if number == 0:
            records = run(data, "a")
            assert [r.kind for r in records].count("failed") == 1
            assert Run.open(data / "a").split()["labelled"] == ["m1"]
    with pytest.raises(InputError, match="none that can be read"):
        run(data, "b")


def test_without_labels_the_remedy_is_said(data: Path) -> None:
    unlabelled = replace(collection(data), picks={})
    with pytest.raises(InputError, match="verglas inspect"):
        list(train(unlabelled, configured(data), data / "a"))


def test_learning_lowers_the_loss_and_finds_the_blobs(data: Path) -> None:
    records = run(
        data, "a", "train.steps=120", "train.validate_every=40", "model.width=8", "train.batch=4", "train.rate=0.01"
    )
    losses = [record.loss for record in records if isinstance(record, Progress)]
    assert np.mean(losses[-3:]) < 0.7 * np.mean(losses[:3])
    assert max(record.ap for record in records if isinstance(record, Validated)) > 0.8


def test_the_average_follows_its_closed_form_buffers_included() -> None:
    """Warm-up: the mean of what came so far; then a geometric series. Integers are copied."""
    student, average = nn.BatchNorm2d(1), nn.BatchNorm2d(1)
    values = [3.0, -1.0, 4.0, 1.5]
    for step, value in enumerate(values):
        nn.init.constant_(student.weight, value)
        student.running_mean.fill_(2 * value)
        student.num_batches_tracked.fill_(step)
        update_average(average, student, step, span=1e9)
    assert average.weight.item() == pytest.approx(np.mean(values))
    assert average.running_mean.item() == pytest.approx(2 * np.mean(values))
    assert average.num_batches_tracked.item() == 3
    for step in range(100, 160):
        update_average(average, student, step, span=10.0)
    assert average.weight.item() == pytest.approx(1.5 + (np.mean(values) - 1.5) * 2**-6)


def test_a_single_label_is_learned_from_and_the_lack_of_a_basis_said(data: Path) -> None:
    """Nothing can be held out: the last state is shipped, not the first, with a threshold that claims nothing."""
    (data / "labels" / "m1.csv").unlink()
    (data / "labels" / "m0.csv").write_text("x,y\n64,64\n")
    records = run(data, "a")
    assert isinstance(records[-1], Trained)
    assert records[-1].threshold == 0.5
    assert "for want of a basis" in records[-1].threshold_how
    assert Run.open(data / "a").facts()["best_step"] == 8


def test_a_kill_between_states_goes_on_from_the_last_one(data: Path) -> None:
    """What was validated at the very step of a state is in that state."""
    settings = ("train.steps=30", "train.validate_every=10", "train.save_every=10")
    run(data, "whole", *settings)
    stream = train(collection(data), configured(data, *settings), data / "killed")
    for record in stream:
        if isinstance(record, Progress) and record.step == 20:
            break
    stream.close()
    with (data / "killed" / "records.jsonl").open("a") as file:
        file.write('{"kind": "prog')
    records = run(data, "killed", *settings)
    assert [record.step for record in records if isinstance(record, Validated)] == [20, 30]
    assert weights(data / "killed") == weights(data / "whole")
    assert Run.open(data / "killed").facts()["best_step"] == Run.open(data / "whole").facts()["best_step"]
    written = [json.loads(line) for line in (data / "killed" / "records.jsonl").read_text().splitlines()]
    assert [line["step"] for line in written if line["kind"] == "validated"] == [10, 20, 30]


def test_a_folder_of_the_user_is_left_alone(data: Path) -> None:
    (data / "mine" / "prepared").mkdir(parents=True)
    (data / "mine" / "prepared" / "notes.txt").write_text("mine")
    (data / "mine" / "config.toml").write_text("mine")
    with pytest.raises(InputError, match="a folder with other files"):
        run(data, "mine")
    assert (data / "mine" / "config.toml").read_text() == "mine"


def test_a_micrograph_that_changed_is_not_taken_for_the_old_one(data: Path) -> None:
    stop = threading.Event()
    run(data, "parts", stop=stop, at=4)
    write_mrc(data / "mics" / "m0.mrc", np.random.default_rng(5).normal(size=(160, 160)).astype(np.float32), 2.0)
    with pytest.raises(InputError, match="other settings, data or version"):
        run(data, "parts")
