"""A prepared image in, the probability of a particle's core at each place out."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from itertools import product
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from verglas.errors import InputError
from verglas.model import UNet
from verglas.tiles import cut, stitch
from verglas.types import Grid, Image

Precision = Literal["float32", "bfloat16"]

ORIENTATIONS = tuple(product(range(4), (False, True)))
"""Quarter turns, and mirrored before or not; the first leaves a picture as it is."""

ROTATIONS = ORIENTATIONS[::2]
"""Quarter turns alone: their mean errs nearly as little as that of all orientations (see the results)."""

LARGEST_WHOLE = 2048
"""Side in pixels of the largest prepared image that goes through the network at once."""


def output_grid(grid: Grid, stem: int) -> Grid:
    """Return where logits sit: each in the middle of its ``stem`` × ``stem`` pixels."""
    shift = (stem - 1) / 2
    return Grid(grid.x0 + shift * grid.dx, grid.y0 + shift * grid.dy, grid.dx * stem, grid.dy * stem)


def probability(model: UNet, image: Image, *, precision: Precision = "float32", whole_px: int = LARGEST_WHOLE) -> Image:
    """Return the probability map of an image, on the grid of the logits.

    Images larger than ``whole_px`` go through in overlapping tiles, with the same result unless the network
    normalises over space (``norm="group"``).
    """
    stem = model.shape.stem
    h, w = image.data.shape
    data = torch.from_numpy(np.array(image.data))
    if max(h, w) <= whole_px:
        logits = _forward(model, data, precision)
    else:
        tiles = cut(data, whole_px, model.shape.reach, model.shape.multiple)
        parts = [_forward(model, tile.data, precision) for tile in tiles]
        logits = stitch(tiles, parts, (-(-h // stem), -(-w // stem)), stem)
    found = torch.sigmoid(logits).cpu().numpy()
    return Image(found, output_grid(image.grid, stem), at_logits(image.valid, stem, found.shape))


def at_logits(mask: Bool[np.ndarray, "h w"], stem: int, shape: tuple[int, int]) -> Bool[np.ndarray, "p q"]:
    """Return a mask of an image at the middle of each logit, on a map of this shape; beyond the image it is not set."""
    middle = mask[stem // 2 :: stem, stem // 2 :: stem]
    return np.pad(middle, ((0, shape[0] - middle.shape[0]), (0, shape[1] - middle.shape[1])))


def all_around(
    model: UNet,
    image: Image,
    *,
    precision: Precision = "float32",
    orientations: Sequence[tuple[int, bool]] = ORIENTATIONS,
) -> Image:
    """Return the mean probability map of orientations of an image, of which the first is its own, each turned back.

    A network that was taught with turned and mirrored crops is still not indifferent to them: the mean errs less.
    """
    image = trimmed(image, model.shape.stem)
    look = partial(probability, model, precision=precision)
    found = look(image)
    others = [turned(look, image, quarters, mirrored) for quarters, mirrored in orientations[1:]]
    return Image(np.stack([found.data, *others]).mean(axis=0), found.grid, found.valid)


def trimmed(image: Image, stem: int) -> Image:
    """Cut off what is no whole cell of the logits, so that a map turned back lies where the map was."""
    h, w = (side - side % stem for side in image.data.shape)
    return Image(image.data[:h, :w], image.grid, image.valid[:h, :w])


def turned(
    probability: Callable[[Image], Image], image: Image, quarters: int, mirrored: bool
) -> Float[np.ndarray, "p q"]:
    """Return the probability map of the turned image, turned back."""
    data, valid = (np.rot90(plane[:, :: -1 if mirrored else 1], quarters) for plane in (image.data, image.valid))
    back = np.rot90(probability(Image(data, image.grid, valid)).data, -quarters)
    return back[:, :: -1 if mirrored else 1]


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """Return the context in which a model runs at this precision."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bfloat16" else nullcontext()


def _forward(model: UNet, data: Float[Tensor, "h w"], precision: Precision) -> Float[Tensor, "p q"]:
    """Return the logits of one picture, padded by mirroring to what the network takes and cut back."""
    stem, multiple = model.shape.stem, model.shape.multiple
    h, w = data.shape
    device = next(model.parameters()).device
    padded = functional.pad(data[None, None].to(device), (0, -w % multiple, 0, -h % multiple), mode="reflect")
    with torch.inference_mode(), autocast(device, precision):
        logits = model(padded.contiguous(memory_format=torch.channels_last)).float()
    return logits[0, 0, : -(-h // stem), : -(-w // stem)]


def resolved_device(name: str) -> torch.device:
    """Return the device of this name; ``auto`` is the GPU if there is one."""
    if name != "auto":
        try:
            return torch.zeros(1, device=name).device
        except (RuntimeError, AssertionError) as error:
            raise InputError(
                "--device", "device", found=name, expected="auto, cpu, cuda or cuda:N",
                remedy=f"This machine cannot use it: {str(error).splitlines()[0]}",
            ) from error  # fmt: skip
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def at_precision(config: str, device: torch.device) -> Precision:
    """Resolve ``auto``: bfloat16 on a GPU, and on a CPU that has instructions for it."""
    if config != "auto":
        return "bfloat16" if config == "bfloat16" else "float32"
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    return "bfloat16" if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported() else "float32"
