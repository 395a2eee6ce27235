"""What the doctor says of finished runs: healthy ones pass, and each planted fault is named."""

import copy
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from scipy.special import expit, logit

from toy import configured
from verglas import model as network
from verglas import predict
from verglas.doctor._base import Finding
from verglas.doctor._kinds import Kind, first
from verglas.doctor.bn_mode import BnMode
from verglas.doctor.calibrate import Calibrate, Cut, binned, fitted
from verglas.doctor.outputs import KINDS, Outputs
from verglas.doctor.subject import Outcome, opened
from verglas.io.collections import collect
from verglas.model import UNet
from verglas.monitor import auc
from verglas.ranking import Ranked
from verglas.runs import Run
from verglas.types import Collection

FORWARD, LOAD = predict._forward, network.load
Shown = Callable[[torch.Tensor], torch.Tensor]


def drawn(found: Finding) -> str:
    """Return the figure of a finding."""
    return found.figure() if found.figure else ""


@contextmanager
def run_of(folder: Path, *, complete: bool = True, steps: int = 400) -> Iterator[Outcome]:
    """Give the run of the toy, as if it had been trained for so many steps."""
    run = Run(folder / "run")
    run.write_json("model.json", run.facts() | {"steps": steps})
    config = run.config if complete else run.config.with_settings(["algorithm.name=pu"])
    with opened(run, _collection(run, complete), config) as (_, outcome):
        assert outcome is not None
        yield outcome


def _collection(run: Run, complete: bool) -> Collection:
    data = run.config.data
    return collect(data.micrographs, data.labels, diameter_px=data.diameter_px, complete=complete).collection


def logits_made(how: Shown):
    """Let the network predict what ``how`` makes of its logits."""
    return patch.object(predict, "_forward", lambda model, data, precision: how(FORWARD(model, data, precision)))


def wave(logits: torch.Tensor) -> torch.Tensor:
    """Return nearly the same map, whatever the input."""
    rows, columns = (torch.arange(n) for n in logits.shape)
    return torch.sin(rows / 9)[:, None] * torch.cos(columns / 7) * 0.2 - 1 + 0.001 * logits


def noise(logits: torch.Tensor) -> torch.Tensor:
    """Return something that has nothing to do with the particles, but differs between micrographs."""
    seed = int(1000 * float(logits.abs().sum())) % 10_007
    return torch.randn(logits.shape, generator=torch.Generator().manual_seed(seed)) * 0.3 - 2


def forgotten(folder: Path, shape: network.Shape) -> UNet:
    """Load a network whose batch norms have lost their statistics."""
    model = LOAD(folder, shape)
    for norm in network.batch_norms(model):
        norm.reset_running_stats()
    return model


OUTPUTS = {
    "nothing": (lambda z: z, "ok", ""),
    "inverted": (lambda z: -z, "fail", "INVERTED"),
    "the same map for all": (wave, "fail", "INPUT_INDEPENDENT"),
    "constant above .5": (lambda z: 0 * z + 0.02, "fail", "NO_SKILL"),
    "constant below .5": (lambda z: 0 * z - 0.02, "fail", "NO_SKILL"),
    "noise": (noise, "fail", "NO_SKILL"),
    "too low": (lambda z: z / 2 - 7, "warn", "MISCALIBRATED"),
    "not a number": (lambda z: z * float("nan"), "fail", "DIVERGED"),
}


@pytest.mark.parametrize("fault", OUTPUTS)
def test_outputs_are_told_apart(trained, fault):
    how, verdict, code = OUTPUTS[fault]
    with run_of(trained) as outcome, logits_made(how):
        found = Outputs().check(outcome)
    assert (found.verdict, found.code) == (verdict, code), found.sentence
    assert bool(found.remedy) == (verdict != "ok")


def test_f1_at_one_half_of_a_constant_is_explained(trained):
    for constant, f1 in ((0.02, "trivial"), (-0.02, 0.0)):
        with run_of(trained) as outcome, logits_made(lambda z, c=constant: 0 * z + c):
            found = Outputs().check(outcome)
        trivial = 2 * found.evidence["prior"] / (1 + found.evidence["prior"])
        assert found.evidence["f1_half"] == pytest.approx(trivial if f1 == "trivial" else 0)
        assert f"{trivial:.2f} if above" in found.sentence
        assert "collapse" in found.sentence


@pytest.mark.parametrize(("how", "code"), [(noise, "TOO_EARLY"), (OUTPUTS["too low"][0], "TOO_EARLY"), (wave, "")])
def test_before_step_300_it_is_too_early_to_speak_of_skill_but_not_of_blindness(trained, how, code):
    with run_of(trained, steps=120) as outcome, logits_made(how):
        found = Outputs().check(outcome)
    assert (found.verdict, found.code) == (("info", code) if code else ("fail", "INPUT_INDEPENDENT"))


def test_a_low_output_that_the_threshold_in_use_allows_for_is_no_fault(trained):
    with run_of(trained) as outcome, logits_made(OUTPUTS["too low"][0]):
        point = outcome.run.operating_point().to_dict()
        low = float(expit(logit(point["threshold"]) / 2 - 7))
        outcome.run.write_json("operating_point.json", point | {"threshold": low, "interval": [low / 2, low * 2]})
        found, calibrated = Outputs().check(outcome), Calibrate().check(outcome)
    assert (found.verdict, found.code) == ("info", "MISCALIBRATED")
    assert "No collapse" in found.sentence
    assert calibrated.verdict in ("ok", "info")


def test_picks_below_those_of_dark_blobs_are_told(trained):
    def worse(z: torch.Tensor) -> torch.Tensor:
        rows, columns = (torch.arange(n) // 20 for n in z.shape)
        return torch.where((rows[:, None] + columns) % 2 == 0, z, -12)  # half of the particles are missed

    with run_of(trained) as outcome, logits_made(worse):
        found = Outputs().check(outcome)
    assert (found.verdict, found.code) == ("warn", "BELOW_BLOBS"), found.sentence
    assert found.evidence["blob_ap"] > found.evidence["pick_ap"]


def test_clicks_are_held_to_places_that_nobody_looked_at(trained):
    for how, verdict, code in (OUTPUTS["nothing"], OUTPUTS["inverted"], OUTPUTS["noise"]):
        with run_of(trained, complete=False) as outcome, logits_made(how), _pu(outcome):
            found = Outputs().check(outcome)
        assert (found.verdict, found.code) == (verdict, code), found.sentence
        assert "pixel_ap" not in found.evidence


@contextmanager
def _pu(outcome: Outcome) -> Iterator[None]:
    outcome.data.config = configured(Path(), "algorithm.name='pu'")
    yield


def test_running_statistics_of_a_healthy_run_fit(trained):
    with run_of(trained) as outcome:
        found = BnMode().check(outcome)
    assert found.verdict == "ok"
    assert found.evidence["anew_sd_ratio"] == pytest.approx(1, abs=1e-3)
    assert found.evidence["anew_mean_gap_logits"] == pytest.approx(0, abs=1e-3)


def test_lost_statistics_are_told_and_that_measuring_anew_heals(trained):
    with run_of(trained) as outcome, patch.object(network, "load", forgotten):
        found = BnMode().check(outcome)
        assert Outputs().check(outcome).verdict == "fail"
    assert (found.verdict, found.code) == ("fail", "BN_STATS")
    assert "heals" in found.sentence
    assert found.evidence["anew_pixel_ap"] > found.evidence["running_pixel_ap"] + 0.1
    assert "<image" in drawn(found)


def test_a_recalibration_that_does_nothing_is_seen_by_batch_statistics(trained):
    from verglas import train

    with (
        run_of(trained) as outcome,
        patch.object(network, "load", forgotten),
        patch.object(train, "recalibrated", lambda model, *_: copy.deepcopy(model).eval()),
    ):
        found = BnMode().check(outcome)
    assert (found.verdict, found.code) == ("fail", "BN_STATS")
    assert "changes nothing" in found.sentence


def test_other_pictures_than_at_validation_are_no_matter_of_statistics(trained):
    generator = torch.Generator().manual_seed(0)

    def shown(model: UNet, data: torch.Tensor, precision: str) -> torch.Tensor:
        return FORWARD(model, 0.05 * data + torch.randn(data.shape, generator=generator), precision)

    with run_of(trained) as outcome, patch.object(network, "load", forgotten), patch.object(predict, "_forward", shown):
        found = BnMode().check(outcome)
    assert (found.verdict, found.code) == ("fail", "NORM_MISMATCH"), found.evidence


def test_without_batch_norms_or_numbers_there_is_nothing_to_compare(trained):
    with run_of(trained) as outcome, patch.object(network, "batch_norms", lambda _: []):
        assert BnMode().check(outcome).verdict == "skipped"
    with run_of(trained) as outcome, logits_made(OUTPUTS["not a number"][0]):
        assert BnMode().check(outcome).verdict == "skipped"
        assert Calibrate().check(outcome).verdict == "skipped"
    with run_of(trained) as outcome, logits_made(OUTPUTS["constant above .5"][0]):
        assert BnMode().check(outcome).verdict == "ok"


def test_the_threshold_of_a_healthy_run_is_well_chosen(trained):
    with run_of(trained) as outcome:
        found = Calibrate().check(outcome)
    assert found.verdict in ("ok", "info")
    assert found.evidence["pick_f1"] > 0.9 * found.evidence["best_pick_f1"]


def test_a_bad_threshold_is_told_with_a_better_one(trained):
    with run_of(trained) as outcome, logits_made(OUTPUTS["too low"][0]):
        found = Calibrate().check(outcome)
    assert (found.verdict, found.code) == ("warn", "MISCALIBRATED")
    assert f"--threshold {found.evidence['best_threshold']:.3g}" in found.remedy


def test_outputs_below_every_candidate_that_the_run_keeps_are_still_told(trained):
    with run_of(trained) as outcome, logits_made(lambda z: z - 20):
        found = Calibrate().check(outcome)
    assert (found.verdict, found.code) == ("warn", "MISCALIBRATED")
    assert found.evidence["best_threshold"] < found.evidence["least_score"]
    assert found.evidence["best_pick_f1"] > 0.5
    assert "search.least_score" in found.remedy


def test_without_skill_no_threshold_is_blamed(trained):
    with run_of(trained) as outcome, logits_made(noise):
        found = Calibrate().check(outcome)
    assert (found.verdict, found.code) == ("info", "")


def test_partial_labels_cannot_calibrate(trained):
    with run_of(trained, complete=False) as outcome:
        assert Calibrate().check(outcome).verdict == "skipped"


def test_temperature_and_bias_are_found_again():
    rng = np.random.default_rng(1)
    z = rng.normal(-1, 2, 40_000)
    target = rng.random(len(z)) < expit(z / 1.6 - 0.7)
    temperature, bias = fitted(target, expit(z))
    assert temperature == pytest.approx(1.6, rel=0.05)
    assert bias == pytest.approx(-0.7, abs=0.05)


def test_what_is_believed_comes_true_where_it_is_calibrated():
    rng = np.random.default_rng(2)
    belief = rng.random(50_000)
    mean, share, count = binned(rng.random(len(belief)) < belief, belief)
    assert share == pytest.approx(mean, abs=0.03)
    assert count.sum() == len(belief)
    assert binned(np.array([True]), np.array([1.0]))[2].tolist() == [1.0]


def test_a_threshold_is_bad_only_beyond_the_error_of_few_labels():
    def made(labels: float, f1: float) -> Cut:
        empty = np.zeros(0)
        return Cut(Ranked(empty, empty.astype(bool), empty.astype(int), np.array([labels], float)), 0.5, f1, 0.8, 0.4)

    assert made(400, 0.6).bad(0.8)
    assert not made(10, 0.6).bad(0.8)
    assert not made(400, 0.7).bad(0.8)


def test_the_first_kind_that_holds_is_told_and_what_was_not_measured_holds_not():
    kinds = (
        Kind("fail", "A", lambda s: s["unknown"] > 0, ""),
        Kind("fail", "B", lambda s: s["x"] > 0, "x is {x:.1f}", "do {x:.0f}", 100),
    )
    found = first(kinds, {"x": 2.0, "y": float("nan")}, 100)
    assert found is not None
    assert (found.code, found.sentence, found.remedy, found.evidence) == ("B", "x is 2.0", "do 2", {"x": 2.0})
    early = first(kinds, {"x": 2.0}, 99)
    assert early is not None
    assert (early.verdict, early.code) == ("info", "TOO_EARLY")
    assert first(kinds, {"x": -1.0}, 100) is None
    later = Kind("warn", "C", lambda s: s["x"] > 0, "", "do"), Kind("ok", "", lambda s: s["x"] > 0, "")
    assert [first((kinds[1], one), {"x": 2.0}, 99).code for one in later] == ["C", "TOO_EARLY"]


@pytest.mark.parametrize("check", [Outputs, BnMode, Calibrate])
def test_findings_survive_json_and_leave_the_run_as_it_was(trained, check):
    with run_of(trained) as outcome:
        before = {path: path.read_bytes() for path in outcome.run.folder.rglob("*") if path.is_file()}
        found = check().check(outcome)
        again = check().check(outcome)
    assert replace(found, figure=None) == replace(again, figure=None)
    assert drawn(found) == drawn(again)
    assert json.loads(json.dumps(dict(found.evidence), allow_nan=False))
    assert before == {path: path.read_bytes() for path in (trained / "run").rglob("*") if path.is_file()}


def test_auc_is_the_chance_to_rank_right_and_ties_count_half():
    high, low, one = np.array([0.8, 0.9]), np.array([0.1, 0.2, 0.3]), np.ones(3)
    assert [auc(high, low), auc(low, high), auc(one, one)] == [1, 0, 0.5]
    assert auc(np.array([0.2]), low) == 0.5


def test_every_fault_has_a_remedy():
    assert all(kind.remedy for kind in KINDS if kind.verdict in ("warn", "fail"))


def test_clicks_that_rank_like_anything_else_are_no_skill(trained):
    """Of partial labels neither AP nor F1 of pixels is known."""
    with run_of(trained, complete=False) as outcome, logits_made(noise):
        found = Outputs().check(outcome)
    assert (found.verdict, found.code) == ("fail", "NO_SKILL"), found.sentence
    assert "held-out clicks" in found.sentence
