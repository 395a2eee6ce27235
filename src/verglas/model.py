"""The U-Net: a prepared image in, logits of particle cores out; weights as safetensors, shape as JSON."""

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
            x = functional.interpolate(x, scale_factor=2.0, mode="nearest")
            x = block(torch.cat([skips.pop(), x], dim=1))
        return self.head(x)


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


def to_device(model: UNet, device: torch.device) -> UNet:
    """Move the model, with weights laid out channels last, which convolutions prefer."""
    model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model
