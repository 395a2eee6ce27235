"""Geometry, applied once to image and masks together, and photometric views, which change grey values only."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Real
from torch import Tensor
from torch.nn import functional

from verglas.errors import check_range


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a crop lies: centre (column, row), turn in radians, pixels of source per pixel of crop, mirrored or not."""

    x: float
    y: float
    angle: float = 0.0
    zoom: float = 1.0
    mirrored: bool = False

    def source(self) -> Float[np.ndarray, "2 2"]:
        """Return the matrix that turns offsets from the centre of the crop into offsets in the source."""
        c, s = self.zoom * math.cos(self.angle), self.zoom * math.sin(self.angle)
        flip = -1 if self.mirrored else 1
        return np.array([[c * flip, -s], [s * flip, c]])

    def cut(
        self, image: Float[np.ndarray, "h w"], masks: Bool[np.ndarray, "m h w"], size: int
    ) -> tuple[Float[Tensor, "1 s s"], Bool[Tensor, "m s s"]]:
        """Resample the image (bicubic) and the masks (nearest) by one transform; beyond the source all are 0."""
        resample = self._resampler(image.shape, size)
        return resample(image[None], "bicubic"), resample(masks, "nearest") > 0.5

    def blend(self, planes: Real[np.ndarray, "m h w"], size: int) -> Float[Tensor, "m s s"]:
        """Resample values between 0 and 1 (linear) by the transform of ``cut``; beyond the source they are 0."""
        return self._resampler(planes.shape[-2:], size)(planes, "bilinear")

    def _resampler(self, shape: tuple[int, ...], size: int) -> Callable[[np.ndarray, str], Tensor]:
        """Return what cuts planes of this shape; it reads no more of them than the crop can show."""
        matrix = self.source()
        reach = np.abs(matrix).sum(axis=1) * size / 2 + 3
        h, w = shape
        left, right = max(0, int(self.x - reach[0])), min(w, int(self.x + reach[0]) + 2)
        top, bottom = max(0, int(self.y - reach[1])), min(h, int(self.y + reach[1]) + 2)
        window = slice(top, bottom), slice(left, right)
        height, width = bottom - top, right - left
        scale = np.array([[size / width], [size / height]])
        shift = [2 * (self.x - left + 0.5) / width - 1, 2 * (self.y - top + 0.5) / height - 1]
        affine = torch.from_numpy(np.column_stack([matrix * scale, shift]).astype(np.float32))
        grid = functional.affine_grid(affine[None], [1, 1, size, size], align_corners=False)

        def resample(planes: np.ndarray, mode: str) -> Tensor:
            source = torch.from_numpy(np.array(planes[:, *window], dtype=np.float32))[None]
            return functional.grid_sample(source, grid, mode=mode, padding_mode="zeros", align_corners=False)[0]

        return resample


@dataclass(frozen=True, slots=True)
class Geometry:
    """How far a crop may be turned, scaled and shifted; every crop is also mirrored or not.

    ``rotate``: any angle, else quarter turns. ``scale``: largest relative change of size. ``overhang``: share of
    a crop that may lie beyond the micrograph, so that borders are seen as often as the middle.
    """

    rotate: bool = True
    scale: float = 0.1
    overhang: float = 0.25

    def __post_init__(self) -> None:
        check_range("geometry", 0, 1, scale=self.scale)
        check_range("geometry", 0, 0.5, overhang=self.overhang)

    def place(
        self,
        shape: tuple[int, int],
        size: int,
        generator: torch.Generator,
        around: tuple[float, float] | None = None,
    ) -> Placement:
        """Draw a placement of a ``size`` × ``size`` crop on a picture of this shape.

        With ``around`` (column, row) that position lies within a quarter of the side of the centre, along the
        rows and columns of the picture.
        """
        u = torch.rand(5, generator=generator, dtype=torch.float64).tolist()
        angle = 2 * math.pi * u[0] if self.rotate else math.pi / 2 * int(4 * u[0])
        zoom = math.exp((2 * u[1] - 1) * math.log1p(self.scale))
        margin = zoom * size * (0.5 - self.overhang)
        y, x = (margin + v * (side - 2 * margin) if side > 2 * margin else side / 2
                for v, side in zip(u[3:], shape, strict=True))  # fmt: skip
        if around is not None:
            x, y = (a + 0.5 + (v - 0.5) * zoom * size / 2 for a, v in zip(around, (u[4], u[3]), strict=True))
        return Placement(x - 0.5, y - 0.5, angle, zoom, u[2] < 0.5)


@dataclass(frozen=True, slots=True)
class Photometry:
    """How strongly grey values may change; in standard deviations of a prepared micrograph where not said.

    ``blur`` is the largest Gaussian standard deviation in pixels, ``sharpen`` the largest unsharp amount, ``ramp``
    the size of a smooth field, ``contrast`` and ``gamma`` the largest factor, ``cutout`` the share of a tile.
    """

    noise: float = 0.3
    coloured_noise: float = 0.2
    blur: float = 1.0
    sharpen: float = 0.5
    contrast: float = 1.6
    offset: float = 0.2
    gamma: float = 1.2
    ramp: float = 0.3
    cutout: float = 0.0

    def __post_init__(self) -> None:
        amounts = {"noise": self.noise, "coloured_noise": self.coloured_noise, "blur": self.blur}
        check_range("photometry", 0, 8, **amounts, sharpen=self.sharpen, offset=self.offset, ramp=self.ramp)
        check_range("photometry", 1, 8, contrast=self.contrast, gamma=self.gamma)
        check_range("photometry", 0, 0.9, cutout=self.cutout)

    def view(self, image: Float[Tensor, "b 1 h w"], generator: torch.Generator) -> Float[Tensor, "b 1 h w"]:
        """Return the tiles with other grey values and the same geometry."""
        b = len(image)

        def uniform(low: float, high: float) -> Float[Tensor, "b 1 1 1"]:
            return low + (high - low) * torch.rand(b, 1, 1, 1, generator=generator)

        def normal(scale: float, h: int, w: int) -> Float[Tensor, "b 1 h w"]:
            return scale * torch.randn(b, 1, h, w, generator=generator)

        h, w = image.shape[-2:]
        x = self._sharpness(image, uniform(-1, 1))
        x = torch.sign(x) * x.abs().pow(torch.exp(uniform(-1, 1) * math.log(self.gamma)))
        x = x * torch.exp(uniform(-1, 1) * math.log(self.contrast)) + uniform(-self.offset, self.offset)
        rows, columns = (_bicubic(4, side) for side in (h, w))
        x = x + rows @ normal(self.ramp, 4, 4) @ columns.T
        x = x + uniform(0, self.noise) * normal(1, h, w)
        coarse = functional.interpolate(normal(1, h // 4 + 1, w // 4 + 1), size=(h, w), mode="bilinear")
        x = x + uniform(0, self.coloured_noise) * coarse
        return x * ~self._holes(b, h, w, generator) if self.cutout else x

    def _sharpness(self, image: Float[Tensor, "b 1 h w"], amount: Float[Tensor, "b 1 1 1"]) -> Tensor:
        """Blur where ``amount`` is positive, sharpen where it is negative, as a B-factor does."""
        if not self.blur and not self.sharpen:
            return image
        sigma = self.blur or 0.5
        radius = math.ceil(2.5 * sigma)
        taps = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma) ** 2)
        weights = (taps / taps.sum()).tolist()
        blurred = _weighted(_mirrored(image, radius, 0), weights, 3)
        blurred = _weighted(_mirrored(blurred, 0, radius), weights, 2)
        weight = torch.where(amount > 0, amount * (self.blur > 0), amount * self.sharpen)
        return image + weight * (blurred - image)

    def _holes(self, b: int, h: int, w: int, generator: torch.Generator) -> Bool[Tensor, "b 1 h w"]:
        side = self.cutout**0.5
        corner = torch.rand(b, 2, generator=generator) * (1 - side)
        sides = torch.full((b,), side)
        inside = (_span(torch.arange(n) / n, corner[:, axis], sides) for axis, n in enumerate((h, w)))
        return _box(*inside)


def rectangles(b: int, side: int, share: float, generator: torch.Generator) -> Bool[Tensor, "b 1 p p"]:
    """Draw one rectangle in each square of ``side``: a fifth to all of ``share`` of its area, sides 1 : 2 to 2 : 1."""
    u = torch.rand(4, b, generator=generator)
    area, stretch = share * (0.2 + 0.8 * u[0]), torch.exp((2 * u[1] - 1) * math.log(2) / 2)
    pixels, inside = (torch.arange(side) + 0.5) / side, []
    for length, place in ((area.sqrt() * stretch, u[2]), (area.sqrt() / stretch, u[3])):
        length = length.clamp(max=1.0)
        inside.append(_span(pixels, place * (1 - length), length))
    return _box(*inside)


def _span(line: Float[Tensor, " n"], start: Float[Tensor, " b"], length: Float[Tensor, " b"]) -> Bool[Tensor, "b n"]:
    offset = line - start[:, None]
    return (offset >= 0) & (offset < length[:, None])


def _box(rows: Bool[Tensor, "b h"], columns: Bool[Tensor, "b w"]) -> Bool[Tensor, "b 1 h w"]:
    return (rows[:, :, None] & columns[:, None, :])[:, None]


def _bicubic(old: int, new: int) -> Float[Tensor, "n o"]:
    """Return the matrix that resizes a line of ``old`` values to ``new``."""
    return functional.interpolate(torch.eye(old)[None, None], size=(new, old), mode="bicubic")[0, 0]


def _weighted(image: Float[Tensor, "b 1 p q"], taps: list[float], axis: int) -> Tensor:
    """Return the weighted sum of neighbours along an axis; a convolution of one channel takes four times as long."""
    length = image.shape[axis] - len(taps) + 1
    total = taps[0] * image.narrow(axis, 0, length)
    for place, tap in enumerate(taps[1:], 1):
        total.add_(image.narrow(axis, place, length), alpha=tap)
    return total


def _mirrored(image: Float[Tensor, "b 1 h w"], columns: int, rows: int) -> Float[Tensor, "b 1 p q"]:
    return functional.pad(image, (columns, columns, rows, rows), mode="reflect")
