"""Whether what teaches and what judges are different pictures, of the same kind, and enough of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np
from jaxtyping import Float
from scipy import ndimage, stats

from verglas.doctor._base import DataCheck, Finding, Value, skipped
from verglas.doctor.subject import Data
from verglas.errors import InputError
from verglas.holdout import training_names
from verglas.io._base import copies
from verglas.io.micrographs import ReadOptions, read_image
from verglas.preprocess import resize
from verglas.types import Micrograph

SIDE_PX, FLATTEN_PX = 256, 4.0
"""The longer side of a thumbnail, and the standard deviation of what is taken for its background."""


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """A micrograph: its thumbnail, and mean and standard deviation of its grey values."""

    thumbnail: Float[np.ndarray, "m n"]
    mean: float
    sd: float


class Split(DataCheck):
    """Compare micrographs of all roles by content: files byte by byte, pictures by flattened thumbnails.

    Thumbnails of distinct real micrographs correlate by at most .03; noisy twins and halves of one movie by .15 and
    more. Of many micrographs ``most`` are looked at. Teaching and judging micrographs are compared where there are
    ``each`` or more of both; density and grey values must differ beyond chance.
    """

    name = "split"
    question = "Do different pictures of the same kind teach and judge?"

    def __init__(
        self, *, most_alike: float = 0.1, most: int = 16, each: int = 3, density_ratio: float = 1.5,
        chance_density: float = 0.01, chance_grey: float = 0.001, enough: int = 3,
    ) -> None:  # fmt: skip
        self.most_alike, self.most, self.each = most_alike, most, each
        self.density_ratio, self.chance_density, self.chance_grey = density_ratio, chance_density, chance_grey
        self.enough = enough

    def check(self, data: Data) -> Finding:
        """Return the first of: a picture in two roles, roles of different kind, too few that judge."""
        teach, judge = _roles(data)
        if not teach:
            return skipped("No micrograph has labels.")
        seen = self._looked_at(data, teach, judge)
        held = len(data.holdout.areas)
        evidence: dict[str, Value] = {"teaching": len(teach), "held_out": held, "compared": len(seen)}
        pair, alike = _most_alike(seen)
        evidence |= {"highest_correlation": alike, "most_alike": " and ".join(pair)}
        evidence |= _densities(data, teach, judge, self.each) | _greys(seen, teach, judge, self.each)
        return self._leak(data, evidence, [*teach, *judge]) or self._unlike(evidence) or self._few(evidence, held)

    def _looked_at(self, data: Data, teach: Sequence[str], judge: Sequence[str]) -> dict[str, Seen]:
        """Read some micrographs of each role, by turns."""
        names = [name for i in range(max(len(teach), len(judge))) for name in (*judge[i : i + 1], *teach[i : i + 1])]
        micrographs, seen = data.collection.by_name(), {}
        for name in names[: self.most]:
            try:
                seen[name] = _seen(read_image(micrographs[name], data.config.data.reading()))
            except (InputError, OSError):
                continue  # what cannot be read is told by training and inspect, and cannot leak
        return seen

    def _leak(self, data: Data, evidence: dict[str, Value], names: Sequence[str]) -> Finding | None:
        paths = {m.name: m.path for m in data.collection.micrographs if m.name in names and m.path.is_file()}
        if alike := copies(paths.values()):
            twins = sorted(name for name, path in paths.items() if path in alike[0])[:2]
            sentence = f"{' and '.join(twins)} are one file under different names"
        elif float(evidence["highest_correlation"] or 0) > self.most_alike:
            sentence = f"{evidence['most_alike']} show the same (thumbnails correlate by " \
                f"{evidence['highest_correlation']:.2f}; distinct micrographs by .03 at most)"  # fmt: skip
        else:
            return None
        told = f"{sentence}: what judges the training, or counts twice in it, was learned from."
        return Finding("fail", told, evidence, "SPLIT_LEAK", "Remove one of the two, and its labels.")

    def _unlike(self, evidence: dict[str, Value]) -> Finding | None:
        remedy = "Label micrographs of each kind, or set train.seed."
        ratio = float(evidence.get("density_ratio") or 1)
        far = max(ratio, 1 / ratio) > self.density_ratio
        if far and _below(evidence, "density_p", self.chance_density):
            sentence = f"Held-out micrographs have {ratio:.2g} times as many labels each as those that teach."
            return Finding("warn", sentence, evidence, "SPLIT_UNLIKE", remedy)
        if _below(evidence, "grey_p", self.chance_grey):
            sentence = "Grey values of held-out micrographs are spread unlike those of the ones that teach."
            return Finding("warn", sentence, evidence, "SPLIT_UNLIKE", remedy)
        return None

    def _few(self, evidence: dict[str, Value], held: int) -> Finding:
        if held < self.enough:
            of = "one micrograph" if held == 1 else f"{held} micrographs"
            sentence = f"Labels of {of} are held out: on others, figures may differ by more than their interval says."
            return Finding("info", sentence, evidence, "VAL_TOO_SMALL", "Label more micrographs, if figures matter.")
        sentence = f"{evidence['compared']} micrographs are distinct, and {held} of them judge."
        return Finding("ok", sentence, evidence)


def _roles(data: Data) -> tuple[list[str], list[str]]:
    """Return the micrographs that teach, and those that only judge: held out as a whole, or for a test."""
    areas, split = data.holdout.areas, data.collection.split
    judge = [name for name, area in areas.items() if not area.partial]
    judge += [name for name in (*split.validation, *split.test) if name not in judge] if split else []
    return [name for name in training_names(data.collection) if name not in judge], judge


def _seen(pixels: Float[np.ndarray, "h w"]) -> Seen:
    h, w = pixels.shape
    scale = SIDE_PX / max(h, w)
    small = resize(pixels, (min(h, max(16, round(h * scale))), min(w, max(16, round(w * scale)))))
    flat = np.clip(small, *np.percentile(small, [1, 99]))
    flat = flat - ndimage.gaussian_filter(flat, FLATTEN_PX)
    flat = flat / np.sqrt(ndimage.gaussian_filter(flat**2, 3 * FLATTEN_PX) + 1e-12)
    flat = flat - flat.mean(0) - flat.mean(1, keepdims=True)  # stripes of the detector are the same in all
    return Seen(flat / max(float(flat.std()), 1e-12), float(small.mean()), float(pixels.std()))


def closest(
    test: Sequence[Micrograph], others: Sequence[Micrograph], reading: ReadOptions, most: int
) -> tuple[tuple[str, ...], float, int]:
    """Return which of the test is most alike to another one, how their thumbnails correlate, and how many were read.

    Of many micrographs ``most`` are read, of either kind by turns.
    """
    by_turns = [m for i in range(max(len(test), len(others))) for m in (*test[i : i + 1], *others[i : i + 1])]
    seen: dict[str, Float[np.ndarray, "m n"]] = {}
    for micrograph in by_turns[:most]:
        try:
            seen[micrograph.name] = _seen(read_image(micrograph, reading)).thumbnail.astype(np.float32)
        except (InputError, OSError):
            continue  # told by training and picking
    found: tuple[tuple[str, ...], float] = (), 0.0
    for first, second in product(*([m.name for m in some if m.name in seen] for some in (test, others))):
        if seen[first].shape == seen[second].shape:
            alike = float((seen[first] * seen[second]).mean())
            found = max(found, ((first, second), alike), key=lambda pair: pair[1])
    return *found, len(seen)


def _most_alike(seen: dict[str, Seen]) -> tuple[tuple[str, ...], float]:
    """Return the two whose thumbnails correlate most, and by how much."""
    found: tuple[tuple[str, ...], float] = (), 0.0
    for (first, a), (second, b) in combinations(seen.items(), 2):
        if a.thumbnail.shape == b.thumbnail.shape:
            alike = float((a.thumbnail * b.thumbnail).mean())
            found = max(found, ((first, second), alike), key=lambda pair: pair[1])
    return found


def _densities(data: Data, teach: Sequence[str], judge: Sequence[str], each: int) -> dict[str, Value]:
    """Return how many times denser the labels of what judges are, and the chance of such a difference."""
    picks = data.collection.picks
    a, b = (np.array([len(picks[name]) for name in names if name in picks], float) for names in (teach, judge))
    if not data.collection.complete or min(len(a), len(b)) < each or not a.mean() or not b.mean():
        return {}
    same = np.ptp(np.sqrt(a)) == np.ptp(np.sqrt(b)) == 0
    chance = 1.0 if same else float(stats.ttest_ind(np.sqrt(a), np.sqrt(b), equal_var=False).pvalue)
    return {"density_ratio": float(b.mean() / a.mean()), "density_p": chance}


def _greys(seen: dict[str, Seen], teach: Sequence[str], judge: Sequence[str], each: int) -> dict[str, Value]:
    """Return the chance that means or standard deviations of the grey values differ as they do."""
    a, b = ([seen[name] for name in names if name in seen] for names in (teach, judge))
    if min(len(a), len(b)) < each:
        return {}
    chances = [stats.ks_2samp([getattr(s, of) for s in a], [getattr(s, of) for s in b]).pvalue for of in ("mean", "sd")]
    return {"grey_p": float(min(chances))}


def _below(evidence: dict[str, Value], key: str, chance: float) -> bool:
    return key in evidence and float(evidence[key] or 0) < chance
