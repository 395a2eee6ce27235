"""The recipe: nothing moves, borders do not meet, and what cannot be trusted is marked."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verglas import preprocess
from verglas.errors import InputError
from verglas.preprocess import Preprocess, resize
from verglas.types import Grid, Image

Shape = tuple[int, int]

SIZES = [
    ((128, 128), (64, 64)),  # even
    ((129, 131), (65, 43)),  # odd, unequal steps
    ((128, 97), (51, 96)),
    ((200, 320), (25, 40)),  # far down
    ((60, 50), (120, 101)),  # up
    ((96, 96), (96, 60)),  # one axis alone
]


def blob(shape: Shape, x: float, y: float, sigma: float) -> np.ndarray:
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    return np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2))


def centre_of_mass(data: np.ndarray, grid: Grid) -> np.ndarray:
    """Return where the mass of an image is, in micrograph pixels."""
    rows, columns = np.mgrid[: data.shape[0], : data.shape[1]]
    at = np.array([[np.sum(data * columns), np.sum(data * rows)]]) / data.sum()
    return grid.to_micrograph(at)[0]


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


# --- resize ---


@pytest.mark.parametrize(("old", "new"), SIZES)
@pytest.mark.parametrize(("along", "down"), [(0.5, 0.5), (0.31, 0.62), (0.7, 0.4)])
def test_a_blob_stays_put(old: Shape, new: Shape, along: float, down: float) -> None:
    x, y = along * old[1] + 0.13, down * old[0] - 0.21
    sigma = 1.5 * max(old[0] / new[0], old[1] / new[1], 1)  # narrower would not survive the smaller grid
    found = centre_of_mass(resize(blob(old, x, y, sigma), new), Grid().area_resized(old, new))
    np.testing.assert_allclose(found, (x, y), atol=0.05)


@pytest.mark.parametrize(("old", "new"), SIZES)
def test_the_mean_stays(old: Shape, new: Shape) -> None:
    data = 7 + noise(*old)
    resized = resize(data, new)
    assert resized.shape == new
    assert resized.mean() == pytest.approx(data.mean(), rel=1e-6)
    np.testing.assert_allclose(resize(np.full(old, 3.0), new), 3, rtol=1e-6)


@pytest.mark.parametrize(("old", "new"), SIZES)
def test_what_both_grids_can_hold_is_reproduced(old: Shape, new: Shape) -> None:
    """Cosines that mirror at the borders, slow enough for the smaller grid, are the same function on both."""

    def waves(shape: Shape) -> np.ndarray:
        rows, columns = (((np.arange(n) + 0.5) / n * np.pi)[:, None] for n in shape)
        return np.cos(3 * rows) @ np.cos(5 * columns).T + 0.5 * np.cos(11 * rows) @ np.cos(0 * columns).T

    np.testing.assert_allclose(resize(waves(old), new), waves(new), atol=1e-6)


def test_going_up_and_back_loses_nothing() -> None:
    data = noise(41, 64)
    np.testing.assert_allclose(resize(resize(data, (83, 90)), (41, 64)), data, atol=1e-6)


def test_single_precision_stays_single() -> None:
    assert resize(np.ones((32, 32), np.float32), (16, 40)).dtype == np.float32


def test_what_is_bright_at_one_border_leaves_the_opposite_dark() -> None:
    bright = resize(blob((128, 128), 127.5, 40, 6), (48, 48))
    assert bright[:, -1].max() > 0.9
    assert np.abs(bright[:, :30]).max() < 1e-3


def test_a_ramp_does_not_ring() -> None:
    ramp = np.tile(np.linspace(0, 1, 256), (64, 1))
    small = resize(ramp, (32, 100))
    columns = Grid().area_resized(ramp.shape, small.shape).to_micrograph(np.stack([np.arange(100.0)] * 2, 1))[:, 0]
    np.testing.assert_allclose(small, np.tile(columns / 255, (32, 1)), atol=2e-3)


def test_the_input_is_not_changed() -> None:
    data = noise(64, 64)
    before = data.copy()
    resize(data, (30, 30))
    Preprocess(24.0).prepare(data)
    np.testing.assert_array_equal(data, before)


# --- prepare ---


@pytest.mark.parametrize("diameter_px", [12.0, 24.0, 31.0, 75.0])
@pytest.mark.parametrize("shape", [(240, 240), (241, 333)])
def test_a_blob_stays_put_through_the_recipe(diameter_px: float, shape: Shape) -> None:
    x, y = 0.45 * shape[1] + 0.3, 0.6 * shape[0] - 0.4
    recipe = Preprocess(diameter_px, clip=1e9, mask_outliers=0)
    image = recipe.prepare(noise(*shape) - 1e6 * blob(shape, x, y, diameter_px / 5))
    dark = np.maximum(-image.data + 0.2 * image.data.min(), 0)
    np.testing.assert_allclose(centre_of_mass(dark, image.grid), (x, y), atol=0.05)


def test_a_particle_has_the_working_size() -> None:
    recipe = Preprocess(100.0, working_diameter_px=20)
    grid = recipe.prepare(noise(500, 800)).grid
    assert 100 / grid.dx == pytest.approx(20, rel=0.12)
    assert 100 / grid.dy == pytest.approx(20, rel=0.12)


@pytest.mark.parametrize("shape", [(300, 300), (300, 401)])
def test_the_middle_is_zero_and_the_spread_one(shape: Shape) -> None:
    image = Preprocess(36.0).prepare(1000 + 30 * noise(*shape))
    assert image.valid.all()
    assert abs(np.median(image.data)) < 0.01
    assert 1.4826 * np.median(np.abs(image.data)) == pytest.approx(1, abs=0.01)


def test_the_background_becomes_flat() -> None:
    rows, columns = np.mgrid[:400, :400] / 400
    image = Preprocess(24.0).prepare(noise(400, 400) + 20 * rows + 10 * np.cos(3 * columns))
    quarters = [image.data[i : i + 120, j : j + 120].mean() for i in (80, 200) for j in (80, 200)]
    assert np.abs(quarters).max() < 0.25, "it was up to 20"
    tilted = Preprocess(24.0, flatten=0).prepare(noise(400, 400) + 20 * rows)
    assert tilted.data[-20:].mean() - tilted.data[:20].mean() > 1


def test_grey_values_are_cut() -> None:
    data = noise(200, 200)
    data[100, 100], data[50, 60] = 1e4, -1e4
    image = Preprocess(24.0, clip=4, mask_outliers=0).prepare(data)
    assert (image.data.max(), image.data.min()) == (4, -4)


@pytest.mark.parametrize("replicated", [False, True])
@pytest.mark.parametrize("border", [((0, 0), (7, 0)), ((5, 11), (3, 2)), ((40, 0), (0, 33))])
def test_a_frame_without_content_is_cut_off(replicated: bool, border: tuple[Shape, Shape]) -> None:
    inner = noise(192, 160)
    framed = np.pad(inner, border, mode="edge") if replicated else np.pad(inner, border, constant_values=3.0)
    ((top, bottom), (left, right)), one = border, 0 if replicated else 1
    # one line of a constant frame stays: without a neighbour like it, it repeats nothing
    kept = framed[top - one * (top > 0) : framed.shape[0] - bottom + one * (bottom > 0),
                  left - one * (left > 0) : framed.shape[1] - right + one * (right > 0)]  # fmt: skip
    expected, image = Preprocess(30.0).prepare(kept), Preprocess(30.0).prepare(framed)
    np.testing.assert_array_equal(image.data, expected.data)
    shift = (left - one * (left > 0), top - one * (top > 0))
    np.testing.assert_allclose((image.grid.x0, image.grid.y0), np.add((expected.grid.x0, expected.grid.y0), shift))
    assert (image.grid.dx, image.grid.dy) == (expected.grid.dx, expected.grid.dy)


def marked(image: Image, shape: Shape) -> np.ndarray:
    """Return which pixels of the micrograph are invalid, by the nearest prepared one."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    at = image.grid.from_micrograph(np.stack([columns.ravel(), rows.ravel()], 1).astype(float))
    j, i = np.clip(np.rint(at).astype(int).T, 0, np.array(image.data.shape[::-1])[:, None] - 1)
    return ~image.valid[i, j].reshape(shape)


@pytest.mark.parametrize("value", [0.0, 100.0])
def test_a_dead_area_is_invalid(value: float) -> None:
    data = 100 + 5 * noise(400, 320)
    data[104:200, 40:160] = value
    invalid = marked(Preprocess(48.0).prepare(data), data.shape)
    assert invalid[108:196, 44:156].all()
    assert not invalid[240:].any()
    assert not invalid[:, 200:].any()


@pytest.mark.parametrize("height", [-30.0, 30.0])
def test_gold_is_invalid_and_particles_are_not(height: float) -> None:
    data = noise(400, 400)
    data[:, :120] += height
    data -= 2 * blob(data.shape, 250, 200, 12)
    image = Preprocess(48.0).prepare(data)
    invalid = marked(image, data.shape)
    assert invalid[:, :110].all()
    assert not invalid[:, 150:].any()
    assert (image.data[~image.valid] == 0).all()
    assert Preprocess(48.0, mask_outliers=0).prepare(data).valid.all()


def test_a_bad_area_does_not_darken_its_surroundings() -> None:
    clean = noise(400, 400)
    dirty = clean.copy()
    dirty[:, :120] += 500
    clean, dirty = (Preprocess(48.0).prepare(data) for data in (clean, dirty))
    beside = clean.data[:, 90:120].mean()
    assert abs(dirty.data[:, 90:120].mean() - beside) < 0.2


def test_at_the_smallest_working_size_a_bad_area_does_not_take_the_picture() -> None:
    data = noise(600, 600)
    data[:100, :100] += 50
    valid = Preprocess(48.0, working_diameter_px=4).prepare(data).valid
    assert 0.85 < valid.mean() < 0.99


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (np.full((300, 300), 5.0), "contrast"),
        (np.tile(noise(300, 1), (1, 300)), "contrast"),  # stripes
        (np.pad(np.ones((1, 1)), 150), "contrast"),
        (np.kron(np.eye(2), np.ones((320, 320))) * np.tile(noise(640, 1), (1, 640)), "contrast"),
        (np.pad(noise(4, 4), ((0, 796), (0, 796))) + np.pad(noise(4, 4), ((796, 0), (796, 0))), "usable area"),
    ],
    ids=["constant", "stripes", "one pixel", "broken stripes", "two corners"],
)
def test_a_picture_of_nothing_is_refused(data: np.ndarray, what: str) -> None:
    with pytest.raises(InputError, match=what):
        Preprocess(300.0).prepare(data)


@given(st.floats(0.01, 100), st.floats(-300, 300), st.sampled_from([(160, 160), (161, 200)]))
@settings(max_examples=15, deadline=None)
def test_the_scale_of_grey_values_does_not_matter(a: float, b: float, shape: Shape) -> None:
    data = noise(*shape)
    data[:60, :50] += 40
    one, other = Preprocess(36.0).prepare(data), Preprocess(36.0).prepare(a * (data + b))
    np.testing.assert_array_equal(other.valid, one.valid)
    np.testing.assert_allclose(other.data, one.data, atol=1e-3)


def test_an_inverted_micrograph_gives_the_inverted_picture() -> None:
    data = noise(160, 200)
    np.testing.assert_allclose(Preprocess(36.0).prepare(-data).data, -Preprocess(36.0).prepare(data).data, atol=1e-4)


def test_a_mirrored_micrograph_gives_the_mirrored_picture() -> None:
    data = noise(160, 201)
    given, mirrored = Preprocess(36.0).prepare(data), Preprocess(36.0).prepare(data[::-1, ::-1])
    np.testing.assert_allclose(mirrored.data[::-1, ::-1], given.data, atol=1e-3)


# --- the recipe itself ---


def test_every_setting_and_the_version_change_the_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = Preprocess(100.0)
    changes = {"diameter_px": 101.0, "working_diameter_px": 32.0, "flatten": 0.0, "clip": 4.0, "mask_outliers": 0.0}
    assert set(changes) == set(Preprocess.__dataclass_fields__), "a new setting needs its line here"
    hashes = {recipe.hash, *(replace(recipe, **{name: value}).hash for name, value in changes.items())}
    monkeypatch.setattr(preprocess, "VERSION", preprocess.VERSION + 1)
    hashes.add(recipe.hash)
    assert len(hashes) == len(changes) + 2


def test_equal_recipes_have_equal_hashes() -> None:
    assert Preprocess(100.0, clip=4.0).hash == Preprocess(100.0, clip=4.0).hash
    assert len(Preprocess(100.0).hash) == 16


@pytest.mark.parametrize("diameter_px", [0.0, -3.0, 1e5, float("nan")])
def test_an_impossible_diameter_is_refused(diameter_px: float) -> None:
    with pytest.raises(InputError, match=r"diameter_px is .*--diameter-px"):
        Preprocess(diameter_px)
