"""From prepared micrographs to an endless stream of batches.

Prepared micrographs lie on disk as plain arrays. A crop maps its file, copies its window and lets go, so memory
does not grow with the number of micrographs.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from verglas.augment import Geometry, Photometry
from verglas.batch import Labelled, Unlabelled
from verglas.errors import InputError
from verglas.io._base import whole_file, write_text
from verglas.types import Grid, Image


@dataclass(frozen=True, slots=True)
class Stored:
    """A prepared micrograph on disk, with its masks; the last mask is ``valid``."""

    folder: Path
    name: str
    shape: tuple[int, int]
    grid: Grid

    @classmethod
    def write(cls, folder: Path, name: str, image: Image, masks: Sequence[Bool[np.ndarray, "h w"]] = ()) -> "Stored":
        """Write image and masks; what is there under this name is replaced."""
        for suffix, array in ((".image.npy", image.data), (".masks.npy", np.stack([*masks, image.valid]))):
            with whole_file(folder / f"{name}{suffix}") as path, path.open("wb") as file:
                np.save(file, array)
        write_text(folder / f"{name}.json", json.dumps(asdict(image.grid)))
        return cls(folder, name, image.data.shape, image.grid)

    @staticmethod
    def exists(folder: Path, name: str) -> bool:
        """Tell whether something was written whole under this name: the grid is written last."""
        return (folder / f"{name}.json").is_file()

    @classmethod
    def open(cls, folder: Path, name: str) -> "Stored":
        """Find what was written under this name."""
        try:
            grid = Grid(**json.loads((folder / f"{name}.json").read_text(encoding="utf-8")))
            shape = np.load(folder / f"{name}.image.npy", mmap_mode="r").shape
        except (OSError, ValueError, TypeError) as error:
            raise InputError(folder, name, found=str(error), expected="an image stored here by verglas") from error
        return cls(folder, name, shape, grid)

    def image(self) -> Image:
        """Read it back as a whole."""
        return Image(np.load(self._path(".image.npy")), self.grid, np.load(self._path(".masks.npy"))[-1])

    def masks(self) -> Bool[np.ndarray, "m h w"]:
        """Read the masks back."""
        return np.load(self._path(".masks.npy"))

    def cut(
        self, geometry: Geometry, size: int, generator: torch.Generator
    ) -> tuple[Float[Tensor, "1 s s"], Bool[Tensor, "m s s"]]:
        """Cut one augmented crop of image and masks."""
        place = geometry.place(self.shape, size, generator)
        image, masks = (np.load(self._path(suffix), mmap_mode="r") for suffix in (".image.npy", ".masks.npy"))
        return place.cut(image, masks, size)

    def _path(self, suffix: str) -> Path:
        return self.folder / f"{self.name}{suffix}"


@dataclass(frozen=True, slots=True)
class Cropping:
    """How batches are cut: crops per batch, their side, geometry, grey values, pixels per logit."""

    batch: int
    size: int
    stem: int
    geometry: Geometry
    photometry: Photometry


def labelled_batch(stored: Sequence[Stored], how: Cropping, generator: torch.Generator) -> Labelled:
    """Cut crops out of labelled micrographs, whose masks are target, known and valid."""
    crops = _crops(stored, how, generator)
    image = how.photometry.view(torch.stack([image for image, _ in crops]), generator)
    masks = torch.stack([masks for _, masks in crops])
    return Labelled(image, per_logit(masks[:, :1], how.stem, 0.5).float(), per_logit(masks[:, 1:2], how.stem, 1.0))


def unlabelled_batch(stored: Sequence[Stored], how: Cropping, views: int, generator: torch.Generator) -> Unlabelled:
    """Cut crops and make ``views`` strong views of each: same geometry, other grey values."""
    crops = _crops(stored, how, generator)
    weak = torch.stack([image for image, _ in crops])
    strong = torch.stack([how.photometry.view(weak, generator) for _ in range(views)])
    valid = torch.stack([masks[-1:] for _, masks in crops])
    return Unlabelled(weak, strong, per_logit(valid, how.stem, 1.0))


def batches(
    labelled: Sequence[Stored],
    unlabelled: Sequence[Stored],
    how: Cropping,
    views: int,
    generator: torch.Generator,
) -> Iterator[tuple[Labelled, Unlabelled | None]]:
    """Yield batches without end; all that is random comes from ``generator``, so its state is the position."""
    while True:
        first = labelled_batch(labelled, how, generator)
        second = unlabelled_batch(unlabelled, how, views, generator) if views and unlabelled else None
        yield first, second


def per_logit(mask: Bool[Tensor, "b m h w"], stem: int, share: float) -> Bool[Tensor, "b m p q"]:
    """Reduce a mask to one value per logit: set where at least ``share`` of its pixels are."""
    return mask if stem == 1 else functional.avg_pool2d(mask.float(), stem) >= share


def _crops(
    stored: Sequence[Stored], how: Cropping, generator: torch.Generator
) -> list[tuple[Float[Tensor, "1 s s"], Bool[Tensor, "m s s"]]]:
    chosen = torch.randint(len(stored), (how.batch,), generator=generator).tolist()
    return [stored[i].cut(how.geometry, how.size, generator) for i in chosen]
