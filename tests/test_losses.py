"""Losses against their closed forms."""

import math

import pytest
import torch
from torch import Tensor

from verglas.errors import InputError
from verglas.losses import Loss, bce, focal, masked_mean, tversky

P = torch.tensor([[0.9, 0.6, 0.2, 0.05]], dtype=torch.float64)
Y = torch.tensor([[1.0, 0.0, 1.0, 0.0]], dtype=torch.float64)
KNOWN = torch.ones_like(Y, dtype=torch.bool)
Z = torch.logit(P)


def case(seed: int = 0, b: int = 3, side: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, target and known pixels of a batch."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(b, 1, side, side, generator=generator)
    target = (torch.rand(b, 1, side, side, generator=generator) < 0.3).float()
    return logits, target, torch.rand(b, 1, side, side, generator=generator) < 0.7


# --- terms ---


def test_cross_entropy_is_its_formula_and_takes_soft_targets() -> None:
    torch.testing.assert_close(bce(Z, Y), -(Y * P.log() + (1 - Y) * (1 - P).log()))
    soft = torch.full_like(Z, 0.3)
    torch.testing.assert_close(bce(Z, soft), -(0.3 * P.log() + 0.7 * (1 - P).log()))


def test_the_gradient_of_cross_entropy_is_the_error() -> None:
    logits = Z.clone().requires_grad_()
    bce(logits, Y).sum().backward()
    torch.testing.assert_close(logits.grad, P - Y)


def test_focal_is_its_formula() -> None:
    alpha, gamma = 0.25, 2.0
    expected = torch.where(
        Y > 0, -alpha * (1 - P) ** gamma * P.log(), -(1 - alpha) * P**gamma * (1 - P).log()
    )  # Lin et al., eq. 5
    torch.testing.assert_close(focal(Z, Y, alpha, gamma), expected)
    torch.testing.assert_close(focal(Z, Y, alpha, gamma, pos_weight=3.0)[Y > 0], 3 * expected[Y > 0])
    torch.testing.assert_close(focal(Z, Y, alpha, gamma, pos_weight=3.0)[Y == 0], expected[Y == 0])


def test_focal_without_focus_is_half_the_cross_entropy() -> None:
    torch.testing.assert_close(focal(Z, Y, 0.5, 0.0), bce(Z, Y) / 2)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
def test_focal_has_a_gradient_however_sure_the_network_is(gamma: float) -> None:
    logits = torch.tensor([-1000.0, -200.0, -90.0, 90.0, 200.0, 1000.0], requires_grad=True)
    for target in (torch.zeros(6), torch.ones(6)):
        loss = focal(logits, target, 0.5, gamma)
        (gradient,) = torch.autograd.grad(loss.sum(), logits)
        assert loss.isfinite().all()
        assert gradient.isfinite().all()
        wrong = (logits < 0) == (target > 0)
        torch.testing.assert_close(gradient[wrong].abs(), torch.full((3,), 0.5))  # a sure mistake has the full slope


def test_dice_is_its_formula() -> None:
    dice = 1 - (2 * (P * Y).sum() + 1) / (P.sum() + Y.sum() + 1)
    torch.testing.assert_close(tversky(Z, Y, KNOWN, 0.5, 0.5), dice)


def test_tversky_is_its_formula() -> None:
    hit, fp, fn = (P * Y).sum(), (P * (1 - Y)).sum(), ((1 - P) * Y).sum()
    expected = 1 - (hit + 0.5) / (hit + 0.3 * fp + 0.7 * fn + 0.5)
    torch.testing.assert_close(tversky(Z, Y, KNOWN, 0.3, 0.7), expected)
    miss, extra = torch.tensor([0.0, 1e-9]).logit(), torch.tensor([1.0, 1e-9])
    assert tversky(miss, extra, torch.ones(2, dtype=torch.bool), 0.3, 0.7) > 0.5


def test_dice_is_summed_over_the_batch() -> None:
    logits, target, known = case()
    empty = torch.zeros_like(target[:1])
    batch = tversky(torch.cat([logits, -20 + 0 * logits[:1]]), torch.cat([target, empty]),
                    torch.cat([known, known[:1]]), 0.5, 0.5)  # fmt: skip
    torch.testing.assert_close(batch, tversky(logits, target, known, 0.5, 0.5), atol=1e-5, rtol=0)


@pytest.mark.parametrize("fp", [0.5, 0.3])
def test_all_right_costs_nothing(fp: float) -> None:
    _, target, known = case()
    assert tversky(40 * target - 20, target, known, fp, 1 - fp) == pytest.approx(0, abs=1e-6)
    assert tversky(20 - 40 * target, target, known, fp, 1 - fp) > 0.9


def test_a_masked_mean_counts_all_the_caller_names() -> None:
    values = torch.tensor([1.0, 3.0, math.nan, 5.0])
    kept, valid = torch.tensor([True, True, False, False]), torch.tensor([True, True, True, True])
    assert masked_mean(values, kept) == 2
    assert masked_mean(values, kept, among=valid) == 1
    assert masked_mean(values, ~valid) == 0
    assert masked_mean(values, ~valid, among=valid) == 0


# --- the sum ---


def test_the_default_is_cross_entropy_and_a_little_dice() -> None:
    logits, target, known = case()
    expected = bce(logits, target)[known].mean() + 0.3 * tversky(logits, target, known, 0.5, 0.5)
    torch.testing.assert_close(Loss()(logits, target, known), expected)


def test_weights_multiply_terms() -> None:
    logits, target, known = case()
    terms = {
        "bce": bce(logits, target)[known].mean(),
        "focal": focal(logits, target, 0.5, 2.0)[known].mean(),
        "dice": tversky(logits, target, known, 0.5, 0.5),
        "tversky": tversky(logits, target, known, 0.3, 0.7),
    }
    nothing = dict.fromkeys(terms, 0.0)
    for name, term in terms.items():
        torch.testing.assert_close(Loss(**nothing | {name: 2.0})(logits, target, known), 2 * term)
    together = Loss(bce=1.0, focal=2.0, dice=3.0, tversky=4.0)(logits, target, known)
    torch.testing.assert_close(together, sum(k * term for k, term in enumerate(terms.values(), 1)))


def test_a_positive_pixel_weighs_as_much_as_said() -> None:
    logits = torch.zeros(1, 1, 1, 2, requires_grad=True)
    target, known = torch.tensor([[[[1.0, 0.0]]]]), torch.ones(1, 1, 1, 2, dtype=torch.bool)
    Loss(dice=0.0, pos_weight=4.0)(logits, target, known).backward()
    torch.testing.assert_close(logits.grad.flatten(), torch.tensor([-4 * 0.25, 0.25]))


# --- settings ---


def test_two_class_weightings_are_refused_with_their_ratio() -> None:
    with pytest.raises(InputError, match=r"1\.67 : 1 for positives"):
        Loss(bce=0.0, focal=1.0, focal_alpha=0.25, pos_weight=5.0)
    Loss(bce=0.0, focal=1.0, focal_alpha=0.25)
    Loss(bce=0.0, focal=1.0, pos_weight=5.0)
    Loss(focal=0.0, focal_alpha=0.25, pos_weight=5.0)


def test_a_loss_of_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="sum of weights is 0"):
        Loss(bce=0.0, dice=0.0)


@pytest.mark.parametrize(
    "fault",
    [{"bce": -1.0}, {"dice": math.nan}, {"focal_alpha": 1.0}, {"focal_gamma": -2.0}, {"pos_weight": 0.0},
     {"tversky_fp": -0.1}],
    ids=str,
)  # fmt: skip
def test_an_impossible_setting_is_refused(fault: dict[str, float]) -> None:
    with pytest.raises(InputError, match=f"loss: {next(iter(fault))} is"):
        Loss(**fault)
