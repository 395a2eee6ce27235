"""What every loss promises. A new term is covered by its line in ``LOSSES``."""

import pytest
import torch
from torch import Tensor

from verglas.losses import Loss

NOTHING = {"bce": 0.0, "focal": 0.0, "dice": 0.0, "tversky": 0.0}
LOSSES = {
    **{name: Loss(**NOTHING | {name: 1.0}) for name in NOTHING},
    "default": Loss(),
    "sharp focal": Loss(bce=0.0, focal=1.0, focal_gamma=5.0, focal_alpha=0.75),
    "unfocused": Loss(bce=0.0, focal=1.0, focal_gamma=0.0),
    "half focused": Loss(bce=0.0, focal=1.0, focal_gamma=0.5),
    "weighted": Loss(pos_weight=5.0),
    "all": Loss(1.0, 1.0, 1.0, 1.0),
}
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())


def case(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(3, 1, 8, 8, generator=generator)
    target = (torch.rand(3, 1, 8, 8, generator=generator) < 0.3).float()
    return logits, target, torch.rand(3, 1, 8, 8, generator=generator) < 0.7


def with_gradient(loss: Loss, logits: Tensor, target: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    logits = logits.clone().requires_grad_()
    value = loss(logits, target, known)
    (gradient,) = torch.autograd.grad(value, logits)
    return value.detach(), gradient


@every_loss
def test_it_is_a_finite_scalar_not_below_zero(loss: Loss) -> None:
    value, gradient = with_gradient(loss, *case())
    assert value.shape == ()
    assert 0 <= value < 100
    assert gradient.isfinite().all()


@every_loss
def test_unknown_pixels_do_not_matter(loss: Loss) -> None:
    logits, target, known = case()
    value, gradient = with_gradient(loss, logits, target, known)
    assert (gradient[~known] == 0).all()
    assert (gradient[known] != 0).all()
    other, _ = with_gradient(loss, torch.where(known, logits, 50.0), torch.where(known, target, 1 - target), known)
    torch.testing.assert_close(other, value, rtol=0, atol=0)


@every_loss
def test_with_nothing_known_loss_and_gradient_are_zero(loss: Loss) -> None:
    logits, target, known = case()
    value, gradient = with_gradient(loss, logits, target, torch.zeros_like(known))
    assert value == 0
    assert (gradient == 0).all()


@every_loss
def test_it_pulls_particles_up_and_background_down(loss: Loss) -> None:
    logits, target, known = case()
    _, gradient = with_gradient(loss, logits, target, known)
    assert (gradient[known & (target == 1)] < 0).all()
    assert (gradient[known & (target == 0)] > 0).all()


@every_loss
def test_being_right_costs_next_to_nothing_and_being_wrong_much(loss: Loss) -> None:
    _, target, known = case()
    right, wrong = 40 * target - 20, 20 - 40 * target
    assert loss(right, target, known) < 1e-4
    assert loss(wrong, target, known) > 0.5


@every_loss
@pytest.mark.parametrize("size", [100.0, 1e4, 1e30])
def test_huge_logits_are_no_harm(loss: Loss, size: float) -> None:
    logits, target, known = case()
    value, gradient = with_gradient(loss, size * logits.sign(), target, known)
    assert value.isfinite()
    assert gradient.isfinite().all()


@every_loss
def test_the_order_of_tiles_does_not_matter(loss: Loss) -> None:
    logits, target, known = case()
    turned = loss(logits.flip(0), target.flip(0), known.flip(0))
    torch.testing.assert_close(turned, loss(logits, target, known))


@every_loss
def test_it_is_computed_in_single_precision(loss: Loss) -> None:
    logits, target, known = case()
    half = loss(logits.bfloat16(), target.bfloat16(), known)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, loss(logits.bfloat16().float(), target, known), rtol=0, atol=0)


@every_loss
def test_its_arguments_stay_as_they_are(loss: Loss) -> None:
    given = case()
    loss(*given)
    for after, before in zip(given, case(), strict=True):
        torch.testing.assert_close(after, before, rtol=0, atol=0)
