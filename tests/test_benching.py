"""The measurement of a machine: every way is tried once, what was fastest is advised, nothing is left behind."""

import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from toy import DIAMETER, SETTINGS, configured, write_toy
from verglas import api, benching, simulate
from verglas.cli import app
from verglas.records import Note, Record, Summary, Timed

USUAL = Timed("cpu", 2, "bfloat16", 10.0, 0.1, 50.0)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let simulated micrographs be small and measurements short."""
    for name, value in (("STEPS", 20), ("PICKING_SECONDS", 0.2)):
        monkeypatch.setattr(benching, name, value)
    monkeypatch.setattr(simulate, "DEMO", replace(simulate.DEMO, shape_px=(256, 256), particles=30.0, carbon=0.0))


def test_one_way_each_of_precision_and_threads_is_compared_with_the_usual_one() -> None:
    usual, *others = benching.ways("cpu", "float32", 2)
    assert (usual.device.type, usual.threads, usual.precision) == ("cpu", 2, "float32")
    assert [(way.threads, way.precision) for way in others] == [(2, "bfloat16"), (1, "float32")]
    assert [way.threads for way in benching.ways("cpu", "float32", 1)] == [1, 1]


def test_what_is_faster_is_advised_as_options_to_copy() -> None:
    one = replace(USUAL, threads=1, training_seconds=25.0)
    gpu = replace(USUAL, device="cuda:0", precision="float32", micrographs_per_second=40.0)
    training, picking = benching.advice([USUAL, one, gpu], 4, None)
    assert training == "training: --set train.threads=1, 2.00 times as fast"
    assert "verglas pick --device cuda:0 and a run trained with --set train.precision=float32, 4.00 times" in picking


def test_a_difference_that_may_be_chance_is_not_advised() -> None:
    other = replace(USUAL, threads=1, micrographs_per_second=10.3, training_seconds=49.0)
    assert all("leave device" in sentence for sentence in benching.advice([USUAL, other], 4, None))


@pytest.mark.parametrize(("larger", "said"), [(0.15, "--set train.batch=16"), (0.38, "keep a batch of 4")])
def test_a_larger_batch_is_advised_where_it_costs_little(larger: float, said: str) -> None:
    assert said in benching.advice([USUAL], 4, larger)[-1]


@pytest.mark.usefixtures("quick")
def test_a_users_micrographs_are_measured_and_the_threads_left_as_they_were(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    config = configured(write_toy(tmp_path), "train.device='cpu'", "train.threads=2", "search.edge_px=auto")
    records: list[Record] = list(api.bench(config))
    timed = [record for record in records if isinstance(record, Timed)]
    assert [(one.threads, one.precision) for one in timed] == [(2, "float32"), (2, "bfloat16"), (1, "float32")]
    assert all(one.micrographs_per_second > 0 and one.training_seconds > 8 * one.step_seconds > 0 for one in timed)
    assert torch.get_num_threads() == before
    assert isinstance(records[-1], Summary)
    assert records[-1].facts["advice"] == [r.text for r in records if isinstance(r, Note)][-3:]


@pytest.mark.usefixtures("quick")
def test_a_stop_ends_it_before_the_next_way() -> None:
    stop, config = threading.Event(), configured(Path("none"), "train.device='cpu'")
    config = replace(config, data=replace(config.data, micrographs=()))
    stream, seen = api.bench(config, stop=stop), list[Record]()
    for record in stream:
        seen.append(record)
        if isinstance(record, Timed):
            stop.set()
    assert sum(isinstance(record, Timed) for record in seen) == 1
    assert any(isinstance(record, Note) and "not tried" in record.text for record in seen)


@pytest.mark.usefixtures("quick")
def test_the_command_prints_one_json_object(tmp_path: Path) -> None:
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    own = ["--micrographs", str(write_toy(tmp_path) / "mics"), "--diameter-px", str(DIAMETER)]
    done = CliRunner().invoke(app, ["bench", *own, "--device", "cpu", "--json", *settings])
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout)
    assert {"micrographs_per_second", "training_seconds", "ways", "advice"} == facts.keys()
    assert len(facts["ways"]) == 2
