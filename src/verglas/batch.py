"""What an algorithm is given at each step. ``h w`` are pixels of the image, ``p q`` logits, one per stem × stem."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Labelled:
    """Tiles with what is known of them. ``known`` False: nobody looked, or the pixel is not valid.

    ``unseen`` marks the valid pixels away from every label at which nobody looked: particles or not. With complete
    labels there are none.
    """

    image: Float[Tensor, "b 1 h w"]
    target: Float[Tensor, "b 1 p q"]
    known: Bool[Tensor, "b 1 p q"]
    unseen: Bool[Tensor, "b 1 p q"]


@dataclass(frozen=True, slots=True, eq=False)
class Unlabelled:
    """Views of the same tiles that differ in grey values only, and never in geometry.

    CutMix (Yun et al., arXiv 1905.04899) is part of a strong view: where ``mixed``, it shows the tile before it in
    the batch, the first the last.

    ``belief`` is how likely each place is the core of a particle, where that was found on whole micrographs before;
    None where a teacher is asked. ``valid`` then also leaves out the places about which nothing was concluded.
    """

    weak: Float[Tensor, "b 1 h w"]
    strong: Float[Tensor, "v b 1 h w"]
    valid: Bool[Tensor, "b 1 p q"]
    mixed: Bool[Tensor, "v b 1 p q"]
    belief: Float[Tensor, "b 1 p q"] | None = None

    def seen(self, values: Float[Tensor, "b 1 p q"] | Bool[Tensor, "b 1 p q"]) -> Tensor:
        """Return for each strong view the values, given per tile, of what it shows: ``v b 1 p q``."""
        return torch.where(self.mixed, values.roll(1, 0), values)


Batch = TypeVar("Batch", Labelled, Unlabelled)


def mapped(batch: Batch, change: Callable[[Tensor], Tensor]) -> Batch:
    """Return the batch with ``change`` made to each of its tensors."""
    tensors = {field.name: getattr(batch, field.name) for field in fields(batch)}
    return replace(batch, **{name: change(tensor) for name, tensor in tensors.items() if tensor is not None})
