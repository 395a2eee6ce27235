"""Whether a micrograph has the same grey values on every path into the network."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from verglas import data as loading
from verglas import picker as picking
from verglas import predict
from verglas.data import Stored
from verglas.doctor._base import DataCheck, Finding, Value
from verglas.doctor._probes import Spy, neutral, smaller
from verglas.doctor.subject import Data
from verglas.types import Image

Tiles = Float[np.ndarray, "b h w"]

CROPS, SIDE = 6, 192
LARGEST = 1024
"""Side in pixels of the part of a micrograph that is predicted, in one piece."""

VARIANTS = ("plain", "raised", "doubled")


@dataclass(frozen=True, slots=True)
class Route:
    """What a path does to grey values x of each tile: gain·x + offset; and how they come out, in prepared SDs."""

    gain: Float[np.ndarray, " b"]
    offset: Float[np.ndarray, " b"]
    mean: float
    sd: float

    @classmethod
    def through(cls, path: Callable[[str], Tiles]) -> "Route":
        """Measure a path, which takes the name of a variant of the micrograph: x, x + 1 or 2x."""
        gain, offset, seen = [], [], []
        for plain, raised, doubled in zip(*map(path, VARIANTS), strict=True):
            inside = (plain != 0) | (raised != 0)  # beyond the micrograph both are 0
            gain.append(np.median((raised - plain)[inside]) if inside.any() else 0.0)
            offset.append(np.median((2 * plain - doubled)[inside]) if inside.any() else 0.0)
            seen.append(plain[plain != 0])
        values = np.concatenate(seen) if any(map(len, seen)) else np.zeros(1)
        return cls(np.array(gain), np.array(offset), float(values.mean()), float(values.std()))

    def worst(self) -> tuple[float, float]:
        """Return gain and offset of the tile that is changed most."""
        return float(self.gain[np.abs(self.gain - 1).argmax()]), float(self.offset[np.abs(self.offset).argmax()])


class NormParity(DataCheck):
    """Follow one micrograph, also raised by 1 and doubled, through training, pseudo-labelling, validation, picking.

    A path that leaves grey values alone raises and doubles them likewise, in each crop. Resampling does not
    disturb this, as it is linear.
    """

    name = "norm_parity"
    question = "Does a micrograph enter the network with the same grey values in training and in picking?"

    def __init__(
        self, *, most_shift: float = 0.05, most_gain: float = 1.1, far_shift: float = 1.0, far_gain: float = 3.0
    ) -> None:
        # Real and simulated sets: gain 1 and offset 0 to five digits; default photometry moves the mean of tiles by
        # .07 to .09 SD, and their SD by a factor 1.0 to 1.2; where most of a micrograph is masked, .3 SD and 1.6.
        self.most_shift, self.most_gain, self.far_shift, self.far_gain = most_shift, most_gain, far_shift, far_gain

    def check(self, data: Data) -> Finding:
        """Return what each path makes of the grey values."""
        stored = data.materials.labelled[0]
        paths = self._paths(data, stored)
        evidence: dict[str, Value] = {"micrograph": stored.name}
        for name, path in paths.items():
            gain, offset = path.worst()
            numbers = {"mean": path.mean, "sd": path.sd, "gain": gain, "offset_sd": offset}
            evidence |= {f"{name}_{key}": _number(value) for key, value in numbers.items()}
        shift, ratio = self._augmented(data, stored)
        evidence |= {"augmented_shift_sd": _number(shift), "augmented_sd_ratio": _number(ratio)}
        wrong = [name for name, path in paths.items() if not self._same(path)]
        if wrong:
            each = "; ".join(self._told(name, paths[name]) for name in wrong)
            return Finding("fail", f"Grey values change on the way into the network: {each}.", evidence,
                           "NORM_MISMATCH", "Prepare every path by the one recipe of the run, no more.")  # fmt: skip
        if not (shift <= self.far_shift and 1 / self.far_gain <= ratio <= self.far_gain):
            return Finding(
                "fail", f"Augmentation moves training tiles by {shift:.2g} SD and scales them by {ratio:.2g}: picking "
                "never shows such pictures.", evidence, "NORM_MISMATCH",
                "--set photometry.offset=0.2 --set photometry.contrast=1.6, or other milder photometry settings.",
            )  # fmt: skip
        return Finding("ok", "Training, pseudo-labelling, validation and picking see the same grey values; "
                       f"augmentation moves them by {shift:.2g} SD on purpose.", evidence)  # fmt: skip

    def _same(self, path: Route) -> bool:
        gain_fits = (path.gain < self.most_gain) & (path.gain > 1 / self.most_gain)
        return bool((gain_fits & (np.abs(path.offset) < self.most_shift)).all())

    def _told(self, name: str, path: Route) -> str:
        gain, offset = path.worst()
        if not np.isfinite(gain):
            return f"{name} works at another scale"
        if abs(gain) < 1e-4:  # raising all grey values by 1 made no difference
            return f"{name} scales each picture by itself"
        return f"{name} multiplies them by {gain:.3g} and adds {offset:.2g} SD"

    def _paths(self, data: Data, stored: Stored) -> dict[str, Route]:
        variants = _variants(data, stored)
        how = smaller(neutral(data.cropping, overhang=0.4), SIDE, data.config.model.stem, CROPS)
        spy = Spy(how.stem)
        network = spy.network()

        def crops(variant: str) -> Tiles:
            return loading.labelled_batch([variants[variant]], how, data.generator(self.name)).image[:, 0].numpy()

        def weak(variant: str) -> Tiles:
            batch = loading.unlabelled_batch([variants[variant]], how, 1, 0.0, data.generator(self.name))
            return batch.weak[:, 0].numpy()

        def validation(variant: str) -> Tiles:
            image = _middle(variants[variant].image())
            predict.probability(network, image)
            return spy.last(image.data.shape)[None]

        picker = picking.Picker(data.config, data.recipe, network, "float32", None)
        prepared, ours = picker.prepare(data.collection.by_name()[stored.name]), _middle(stored.image())
        picker.probability(_middle(prepared))
        picked = spy.last(ours.data.shape) if prepared.data.shape == stored.shape else None
        return {"training": Route.through(crops), "unlabelled": Route.through(weak),
                "validation": Route.through(validation), "picking": _against(ours, picked)}  # fmt: skip

    def _augmented(self, data: Data, stored: Stored) -> tuple[float, float]:
        """Return how far the settings' photometry moves the mean of a tile on average, and scales its SD."""
        how = smaller(neutral(data.cropping), SIDE, data.config.model.stem, CROPS)
        loud = replace(how, photometry=data.config.photometry)
        plain, changed = (
            loading.labelled_batch([stored], each, data.generator("augmented")).image.flatten(1) for each in (how, loud)
        )
        spread = plain.std().clamp(min=1e-6)
        shift = (changed.mean(1) - plain.mean(1)).abs().mean() / spread
        return float(shift), float(changed.std(1).pow(2).mean().sqrt() / spread)


def _variants(data: Data, stored: Stored) -> dict[str, Stored]:
    image, (*masks, _) = stored.image(), stored.masks()
    made = {"plain": image.data, "raised": image.data + 1, "doubled": 2 * image.data}
    return {
        name: Stored.write(data.scratch / "parity", name, Image(values, image.grid, image.valid), masks)
        for name, values in made.items()
    }


def _middle(image: Image) -> Image:
    """Return the middle of a micrograph that is too large to go through a network in one piece."""
    rows, columns = (slice(max(0, (side - LARGEST) // 2), (side + LARGEST) // 2) for side in image.data.shape)
    grid = image.grid.cropped(rows.start, columns.start)
    return Image(image.data[rows, columns], grid, image.valid[rows, columns])


def _against(stored: Image, picked: Float[np.ndarray, "h w"] | None) -> Route:
    """Compare what the picker shows the network, if it is of the same scale, with what was stored for training."""
    if picked is None:
        return Route(np.array([np.nan]), np.array([np.nan]), np.nan, np.nan)
    plain, seen = stored.data[stored.valid], picked[stored.valid]
    if not len(plain):
        return Route(np.ones(1), np.zeros(1), 0.0, 0.0)
    gain = float(((seen - seen.mean()) * (plain - plain.mean())).mean()) / max(float(plain.var()), 1e-12)
    offset = float(seen.mean() - gain * plain.mean())
    return Route(np.array([gain]), np.array([offset]), float(seen.mean()), float(seen.std()))


def _number(value: float) -> Value:
    return value if np.isfinite(value) else "not comparable"
