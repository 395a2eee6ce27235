"""The same training and picking on a GPU: it runs, goes on where it was stopped, and agrees with the CPU."""

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from toy import DIAMETER, configured, write_toy
from verglas import api
from verglas.io.collections import collect
from verglas.io.micrographs import read_micrograph
from verglas.matching import match
from verglas.materials import gathered
from verglas.picker import Picker
from verglas.records import Note, Record, Validated
from verglas.runs import Run
from verglas.train import Trainer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.filterwarnings("default"),  # those of drivers and of torch about the device are not ours
]

STAGED = ("train.steps=12", "train.validate_every=2", "train.save_every=3", "train.rate=0.01", "guard.active=false",
          "guard.earliest=0.3", "train.device='cuda'")  # fmt: skip
TAUGHT = ("supervised", "mean_teacher", "soft_teacher", "fixmatch", "unimatch", "self_training", "pu")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy(tmp_path_factory.mktemp("gpu"), micrographs=4)


def run(data: Path, out: Path, *settings: str, stop_at: int | None = None) -> list[Record]:
    """Train by the verb, doctor and report included; ask for a stop at the validation of a step."""
    stop, records = threading.Event(), list[Record]()
    for record in api.train(configured(data, *STAGED, *settings), out, stop=stop):
        records.append(record)
        if isinstance(record, Validated) and record.step == stop_at:
            stop.set()
    return records


def weights(folder: Path) -> torch.Tensor:
    return torch.cat([value.flatten().float() for value in Run.open(folder).model().state_dict().values()])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", TAUGHT)
def test_every_algorithm_learns_and_goes_on_where_it_was_stopped(
    data: Path, tmp_path: Path, name: str, precision: str
) -> None:
    partial = ("data.labels_are='partial'",) if name == "pu" else ()
    settings = (f"algorithm.name='{name}'", f"train.precision='{precision}'", *partial)
    records = run(data, tmp_path / "whole", *settings)
    assert all(np.isfinite(value) for r in records if isinstance(r, Validated) for value in (r.watch["loss"],))
    signs = ("come in", "are picked")
    came = any(isinstance(r, Note) and any(sign in r.text for sign in signs) for r in records)
    assert came == (name not in ("supervised", "pu"))
    run(data, tmp_path / "parts", *settings, stop_at=6)
    run(data, tmp_path / "parts", *settings)
    assert Run.open(tmp_path / "whole").facts()["device"].startswith("cuda")
    torch.testing.assert_close(weights(tmp_path / "parts"), weights(tmp_path / "whole"), rtol=1e-3, atol=1e-4)


def test_after_harm_the_training_goes_back_on_the_device(data: Path, tmp_path: Path) -> None:
    config = configured(data, *STAGED, "algorithm.name='unimatch'")
    collection = collect([data / "mics"], data / "labels", diameter_px=DIAMETER).collection
    trainer = Trainer(
        config, gathered(collection, config, tmp_path), collection, torch.device("cuda"), lambda state: None
    )
    for record in trainer.run(threading.Event()):
        if isinstance(record, Validated) and record.step == 8:
            break
    trainer._return(trainer.gate)
    assert trainer.step == 4
    next(trainer.run(threading.Event()))
    assert trainer.step > 4
    assert {p.device.type for p in trainer.student.parameters()} == {"cuda"}


@pytest.mark.parametrize(("precision", "off"), [("float32", 1e-3), ("bfloat16", 0.05)])
def test_picks_agree_with_those_of_the_cpu(trained_once: Path, precision: str, off: float) -> None:
    paths = sorted((trained_once / "mics").glob("*.mrc"))
    picker = Picker.load(trained_once / "run")
    gpu = replace(Picker.load(trained_once / "run", device=torch.device("cuda")), precision=precision)
    for one in (gpu, gpu.folded()):
        found = dict(one.pick_all([read_micrograph(path) for path in paths]))
        for path in paths:
            result, expected = found[read_micrograph(path)], picker.pick(path)
            assert not isinstance(result, Exception), result
            ours, theirs = (picks.where(picks.score > 0.3) for picks in (result.picks, expected))
            right, _ = match(ours.xy, ours.score, theirs.xy, 2.0)
            assert right.mean() > 0.9
            assert abs(len(ours) - len(theirs)) <= 1
            image = picker.prepare(read_micrograph(path))
            np.testing.assert_allclose(one.probability(image).data, picker.probability(image).data, atol=off)
