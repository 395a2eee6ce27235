"""The arithmetic of the case studies, from the numbers that the failure reports printed."""

import math

import numpy as np
import pytest
from scipy import stats

TABLE = {0.6: (0.955, 0.019, 0.568, 0.968), 0.7: (0.810, 0.010, 0.242, 0.829), 0.8: (0.478, 0.005, 0.074, 0.491),
         0.9: (0.151, 0.003, 0.015, 0.156)}  # fmt: skip
"""Report B: threshold, share kept, particle share of kept, keep rates of particles and of background."""


def share_of_positives(precision: float, recall: float, balanced: float) -> float:
    """Return π from precision, recall and (TPR + TNR)/2, which the project called AUC."""
    false_positive_rate = 1 - 2 * balanced + recall
    odds = precision * false_positive_rate / (recall * (1 - precision))
    return odds / (1 + odds)


def trivial(share: float) -> float:
    return 2 * share / (1 + share)


def test_a_supervised_run_implies_the_share_of_positives_and_with_it_the_trivial_f1() -> None:
    for printed in ((0.6150, 0.8124, 0.783), (0.6326, 0.8083, 0.791)):
        assert share_of_positives(*printed) == pytest.approx(0.326, abs=0.004)
    assert trivial(0.326) == pytest.approx(0.492, abs=0.001)


def test_two_stage_training_is_below_calling_everything_positive() -> None:
    share = share_of_positives(0.3274, 0.8064, 0.505)
    assert share == pytest.approx(0.3245, abs=0.002)
    assert trivial(share) > 0.466


def test_mean_logit_and_mean_probability_pin_the_spread() -> None:
    def mean_probability(spread: float) -> float:
        x = np.linspace(-8, 8, 4001)
        return float(np.sum(stats.norm.pdf(x) / (1 + np.exp(1.443 - spread * x))) * (x[1] - x[0]))

    assert mean_probability(0.14) == pytest.approx(0.192, abs=0.0005)
    assert mean_probability(0.8) > 0.2


def test_steps_of_an_epoch_are_13_and_130() -> None:
    assert [math.ceil(n / 4) for n in (51, 517)] == [13, 130]


def test_alpha_and_pos_weight_are_one_ratio() -> None:
    second, third = 0.5 * 2.33 / 0.5, 0.7 / 0.3
    assert second == pytest.approx(third, rel=0.01)


@pytest.mark.parametrize("threshold", TABLE)
def test_the_table_of_report_b_is_consistent(threshold: float) -> None:
    kept, particles, keep_particle, keep_background = TABLE[threshold]
    share = 0.033
    assert share * keep_particle + (1 - share) * keep_background == pytest.approx(kept, abs=0.003)
    assert share * keep_particle / kept == pytest.approx(particles, abs=0.0011)


def test_the_proposed_masks_are_those_there_are() -> None:
    p = np.linspace(0, 1, 1001)
    confidence = np.maximum(p, 1 - p)
    assert np.allclose(confidence, 0.5 + np.abs(p - 0.5))
    assert (confidence >= 0.5).all()
    inside = (np.abs(p - 0.6) > 1e-9) & (np.abs(p - 0.4) > 1e-9)  # ties of floating point
    assert ((confidence >= 0.6) == ((p >= 0.6) | (p <= 0.4)))[inside].all()
    kept = confidence >= 0.7
    assert ((p >= 0.7) == (p >= 0.5))[kept].all()


def test_a_confidence_under_focal_loss_is_not_a_posterior() -> None:
    """The optimum p of the focal loss against the posterior, by the condition that the derivative is zero."""
    alpha, gamma, p = 0.25, 2.0, 0.7
    of_positive = gamma * (1 - p) ** (gamma - 1) * math.log(p) - (1 - p) ** gamma / p
    of_negative = -gamma * p ** (gamma - 1) * math.log(1 - p) + p**gamma / (1 - p)
    posterior = (1 - alpha) * of_negative / (-alpha * of_positive + (1 - alpha) * of_negative)
    assert posterior == pytest.approx(0.967, abs=0.001)
