"""Probability maps: tiled or whole they are the same, and they sit where the micrograph says."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from verglas.data import per_logit
from verglas.errors import InputError
from verglas.model import Norm, Shape, UNet
from verglas.predict import (
    ORIENTATIONS,
    ROTATIONS,
    all_around,
    at_precision,
    autocast,
    output_grid,
    probability,
    resolved_device,
    trimmed,
    turned,
)
from verglas.types import Grid, Image


def network(shape: Shape) -> UNet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = UNet(shape)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()  # type: ignore[union-attr]
                module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
        nn.init.normal_(model.head.weight)
    return model.eval()


def image(h: int, w: int, grid: Grid | None = None) -> Image:
    data = np.random.default_rng(0).normal(size=(h, w)).astype(np.float32)
    return Image(data, grid or Grid(), np.ones((h, w), bool))


@pytest.mark.parametrize("norm", ["batch", "none"])
@pytest.mark.parametrize("stem", [1, 2])
@pytest.mark.parametrize(("h", "w"), [(128, 96), (97, 131), (64, 201)])
def test_in_tiles_is_as_a_whole(norm: Norm, stem: int, h: int, w: int) -> None:
    model = network(Shape(4, 1, norm, stem))
    whole = probability(model, image(h, w))
    assert whole.data.std() > 0.01
    for whole_px in (64, 90):
        tiled = probability(model, image(h, w), whole_px=whole_px)
        np.testing.assert_allclose(tiled.data, whole.data, atol=1e-5)
        assert tiled.grid == whole.grid


def test_deep_networks_in_tiles_too() -> None:
    model = network(Shape(4, 3, "batch", 2))
    whole, tiled = (probability(model, image(150, 333), whole_px=px) for px in (2048, 300))
    np.testing.assert_allclose(tiled.data, whole.data, atol=1e-5)


@pytest.mark.parametrize("stem", [1, 2, 3])
@pytest.mark.parametrize(("h", "w"), [(64, 64), (65, 67), (40, 50)])
def test_there_is_a_value_for_every_pixel(stem: int, h: int, w: int) -> None:
    found = probability(network(Shape(4, 1, "none", stem)), image(h, w))
    assert found.data.shape == found.valid.shape == (-(-h // stem), -(-w // stem))
    assert (found.data > 0).all()
    assert (found.data < 1).all()


@pytest.mark.parametrize("stem", [1, 2, 3, 4])
@pytest.mark.parametrize("whole_px", [2048, 64])
@pytest.mark.parametrize("grid", [Grid(), Grid(3.25, -7.5, 2.0, 1.7)], ids=["plain", "unequal"])
def test_a_network_that_copies_finds_a_blob_where_it_is(
    stem: int, whole_px: int, grid: Grid, monkeypatch: pytest.MonkeyPatch
) -> None:
    def copy(self: UNet, x: Tensor) -> Tensor:
        return functional.avg_pool2d(x, self.shape.stem)

    monkeypatch.setattr(UNet, "forward", copy)
    x, y, (h, w) = 70.3, 41.6, (97, 131)
    rows, columns = np.mgrid[:h, :w]
    blob = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 6.0**2))
    given = Image(blob.astype(np.float32), grid, np.ones((h, w), bool))
    found = probability(UNet(Shape(4, 1, "none", stem)), given, whole_px=whole_px)
    logits = np.log(found.data / (1 - found.data)).astype(float)
    i, j = np.mgrid[: logits.shape[0], : logits.shape[1]]
    at = np.array([[(logits * j).sum(), (logits * i).sum()]]) / logits.sum()
    np.testing.assert_allclose(found.grid.to_micrograph(at), grid.to_micrograph(np.array([[x, y]])), atol=0.1)


@pytest.mark.parametrize("stem", [1, 2, 3])
def test_targets_and_logits_sit_on_one_grid(stem: int) -> None:
    """What training reduces to logits lies where picking takes logits to be."""
    rows, columns = np.mgrid[:120, :120]
    disc = (columns - 63.2) ** 2 + (rows - 49.9) ** 2 < 30**2
    small = per_logit(torch.from_numpy(disc)[None, None], stem, 0.5)[0, 0].numpy()
    i, j = np.nonzero(small)
    found = output_grid(Grid(), stem).to_micrograph(np.array([[j.mean(), i.mean()]]))
    np.testing.assert_allclose(found, [[63.2, 49.9]], atol=0.25)


def test_what_is_invalid_stays_invalid() -> None:
    given = image(64, 64)
    valid = given.valid.copy()
    valid[:, :20] = False
    found = probability(network(Shape(4, 1, "none", 2)), Image(given.data, given.grid, valid))
    assert not found.valid[:, :10].any()
    assert found.valid[:, 10:].all()


def test_half_precision_is_close_to_single() -> None:
    model = network(Shape(8, 2, "batch", 2))
    single, half = (probability(model, image(64, 64), precision=p) for p in ("float32", "bfloat16"))
    assert half.data.dtype == np.float32
    assert 0 < np.abs(half.data - single.data).max() < 0.1


def test_prediction_leaves_image_and_network_as_they_were() -> None:
    model, given = network(Shape(4, 1)), image(50, 50)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    probability(model, given)
    np.testing.assert_array_equal(given.data, image(50, 50).data)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_precision_that_is_named_is_taken() -> None:
    cpu = torch.device("cpu")
    assert at_precision("float32", cpu) == "float32"
    assert at_precision("bfloat16", cpu) == "bfloat16"
    assert at_precision("auto", cpu) in ("float32", "bfloat16")
    with autocast(cpu, "bfloat16"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    with autocast(cpu, "float32"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


@pytest.mark.parametrize("side", [64, 65])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_view_is_turned_back_to_where_it_was(side: int, orientation: tuple[int, bool]) -> None:
    given = trimmed(image(side, side + 7), 2)

    def skewed(prepared: Image) -> Image:
        h, w = prepared.data.shape
        return replace(prepared, data=prepared.data * np.linspace(0, 1, h)[:, None] * np.linspace(0, 1, w) ** 2)

    assert np.array_equal(turned(lambda prepared: prepared, given, *orientation), given.data)
    as_it_is = np.allclose(turned(skewed, given, *orientation), skewed(given).data)
    assert as_it_is == (orientation == (0, False))


def test_seen_from_all_sides_a_turned_picture_has_the_turned_map() -> None:
    model, given = network(Shape(4, 1, "batch", 2)), image(64, 96)
    found = all_around(model, given)
    on_its_side = replace(given, data=np.rot90(given.data), valid=np.rot90(given.valid))
    assert np.allclose(np.rot90(found.data), all_around(model, on_its_side).data, atol=1e-6)
    assert not np.allclose(np.rot90(found.data), probability(model, on_its_side).data, atol=1e-2)
    assert found.grid == probability(model, given).grid


def test_seen_in_four_orientations_a_map_is_the_mean_of_the_four_turned_back() -> None:
    model, given = network(Shape(4, 1, "batch", 2)), image(64, 96)
    assert ROTATIONS == ((0, False), (1, False), (2, False), (3, False))
    found = all_around(model, given, orientations=ROTATIONS)
    turns = [replace(given, data=np.rot90(given.data, q), valid=np.rot90(given.valid, q)) for q in range(4)]
    each = [np.rot90(probability(model, seen).data, -q) for q, seen in enumerate(turns)]
    assert np.allclose(found.data, np.mean(each, axis=0), atol=1e-6)
    assert not np.allclose(found.data, all_around(model, given).data, atol=1e-3)


def test_a_device_that_is_not_there_is_named() -> None:
    assert resolved_device("cpu") == torch.device("cpu")
    with pytest.raises(InputError, match="auto, cpu, cuda or cuda:N"):
        resolved_device("abacus")
