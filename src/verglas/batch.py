"""What an algorithm is given at each step. ``h w`` are pixels of the image, ``p q`` logits, one per stem × stem."""

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Labelled:
    """Tiles with what is known of them. ``known`` False: nobody looked, or the pixel is not valid."""

    image: Float[Tensor, "b 1 h w"]
    target: Float[Tensor, "b 1 p q"]
    known: Bool[Tensor, "b 1 p q"]


@dataclass(frozen=True, slots=True, eq=False)
class Unlabelled:
    """Views of the same tiles that differ in grey values only, and never in geometry."""

    weak: Float[Tensor, "b 1 h w"]
    strong: Float[Tensor, "v b 1 h w"]
    valid: Bool[Tensor, "b 1 p q"]
