"""The doctor on pseudo-labels: what a filter keeps, whether it is right, whether unlabelled micrographs help."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch

from toy import configured
from verglas import api
from verglas.doctor import Finding, RunCheck
from verglas.doctor.confidence import THRESHOLDS, Confidence, posterior, recommended, table
from verglas.doctor.purity import Purity
from verglas.doctor.ssl_ablate import SslAblate
from verglas.doctor.subject import Outcome, opened
from verglas.losses import Loss
from verglas.runs import Run
from verglas.ssl import _base
from verglas.ssl._base import Network

SHAPE = ("model.width=8", "train.batch=4", "train.rate=0.01")


def drawn(found: Finding) -> str:
    """Return the figure of a finding."""
    return found.figure() if found.figure else ""


@contextmanager
def outcome(toy: Path, *settings: str) -> Iterator[Outcome]:
    """The trained toy, as if these had been its settings."""
    config = configured(toy, *SHAPE, *settings)
    with opened(Run.open(toy / "run"), api._collect(config).collection, config) as (_, found):
        assert found is not None
        yield found


def ask(check: RunCheck, toy: Path, *settings: str) -> Finding:
    with outcome(toy, *settings) as found:
        return check.check(found)


def filtered(**options: object) -> tuple[str, ...]:
    return ("algorithm.name=fixmatch", *(f"algorithm.options.{key}={value}" for key, value in options.items()))


def seen(purity: float = 0.9, share: float = 0.1, keep: tuple[float, float] = (0.6, 0.8)) -> dict[str, float]:
    """What a validation sees of pseudo-labels, a tenth of the held-out pixels being particle."""
    return {"unsupervised": 0.1, "purity": purity, "pseudo_positive_share": share, "keep_positive": keep[0],
            "keep_negative": keep[1], "held_prior": 0.1, "prior": 0.1}  # fmt: skip


def validated(toy: Path, *watches: dict[str, float]) -> None:
    """Append validations to the records."""
    with (toy / "run" / "records.jsonl").open("a", encoding="utf-8") as file:
        for number, watch in enumerate(watches):
            file.write(json.dumps({"kind": "validated", "step": 200 + number, "ap": 0.9, "watch": watch}) + "\n")


def test_without_pseudo_labels_the_table_is_for_information(trained: Path) -> None:
    found = ask(Confidence(), trained)
    assert found.verdict == "info"
    assert found.evidence["at_0.5_kept_percent"] == 100
    assert drawn(found).startswith("<svg")


def test_the_table_of_known_beliefs() -> None:
    target, belief = np.array([True, True, False, False]), np.array([0.97, 0.55, 0.62, 0.01])
    rows = table(target, belief)
    assert rows["at_0.6_kept_percent"] == 75
    assert rows["at_0.6_particle_share_of_kept_percent"] == pytest.approx(100 / 3)
    assert (rows["at_0.6_particle_kept_percent"], rows["at_0.6_background_kept_percent"]) == (50, 100)
    assert (rows["at_0.95_particle_purity_percent"], rows["at_0.95_background_purity_percent"]) == (100, 100)
    assert [rows[f"at_{t:g}_kept_percent"] for t in THRESHOLDS] == [100, 75, 50, 50, 50, 50]


def test_recommended_thresholds_keep_their_share_of_each_class() -> None:
    generator = np.random.default_rng(0)
    target = generator.random(20000) < 0.1
    belief = np.where(target, generator.beta(4, 2, 20000), generator.beta(1, 9, 20000))
    bounds = recommended(target, belief)
    assert (belief >= bounds["recommended_positive_from"]).mean() == pytest.approx(0.8 * target.mean(), abs=1e-3)
    assert (belief <= bounds["recommended_negative_up_to"]).mean() == pytest.approx(0.8 * (~target).mean(), abs=1e-3)


@pytest.mark.parametrize(
    ("alpha", "p", "eta"), [(0.5, 0.694, 0.9), (0.25, 0.601, 0.9), (0.5, 0.306, 0.1), (0.25, 0.227, 0.1)]
)
def test_what_an_output_of_the_focal_loss_means(alpha: float, p: float, eta: float) -> None:
    loss = Loss(bce=0, dice=0, focal=1, focal_alpha=alpha)
    assert posterior(np.array([p]), loss)[0] == pytest.approx(eta, abs=2e-3)


def test_the_focal_loss_is_least_where_the_posterior_is_the_truth() -> None:
    loss = Loss(bce=0, dice=0, focal=1, pos_weight=3)
    eta = posterior(np.array([0.4]), loss)[0]
    logit = torch.tensor([np.log(0.4 / 0.6)], requires_grad=True)
    known = torch.ones(1, 1, 1, 1, dtype=torch.bool)
    total = sum(
        weight * loss(logit.view(1, 1, 1, 1), torch.full((1, 1, 1, 1), label), known)
        for label, weight in ((1.0, eta), (0.0, 1 - eta))
    )
    total.backward()
    assert abs(float(logit.grad)) < 1e-6


def test_focal_posteriors_are_told_only_of_focal_losses(trained: Path) -> None:
    assert "posterior_at_0.70_percent" not in ask(Confidence(), trained).evidence
    assert "posterior_at_0.70_percent" in ask(Confidence(), trained, "loss.focal=1").evidence


def test_a_filter_without_effect_is_healthy(trained: Path) -> None:
    found = ask(Confidence(), trained, *filtered(mask="none"))
    assert found.verdict == "ok"
    assert found.evidence["own_kept_percent"] == 100


def test_a_threshold_far_too_high_keeps_nothing(trained: Path) -> None:
    found = ask(Confidence(), trained, *filtered(mask="fixed", threshold=0.99999))
    assert (found.verdict, found.code) == ("fail", "THRESHOLD_INERT")
    assert "quantile" in found.remedy


def test_a_filter_that_drops_a_class_is_inert(trained: Path) -> None:
    found = ask(Confidence(), trained, *filtered(mask="class", positive=1, negative=0.5))
    assert (found.verdict, found.code) == ("fail", "THRESHOLD_INERT")
    assert "no particles" in found.sentence


def test_a_lopsided_filter_is_warned_of(trained: Path) -> None:
    with outcome(trained) as healthy:
        target, belief = healthy.held_out()
    above = float(np.quantile(belief[target], 0.8))
    found = ask(Confidence(), trained, *filtered(mask="class", positive=above, negative=0.5))
    assert (found.verdict, found.code) == ("warn", "KEEP_ASYMMETRY")


def test_a_filter_with_a_memory_is_judged_by_the_last_validation(trained: Path) -> None:
    assert ask(Confidence(), trained, *filtered()).verdict == "info"
    validated(trained, seen())
    assert ask(Confidence(), trained, *filtered()).verdict == "ok"
    validated(trained, seen(keep=(0.1, 0.9)))
    assert ask(Confidence(), trained, *filtered()).code == "KEEP_ASYMMETRY"
    validated(trained, {"unsupervised": 0.0, "prior": 0.1})
    assert ask(Confidence(), trained, *filtered()).code == "THRESHOLD_INERT"


def test_confidence_needs_background(trained: Path) -> None:
    assert ask(Confidence(), trained, "data.labels_are=partial").verdict == "skipped"


def test_pure_pseudo_labels_are_healthy(trained: Path) -> None:
    validated(trained, *[seen()] * 4)
    found = ask(Purity(), trained, *filtered())
    assert found.verdict == "ok"
    assert found.evidence["validations"] == 4
    assert drawn(found).startswith("<svg")


def test_purity_needs_pseudo_labels(trained: Path) -> None:
    assert ask(Purity(), trained).verdict == "skipped"
    validated(trained, seen(keep=(0.0, 0.0)))
    assert ask(Purity(), trained, *filtered()).verdict == "skipped"


@pytest.mark.parametrize("purities", [(0.15, 0.15, 0.15), (0.95, 0.7, 0.45)], ids=["always", "ever more"])
def test_wrong_pseudo_labels_are_called_impure(trained: Path, purities: tuple[float, ...]) -> None:
    validated(trained, *(seen(purity) for purity in purities))
    found = ask(Purity(), trained, *filtered())
    assert (found.verdict, found.code) == ("fail", "IMPURE")


def test_soft_labels_may_be_less_pure(trained: Path) -> None:
    validated(trained, seen(0.32), seen(0.32))
    assert ask(Purity(), trained, "algorithm.name=mean_teacher").verdict == "ok"
    assert ask(Purity(), trained, *filtered()).code == "IMPURE"


@pytest.mark.parametrize(
    ("share", "verdict"), [(0.25, "warn"), (0.04, "warn"), (0.01, "warn"), (0.5, "fail"), (0.15, "ok")]
)
def test_too_many_or_too_few_positives_are_a_drift(trained: Path, share: float, verdict: str) -> None:
    validated(trained, seen(), seen(share=share), seen(share=share))
    found = ask(Purity(), trained, *filtered())
    assert found.verdict == verdict
    assert (found.code == "PRIOR_DRIFT") == (verdict != "ok")


def test_a_single_validation_off_is_no_drift(trained: Path) -> None:
    validated(trained, seen(), seen(share=0.25))
    assert ask(Purity(), trained, *filtered()).verdict == "ok"


def test_supervised_training_has_nothing_to_ablate(trained: Path) -> None:
    assert ask(SslAblate(), trained).verdict == "skipped"


def test_ablation_needs_unlabelled_micrographs(trained: Path) -> None:
    micrographs = f"data.micrographs={[str(trained / 'mics' / f'm{number}.mrc') for number in (0, 1)]}"
    assert ask(SslAblate(), trained, "algorithm.name=soft_teacher", micrographs).verdict == "skipped"


def test_a_healthy_algorithm_does_no_harm(trained: Path) -> None:
    with patch("verglas.ssl.mean_teacher.belief_of", wraps=_base.belief_of) as teacher:
        found = ask(SslAblate(steps=4), trained, "algorithm.name=soft_teacher")
    assert found.verdict in ("ok", "info")
    assert teacher.call_count == 8, "at each step, but for those without unlabelled tiles"
    shown = [call.args[0] for call in teacher.call_args_list]
    tiles = torch.randn(2, 1, 64, 64)
    for network, turned in ((shown[0], False), (shown[-1], True)):
        with torch.no_grad():
            one, two = (network(tile[None])[0] for tile in tiles)
            assert torch.allclose(network(tiles)[0], two if turned else one, atol=1e-4)


def test_a_teacher_of_something_else_does_harm(trained: Path) -> None:
    def bright(teacher: Network, weak: torch.Tensor) -> torch.Tensor:
        return (torch.nn.functional.avg_pool2d(weak, 2) > 0).float()

    with patch("verglas.ssl.mean_teacher.belief_of", bright):
        found = ask(SslAblate(steps=16), trained, "algorithm.name=mean_teacher", "algorithm.options.weight=100.0",
                    "algorithm.options.ramp_until=0.0")  # fmt: skip
    assert (found.verdict, found.code) == ("warn", "SSL_HARM"), found.evidence
    assert found.evidence["ap_as_set"] < found.evidence["ap_without"] - 0.2
