"""Losses against their closed forms."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from verglas.errors import InputError
from verglas.losses import Loss, bce, bernoulli_entropy, focal, ge_binomial, masked_mean, non_negative_pu, tversky

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


# --- the entropy ---


def test_the_entropy_of_a_probability_is_its_formula_and_zero_where_it_is_certain() -> None:
    torch.testing.assert_close(bernoulli_entropy(P), -P * P.log() - (1 - P) * (1 - P).log())
    assert bernoulli_entropy(torch.tensor([0.0, 1.0])).tolist() == [0, 0]
    assert bernoulli_entropy(torch.tensor(0.5)).item() == pytest.approx(math.log(2))


def test_cross_entropy_cannot_go_below_the_entropy_of_its_target() -> None:
    torch.testing.assert_close(bce(Z, P), bernoulli_entropy(P))
    for other in (-0.5, 0.5):
        assert (bce(Z + other, P) > bernoulli_entropy(P) + 1e-3).all()


# --- positives and unlabelled pixels ---


def test_the_nnpu_risk_is_its_formula() -> None:
    logits = torch.tensor([2.0, -1.0, 0.5, -3.0, -2.0])
    positive, unlabelled = torch.arange(5) < 2, torch.arange(5) >= 2
    as_positive, as_negative = -logits.sigmoid().log(), -(1 - logits.sigmoid()).log()
    bracket = as_negative[2:].mean() - 0.1 * as_negative[:2].mean()
    assert bracket > 0
    expected = 0.1 * as_positive[:2].mean() + bracket
    torch.testing.assert_close(non_negative_pu(logits, positive, unlabelled, 0.1), expected)


def test_where_nnpu_would_be_negative_its_gradient_is_that_of_the_opposite() -> None:
    logits = torch.tensor([4.0, 3.0, -3.0, -4.0, -2.0], requires_grad=True)
    positive, unlabelled = torch.arange(5) < 2, torch.arange(5) >= 2
    as_negative = functional.softplus(logits)
    bracket = as_negative[2:].mean() - 0.5 * as_negative[:2].mean()
    assert bracket < 0
    (opposite,) = torch.autograd.grad(-bracket, logits)
    risk = non_negative_pu(logits, positive, unlabelled, 0.5)
    (gradient,) = torch.autograd.grad(risk, logits)
    torch.testing.assert_close(risk.detach(), -bracket.detach())
    torch.testing.assert_close(gradient, opposite)
    assert (gradient[:2] > 0).all(), "positives that were learned by heart are unlearned"


def test_nnpu_is_the_ordinary_risk_where_the_unlabelled_are_the_mixture_it_takes_them_for() -> None:
    positives, negatives = torch.tensor([1.0, -0.5]), torch.tensor([-2.0, -1.0, 0.3, -4.0, -0.2, -3.0])
    logits = torch.cat([positives, positives, negatives])  # clicked ones; then the same, unlabelled, among background
    clicked = torch.arange(10) < 2
    prior = 2 / 8
    ordinary = prior * functional.softplus(-positives).mean() + (1 - prior) * functional.softplus(negatives).mean()
    torch.testing.assert_close(non_negative_pu(logits, clicked, ~clicked, prior), ordinary)


def test_nnpu_of_nothing_is_zero_and_pixels_outside_both_masks_do_not_matter() -> None:
    logits, target, known = case()
    nothing = torch.zeros_like(known)
    assert non_negative_pu(logits, nothing, nothing, 0.3) == 0
    positive, unlabelled = known & (target == 1), known & (target == 0)
    changed = torch.where(known, logits, 99.0)
    one, two = (non_negative_pu(each, positive, unlabelled, 0.1) for each in (logits, changed))
    assert one == two
    assert non_negative_pu(logits, positive, nothing, 0.1).isfinite()
    assert non_negative_pu(logits, nothing, unlabelled, 0.1) > 0


def test_ge_binomial_is_its_formula() -> None:
    p, prior = torch.tensor([0.2, 0.7, 0.4], dtype=torch.float64), 0.3
    mean, variance = 1.3, 0.2 * 0.8 + 0.7 * 0.3 + 0.4 * 0.6
    share = [math.exp(-((k - mean) ** 2) / (2 * variance)) for k in range(4)]
    binomial = [math.comb(3, k) * prior**k * (1 - prior) ** (3 - k) for k in range(4)]
    expected = -sum(s / sum(share) * math.log(b) for s, b in zip(share, binomial, strict=True))
    assert ge_binomial(p, prior).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("prior", [0.1, 0.25, 0.6])
def test_ge_binomial_is_least_where_the_number_of_positives_fits(prior: float) -> None:
    n = 40
    values = [ge_binomial((torch.arange(n) < k).float(), prior).item() for k in range(n + 1)]
    assert values.index(min(values)) == round(prior * n)
    assert values[0] > values[round(prior * n) // 2] > min(values)


@pytest.mark.parametrize("start", [0.02, 0.7])
def test_ge_binomial_pushes_the_mean_to_the_prior(start: float) -> None:
    noise = 0.5 * torch.randn(60, generator=torch.Generator().manual_seed(0))
    logits = (torch.logit(torch.tensor(start)) + noise).requires_grad_()
    (first,) = torch.autograd.grad(ge_binomial(logits.sigmoid(), 0.2), logits)
    assert (first.sum() > 0) == (start > 0.2)
    optimiser = torch.optim.Adam([logits], lr=0.1)
    for _ in range(200):
        optimiser.zero_grad()
        ge_binomial(logits.sigmoid(), 0.2).backward()
        optimiser.step()
    assert logits.sigmoid().mean().item() == pytest.approx(0.2, abs=0.02)


def test_ge_binomial_of_nothing_is_zero_with_a_gradient() -> None:
    empty = torch.zeros(0, requires_grad=True)
    value = ge_binomial(empty, 0.2)
    assert value == 0
    assert torch.autograd.grad(value, empty)[0].shape == (0,)


@pytest.mark.parametrize("level", [0.0, 1e-7, 1.0])
def test_ge_binomial_is_finite_where_all_is_certain(level: float) -> None:
    p = torch.full((300,), level, requires_grad=True)
    value = ge_binomial(p, 0.05)
    assert value.isfinite()
    assert torch.autograd.grad(value, p)[0].isfinite().all()


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
