"""Geometry moves image and masks as one; views change grey values and nothing else."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from verglas.augment import Geometry, Photometry, Placement
from verglas.errors import InputError

NEUTRAL = Photometry(0, 0, 0, 0, 1, 0, 1, 0, 0)
"""A view that changes nothing."""


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def blobs(shape: tuple[int, int], xy: np.ndarray, sigma: float = 3.0) -> np.ndarray:
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    return sum(np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2)) for x, y in xy).astype(np.float32)


def centre_of_mass(image: np.ndarray) -> np.ndarray:
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]]
    return np.array([np.sum(image * columns), np.sum(image * rows)]) / image.sum()


# --- a crop ---


def test_a_crop_without_turn_is_a_slice() -> None:
    image = np.random.default_rng(0).normal(size=(60, 80)).astype(np.float32)
    masks = image[None] > 0.5
    crop, planes = Placement(x=31.5, y=23.5).cut(image, masks, 32)
    np.testing.assert_allclose(crop[0].numpy(), image[8:40, 16:48], atol=1e-4)
    np.testing.assert_array_equal(planes.numpy(), masks[:, 8:40, 16:48])


@pytest.mark.parametrize("size", [32, 33])
@pytest.mark.parametrize("quarter", range(4))
@pytest.mark.parametrize("mirrored", [False, True])
def test_quarter_turns_and_mirrors_only_reorder_pixels(size: int, quarter: int, mirrored: bool) -> None:
    image = np.random.default_rng(0).normal(size=(70, 81)).astype(np.float32)
    centre = 20 + (size - 1) / 2
    crop, _ = Placement(centre, centre, quarter * math.pi / 2, 1.0, mirrored).cut(image, image[None] > 0, size)
    piece = np.rot90(image[20 : 20 + size, 20 : 20 + size], quarter)
    expected = np.fliplr(piece) if mirrored else piece
    np.testing.assert_allclose(crop[0].numpy(), expected, atol=1e-3)


@pytest.mark.parametrize("zoom", [0.8, 1.0, 1.25])
@pytest.mark.parametrize("angle", [0.0, 0.7, 2.5])
@pytest.mark.parametrize("mirrored", [False, True])
def test_a_blob_lands_where_the_matrix_says(zoom: float, angle: float, mirrored: bool) -> None:
    place, size = Placement(61.3, 48.8, angle, zoom, mirrored), 48
    offset = np.array([6.0, -9.0])  # in the crop, from its centre
    source = np.array([61.3, 48.8]) + place.source() @ offset
    image = blobs((100, 130), source[None])
    crop, _ = place.cut(image, image[None] > 0.5, size)
    np.testing.assert_allclose(centre_of_mass(crop[0].numpy()), (size - 1) / 2 + offset, atol=0.05)


def test_zoom_is_pixels_of_source_per_pixel_of_crop() -> None:
    assert np.linalg.det(Placement(0, 0, 0.3, 2.0).source()) == pytest.approx(4)
    assert np.linalg.det(Placement(0, 0, 0.3, 2.0, mirrored=True).source()) == pytest.approx(-4)


def test_beyond_the_micrograph_all_is_zero_and_unknown() -> None:
    image, masks = np.full((40, 50), 7.0, np.float32), np.ones((2, 40, 50), bool)
    crop, planes = Placement(x=3.5, y=35.5).cut(image, masks, 32)
    inside = np.zeros((32, 32), bool)
    inside[:20, 12:] = True
    np.testing.assert_array_equal(planes.numpy(), [inside, inside])
    np.testing.assert_allclose(crop[0].numpy(), np.where(inside, 7, 0), atol=1e-4)


def test_a_crop_larger_than_the_picture_holds_it_all() -> None:
    image = np.ones((20, 30), np.float32)
    crop, planes = Placement(14.5, 9.5).cut(image, np.ones((1, 20, 30), bool), 64)
    assert planes.sum() == 600
    assert crop.sum() == pytest.approx(600, rel=1e-4)


# --- where crops lie ---


def places(geometry: Geometry, shape: tuple[int, int], size: int, n: int = 400) -> list[Placement]:
    generator = seeded()
    return [geometry.place(shape, size, generator) for _ in range(n)]


def test_crops_hang_over_as_far_as_allowed_and_no_farther() -> None:
    for overhang in (0.0, 0.25, 0.5):
        drawn = places(Geometry(scale=0.0, overhang=overhang), (200, 300), 64)
        for at, side in (("x", 300), ("y", 200)):
            low = np.array([getattr(place, at) for place in drawn]) + 0.5 - 32
            assert low.min() == pytest.approx(-overhang * 64, abs=5)
            assert low.min() >= -overhang * 64
            assert low.max() == pytest.approx(side - 64 + overhang * 64, abs=5)
            assert low.max() <= side - 64 + overhang * 64


def test_sizes_spread_evenly_about_one() -> None:
    zooms = np.array([place.zoom for place in places(Geometry(scale=0.25), (200, 300), 64)])
    assert zooms.max() <= 1.25
    assert zooms.min() >= 1 / 1.25
    assert np.log(zooms).mean() == pytest.approx(0, abs=0.03)
    assert zooms.max() > 1.2


def test_turns_are_quarters_unless_any_angle_is_asked_for() -> None:
    quarters = {place.angle for place in places(Geometry(rotate=False), (200, 300), 64)}
    assert quarters == {0.0, math.pi / 2, math.pi, 3 * math.pi / 2}
    angles = [place.angle for place in places(Geometry(rotate=True), (200, 300), 64)]
    assert len(set(angles)) == 400
    assert max(angles) > 6


def test_half_of_the_crops_are_mirrored() -> None:
    assert sum(place.mirrored for place in places(Geometry(), (200, 300), 64)) == pytest.approx(200, abs=40)


def test_a_small_picture_is_in_the_middle() -> None:
    for place in places(Geometry(scale=0.0, overhang=0.0), (40, 50), 64, 5):
        assert (place.x, place.y) == (24.5, 19.5)


def test_the_generator_decides_where_a_crop_lies() -> None:
    first, again, other = (Geometry().place((200, 300), 64, seeded(seed)) for seed in (1, 1, 2))
    assert first == again != other


def drawn_around(geometry: Geometry, xy: tuple[float, float], size: int, n: int = 400) -> list[Placement]:
    generator = seeded()
    return [geometry.place((200, 300), size, generator, around=xy) for _ in range(n)]


def in_crop(place: Placement, xy: tuple[float, float]) -> np.ndarray:
    """Return where a position of the source lies in the crop, from its centre."""
    return np.linalg.solve(place.source(), np.array(xy) - (place.x, place.y))


@pytest.mark.parametrize("scale", [0.0, 0.25])
def test_a_crop_around_a_position_has_it_in_its_middle_half(scale: float) -> None:
    xy, size = (120.0, 70.0), 64
    offsets = np.array([in_crop(p, xy) for p in drawn_around(Geometry(rotate=False, scale=scale), xy, size)])
    assert np.abs(offsets).max() <= size / 4
    for column in offsets.T:
        assert column.min() == pytest.approx(-size / 4, abs=1)
        assert column.max() == pytest.approx(size / 4, abs=1)
        assert np.abs(column).mean() == pytest.approx(size / 8, abs=1), "evenly"


def test_a_turned_crop_still_shows_the_position_it_was_drawn_around() -> None:
    xy, size = (0.0, 199.0), 48  # a corner
    for place in drawn_around(Geometry(), xy, size):
        assert np.hypot(*in_crop(place, xy)) <= size / 4 * math.sqrt(2) + 1e-9
    spot = np.zeros((200, 300), bool)
    spot[197:200, 0:3] = True
    for place in drawn_around(Geometry(), xy, size, 20):
        _, planes = place.cut(np.zeros((200, 300), np.float32), spot[None], size)
        assert planes.any()


def test_with_and_without_a_position_crops_are_turned_and_scaled_alike() -> None:
    """The draws are the same ones, so that the stream of random numbers is."""
    one, other = seeded(), seeded()
    for _ in range(5):
        free, around = (
            Geometry().place((200, 300), 64, one), Geometry().place((200, 300), 64, other, around=(50.0, 60.0))
        )  # fmt: skip
        assert (free.angle, free.zoom, free.mirrored) == (around.angle, around.zoom, around.mirrored)
    assert torch.equal(one.get_state(), other.get_state())


@pytest.mark.parametrize("fault", [{"scale": -0.1}, {"scale": 2.0}, {"overhang": 0.6}, {"overhang": -0.1}])
def test_an_impossible_geometry_is_refused(fault: dict[str, float]) -> None:
    with pytest.raises(InputError, match=f"geometry: {next(iter(fault))} is"):
        Geometry(**fault)


# --- views ---


def tiles(b: int = 8, side: int = 64) -> Tensor:
    """Dark particles in noise, as prepared micrographs show them."""
    generator = np.random.default_rng(0)
    images = [
        generator.normal(size=(side, side)) - 4 * blobs((side, side), generator.uniform(0, side, (6, 2)))
        for _ in range(b)
    ]
    return torch.from_numpy(np.stack(images)[:, None].astype(np.float32))


def test_a_neutral_view_is_the_image() -> None:
    np.testing.assert_allclose(NEUTRAL.view(tiles(), seeded()).numpy(), tiles().numpy(), atol=1e-5)


@pytest.mark.parametrize(
    "change",
    [{"noise": 1.0}, {"coloured_noise": 1.0}, {"blur": 2.0}, {"sharpen": 1.0}, {"contrast": 2.0}, {"offset": 1.0},
     {"gamma": 2.0}, {"ramp": 1.0}, {"cutout": 0.2}],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_each_change_changes_something(change: dict[str, float]) -> None:
    view = replace(NEUTRAL, **change).view(tiles(), seeded())
    changed = (view - tiles()).abs().amax((1, 2, 3)) > 0.02
    assert changed.sum() >= (2 if change.keys() & {"blur", "sharpen"} else 8)  # of these two, one at a time


@pytest.mark.parametrize(
    "change",
    [{"blur": 2.0}, {"blur": 0.3}, {"sharpen": 1.0}, {"contrast": 2.0}, {"gamma": 2.0},
     {"blur": 1.0, "sharpen": 0.5, "contrast": 1.5, "gamma": 1.5}],
    ids=str,
)  # fmt: skip
def test_a_blob_stays_put_in_a_view(change: dict[str, float]) -> None:
    xy = np.array([[29.3, 35.8]])
    image = torch.from_numpy(-4 * blobs((64, 70), xy))[None, None].repeat(8, 1, 1, 1)
    for view in replace(NEUTRAL, **change).view(image, seeded()).numpy()[:, 0]:
        np.testing.assert_allclose(centre_of_mass(view), xy[0], atol=0.05)


def test_the_whole_of_a_view_lies_where_the_image_lies() -> None:
    """With everything on, image and view correlate best without a shift."""
    image = tiles()
    view = Photometry(cutout=0.1).view(image, seeded())
    spectrum = torch.fft.fft2(image) * torch.fft.fft2(view - view.mean((2, 3), keepdim=True)).conj()
    assert (torch.fft.ifft2(spectrum).real.flatten(1).argmax(1) == 0).all()


def test_blur_is_a_share_of_a_gaussian_and_sharpening_its_opposite() -> None:
    image = tiles()
    smooth = np.stack([ndimage.gaussian_filter(i, 1.5, mode="mirror", radius=4) for i in image[:, 0].numpy()])[:, None]
    for change, signs in ({"blur": 1.5, "sharpen": 0.0}, {0, 1}), ({"blur": 1.5, "sharpen": 0.8}, {-1, 0, 1}):
        amounts = []
        for given, blurred, view in zip(image, smooth, replace(NEUTRAL, **change).view(image, seeded()), strict=True):
            step, change_of = blurred - given.numpy(), (view - given).numpy()
            amounts.append((change_of * step).sum() / (step**2).sum())
            np.testing.assert_allclose(change_of, amounts[-1] * step, atol=2e-3)
        assert -0.8 <= min(amounts) <= max(amounts) <= 1
        assert {int(np.sign(np.round(amount, 2))) for amount in amounts} <= signs
        assert (min(amounts) < -0.01) == (-1 in signs)


def test_noise_is_as_strong_as_said() -> None:
    image = torch.zeros(64, 1, 64, 64)
    spreads = replace(NEUTRAL, noise=0.5).view(image, seeded()).std(dim=(1, 2, 3))
    assert 0.45 < spreads.max() < 0.53
    assert spreads.mean() == pytest.approx(0.25, abs=0.06)


def test_contrast_and_offset_stay_within_bounds() -> None:
    image = torch.cat([torch.ones(256, 1, 1, 32), -torch.ones(256, 1, 1, 32)], dim=2).repeat(1, 1, 16, 1)
    view = replace(NEUTRAL, contrast=1.5, offset=0.3).view(image, seeded())
    high, low = view[:, 0, 0, 0], view[:, 0, 1, 0]
    factor, offset = (high - low) / 2, (high + low) / 2
    assert 1 / 1.5 <= factor.min() < 0.7
    assert 1.45 < factor.max() <= 1.5
    assert 0.27 < offset.abs().max() <= 0.3


def test_cutout_blanks_its_share_and_nothing_else() -> None:
    image = torch.ones(128, 1, 80, 60)
    view = replace(NEUTRAL, cutout=0.25).view(image, seeded())
    assert ((view == 0) | (view == 1)).all()
    np.testing.assert_allclose((view == 0).float().mean((1, 2, 3)).numpy(), 0.25, atol=0.02)
    assert (view == 0).any(0).float().mean() > 0.9, "holes come everywhere"


def test_a_ramp_is_smooth() -> None:
    ramp = replace(NEUTRAL, ramp=1.0).view(torch.zeros(16, 1, 64, 64), seeded())
    assert ramp.diff(dim=3).square().mean().sqrt() < 0.1
    assert ramp.std() == pytest.approx(0.8, abs=0.3)


def test_the_generator_decides_how_a_view_looks() -> None:
    first, again, other = (Photometry(cutout=0.1).view(tiles(), seeded(seed)) for seed in (1, 1, 2))
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    assert (first != other).any()


def test_a_view_leaves_the_image_as_it_was() -> None:
    image = tiles()
    Photometry(cutout=0.2).view(image, seeded())
    torch.testing.assert_close(image, tiles(), rtol=0, atol=0)


@pytest.mark.parametrize("fault", [{"noise": -1.0}, {"contrast": 0.5}, {"gamma": 0.0}, {"cutout": 1.0}, {"blur": 50.0}])
def test_an_impossible_photometry_is_refused(fault: dict[str, float]) -> None:
    with pytest.raises(InputError, match=f"photometry: {next(iter(fault))} is"):
        Photometry(**fault)
