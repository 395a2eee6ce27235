"""How well a mask fits the picture of that mask."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class Match:
    """How well a mask fits the picture of that mask: as it is, as its opposite, after the best turn and shift."""

    iou: float
    opposite: float
    correlation: float
    shift_px: float
    turned: bool


def compared(picture: Float[Tensor, "b 1 h w"], mask: Bool[Tensor, "b 1 p q"], stem: int, share: float) -> Match:
    """Compare a mask with its picture, cut at the middle of each crop's grey values."""
    low, high = picture.amin((2, 3), keepdim=True), picture.amax((2, 3), keepdim=True)
    bright = (picture > (low + high) / 2).float()
    there = functional.avg_pool2d(bright, stem) >= share
    iou, opposite = _iou(there, mask), _iou(there, ~mask)
    grey = functional.avg_pool2d(picture, stem)
    a, b = _standard(grey), _standard(mask.float())
    peaks = {turn: _peak(_turned(a, *turn), b) for turn in [(k, m) for m in (False, True) for k in range(4)]}
    best = max(peaks, key=lambda turn: peaks[turn][0])
    turned = best != (0, False) and peaks[best][0] > max(0.3, 1.5 * float((a * b).mean()))
    return Match(iou, opposite, float((a * b).mean()), peaks[0, False][1] * stem, turned)


def _iou(a: Bool[Tensor, "*s"], b: Bool[Tensor, "*s"]) -> float:
    return float((a & b).sum() / (a | b).sum().clamp(min=1))


def _standard(x: Float[Tensor, "b 1 p q"]) -> Float[Tensor, "b 1 p q"]:
    x = x - x.mean((2, 3), keepdim=True)
    return x / x.pow(2).mean((2, 3), keepdim=True).sqrt().clamp(min=1e-6)


def _turned(x: Float[Tensor, "b 1 p q"], quarters: int, mirrored: bool) -> Float[Tensor, "b 1 p q"]:
    return torch.rot90(x.flip(-1) if mirrored else x, quarters, (-2, -1))


def _peak(a: Float[Tensor, "b 1 p q"], b: Float[Tensor, "b 1 p q"]) -> tuple[float, float]:
    """Return the largest correlation over all shifts, the same for all tiles, and the shift in logits."""
    p, q = a.shape[-2:]
    both = torch.fft.irfft2(torch.fft.rfft2(a) * torch.fft.rfft2(b).conj(), s=(p, q)).mean((0, 1)) / (p * q)
    row, column = divmod(int(both.argmax()), q)
    return float(both.max()), float(np.hypot(min(row, p - row), min(column, q - column)))
