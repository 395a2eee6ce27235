"""The failure reports' benchmark: its presets are settings of verglas, and its faults are the faults they say."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from toy import DIAMETER, SETTINGS, write_toy
from verglas import InputError
from verglas.config import RunConfig
from verglas.data import Cropping, Stored, unlabelled_batch
from verglas.io.micrographs import read_micrograph
from verglas.losses import focal
from verglas.model import Shape, UNet
from verglas.ssl import make_algorithm
from verglas.train import update_average
from verglas.types import Grid, Image


def _loaded() -> ModuleType:
    path = Path(__file__).parents[1] / "benchmarks" / "reports.py"
    spec = importlib.util.spec_from_file_location("reports_benchmark", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


reports = _loaded()
HEALTHY = {
    "skill": 0.6, "best_f1": 0.7, "trivial_f1": 0.46, "f1_half": 0.65, "mean_p": 0.35, "precision_half": 0.6,
    "recall_half": 0.7, "pixel_ap": 0.7,
}  # fmt: skip


@pytest.mark.parametrize("name", [name for name in reports.PRESETS if name != "SA7"])  # which trains nothing
def test_the_settings_of_every_preset_are_accepted(name: str) -> None:
    config = RunConfig().with_settings(reports.PRESETS[name].settings)
    assert make_algorithm(config.algorithm.name, config.algorithm.options, config.loss).name == config.algorithm.name
    assert (config.target, config.guard.active) == (reports.FULL, False)


def test_every_row_of_the_reports_is_there() -> None:
    rows = {*(f"A{i}" for i in range(8)), *(f"SA{i}" for i in range(1, 8)), "BA", "BB", "BS"}
    rows |= {"B95", "B90", "B80", "B70", "B60", "B50", "B40", "B30", "B0"}
    assert rows <= reports.PRESETS.keys()


@pytest.mark.parametrize(("alpha", "pos_weight", "odds"), [(0.25, 5.0, 5 / 3), (0.5, 2.33, 2.33), (0.7, 1.0, 7 / 3)])
def test_one_alpha_and_a_factor_stand_for_both_class_weights(alpha: float, pos_weight: float, odds: float) -> None:
    one, factor = reports.folded(alpha, pos_weight)
    logits, target = torch.randn(50), (torch.rand(50) < 0.3).float()
    assert one / (1 - one) == pytest.approx(odds)
    torch.testing.assert_close(factor * focal(logits, target, one, 2.0), focal(logits, target, alpha, 2.0, pos_weight))


def test_the_original_loss_of_report_a_has_to_be_folded() -> None:
    with pytest.raises(InputError, match=r"1\.67 : 1"):
        RunConfig().with_settings(["loss.focal=0.7", "loss.focal_alpha=0.25", "loss.pos_weight=5"])
    loss = RunConfig().with_settings(reports.PRESETS["A0"].settings).loss
    assert (loss.bce, loss.focal, loss.dice) == pytest.approx((0, 1.4, 0.3))
    assert (loss.focal_alpha, loss.pos_weight) == (0.625, 1)


def test_a_later_setting_replaces_an_earlier_one() -> None:
    assert reports._merged(["train.rate=1e-4", "x.y=a=b"], ["train.rate=1"]) == ["train.rate=1", "x.y=a=b"]


def test_rows_of_the_same_training_share_it_and_others_do_not() -> None:
    def key(name: str, steps: int = 130, seed: int = 0) -> str:
        return reports.key_of(reports._cell(name, "simulated", steps, seed, []))

    assert key("BA") == key("B70")
    assert key("A7", 130) == key("A7", 400)
    assert len({key("B70"), key("B60"), key("B70", 400), key("B70", 130, 1), key("B70-F09"), key("BB"), key("B0")}) == 7


def test_steps_and_labels_of_a_row_are_those_of_the_report() -> None:
    cells = {name: reports._cell(name, "simulated", 130, 0, []) for name in ("A2", "A6", "A7", "SA5", "SA6t")}
    assert [cell["steps"] for cell in cells.values()] == [130, 13, 1, 130, 520]
    assert (cells["A2"]["labelled"], cells["A6"]["labelled"], cells["SA5"]["first"]) == (6, 1, 1)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "healthy"),
        ({"f1_half": 0.34}, "miscalibrated"),
        ({"skill": 0.19, "f1_half": 0.0}, "weak"),
        ({"skill": 0.04, "best_f1": 0.52}, "weak"),
        ({"skill": 0.04, "best_f1": 0.50, "f1_half": 0.46}, "collapsed"),
    ],
)
def test_verdicts_are_those_of_the_rules(changes: dict[str, float], expected: str) -> None:
    assert reports.verdict(HEALTHY | changes) == expected


def test_constant_outputs_collapse_on_both_sides_of_one_half() -> None:
    target = np.arange(1000) < 300
    above, below = (reports.pixels(target, np.full(1000, p, np.float32)) for p in (0.51, 0.49))
    assert reports.verdict(above) == reports.verdict(below) == "collapsed"
    assert (above["f1_half"], below["f1_half"]) == (pytest.approx(0.6 / 1.3), 0.0)
    assert (above["over_half"], below["over_half"]) == (1000, 0)
    assert above["mean_logit"] == pytest.approx(np.log(0.51 / 0.49), rel=1e-4)


def test_precision_and_recall_are_those_at_one_half() -> None:
    figures = reports.pixels(np.array([True, True, False, False]), np.array([0.9, 0.2, 0.6, 0.1], np.float32))
    assert (figures["precision_half"], figures["recall_half"], figures["f1_half"]) == (0.5, 0.5, 0.5)


def test_signatures_tell_the_two_reports_apart() -> None:
    silent = HEALTHY | {"f1_half": 0.0, "mean_p": 0.19, "recall_half": 0.0}
    timid = HEALTHY | {"f1_half": 0.29, "precision_half": 0.8, "recall_half": 0.18, "pixel_ap": 0.65}
    assert reports.signature(silent, None) == "A"
    assert reports.signature(silent | {"mean_p": 0.48}, None) == "-"
    assert reports.signature(timid, HEALTHY) == "B"
    assert reports.signature(timid, None) == "-"
    assert reports.signature(timid | {"pixel_ap": 0.5}, HEALTHY) == "-"
    assert reports.signature(HEALTHY, HEALTHY) == "-"


def test_the_cold_average_keeps_what_it_began_with() -> None:
    begun, student = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    torch.nn.init.ones_(begun.weight)
    torch.nn.init.zeros_(student.weight)
    for step in range(130):
        reports.cold_average(begun, student, step, 2.6)
    assert begun.weight.item() == pytest.approx(0.999**130, rel=1e-4)
    update_average(begun, student, 0, 2.6)
    assert begun.weight.item() == 0  # where the product warms up


def test_turned_views_differ_in_the_strong_view_alone(tmp_path: Path) -> None:
    data = np.random.default_rng(0).normal(size=(96, 96)).astype(np.float32)
    stored = Stored.write(tmp_path, "m", Image(data, Grid(), np.ones((96, 96), bool)))
    config = RunConfig()
    how = Cropping(8, 32, 2, config.geometry, config.photometry)
    generators = [torch.Generator().manual_seed(3) for _ in range(2)]
    right = unlabelled_batch([stored], how, 1, 0.0, generators[0])
    wrong = reports.turned_batch([stored], how, 1, 0.0, generators[1])
    assert torch.equal(right.weak, wrong.weak)
    assert torch.equal(generators[0].get_state(), generators[1].get_state())
    assert torch.equal(right.strong.flatten(2).sort(-1).values, wrong.strong.flatten(2).sort(-1).values)
    assert sum(not torch.equal(a, b) for a, b in zip(right.strong[0], wrong.strong[0], strict=True)) >= 4


def test_the_usual_start_is_near_one_half_and_not_at_the_prior() -> None:
    torch.manual_seed(0)
    shape, image = Shape(width=4, depth=2), torch.randn(1, 1, 64, 64)
    usual, ours = (made(shape, prior=0.1).eval()(image).sigmoid().mean().item() for made in (reports.usual_start, UNet))
    assert (abs(usual - 0.5) < 0.2, ours) == (True, pytest.approx(0.1, abs=0.02))


def test_grey_values_lie_between_0_and_1() -> None:
    eight_bit = np.arange(256, dtype=np.float32).reshape(16, 16)
    assert np.array_equal(reports.grey(eight_bit), eight_bit / np.float32(255))
    counts = np.random.default_rng(0).normal(1000, 50, (64, 64)).astype(np.float32)
    stretched = reports.grey(counts)
    assert (stretched.min() >= 0, stretched.max() <= 1) == (True, True)
    assert (stretched.mean(), stretched.std()) == (pytest.approx(0.5, abs=0.01), pytest.approx(1 / 6, abs=0.01))


def test_evaluation_faults_change_the_scale_of_the_input_and_the_statistics_of_the_network(trained_once: Path) -> None:
    healthy, shown, forgetful = (kind.load(trained_once / "run") for kind in reports.KINDS.values())
    micrograph = read_micrograph(trained_once / "mics" / "m4.mrc")
    right, wrong = healthy.prepare(micrograph).data, shown.prepare(micrograph).data
    assert np.corrcoef(right.ravel(), wrong.ravel())[0, 1] > 0.999
    assert (wrong.min() >= 0, wrong.max() <= 1, wrong.std() < 0.3) == (True, True, True)
    assert np.array_equal(forgetful.prepare(micrograph).data, right)
    states = healthy.network.state_dict(), forgetful.network.state_dict()
    changed = {name for name in states[0] if not torch.equal(states[0][name], states[1][name])}
    assert changed
    assert all("running" in name or "num_batches" in name for name in changed)


def test_a_row_is_trained_once_and_judged_in_every_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_toy(tmp_path / "toy", micrographs=4, labelled=1)
    monkeypatch.chdir(tmp_path)
    images = {path.stem: path for path in sorted((folder / "mics").glob("*.mrc"))}
    source = reports.Source(images, folder / "truth", ["m0", "m1", "m2"], ["m3"], DIAMETER)
    cell: dict[str, Any] = {
        "labelled": 1, "first": 1, "steps": 2, "draw": 0, "faults": ["usual", "F06", "F09"],
        "judged": list(reports.KINDS), "settings": reports._merged(SETTINGS, reports.A2),
    }  # fmt: skip
    row = json.loads(json.dumps(reports._run(source, cell)))
    assert row["figures"].keys() == {"healthy", "F01", "F03"}
    assert row["opened"] == ["step 1: 2 unlabelled micrographs come in"]
    assert row["labelled_names"] == ["m0"]
    assert all(0 < f["share"] < 1 and reports.verdict(f) for f in row["figures"].values())
    assert reports.training.update_average is update_average  # the fault is gone


def test_tables_show_rows_faults_and_predictions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, generator = np.arange(500) < 150, np.random.default_rng(0)
    particles = dict.fromkeys(("ap@0.5", "f1@0.5", "ap@0.3", "f1@0.3"), 0.5)
    right = particles | reports.pixels(target, (0.2 + 0.6 * target + 0.1 * generator.random(500)).astype(np.float32))
    flat = particles | reports.pixels(target, np.full(500, 0.19, np.float32))
    rows = []
    for name in ("A2", "A2u", "B50", "B40", "B30", "B0"):
        cell = reports._cell(name, "simulated", 130, 0, [])
        figures = {kind: right if kind == "healthy" else flat for kind in cell["judged"]}
        rows.append({"key": reports.key_of(cell), **cell, "figures": figures, "date": "2020-01-01"})
    cell = reports._cell("SA7", "simulated", 130, 0, [])
    rows.append({"key": reports.key_of(cell), **cell, "few": 0.3, "more": 0.31, "all": 0.32, "date": "2020-01-02"})
    monkeypatch.setattr(reports, "RESULTS", tmp_path / "reports.jsonl")
    reports.RESULTS.write_text("\n".join(map(json.dumps, rows)))
    text = "\n".join(reports.tables(["--data", "simulated", "--steps", "130", "--seeds", "0"]))
    assert "| A2 | alpha .7 | 1 | 1.00 |" in text
    assert "| A2u | F01 | 1 | 0.00 |" in text
    assert "F1 at .5 is about 0 (below .02), whatever the loss: 1 of 1 runs." in text
    assert "B50 = B40 = B30 = B0 to the last digit: 1 of 1 runs." in text
    assert "30.0% of the micrograph labelled first, 31.0% of all labelled ones, 32.0% of all" in text
    assert text.endswith("Made on 2020-01-01 and 2020-01-02, verglas 0.1.0.")
