"""The U-Net: a prepared image in, logits of particle cores out; weights as safetensors, shape as JSON."""

import copy
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_weights

from verglas.errors import InputError, check_range
from verglas.io._base import whole_file

Norm = Literal["group", "batch", "none"]


@dataclass(frozen=True, slots=True)
class Shape:
    """The shape of a U-Net.

    ``width`` is the number of channels at full resolution, doubled at each of ``depth`` halvings; ``stem`` the
    stride at which the image enters, so that the logits have one value per ``stem`` × ``stem`` pixels.
    """

    width: int = 16
    depth: int = 3
    norm: Norm = "batch"
    stem: int = 2

    def __post_init__(self) -> None:
        check_range("model", 1, 1024, width=self.width)
        check_range("model", 0, 8, depth=self.depth)
        check_range("model", 1, 16, stem=self.stem)

    @property
    def multiple(self) -> int:
        """The number of pixels of which image sides must be a multiple."""
        return self.stem * 2**self.depth

    @property
    def reach(self) -> int:
        """The distance in pixels beyond which an image cannot influence a logit (normalisation over space apart)."""
        levels = [2**level for level in range(self.depth + 1)]
        return self.stem * (1 + 2 * sum(levels) + 2 * sum(levels[:-1]) + levels[-1])


class _Block(nn.Sequential):
    """Two convolutions 3 × 3, each normalised."""

    def __init__(self, channels_in: int, channels: int, norm: Norm) -> None:
        layers: list[nn.Module] = []
        for c in (channels_in, channels):
            layers += [nn.Conv2d(c, channels, 3, padding=1, bias=norm == "none"), _norm(norm, channels), nn.ReLU()]
        super().__init__(*layers)


def _norm(norm: Norm, channels: int) -> nn.Module:
    if norm == "group":
        return nn.GroupNorm(math.gcd(8, channels), channels)
    return nn.BatchNorm2d(channels) if norm == "batch" else nn.Identity()


class UNet(nn.Module):
    """U-Net (Ronneberger et al., arXiv 1505.04597) with one output channel.

    Parameters
    ----------
    shape
        Width, depth, normalisation and stem.
    prior
        Share of positive pixels; the output starts there, so that training does not begin by unlearning 0.5
        (Lin et al., arXiv 1708.02002, section 4.1).
    """

    def __init__(self, shape: Shape, *, prior: float = 0.1) -> None:
        super().__init__()
        self.shape = shape
        widths = [shape.width * 2**level for level in range(shape.depth + 1)]
        first = nn.Conv2d(1, widths[0], 2 * shape.stem + 1, stride=shape.stem, padding=shape.stem)
        self.stem = first if shape.stem > 1 else nn.Identity()
        inputs = [widths[0] if shape.stem > 1 else 1, *widths]
        self.down = nn.ModuleList(_Block(i, o, shape.norm) for i, o in zip(inputs, widths, strict=False))
        self.up = nn.ModuleList(_Block(2 * w + w, w, shape.norm) for w in reversed(widths[:-1]))
        self.head = nn.Conv2d(widths[0], 1, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.head.weight, std=0.01)
        prior = min(max(prior, 0.005), 0.5)
        with torch.no_grad():
            self.head.bias.fill_(math.log(prior / (1 - prior)))  # type: ignore[union-attr]

    def forward(self, image: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b 1 p q"]:
        """Return logits, one per ``stem`` × ``stem`` pixels."""
        return self.decode(self.encode(image))

    def encode(self, image: Float[Tensor, "b 1 h w"]) -> list[Tensor]:
        """Return the features of every level, finest first: what the way up is given."""
        features = [self.down[0](self.stem(image))]
        for block in self.down[1:]:
            features.append(block(functional.max_pool2d(features[-1], 2)))
        return features

    def decode(self, features: list[Tensor]) -> Float[Tensor, "b 1 p q"]:
        """Return the logits of these features."""
        *skips, x = features
        for block in self.up:
            first, *rest = block.children()
            assert isinstance(first, nn.Conv2d)
            x = _joined(first, skips.pop(), x)
            for layer in rest:
                x = layer(x)
        return self.head(x)


def _joined(conv: nn.Conv2d, skip: Float[Tensor, "b k h w"], below: Float[Tensor, "b c p q"]) -> Tensor:
    """Return ``conv(cat(skip, repeated))``, where ``repeated`` is ``below`` with each pixel as 2 × 2 equal ones.

    Of the nine taps on equal pixels some meet the same one. Summed, they make a transposed convolution of 4 × 4, which
    takes four products where there were nine, and nothing is repeated or joined in memory.
    """
    own, other = conv.weight.split([skip.shape[1], below.shape[1]], dim=1)
    sums = 4 * functional.avg_pool2d(other, 2, stride=1, padding=1)
    taps = sums.flip(-1, -2).transpose(0, 1)
    above = functional.conv_transpose2d(below, taps, stride=2, padding=1)
    return functional.conv2d(skip, own, conv.bias, padding=1) + above


def save(model: UNet, folder: Path) -> None:
    """Write ``model.safetensors``; the shape goes into ``model.json`` with what else a run must know."""
    with whole_file(folder / "model.safetensors") as path:
        save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, path)


def load(folder: Path, shape: Shape) -> UNet:
    """Read the weights of a network of this shape, ready to predict."""
    path = folder / "model.safetensors"
    model = UNet(shape)
    try:
        model.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise InputError(
            path, "weights", found=str(error).splitlines()[0], expected=f"the weights of {shape}",
            remedy="The file is damaged or of another run; train again or restore it.",
        ) from error  # fmt: skip
    return to_device(model, torch.device("cpu")).eval()


def batch_norms(model: nn.Module) -> list[nn.BatchNorm2d]:
    """Return the layers that have running statistics."""
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


def folded(model: UNet) -> UNet:
    """Return a network that predicts the same without batch norms: each is part of the convolution before it."""
    model = copy.deepcopy(model).eval()
    for block in (*model.down, *model.up):
        for place, layer in enumerate(block):
            if isinstance(layer, nn.BatchNorm2d):
                conv, mean, variance = block[place - 1], layer.running_mean, layer.running_var
                assert mean is not None
                assert variance is not None
                conv.weight, conv.bias = fuse_conv_bn_weights(
                    conv.weight, conv.bias, mean, variance, layer.eps, layer.weight, layer.bias
                )
                block[place] = nn.Identity()
    return to_device(model, next(model.parameters()).device)


def to_device(model: UNet, device: torch.device) -> UNet:
    """Move the model, with weights laid out channels last, which convolutions prefer."""
    model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model
