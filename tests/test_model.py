"""The network: shapes, where it starts, how far it sees, and that its file gives it back."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from verglas.errors import InputError
from verglas.model import Norm, Shape, UNet, batch_norms, folded, load, save, to_device

SMALL = [Shape(4, depth, norm, stem) for depth in (0, 1, 2) for norm in ("batch", "none") for stem in (1, 2, 3)]


def network(shape: Shape, seed: int = 0, prior: float = 0.1) -> UNet:
    """Return a network ready to predict, whose statistics are not the initial ones."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = UNet(shape, prior=prior)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()  # type: ignore[union-attr]
                module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
        nn.init.normal_(model.head.weight)
    return model.eval()


def images(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("norm", ["group", "batch", "none"])
@pytest.mark.parametrize(("width", "depth", "stem"), [(4, 0, 1), (4, 1, 2), (6, 2, 1), (12, 3, 2), (5, 2, 4)])
def test_there_is_one_logit_per_stem_by_stem_pixels(norm: Norm, width: int, depth: int, stem: int) -> None:
    shape = Shape(width, depth, norm, stem)
    h, w = 2 * shape.multiple, 3 * shape.multiple
    assert shape.multiple == stem * 2**depth
    assert UNet(shape)(images(2, 1, h, w)).shape == (2, 1, h // stem, w // stem)


@pytest.mark.parametrize("prior", [0.02, 0.1, 0.4])
@pytest.mark.parametrize("norm", ["group", "batch"])
def test_the_output_starts_at_the_prior(prior: float, norm: Norm) -> None:
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        p = torch.sigmoid(UNet(Shape(8, 2, norm), prior=prior)(images(4, 1, 64, 64)))
    assert p.mean().item() == pytest.approx(prior, rel=0.15)
    assert p.std() < 0.1


@pytest.mark.parametrize(("prior", "start"), [(0.0, 0.005), (1.0, 0.5)])
def test_an_extreme_prior_is_not_taken_at_its_word(prior: float, start: float) -> None:
    assert torch.sigmoid(UNet(Shape(4, 1), prior=prior).head.bias).item() == pytest.approx(start)


@pytest.mark.parametrize("shape", SMALL, ids=str)
def test_a_logit_sees_no_farther_than_its_reach(shape: Shape) -> None:
    model, stem, reach = network(shape), shape.stem, shape.reach
    side = 2 * -(-(reach + stem) // shape.multiple) * shape.multiple + 2 * shape.multiple
    inside = images(1, 1, side, side)
    seen = 0
    for middle in (side // 2 // stem, side // 2 // stem + 1):  # odd and even logits meet pooling differently
        first, last = middle * stem, middle * stem + stem - 1
        near = torch.zeros(1, 1, side, side, dtype=torch.bool)
        near[..., first - reach : last + reach + 1, first - reach : last + reach + 1] = True
        assert not near.all()
        with torch.inference_mode():
            given = model(inside)[0, 0, middle, middle]
            other = model(torch.where(near, inside, images(1, 1, side, side, seed=1)))[0, 0, middle, middle]
            touched = inside.clone()
            touched[..., first : last + 1, first : last + 1] += 5
            seen += model(touched)[0, 0, middle, middle] != given
        torch.testing.assert_close(other, given, rtol=1e-5, atol=1e-5)
    assert seen, "what lies under a logit does move it"


def test_the_reach_is_not_far_beyond_what_is_seen() -> None:
    """Margins cost time: with all weights positive, pixels at two thirds of the reach do matter."""
    shape = Shape(4, 2, "none", 2)
    model = network(shape)
    for parameter in model.parameters():
        parameter.data.abs_()
    image = images(1, 1, 160, 160).abs().requires_grad_()
    model(image)[0, 0, 40, 40].backward()
    columns = torch.nonzero(image.grad[0, 0].abs().sum(0))
    assert (columns - 80).abs().max() > 0.66 * shape.reach


def test_a_network_without_statistics_over_space_moves_with_its_input() -> None:
    shape = Shape(4, 1, "none", 2)
    model, image = network(shape), images(1, 1, 128, 128)
    step = shape.multiple
    moved = torch.roll(image, (step, step), (2, 3))
    with torch.inference_mode():
        given, other = model(image), model(moved)
    inner = slice(16, -16)
    by = step // shape.stem
    torch.testing.assert_close(
        other[..., inner, inner], torch.roll(given, (by, by), (2, 3))[..., inner, inner], rtol=1e-4, atol=1e-4
    )


def test_the_seed_decides_the_weights() -> None:
    def weights(seed: int) -> torch.Tensor:
        return nn.utils.parameters_to_vector(network(Shape(4, 1), seed).parameters())

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


@pytest.mark.parametrize("shape", SMALL, ids=str)
def test_features_are_encoded_and_decoded_to_the_logits_of_the_whole(shape: Shape) -> None:
    model, image = network(shape), images(2, 1, 2 * shape.multiple, 3 * shape.multiple)
    with torch.inference_mode():
        features = model.encode(image)
        given = [level.clone() for level in features]
        torch.testing.assert_close(model.decode(features), model(image), rtol=0, atol=0)
    assert len(features) == shape.depth + 1
    for k, (level, before) in enumerate(zip(features, given, strict=True)):
        side = shape.multiple // shape.stem // 2**k
        assert level.shape == (2, shape.width * 2**k, 2 * side, 3 * side), "finest first"
        assert torch.equal(level, before), "decoding leaves them as they were"


@pytest.mark.parametrize("level", [0, 1, 2])
def test_features_of_every_level_reach_the_logits(level: int) -> None:
    shape = Shape(4, 2, "none", 2)
    model, image = network(shape), images(1, 1, 4 * shape.multiple, 4 * shape.multiple)
    with torch.inference_mode():
        features = model.encode(image)
        given = model.decode(features)
        features[level] = torch.zeros_like(features[level])
        assert (model.decode(features) != given).any()


@pytest.mark.parametrize("norm", ["group", "batch", "none"])
@pytest.mark.parametrize(("depth", "stem"), [(1, 1), (3, 2)])
def test_on_the_way_up_features_are_repeated_joined_and_convolved(norm: Norm, depth: int, stem: int) -> None:
    """As written by Ronneberger et al., borders included; the network does the same with fewer products."""
    shape = Shape(4, depth, norm, stem)
    model = network(shape).double()
    with torch.inference_mode():
        features = model.encode(images(2, 1, 3 * shape.multiple, 2 * shape.multiple).double())
        *skips, x = features
        for block in model.up:
            repeated = functional.interpolate(x, scale_factor=2.0, mode="nearest")
            x = block(torch.cat([skips.pop(), repeated], dim=1))
        torch.testing.assert_close(model.decode(features), model.head(x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("shape", [Shape(4, 2), Shape(4, 1, "group"), Shape(4, 1, "none", 1)], ids=str)
def test_a_folded_network_says_the_same_and_the_other_is_left_alone(shape: Shape) -> None:
    model, image = network(shape), images(1, 1, 4 * shape.multiple, 4 * shape.multiple)
    with torch.inference_mode():
        before = model(image)
        torch.testing.assert_close(folded(model)(image), before, rtol=1e-4, atol=1e-4)
        assert torch.equal(model(image), before)
    assert not batch_norms(folded(model))


# --- files ---


@pytest.mark.parametrize("shape", [Shape(4, 1), Shape(4, 2, "none", 1), Shape(12, 1, "group", 2)], ids=str)
def test_a_saved_network_is_given_back(shape: Shape, tmp_path: Path) -> None:
    model = to_device(network(shape), torch.device("cpu"))
    save(model, tmp_path)
    again = load(tmp_path, shape)
    assert not again.training
    for (name, one), (other_name, other) in zip(model.state_dict().items(), again.state_dict().items(), strict=True):
        assert name == other_name
        assert torch.equal(one, other)
    image = images(1, 1, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(again(image), model(image), rtol=1e-6, atol=1e-6)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize("damage", ["cut short", "text", "empty", "none"])
def test_a_damaged_file_is_named(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save(network(Shape(4, 1)), tmp_path)
    whole = path.read_bytes()
    {
        "cut short": lambda: path.write_bytes(whole[: len(whole) // 2]),
        "text": lambda: path.write_text("these are no weights"),
        "empty": lambda: path.write_bytes(b""),
        "none": path.unlink,
    }[damage]()
    with pytest.raises(InputError, match=r"model\.safetensors: weights"):
        load(tmp_path, Shape(4, 1))


@pytest.mark.parametrize("other", [Shape(8, 1), Shape(4, 2), Shape(4, 1, "none"), Shape(4, 1, stem=1)], ids=str)
def test_weights_of_another_shape_are_refused(other: Shape, tmp_path: Path) -> None:
    save(network(Shape(4, 1)), tmp_path)
    with pytest.raises(InputError, match=r"model\.safetensors: weights.*of another run"):
        load(tmp_path, other)


def test_the_file_is_plain_safetensors(tmp_path: Path) -> None:
    model = network(Shape(4, 1))
    save(model, tmp_path)
    raw = (tmp_path / "model.safetensors").read_bytes()
    weights = model.state_dict()["head.weight"].numpy()
    assert np.frombuffer(raw[:8], "<u8")[0] < len(raw)
    assert weights.tobytes() in raw


@pytest.mark.parametrize("fault", [{"width": 0}, {"depth": -1}, {"depth": 20}, {"stem": 0}])
def test_an_impossible_shape_is_refused(fault: dict[str, int]) -> None:
    with pytest.raises(InputError, match=f"model: {next(iter(fault))} is"):
        Shape(**fault)
