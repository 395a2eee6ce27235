"""Which pixels the masks keep, against closed forms and against what the quantiles promise."""

import copy
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from verglas.errors import InputError
from verglas.ssl.thresholds import (
    MEMORY,
    ByClass,
    Fixed,
    Free,
    Mask,
    Quantile,
    Soft,
    Weighted,
    confidence,
    quantiles,
)

PRIOR = 0.08

MASKS: dict[str, Callable[[], Mask]] = {
    "fixed": lambda: Fixed(0.9),
    "class": lambda: ByClass(0.6, 0.05),
    "quantile": lambda: Quantile(0.8, 0.2),
    "weighted": Weighted,
    "free": Free,
    "soft": Soft,
}
every_mask = pytest.mark.parametrize("make", MASKS.values(), ids=MASKS.keys())

SQUASHED: dict[str, Callable[[Tensor], Tensor]] = {
    "as they are": lambda z: z.sigmoid(),
    "halved": lambda z: z.sigmoid() / 2,
    "never below a half": lambda z: 0.5 + z.sigmoid() / 2,
    "square root": lambda z: z.sigmoid().sqrt(),
    "a tenth": lambda z: z.sigmoid() / 10,
    "squared": lambda z: z.sigmoid() ** 2,
    "sure of themselves": lambda z: (3 * z).sigmoid(),
    "of rare particles": lambda z: (z - 4).sigmoid(),
}


def logits(n: int = 100_000, seed: int = 0) -> Tensor:
    """Logits of a teacher that tells particles from background, not without fault."""
    generator = torch.Generator().manual_seed(seed)
    particle = torch.rand(n, generator=generator) < PRIOR
    return torch.randn(n, generator=generator) + torch.where(particle, 2.0, -4.0)


def settled(mask: Mask, belief: Tensor, progress: float = 1.0, prior: float = PRIOR) -> Mask:
    mask.settle(belief, torch.ones_like(belief, dtype=torch.bool), torch.tensor(prior), progress)
    return mask


def shares(mask: Mask, belief: Tensor) -> tuple[float, float]:
    """Return the share of pixels that is kept, and the share of positives among those."""
    target, weight = mask(belief)
    return weight.mean().item(), ((target * weight).sum() / weight.sum()).item()


# --- all of them ---


@every_mask
def test_labels_are_yes_or_no_and_weights_shares(make: Callable[[], Mask]) -> None:
    belief = torch.linspace(0, 1, 1001)
    target, weight = settled(make(), logits().sigmoid())(belief)
    assert set(target.tolist()) == {0.0, 1.0}
    assert 0 <= weight.min() <= weight.max() <= 1
    assert (target.diff() >= 0).all()
    assert weight[0] > 0
    assert weight[-1] > 0


@every_mask
def test_the_surest_pixels_count_most(make: Callable[[], Mask]) -> None:
    target, weight = settled(make(), logits().sigmoid())(torch.linspace(0, 1, 1001))
    assert (weight[target == 0].diff() <= 0).all()
    assert (weight[target == 1].diff() >= 0).all()


@every_mask
def test_labelling_changes_neither_the_mask_nor_the_beliefs(make: Callable[[], Mask]) -> None:
    mask, belief = settled(make(), logits().sigmoid()), logits(1000, seed=1).sigmoid()
    before, given = copy.deepcopy(mask.state_dict()), belief.clone()
    first, again = mask(belief), mask(belief)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert torch.equal(belief, given)
    assert all(torch.equal(value, before[key]) for key, value in mask.state_dict().items())


@every_mask
def test_a_pixel_is_labelled_wherever_it_lies(make: Callable[[], Mask]) -> None:
    mask, belief = settled(make(), logits().sigmoid()), logits(600, seed=1).sigmoid()
    for flat, tiled in zip(mask(belief), mask(belief.reshape(2, 1, 15, 20)), strict=True):
        assert torch.equal(flat, tiled.flatten())


@every_mask
def test_what_is_not_valid_is_not_taken_into_account(make: Callable[[], Mask]) -> None:
    belief = logits(1000).sigmoid()
    valid = torch.arange(1000) % 3 > 0
    one, other = make(), make()
    one.settle(belief, valid, torch.tensor(PRIOR), 1.0)
    other.settle(torch.where(valid, belief, 0.7), valid, torch.tensor(PRIOR), 1.0)
    before, after = one.state_dict(), other.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


@every_mask
def test_nothing_valid_is_no_error(make: Callable[[], Mask]) -> None:
    mask, belief = make(), logits(1000).sigmoid()
    for _ in range(2):
        mask.settle(belief, torch.zeros(1000, dtype=torch.bool), torch.tensor(0.0), 0.0)
        assert all(part.isfinite().all() for part in mask(belief))


@every_mask
def test_an_empty_batch_changes_no_label(make: Callable[[], Mask]) -> None:
    mask, belief = settled(make(), logits().sigmoid()), logits(1000, seed=1).sigmoid()
    before = mask(belief)
    mask.settle(belief, torch.zeros(1000, dtype=torch.bool), torch.tensor(PRIOR), 1.0)
    for one, other in zip(before, mask(belief), strict=True):
        torch.testing.assert_close(one, other)


@every_mask
def test_its_memory_is_its_state(make: Callable[[], Mask]) -> None:
    mask, fresh = make(), make()
    for seed in range(3):
        settled(mask, logits(2000, seed).sigmoid() / 2)
    fresh.load_state_dict(copy.deepcopy(mask.state_dict()))
    belief = torch.linspace(0, 1, 1001)
    for one, other in zip(settled(mask, belief)(belief), settled(fresh, belief)(belief), strict=True):
        assert torch.equal(one, other)


# --- without memory ---


def test_confidence_is_the_distance_from_a_half_and_a_half() -> None:
    belief = torch.linspace(0, 1, 1001)
    torch.testing.assert_close(confidence(belief), (belief - 0.5).abs() + 0.5)
    assert torch.equal(confidence(belief), torch.max(belief, 1 - belief))


def test_a_fixed_threshold_keeps_what_reaches_it() -> None:
    belief = torch.tensor([0.0, 0.1, 0.11, 0.49, 0.5, 0.89, 0.9, 1.0])
    target, weight = Fixed(0.9)(belief)
    assert target.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert weight.tolist() == [1, 1, 0, 0, 0, 0, 1, 1]


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5])
def test_a_threshold_up_to_a_half_is_none(threshold: float) -> None:
    belief = torch.linspace(0, 1, 1001)
    _, weight = Fixed(threshold)(belief)
    assert (weight == 1).all()


def test_a_threshold_of_one_keeps_what_is_certain() -> None:
    _, weight = Fixed(1.0)(torch.tensor([0.0, 1e-3, 0.999, 1.0]))
    assert weight.tolist() == [1, 0, 0, 1]


def test_a_threshold_starves_particles_when_beliefs_are_squashed() -> None:
    """The fault that the quantiles mend: a cautious teacher's background passes, its particles do not."""
    target, weight = Fixed(0.7)(logits().sigmoid() / 2)
    assert weight.mean() > 0.8
    assert (target * weight).sum() == 0


def test_each_class_has_its_own_threshold() -> None:
    belief = torch.tensor([0.0, 0.05, 0.06, 0.5, 0.59, 0.6, 1.0])
    target, weight = ByClass(0.6, 0.05)(belief)
    assert target.tolist() == [0, 0, 0, 0, 0, 1, 1]
    assert weight.tolist() == [1, 1, 0, 0, 0, 1, 1]


def test_where_the_thresholds_of_both_classes_meet_all_is_kept() -> None:
    target, weight = ByClass(0.3, 0.3)(torch.tensor([0.0, 0.29, 0.3, 1.0]))
    assert target.tolist() == [0, 0, 1, 1]
    assert (weight == 1).all()


def test_without_a_mask_pixels_count_by_their_confidence() -> None:
    belief = torch.tensor([0.0, 0.2, 0.5, 0.9])
    target, weight = Weighted()(belief)
    assert target.tolist() == [0, 0, 1, 1]
    torch.testing.assert_close(weight, torch.tensor([1.0, 0.8, 0.5, 0.9]))


# --- quantiles ---


@pytest.mark.parametrize("squash", SQUASHED.values(), ids=SQUASHED.keys())
@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_a_share_is_kept_in_the_proportion_of_the_prior(share: float, squash: Callable[[Tensor], Tensor]) -> None:
    """Within 1 %, whatever the scale of the beliefs."""
    belief = squash(logits())
    kept, positive = shares(settled(Quantile(share, share), belief), belief)
    assert kept == pytest.approx(share, abs=0.01)
    assert positive == pytest.approx(PRIOR, abs=0.01)


@pytest.mark.parametrize("prior", [0.02, 0.3])
def test_the_proportion_follows_the_prior_and_not_the_beliefs(prior: float) -> None:
    belief = logits().sigmoid()
    mask = settled(Quantile(0.5, 0.5), belief, prior=prior)
    kept, positive = shares(mask, belief)
    assert kept == pytest.approx(0.5, abs=0.01)
    assert positive == pytest.approx(prior, rel=0.1)
    assert mask(belief)[0].mean() == pytest.approx(prior, rel=0.1), "and so do the labels, kept or not"


def test_what_is_kept_are_the_surest_of_each_class() -> None:
    belief = logits().sigmoid()
    target, weight = settled(Quantile(0.5, 0.5), belief)(belief)
    sure, unsure = weight == 1, weight == 0
    assert belief[sure & (target == 1)].min() >= belief[unsure].max()
    assert belief[sure & (target == 0)].max() <= belief[unsure].min()


def test_all_of_it_can_be_kept() -> None:
    belief = logits().sigmoid()
    kept, positive = shares(settled(Quantile(1.0, 1.0), belief), belief)
    assert kept == pytest.approx(1, abs=0.01)
    assert positive == pytest.approx(PRIOR, abs=0.01)


@pytest.mark.parametrize("level", [0.0, 0.02, 0.05, 0.3, 0.3015, 0.5, 0.9, 0.999, 1.0])
def test_constant_beliefs_keep_nothing(level: float) -> None:
    belief = torch.full((1000,), level)
    assert (settled(Quantile(0.8, 0.2), belief)(belief)[1] == 0).all()


def test_beliefs_that_are_as_good_as_constant_keep_nothing() -> None:
    belief = 0.08 + 1e-5 * torch.rand(1000, generator=torch.Generator().manual_seed(0))
    assert (settled(Quantile(0.8, 0.8), belief)(belief)[1] == 0).all()


def test_without_positives_among_the_labels_none_are_made() -> None:
    belief = logits().sigmoid()
    target, weight = settled(Quantile(0.8, 0.8), belief, prior=0.0)(belief)
    assert (target * weight).sum() <= 1
    assert weight.mean() == pytest.approx(0.8, abs=0.01)


@pytest.mark.parametrize(("progress", "share"), [(0.0, 0.2), (0.25, 0.5), (0.5, 0.8), (0.75, 0.8), (1.0, 0.8)])
def test_the_share_rises_over_the_first_half(progress: float, share: float) -> None:
    belief = logits().sigmoid()
    kept, positive = shares(settled(Quantile(0.8, 0.2), belief, progress), belief)
    assert kept == pytest.approx(share, abs=0.01)
    assert positive == pytest.approx(PRIOR, abs=0.01)


def test_quantiles_are_those_of_many_batches() -> None:
    """A batch without particles keeps hardly any positives: the threshold is not its own."""
    mask = Quantile(0.8, 0.8)
    for seed in range(20):
        settled(mask, logits(5000, seed).sigmoid())
    empty = (torch.randn(5000, generator=torch.Generator().manual_seed(99)) - 4).sigmoid()
    target, weight = settled(mask, empty)(empty)
    assert (target * weight).mean() < 0.005
    assert weight.mean() == pytest.approx(0.8, abs=0.03)


def test_old_beliefs_are_forgotten() -> None:
    mask, was, now = Quantile(0.5, 0.5), logits(2000).sigmoid(), (logits(2000) + 3).sigmoid()
    steps = math.ceil(math.log(0.01) / math.log(MEMORY))
    for belief in (was, now):
        for _ in range(steps):
            settled(mask, belief)
    kept, positive = shares(mask, now)
    assert kept == pytest.approx(0.5, abs=0.02)
    assert positive == pytest.approx(PRIOR, abs=0.02)


def test_quantiles_of_a_histogram_are_linear_within_a_bin() -> None:
    histogram = torch.tensor([0.0, 4.0, 0.0, 4.0])
    wanted = torch.tensor([0.25, 0.75, 1.0])
    torch.testing.assert_close(quantiles(histogram, wanted), torch.tensor([0.375, 0.875, 1.0]))


def test_quantiles_of_a_fine_histogram_are_those_of_the_values() -> None:
    values = torch.rand(10_000, generator=torch.Generator().manual_seed(0)).square()
    wanted = torch.tensor([0.0, 0.1, 0.5, 0.92, 1.0])
    found = quantiles(torch.histc(values, 1000, 0, 1), wanted)
    np.testing.assert_allclose(found.numpy(), np.quantile(values.numpy(), wanted.numpy()), atol=1.5e-3)


# --- thresholds that follow the beliefs ---


def test_free_moves_both_means_a_hundredth_of_the_way() -> None:
    belief = torch.tensor([0.02, 0.06, 0.1, 0.9])
    mask = settled(Free(), belief)
    sure, mean = belief.sub(0.5).abs().add(0.5).mean(), belief.mean()
    torch.testing.assert_close(mask.state_dict()["mean_confidence"], MEMORY * 0.5 + (1 - MEMORY) * sure)
    torch.testing.assert_close(mask.state_dict()["mean_belief"], MEMORY * 0.5 + (1 - MEMORY) * mean)


def test_free_thresholds_are_their_formula() -> None:
    """Confidence 0.9 on average; background, four times as frequent, needs that, particles a quarter of it."""
    mask = Free()
    mask.load_state_dict({"mean_confidence": torch.tensor(0.9), "mean_belief": torch.tensor(0.2)})
    belief = torch.tensor([0.05, 0.09, 0.11, 0.49, 0.5, 0.6, 0.9])
    target, weight = mask(belief)
    assert target.tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert weight.tolist() == [1, 1, 0, 0, 1, 1, 1]
    mask.load_state_dict({"mean_confidence": torch.tensor(0.9), "mean_belief": torch.tensor(0.6)})
    target, weight = mask(torch.tensor([0.39, 0.41, 0.45, 0.5, 0.89, 0.91]))
    assert target.tolist() == [0, 0, 0, 1, 1, 1]
    assert weight.tolist() == [1, 0, 0, 0, 0, 1]  # 1 − p ≥ 0.9 · 0.4 / 0.6 = 0.6 for background


def test_free_keeps_everything_at_first() -> None:
    assert (Free()(torch.linspace(0, 1, 101))[1] == 1).all()


def test_soft_weights_are_their_formula() -> None:
    mask = Soft()
    mask.load_state_dict({"mean": torch.tensor([0.9, 0.7]), "variance": torch.tensor([0.02, 0.05])})
    belief = torch.tensor([0.05, 0.2, 0.4, 0.5, 0.6, 0.8])
    target, weight = mask(belief)
    assert target.tolist() == [0, 0, 0, 1, 1, 1]
    low, high = [math.exp(-2 * d**2 / 0.02) for d in (0.1, 0.3)], [math.exp(-2 * d**2 / 0.05) for d in (0.2, 0.1)]
    torch.testing.assert_close(weight, torch.tensor([1.0, *low, *high, 1.0]))


def test_soft_follows_mean_and_variance_of_each_class() -> None:
    mask, generator = Soft(), torch.Generator().manual_seed(0)
    background = 0.1 + 0.05 * torch.rand(2000, generator=generator)
    particle = 0.7 + 0.1 * torch.rand(500, generator=generator)
    for _ in range(1000):
        settled(mask, torch.cat([background, particle]))
    torch.testing.assert_close(mask.state_dict()["mean"], torch.tensor([0.875, 0.75]), atol=2e-3, rtol=0)
    torch.testing.assert_close(mask.state_dict()["variance"], torch.tensor([0.05**2, 0.1**2]) / 12, atol=5e-5, rtol=0)


def test_soft_leaves_a_class_alone_that_is_not_there() -> None:
    mask = settled(Soft(), torch.full((100,), 0.1))
    assert mask.state_dict()["mean"][1] == 0.5
    assert mask.state_dict()["variance"][1] == 0.25
    assert mask.state_dict()["mean"][0] > 0.5


# --- settings ---


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: Fixed(1.1), "threshold"),
        (lambda: Fixed(math.nan), "threshold"),
        (lambda: ByClass(1.2, 0.1), "positive"),
        (lambda: ByClass(0.6, -0.1), "negative"),
        (lambda: ByClass(0.4, 0.5), "negative"),
        (lambda: Quantile(0.0, 0.0), "share"),
        (lambda: Quantile(1.5, 0.2), "share"),
        (lambda: Quantile(0.5, 0.6), "first_share"),
    ],
)
def test_an_impossible_threshold_is_refused(make: Callable[[], Mask], name: str) -> None:
    with pytest.raises(InputError, match=rf"algorithm\.options: {name} is"):
        make()
