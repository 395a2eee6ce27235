"""Prepared micrographs on disk, and the stream of batches cut from them."""

import itertools
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch.nn import functional

from verglas.augment import Geometry, Photometry, rectangles
from verglas.batch import Labelled, Unlabelled
from verglas.data import Cropping, Stored, labelled_batch, per_logit, unlabelled_batch
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


CENTRES = ((20.0, 30.0), (60.0, 50.0), (90.0, 70.0))


def labelled(folder: Path, n: int = 2) -> list[Stored]:
    """Micrographs on which what is bright is target; to the right nobody looked, below that it is held out."""
    stored = []
    for k in range(n):
        given = image(k)
        rows, columns = np.mgrid[:90, :110]
        target = np.min([np.hypot(columns - x, rows - y) for x, y in CENTRES], axis=0) < 9
        known = (columns < 80) & given.valid
        unseen, held = given.valid & ~known & (rows < 60), given.valid & ~known & (rows >= 60)
        image_of = Image(np.where(target, 10.0, 0.0).astype(np.float32), given.grid, given.valid)
        stored.append(Stored.write(folder, f"mic{k}", image_of, (target, known, unseen, held), CENTRES))
    return stored


# --- on disk ---


def test_what_is_stored_is_given_back_to_the_bit(tmp_path: Path) -> None:
    given = image(3.0)
    masks = tuple(np.random.default_rng(1).random((2, 90, 110)) < 0.5)
    written = Stored.write(tmp_path / "new", "mic.1", given, masks, [(3.25, 4.0), (1e-3, -7.125)])
    opened = Stored.open(tmp_path / "new", "mic.1")
    assert opened == written
    assert opened.centres == ((3.25, 4.0), (1e-3, -7.125))
    assert opened.shape == (90, 110)
    again = opened.image()
    np.testing.assert_array_equal(again.data, given.data)
    np.testing.assert_array_equal(again.valid, given.valid)
    assert again.grid == given.grid
    np.testing.assert_array_equal(opened.masks(), [*masks, given.valid])


def test_an_image_without_labels_has_the_mask_of_valid_pixels_alone(tmp_path: Path) -> None:
    Stored.write(tmp_path, "mic", image())
    opened = Stored.open(tmp_path, "mic")
    assert opened.centres == ()
    np.testing.assert_array_equal(opened.masks(), image().valid[None])


def test_writing_again_replaces(tmp_path: Path) -> None:
    Stored.write(tmp_path, "mic", image(1.0), (), CENTRES)
    Stored.write(tmp_path, "mic", image(2.0, 40, 50))
    again = Stored.open(tmp_path, "mic")
    np.testing.assert_array_equal(again.image().data, image(2.0, 40, 50).data)
    assert again.centres == ()
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("damage", ["missing", "mic.json", "mic.image.npy"])
def test_what_is_not_there_or_damaged_is_named(damage: str, tmp_path: Path) -> None:
    Stored.write(tmp_path, "mic", image())
    if damage != "missing":
        (tmp_path / damage).write_bytes(b"{}" if damage == "mic.json" else b"no")
    with pytest.raises(InputError, match=r"(missing|mic) is .*stored here by verglas"):
        Stored.open(tmp_path, "missing" if damage == "missing" else "mic")


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_crops_do_not_keep_files_open(tmp_path: Path) -> None:
    stored = labelled(tmp_path)
    crops = [s.cut(Geometry(), 32, seeded()) for s in stored for _ in range(5)]
    assert str(tmp_path) not in Path("/proc/self/maps").read_text(encoding="utf-8")
    before = [crop.clone() for crop, *_ in crops]
    for path in tmp_path.iterdir():
        path.write_bytes(bytes(path.stat().st_size))
    assert all(torch.equal(crop, old) for (crop, *_), old in zip(crops, before, strict=True))


# --- crops around labels ---


def spots(folder: Path, centres: tuple[tuple[float, float], ...]) -> Stored:
    """A micrograph that bears a mark at each of its centres, of 10, 40 and so on, and nothing else."""
    data = np.zeros((90, 110), np.float32)
    for k, (x, y) in enumerate(centres):
        data[int(y) - 1 : int(y) + 2, int(x) - 1 : int(x) + 2] = 10 * 4**k
    return Stored.write(folder, "spots", Image(data, Grid(), np.ones((90, 110), bool)), (), centres)


def test_a_centred_crop_shows_a_label_and_every_label_has_its_turn(tmp_path: Path) -> None:
    stored, geometry, generator = spots(tmp_path, CENTRES), Geometry(scale=0.05), seeded()
    shown = [stored.cut(geometry, 20, generator, centred=1.0)[0].max().item() for _ in range(90)]
    marks, counts = np.unique(np.rint(np.log2(np.array(shown) / 10) / 2), return_counts=True)
    assert marks.tolist() == [0, 1, 2]
    assert counts.min() > 15


@pytest.mark.parametrize("centred", [0.0, 0.3, 0.7])
def test_a_share_of_crops_is_centred(centred: float, tmp_path: Path) -> None:
    stored, geometry, generator = spots(tmp_path, ((55.0, 45.0),)), Geometry(rotate=False, scale=0.0), seeded()
    shows = [bool((stored.cut(geometry, 16, generator, centred=centred)[0] > 5).any()) for _ in range(300)]
    by_chance = 18**2 / (82 * 102)
    assert np.mean(shows) == pytest.approx(centred + (1 - centred) * by_chance, abs=0.09)


def test_where_there_are_no_labels_crops_lie_anywhere(tmp_path: Path) -> None:
    stored = Stored.write(tmp_path, "mic", image())
    one, other = (stored.cut(Geometry(), 32, seeded(), centred=share)[0] for share in (1.0, 0.0))
    assert torch.equal(one, other)


def test_labelled_crops_are_centred_and_unlabelled_ones_are_not(tmp_path: Path) -> None:
    stored = [spots(tmp_path, ((55.0, 45.0),))]
    centred = replace(how(stem=1, batch=40, size=16), centred=1.0)
    without = unlabelled_batch(stored, centred, 1, 0.0, seeded()).weak
    assert ((without > 5).flatten(1).any(1)).float().mean() < 0.2
    marked = Stored.write(tmp_path, "four", stored[0].image(), [stored[0].image().valid] * 4, stored[0].centres)
    assert (labelled_batch([marked], centred, seeded()).image > 5).flatten(1).any(1).all()


# --- batches ---


def test_image_target_and_known_move_together(tmp_path: Path) -> None:
    batch = labelled_batch(labelled(tmp_path), how(stem=1, batch=16), seeded())
    bright = batch.image > 5
    assert bright.any()
    assert (bright != batch.target.bool()).float().mean() < 0.02, "edges of discs apart"
    # left of column 80 a disc is known, right of it none is: all that is known and bright is target
    assert batch.target.bool()[bright & batch.known].float().mean() > 0.95
    assert 0.2 < batch.known.float().mean() < 0.9


@pytest.mark.parametrize("stem", [1, 2])
def test_no_pixel_is_both_known_and_unseen_and_held_out_ones_are_neither(stem: int, tmp_path: Path) -> None:
    batch = labelled_batch(labelled(tmp_path), how(stem, batch=24), seeded())
    assert not (batch.known & batch.unseen).any()
    assert 0.02 < batch.unseen.float().mean() < batch.known.float().mean()
    held = Stored.open(tmp_path, "mic0")
    masks = held.masks()
    assert masks[3].any()
    only = Stored.write(tmp_path, "held", held.image(), [masks[0], masks[3], masks[3], masks[3]])
    both, mine = (labelled_batch([one], how(stem, batch=24), seeded()) for one in (held, only))
    assert mine.known.any()
    assert not (mine.known & (both.known | both.unseen)).any()


@pytest.mark.parametrize("stem", [1, 2, 4])
def test_targets_have_one_value_per_logit(stem: int, tmp_path: Path) -> None:
    stored = labelled(tmp_path)
    first = labelled_batch(stored, how(stem), seeded())
    side = 32 // stem
    assert first.image.shape == (4, 1, 32, 32)
    assert first.target.shape == first.known.shape == first.unseen.shape == (4, 1, side, side)
    assert set(first.target.unique().tolist()) <= {0.0, 1.0}
    second = unlabelled_batch(stored, how(stem), 3, 0.5, seeded())
    assert second.weak.shape == (4, 1, 32, 32)
    assert second.strong.shape == (3, 4, 1, 32, 32)
    assert second.valid.shape == (4, 1, side, side)
    assert second.mixed.shape == (3, 4, 1, side, side)


@pytest.mark.parametrize("stem", [2, 4])
def test_a_logit_over_one_unknown_pixel_is_unknown(stem: int, tmp_path: Path) -> None:
    stored = labelled(tmp_path)
    fine, coarse = (labelled_batch(stored, how(s, batch=16), seeded()) for s in (1, stem))
    assert torch.equal(coarse.image, fine.image)
    for name in ("known", "unseen"):
        assert torch.equal(getattr(coarse, name), -functional.max_pool2d(-getattr(fine, name).float(), stem) == 1)
    assert torch.equal(coarse.target, (functional.avg_pool2d(fine.target, stem) >= 0.5).float())
    pixels, logits = (unlabelled_batch(stored, how(s, batch=16), 1, 0.0, seeded()).valid for s in (1, stem))
    assert torch.equal(logits, -functional.max_pool2d(-pixels.float(), stem) == 1)
    assert 0.1 < logits.float().mean() < 1


def test_strong_views_have_the_geometry_of_the_weak_one(tmp_path: Path) -> None:
    stored = labelled(tmp_path)
    neutral = unlabelled_batch(stored, how(), 2, 0.0, seeded())
    for view in neutral.strong:
        torch.testing.assert_close(view, neutral.weak, atol=1e-4, rtol=0)
    changed = unlabelled_batch(stored, how(photometry=Photometry()), 2, 0.0, seeded())
    torch.testing.assert_close(changed.weak, neutral.weak, atol=0, rtol=0)
    assert (changed.strong[0] - changed.strong[1]).abs().mean() > 0.1, "two views differ"
    assert (changed.strong[0] - changed.weak).abs().mean() > 0.1


def test_a_weak_view_is_as_prepared(tmp_path: Path) -> None:
    constant = Image(np.full((90, 110), 7, np.float32), Grid(), np.ones((90, 110), bool))
    stored = [Stored.write(tmp_path, "mic", constant)]
    batch = unlabelled_batch(stored, how(stem=1, photometry=Photometry()), 1, 0.5, seeded())
    torch.testing.assert_close(batch.weak[batch.valid], torch.full((int(batch.valid.sum()),), 7.0), atol=0.6, rtol=0)
    assert batch.weak[batch.valid].median() == pytest.approx(7, abs=1e-4)


def test_every_micrograph_is_seen(tmp_path: Path) -> None:
    stored = [Stored.write(tmp_path, f"mic{k}", image(10.0 * k)) for k in range(5)]
    batch = unlabelled_batch(stored, how(stem=1, batch=60), 1, 0.0, seeded())
    levels = [tile[valid].median() for tile, valid in zip(batch.weak, batch.valid, strict=True) if valid.any()]
    seen, counts = np.unique(np.rint(np.array(levels) / 10), return_counts=True)
    assert seen.tolist() == [0, 1, 2, 3, 4]
    assert counts.min() >= 4


def flat(batch: Labelled | Unlabelled) -> list[torch.Tensor]:
    return [value for name in type(batch).__slots__ if (value := getattr(batch, name)) is not None]


@pytest.mark.parametrize("kind", ["labelled", "unlabelled"])
def test_the_generator_is_the_position_in_the_stream(kind: str, tmp_path: Path) -> None:
    stored, cropping = labelled(tmp_path), replace(how(photometry=Photometry(cutout=0.1)), centred=0.5)

    def cut(generator: torch.Generator) -> list[torch.Tensor]:
        if kind == "labelled":
            return flat(labelled_batch(stored, cropping, generator))
        return flat(unlabelled_batch(stored, cropping, 2, 0.5, generator))

    generator, again = seeded(7), torch.Generator()
    for _ in range(3):
        cut(generator)
    again.set_state(generator.get_state())
    for _ in range(2):
        one, other = cut(generator), cut(again)
        assert len(one) == 4, "no beliefs where none were written"
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert not torch.equal(one[0], cut(generator)[0])


def test_no_global_randomness_is_used(tmp_path: Path) -> None:
    stored, cropping = labelled(tmp_path), replace(how(photometry=Photometry(cutout=0.1)), centred=0.5)
    state = torch.random.get_rng_state()
    labelled_batch(stored, cropping, seeded())
    unlabelled_batch(stored, cropping, 1, 0.5, seeded())
    assert torch.equal(torch.random.get_rng_state(), state)


# --- tiles pasted into tiles ---


@pytest.mark.parametrize("stem", [1, 2, 4])
def test_where_mixed_a_view_shows_the_tile_before(stem: int, tmp_path: Path) -> None:
    batch = unlabelled_batch(labelled(tmp_path), how(stem), 2, 0.5, seeded())
    for view, mixed in zip(batch.strong, batch.mixed, strict=True):
        for tile in range(4):
            pixels = np.kron(mixed[tile, 0].numpy(), np.ones((stem, stem), bool))
            expected = np.where(pixels, batch.weak[tile - 1, 0], batch.weak[tile, 0])
            np.testing.assert_allclose(view[tile, 0].numpy(), expected, atol=1e-4)
            assert 0 < pixels.mean() <= 0.6
    assert not torch.equal(batch.mixed[0], batch.mixed[1]), "each view has its own"


def test_what_is_pasted_has_the_grey_values_of_its_own_view(tmp_path: Path) -> None:
    """A pasted piece is augmented as the tile it comes from is: views are made first and mixed then."""
    stored = [Stored.write(tmp_path, f"mic{k}", image(10.0 * k)) for k in range(3)]
    loud = how(stem=1, photometry=replace(NEUTRAL, contrast=2.0))
    plain, mixed = (unlabelled_batch(stored, loud, 2, cutmix, seeded(3)) for cutmix in (0.0, 0.5))
    assert torch.equal(plain.strong.roll(1, 1)[mixed.mixed], mixed.strong[mixed.mixed])
    assert torch.equal(plain.strong[~mixed.mixed], mixed.strong[~mixed.mixed])
    assert torch.equal(plain.weak, mixed.weak)
    assert torch.equal(plain.valid, mixed.valid)
    assert not plain.mixed.any()


def test_seen_says_what_is_valid_of_a_mixed_view(tmp_path: Path) -> None:
    marked = Image(np.ones((90, 110), np.float32), Grid(), np.ones((90, 110), bool))
    stored = [Stored.write(tmp_path, "mic", marked)]
    batch = unlabelled_batch(stored, how(stem=1, batch=16), 2, 0.5, seeded())
    outside = ~batch.seen(batch.valid)  # beyond the micrograph all is 0
    assert outside.any()
    assert (batch.strong[~outside] > 0.3).all()
    assert (batch.strong[outside] < 0.9).float().mean() > 0.95


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
def test_rectangles_cover_a_fifth_to_all_of_their_share(share: float) -> None:
    drawn = rectangles(500, 96, share, seeded())
    assert drawn.shape == (500, 1, 96, 96)
    areas = drawn.float().mean((1, 2, 3))
    assert areas.min() == pytest.approx(0.2 * share, rel=0.15)
    assert areas.max() == pytest.approx(share, rel=0.1)
    assert areas.mean() == pytest.approx(0.6 * share, rel=0.05)


def test_rectangles_are_whole_and_between_1_to_2_and_2_to_1() -> None:
    drawn = rectangles(500, 96, 0.4, seeded())[:, 0]
    height, width = drawn.any(2).sum(1), drawn.any(1).sum(1)
    assert torch.equal(drawn.flatten(1).sum(1), height * width)
    ratio = (height / width).log2()
    assert -1.15 < ratio.min() < -0.9
    assert 0.9 < ratio.max() < 1.15
    assert ratio.mean().abs() < 0.1


def test_rectangles_come_everywhere_and_inside() -> None:
    often = rectangles(2000, 24, 0.3, seeded())[:, 0].float().mean(0)
    assert often.min() > 0, "corners too"
    assert often[12].min() > 0.01
    assert often[12, 12] == pytest.approx(often.max().item(), rel=0.2)
    torch.testing.assert_close(often, often.flip(0), atol=0.06, rtol=0)
    torch.testing.assert_close(often, often.T, atol=0.06, rtol=0)


def test_without_a_share_there_is_no_rectangle_and_with_all_at_most_a_tile() -> None:
    assert not rectangles(50, 24, 0.0, seeded()).any()
    full = rectangles(200, 24, 1.0, seeded()).float().mean((1, 2, 3))
    assert full.min() > 0.15
    assert full.max() <= 1


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


@pytest.mark.parametrize("stem", [1, 2])
def test_beliefs_move_with_the_picture(stem: int, tmp_path: Path) -> None:
    """The picture is its own belief: each logit believes the mean of what is seen there, where that is known."""
    rng = np.random.default_rng(0)
    smooth = ndimage.gaussian_filter(rng.random((90, 110)), 4).astype(np.float32)
    smooth = (smooth - smooth.min()) / np.ptp(smooth)
    known = np.ones(smooth.shape, bool)
    known[:, 60:] = False
    stored = replace(Stored.write(tmp_path, "a", Image(smooth, Grid(), np.ones(known.shape, bool))), belief=".b.npy")
    stored.believe(smooth, known)
    batch = unlabelled_batch([stored], how(stem), 1, 0.5, seeded())
    seen = functional.avg_pool2d(batch.weak, stem)
    assert batch.belief is not None
    assert batch.belief.shape == batch.valid.shape == seen.shape
    assert 0.2 < batch.valid.float().mean() < 0.8, "unknown and outside pixels do not count"
    assert (batch.belief - seen)[batch.valid].abs().max() < 0.02
    shown = batch.seen(batch.belief)
    inside = batch.seen(batch.valid)
    assert (shown - functional.avg_pool2d(batch.strong[0], stem)[None])[inside].abs().max() < 0.02


def test_without_beliefs_none_come(tmp_path: Path) -> None:
    assert unlabelled_batch(labelled(tmp_path), how(), 1, 0.0, seeded()).belief is None
