"""Prepared micrographs on disk, and the stream of batches cut from them."""

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from verglas.augment import Geometry, Photometry
from verglas.batch import Labelled, Unlabelled
from verglas.data import Cropping, Stored, batches, labelled_batch, per_logit, unlabelled_batch
from verglas.errors import InputError
from verglas.types import Grid, Image

NEUTRAL = Photometry(0, 0, 0, 0, 1, 0, 1, 0, 0)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def how(stem: int = 2, photometry: Photometry = NEUTRAL, batch: int = 4, size: int = 32) -> Cropping:
    return Cropping(batch, size, stem, Geometry(scale=0.05), photometry)


def image(level: float = 0.0, h: int = 90, w: int = 110) -> Image:
    data = (np.random.default_rng(int(level)).normal(size=(h, w)) * 0.1 + level).astype(np.float32)
    valid = np.ones((h, w), bool)
    valid[:10] = False
    return Image(data, Grid(0.5, 1.5, 2.0, 1.9), valid)


def labelled(folder: Path, n: int = 2) -> list[Stored]:
    """Micrographs on which what is bright is target, and of which half is unknown."""
    stored = []
    for k in range(n):
        given = image(k)
        rows, columns = np.mgrid[:90, :110]
        target = np.min([np.hypot(columns - x, rows - y) for x, y in ((20, 30), (60, 50), (90, 70))], axis=0) < 9
        known = (columns < 80) & given.valid
        data = np.where(target, 10.0, 0.0).astype(np.float32)
        stored.append(Stored.write(folder, f"mic{k}", Image(data, given.grid, given.valid), (target, known)))
    return stored


# --- on disk ---


def test_what_is_stored_is_given_back_to_the_bit(tmp_path: Path) -> None:
    given = image(3.0)
    masks = tuple(np.random.default_rng(1).random((2, 90, 110)) < 0.5)
    written = Stored.write(tmp_path / "new", "mic.1", given, masks)
    opened = Stored.open(tmp_path / "new", "mic.1")
    assert opened == written
    assert opened.shape == (90, 110)
    again = opened.image()
    np.testing.assert_array_equal(again.data, given.data)
    np.testing.assert_array_equal(again.valid, given.valid)
    assert again.grid == given.grid
    np.testing.assert_array_equal(opened.masks(), [*masks, given.valid])


def test_writing_again_replaces(tmp_path: Path) -> None:
    Stored.write(tmp_path, "mic", image(1.0))
    Stored.write(tmp_path, "mic", image(2.0, 40, 50))
    np.testing.assert_array_equal(Stored.open(tmp_path, "mic").image().data, image(2.0, 40, 50).data)
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("damage", ["missing", "mic.json", "mic.image.npy"])
def test_what_is_not_there_or_damaged_is_named(damage: str, tmp_path: Path) -> None:
    Stored.write(tmp_path, "mic", image())
    if damage != "missing":
        (tmp_path / damage).write_bytes(b"no")
    with pytest.raises(InputError, match=r"(missing|mic) is .*stored here by verglas"):
        Stored.open(tmp_path, "missing" if damage == "missing" else "mic")


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_crops_do_not_keep_files_open(tmp_path: Path) -> None:
    stored = labelled(tmp_path)
    crops = [s.cut(Geometry(), 32, seeded()) for s in stored for _ in range(5)]
    assert str(tmp_path) not in Path("/proc/self/maps").read_text(encoding="utf-8")
    before = [crop.clone() for crop, _ in crops]
    for path in tmp_path.iterdir():
        path.write_bytes(bytes(path.stat().st_size))
    assert all(torch.equal(crop, old) for (crop, _), old in zip(crops, before, strict=True))


# --- batches ---


def test_image_target_and_known_move_together(tmp_path: Path) -> None:
    batch = labelled_batch(labelled(tmp_path), how(stem=1, batch=16), seeded())
    bright = batch.image > 5
    assert bright.any()
    assert (bright != batch.target.bool()).float().mean() < 0.02, "edges of discs apart"
    # left of column 80 a disc is known, right of it none is: all that is known and bright is target
    assert batch.target.bool()[bright & batch.known].float().mean() > 0.95
    assert 0.2 < batch.known.float().mean() < 0.9


@pytest.mark.parametrize("stem", [1, 2, 4])
def test_targets_have_one_value_per_logit(stem: int, tmp_path: Path) -> None:
    stored = labelled(tmp_path)
    first = labelled_batch(stored, how(stem), seeded())
    side = 32 // stem
    assert first.image.shape == (4, 1, 32, 32)
    assert first.target.shape == first.known.shape == (4, 1, side, side)
    assert set(first.target.unique().tolist()) <= {0.0, 1.0}
    second = unlabelled_batch(stored, how(stem), 3, seeded())
    assert second.weak.shape == (4, 1, 32, 32)
    assert second.strong.shape == (3, 4, 1, 32, 32)
    assert second.valid.shape == (4, 1, side, side)


@pytest.mark.parametrize("stem", [2, 4])
def test_a_logit_over_one_unknown_pixel_is_unknown(stem: int, tmp_path: Path) -> None:
    stored = labelled(tmp_path)
    fine, coarse = (labelled_batch(stored, how(s, batch=16), seeded()) for s in (1, stem))
    assert torch.equal(coarse.image, fine.image)
    assert torch.equal(coarse.known, -functional.max_pool2d(-fine.known.float(), stem) == 1)
    assert torch.equal(coarse.target, (functional.avg_pool2d(fine.target, stem) >= 0.5).float())
    pixels, logits = (unlabelled_batch(stored, how(s, batch=16), 1, seeded()).valid for s in (1, stem))
    assert torch.equal(logits, -functional.max_pool2d(-pixels.float(), stem) == 1)
    assert 0.1 < logits.float().mean() < 1


def test_strong_views_have_the_geometry_of_the_weak_one(tmp_path: Path) -> None:
    stored = labelled(tmp_path)
    neutral = unlabelled_batch(stored, how(), 2, seeded())
    for view in neutral.strong:
        torch.testing.assert_close(view, neutral.weak, atol=1e-4, rtol=0)
    changed = unlabelled_batch(stored, how(photometry=Photometry()), 2, seeded())
    torch.testing.assert_close(changed.weak, neutral.weak, atol=0, rtol=0)
    assert (changed.strong[0] - changed.strong[1]).abs().mean() > 0.1, "two views differ"
    assert (changed.strong[0] - changed.weak).abs().mean() > 0.1


def test_a_weak_view_is_as_prepared(tmp_path: Path) -> None:
    constant = Image(np.full((90, 110), 7, np.float32), Grid(), np.ones((90, 110), bool))
    stored = [Stored.write(tmp_path, "mic", constant)]
    batch = unlabelled_batch(stored, how(stem=1, photometry=Photometry()), 1, seeded())
    torch.testing.assert_close(batch.weak[batch.valid], torch.full((int(batch.valid.sum()),), 7.0), atol=0.6, rtol=0)
    assert batch.weak[batch.valid].median() == pytest.approx(7, abs=1e-4)


def test_every_micrograph_is_seen(tmp_path: Path) -> None:
    stored = [Stored.write(tmp_path, f"mic{k}", image(10.0 * k)) for k in range(5)]
    batch = unlabelled_batch(stored, how(stem=1, batch=60), 1, seeded())
    levels = [tile[valid].median() for tile, valid in zip(batch.weak, batch.valid, strict=True) if valid.any()]
    seen, counts = np.unique(np.rint(np.array(levels) / 10), return_counts=True)
    assert seen.tolist() == [0, 1, 2, 3, 4]
    assert counts.min() >= 4


def flat(batch: tuple[Labelled, Unlabelled | None]) -> list[torch.Tensor]:
    return [getattr(part, name) for part in batch if part is not None for name in type(part).__slots__]


def test_the_generator_is_the_position_in_the_stream(tmp_path: Path) -> None:
    stored = labelled(tmp_path)
    generator = seeded(7)
    stream = batches(stored, stored, how(photometry=Photometry(cutout=0.1)), 2, generator)
    for _ in range(3):
        next(stream)
    state = generator.get_state()
    went_on = [flat(batch) for batch in itertools.islice(stream, 2)]
    again = torch.Generator()
    again.set_state(state)
    resumed = batches(stored, stored, how(photometry=Photometry(cutout=0.1)), 2, again)
    for one, other in zip(went_on, map(flat, itertools.islice(resumed, 2)), strict=True):
        assert len(one) == len(other) == 6
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert not torch.equal(went_on[0][0], went_on[1][0])


def test_no_global_randomness_is_used(tmp_path: Path) -> None:
    stored = labelled(tmp_path)
    state = torch.random.get_rng_state()
    stream = batches(stored, stored, how(photometry=Photometry(cutout=0.1)), 1, seeded())
    next(stream)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("views", [0, 1])
def test_unlabelled_tiles_come_where_they_are_wanted_and_there(views: int, tmp_path: Path) -> None:
    stored = labelled(tmp_path)
    _, with_some = next(batches(stored, stored, how(), views, seeded()))
    _, without = next(batches(stored, [], how(), views, seeded()))
    assert (with_some is None) == (views == 0)
    assert without is None


# --- masks at the logits ---


def test_a_logit_is_known_if_all_of_it_is_and_target_if_half_is() -> None:
    counts = torch.tensor([[0, 1, 2], [3, 4, 4]])
    mask = torch.zeros(1, 1, 4, 6, dtype=torch.bool)
    for i, j in itertools.product(range(2), range(3)):
        for n in range(int(counts[i, j])):
            mask[0, 0, 2 * i + n // 2, 2 * j + n % 2] = True
    assert torch.equal(per_logit(mask, 2, 1.0)[0, 0], counts == 4)
    assert torch.equal(per_logit(mask, 2, 0.5)[0, 0], counts >= 2)
    assert per_logit(mask, 1, 0.5) is mask


@pytest.mark.parametrize("stem", [2, 3, 5, 7])
def test_a_full_mask_stays_full(stem: int) -> None:
    assert per_logit(torch.ones(1, 2, 6 * stem, 4 * stem, dtype=torch.bool), stem, 1.0).all()
