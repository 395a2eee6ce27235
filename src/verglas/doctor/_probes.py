"""What several checks look through: grey values left alone, masks to see by, networks that note what they are shown."""

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional

from verglas import model as network
from verglas.augment import Photometry
from verglas.data import Cropping
from verglas.model import Shape

NEUTRAL = Photometry(0, 0, 0, 0, 1, 0, 1, 0, 0)
"""Grey values stay as they are, to the bit."""

LOUD = Photometry(noise=8, coloured_noise=8, ramp=8)
"""Grey values drown: what is still recognised was not changed."""


def neutral(how: Cropping, *, overhang: float | None = None) -> Cropping:
    """Return the cropping without changes of grey values and without preference for labels.

    With ``overhang`` that share of a crop may lie beyond the micrograph.
    """
    geometry = how.geometry if overhang is None else replace(how.geometry, overhang=overhang)
    return replace(how, photometry=NEUTRAL, centred=0.0, geometry=geometry)


def smaller(how: Cropping, side: int, multiple: int, batch: int) -> Cropping:
    """Return the cropping with crops of at most about ``side`` pixels, so many at a time."""
    return replace(how, size=min(how.size, -(-side // multiple) * multiple), batch=batch)


def spots(shape: tuple[int, int], feature_px: float, seed: int) -> Bool[np.ndarray, "h w"]:
    """Return a mask of irregular spots that cover half of the area, without any symmetry."""
    noise = np.random.default_rng(seed).normal(size=shape)
    smooth = ndimage.gaussian_filter(noise, feature_px, mode="wrap")
    return np.asarray(smooth > np.median(smooth))


class Spy(nn.Module):
    """A network that predicts nothing worth having, and keeps what it was shown."""

    def __init__(self, stem: int) -> None:
        super().__init__()
        self.shape = Shape(width=1, depth=0, norm="none", stem=stem)
        self.shown: list[Float[np.ndarray, "h w"]] = []

    def last(self, shape: tuple[int, int]) -> Float[np.ndarray, "h w"]:
        """Return what was shown last, of this shape without the padding."""
        return self.shown[-1][: shape[0], : shape[1]]

    def network(self) -> network.UNet:
        """Return the network, listened to."""
        model = network.UNet(self.shape).eval()
        model.register_forward_pre_hook(lambda _, images: self.shown.append(images[0][0, 0].numpy().copy()))
        return model


class Echo(nn.Module):
    """A network that is sure of itself: the sign of each pixel of the image is its logit, at 8 to 12.

    ``told`` is the sign of what it says: an echo of −1 contradicts. ``shown`` keeps the images, ``graph`` whether
    gradients could come back.
    """

    CHANNELS = 64

    def __init__(self, stem: int, told: int = 1) -> None:
        super().__init__()
        self.stem, self.told = stem, told
        self.gain = nn.Parameter(torch.ones(()))
        self.shown: list[Tensor] = []
        self.graph = False

    def forward(self, image: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b 1 p q"]:
        """Return the echo."""
        return self.decode(self.encode(image))

    def encode(self, image: Float[Tensor, "b 1 h w"]) -> list[Tensor]:
        """Return the image per logit, in so many channels that some may be dropped."""
        self.shown.append(image.detach())
        mean = functional.avg_pool2d(image, self.stem) if self.stem > 1 else image
        return [mean.expand(-1, self.CHANNELS, -1, -1)]

    def decode(self, features: list[Tensor]) -> Float[Tensor, "b 1 p q"]:
        """Return the logits."""
        mean = features[0].mean(1, keepdim=True)
        sign = torch.where(mean > 0, 1.0, -1.0)
        logits = self.told * self.gain * (8 * sign + 4 * torch.tanh(mean))
        self.graph |= logits.requires_grad
        return logits
