"""From prepared micrographs to an endless stream of batches.

Prepared micrographs lie on disk as plain arrays. A crop maps its file, copies its window and lets go, so memory
does not grow with the number of micrographs.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from verglas.augment import Geometry, Photometry, rectangles
from verglas.batch import Labelled, Unlabelled
from verglas.errors import InputError
from verglas.io._base import whole_file, write_text
from verglas.types import Grid, Image


@dataclass(frozen=True, slots=True)
class Stored:
    """A prepared micrograph on disk, with its masks; the last mask is ``valid``.

    A labelled one has target, known, unseen and held-out before it, and ``centres``: where its labels are, as
    (column, row) of the prepared image. An unlabelled one may have one more: where it may teach. ``belief`` names the
    file of what is believed of an unlabelled one, or of one whose labels leave particles out.
    """

    folder: Path
    name: str
    shape: tuple[int, int]
    grid: Grid
    centres: tuple[tuple[float, float], ...] = ()
    belief: str = ""

    @classmethod
    def write(
        cls,
        folder: Path,
        name: str,
        image: Image,
        masks: Sequence[Bool[np.ndarray, "h w"]] = (),
        centres: Sequence[tuple[float, float]] = (),
    ) -> "Stored":
        """Write image, masks and centres; what is there under this name is replaced."""
        for suffix, array in ((".image.npy", image.data), (".masks.npy", np.stack([*masks, image.valid]))):
            with whole_file(folder / f"{name}{suffix}") as path, path.open("wb") as file:
                np.save(file, array)
        write_text(folder / f"{name}.json", json.dumps({"grid": asdict(image.grid), "centres": list(centres)}))
        return cls(folder, name, image.data.shape, image.grid, tuple(centres))

    @staticmethod
    def exists(folder: Path, name: str) -> bool:
        """Tell whether something was written whole under this name: the grid is written last."""
        return (folder / f"{name}.json").is_file()

    @classmethod
    def open(cls, folder: Path, name: str) -> "Stored":
        """Find what was written under this name."""
        try:
            about = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
            grid, centres = Grid(**about["grid"]), tuple((float(x), float(y)) for x, y in about["centres"])
            shape = np.load(folder / f"{name}.image.npy", mmap_mode="r").shape
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise InputError(folder, name, found=str(error), expected="an image stored here by verglas") from error
        return cls(folder, name, shape, grid, centres)

    def image(self) -> Image:
        """Read it back as a whole."""
        return Image(np.load(self._path(".image.npy")), self.grid, np.load(self._path(".masks.npy"))[-1])

    def masks(self) -> Bool[np.ndarray, "m h w"]:
        """Read the masks back."""
        return np.load(self._path(".masks.npy"))

    def cut(
        self, geometry: Geometry, size: int, generator: torch.Generator, *, centred: float = 0.0
    ) -> tuple[Float[Tensor, "1 s s"], Bool[Tensor, "m s s"], Float[Tensor, "k s s"]]:
        """Cut one augmented crop of image, masks, and of belief and where there is one, or of nothing (k = 0).

        With the chance ``centred`` it is cut around a label.
        """
        around = None
        if centred and self.centres and torch.rand((), generator=generator) < centred:
            around = self.centres[int(torch.randint(len(self.centres), (), generator=generator))]
        place = geometry.place(self.shape, size, generator, around)
        image, masks = (np.load(self._path(suffix), mmap_mode="r") for suffix in (".image.npy", ".masks.npy"))
        shown = place.cut(image, masks, size)
        if not self.belief:
            return *shown, torch.empty(0, size, size)
        return *shown, place.blend(np.load(self._path(self.belief), mmap_mode="r"), size)

    def believed(self) -> bool:
        """Tell whether there is something that is believed."""
        return self._path(self.belief).is_file()

    def forget(self) -> None:
        """Remove what is believed."""
        self._path(self.belief).unlink(missing_ok=True)

    def believe(self, belief: Float[np.ndarray, "h w"], known: Bool[np.ndarray, "h w"]) -> None:
        """Write what is believed of each pixel, and of which pixels anything is."""
        with whole_file(self._path(self.belief)) as path, path.open("wb") as file:
            np.save(file, np.stack([belief, known]).astype(np.float16))

    def _path(self, suffix: str) -> Path:
        return self.folder / f"{self.name}{suffix}"


@dataclass(frozen=True, slots=True)
class Cropping:
    """How batches are cut: crops per batch, their side, geometry, grey values, pixels per logit.

    ``centred`` is the share of labelled crops that are cut around a label instead of anywhere.
    """

    batch: int
    size: int
    stem: int
    geometry: Geometry
    photometry: Photometry
    centred: float = 0.0


def labelled_batch(stored: Sequence[Stored], how: Cropping, generator: torch.Generator) -> Labelled:
    """Cut crops out of labelled micrographs; where something is believed of these, it is the target."""
    image, masks, planes = _crops(stored, how, generator, how.centred)
    image = how.photometry.view(image, generator)
    if planes.shape[1]:
        target, known = _believed(planes, how.stem)
        return Labelled(image, target, known, torch.zeros_like(known))
    target, looked = per_logit(masks[:, :1], how.stem, 0.5), per_logit(masks[:, 1:3], how.stem, 1.0)
    return Labelled(image, target.float(), looked[:, :1], looked[:, 1:])


def unlabelled_batch(
    stored: Sequence[Stored], how: Cropping, views: int, cutmix: float, generator: torch.Generator
) -> Unlabelled:
    """Cut crops and make ``views`` strong views of each: same geometry, other grey values.

    With ``cutmix`` a rectangle of at most this share of each strong view shows the crop before it. Beliefs come along
    where there are some.
    """
    weak, masks, planes = _crops(stored, how, generator)
    strong = torch.stack([how.photometry.view(weak, generator) for _ in range(views)])
    teaches = masks[:, -1:] if of_labelled(masks) else masks
    valid, belief = per_logit(teaches.all(1, keepdim=True), how.stem, 1.0), None
    if planes.shape[1]:
        belief, known = _believed(planes, how.stem)
        valid = valid & known
    boxes = [rectangles(how.batch, how.size // how.stem, cutmix, generator) for _ in range(views)]
    mixed = torch.stack(boxes)
    if cutmix:
        pixels = mixed.repeat_interleave(how.stem, -1).repeat_interleave(how.stem, -2)
        strong = torch.where(pixels, strong.roll(1, 1), strong)
    return Unlabelled(weak, strong, valid, mixed, belief)


def of_labelled(masks: Bool[Tensor, "b m h w"]) -> bool:
    """Tell whether masks are those of a labelled micrograph: an unlabelled one has two at most."""
    return masks.shape[1] > 2


def per_logit(mask: Bool[Tensor, "b m h w"], stem: int, share: float) -> Bool[Tensor, "b m p q"]:
    """Reduce a mask to one value per logit: set where at least ``share`` of its pixels are."""
    return mask if stem == 1 else functional.avg_pool2d(mask.float(), stem) >= share


def _believed(planes: Float[Tensor, "b 2 s s"], stem: int) -> tuple[Float[Tensor, "b 1 p q"], Bool[Tensor, "b 1 p q"]]:
    """Return what is believed at each logit, and at which of them all pixels have a belief."""
    belief, known = functional.avg_pool2d(planes, stem).split(1, dim=1)
    return belief, known > 0.999


def _crops(
    stored: Sequence[Stored], how: Cropping, generator: torch.Generator, centred: float = 0.0
) -> tuple[Float[Tensor, "b 1 s s"], Bool[Tensor, "b m s s"], Float[Tensor, "b k s s"]]:
    chosen = torch.randint(len(stored), (how.batch,), generator=generator).tolist()
    crops = [stored[i].cut(how.geometry, how.size, generator, centred=centred) for i in chosen]
    image, masks, planes = map(torch.stack, zip(*crops, strict=True))
    return image, masks, planes
