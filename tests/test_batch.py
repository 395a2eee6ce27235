"""What strong views show where CutMix pasted another tile."""

import pytest
import torch

from verglas.batch import Unlabelled


def mixed_batch(b: int = 3, views: int = 2, p: int = 4) -> Unlabelled:
    mixed = torch.rand(views, b, 1, p, p, generator=torch.Generator().manual_seed(0)) < 0.5
    return Unlabelled(
        torch.zeros(b, 1, 2 * p, 2 * p), torch.zeros(views, b, 1, 2 * p, 2 * p),
        torch.ones(b, 1, p, p, dtype=torch.bool), mixed,
    )  # fmt: skip


def test_a_mixed_pixel_has_the_value_of_the_tile_before_and_the_first_that_of_the_last() -> None:
    batch = mixed_batch()
    values = torch.arange(48.0).reshape(3, 1, 4, 4)
    seen = batch.seen(values)
    assert seen.shape == (2, 3, 1, 4, 4)
    for view in range(2):
        for tile in range(3):
            expected = torch.where(batch.mixed[view, tile], values[tile - 1], values[tile])
            assert torch.equal(seen[view, tile], expected)
    assert set(seen.unique().tolist()) <= set(values.unique().tolist())


def test_masks_stay_masks() -> None:
    batch = mixed_batch()
    valid = torch.zeros(3, 1, 4, 4, dtype=torch.bool)
    valid[1] = True
    seen = batch.seen(valid)
    assert seen.dtype == torch.bool
    assert torch.equal(seen[:, 2], batch.mixed[:, 2]), "tile 2 shows tile 1 where mixed"
    assert torch.equal(seen[:, 1], ~batch.mixed[:, 1])
    assert not seen[:, 0].any()


def test_what_is_seen_may_have_a_gradient() -> None:
    values = torch.zeros(3, 1, 4, 4, requires_grad=True)
    mixed_batch().seen(values).sum().backward()
    assert values.grad is not None
    assert values.grad.sum() == 96


def test_a_tile_alone_in_its_batch_shows_itself() -> None:
    values = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert torch.equal(mixed_batch(b=1).seen(values), values.expand(2, 1, 1, 4, 4))


@pytest.mark.parametrize("all_mixed", [False, True])
def test_tiles_unmixed_or_mixed_whole_are_whole_tiles(all_mixed: bool) -> None:
    given = mixed_batch()
    batch = Unlabelled(given.weak, given.strong, given.valid, torch.full_like(given.mixed, all_mixed))
    values = torch.arange(48.0).reshape(3, 1, 4, 4)
    for view in batch.seen(values):
        assert torch.equal(view, values.roll(1, 0) if all_mixed else values)
