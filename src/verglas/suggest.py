"""Rank micrographs without labels by what labelling them next would teach.

Three numbers each: how unsure the decisions of the network are, how much they change with the way the micrograph is
turned, and how unlike its deepest features are to those of the micrographs that are labelled or ranked above.
"""

import csv
import io
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import minimize
from scipy.stats import rankdata
from torch import Tensor
from torch.nn import functional

from verglas.errors import InputError, check_range
from verglas.io._base import write_text
from verglas.matching import Pool
from verglas.model import UNet
from verglas.operating import OperatingPoint
from verglas.pick import disc_mean
from verglas.picker import Picker
from verglas.predict import LARGEST_WHOLE, Precision, autocast, trimmed, turned
from verglas.records import Failed, Note, Picked, Record, Suggested
from verglas.runs import Run
from verglas.tiles import cut
from verglas.types import Image, Micrograph

VIEWS = (1, False), (2, True)
"""Quarter turns, and whether mirrored, of the views that are compared with the micrograph as it is."""

RADIUS = 0.5
"""Reach of the matching in diameters by which held-out candidates are found right or wrong."""

REMARKABLE = 2 / 3
"""Share of the micrographs that one must exceed in one of the numbers for it to be given as a reason."""


@dataclass(frozen=True, slots=True)
class Judge:
    """From which score a candidate counts, and how likely one of a score is a particle: logistic in its logit."""

    point: OperatingPoint
    slope: float = 1.0
    offset: float = 0.0

    @classmethod
    def of(cls, run: Run) -> "Judge":
        """Fit to the held-out labels, by the smoothed targets of Platt (Advances in Large Margin Classifiers, 1999).

        Where labels are partial, or all candidates are right or all wrong, scores are taken as they are.
        """
        point, (candidates, truth) = run.operating_point(), run.validation()
        ranked = Pool.of(candidates.by_name(), truth).by_micrograph(RADIUS * run.facts()["diameter_px"])
        right = int(ranked.right.sum())
        wrong = len(ranked.right) - right
        if run.config.data.labels_are == "partial" or not right or not wrong:
            return cls(point)
        target, x = np.where(ranked.right, (right + 1) / (right + 2), 1 / (wrong + 2)), _logit(ranked.score)

        def loss(line: Float[np.ndarray, "2"]) -> float:
            z = line[0] * x + line[1]
            return float(np.mean(np.logaddexp(0, z) - target * z))

        slope, offset = minimize(loss, (1.0, 0.0)).x.tolist()
        return cls(point, slope, offset)

    def chance(self, score: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
        """Return how likely candidates of these scores are particles."""
        return 1 / (1 + np.exp(-self.slope * _logit(score) - self.offset))


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What is kept of a micrograph: a few numbers and one short vector, however large it is.

    ``decisions`` is the number of candidates that count plus that of the particles to be expected; ``wrong`` how
    many of them are expected to be wrong, ``turning`` how many change with the view; ``close`` counts candidates
    within the interval of the threshold.
    """

    micrograph: Micrograph
    features: Float[np.ndarray, " f"]
    candidates: int
    counted: int
    close: int
    decisions: float
    wrong: float
    turning: float


def suggestions(
    run: Run,
    picker: Picker,
    labelled: Sequence[Micrograph],
    pool: Sequence[Micrograph],
    *,
    most: int = 20,
    stop: threading.Event | None = None,
) -> Iterator[Record]:
    """Look at each micrograph of the pool, then yield the ``most`` to be labelled next, the first one first.

    A bad file is told and left out. Where ``stop`` is set, those are ranked that have been looked at.
    """
    check_range("suggest", 1, 1e6, most=most)
    if not pool:
        raise InputError(
            "suggest", "micrographs without labels", found="none", expected="one or more",
            remedy="Give --micrographs: files, folders or patterns of micrographs to choose from.",
        )  # fmt: skip
    judge, seen, known = Judge.of(run), list[Seen](), list[Float[np.ndarray, " f"]]()
    for micrograph, vector in picker.each(partial(_described, picker), labelled):
        if isinstance(vector, Exception):
            yield Failed(str(micrograph.path), str(vector))
        else:
            known.append(vector)
    for done, (micrograph, one) in enumerate(picker.each(partial(look, picker, judge), pool), 1):
        if isinstance(one, Exception):
            yield Failed(str(micrograph.path), str(one))
            continue
        seen.append(one)
        yield Picked(micrograph.name, done, len(pool), one.candidates, one.counted)
        if stop is not None and stop.is_set():
            yield Note(f"stopped: only the first {done} of {len(pool)} micrographs are ranked", warning=True)
            break
    if not known:
        raise InputError("suggest", "labelled micrographs", found="none that can be read", expected="one or more")
    yield from ranking(seen, known, most)


def look(picker: Picker, judge: Judge, micrograph: Micrograph) -> Seen:
    """Pick a micrograph as it is and as its views show it; maps are not kept."""
    image = trimmed(picker.prepare(micrograph), picker.network.shape.stem)
    found = picker.probability(image)
    picks = picker.find(micrograph, found)
    column, row = np.clip(np.rint(found.grid.from_micrograph(picks.xy)).astype(int), 0, _last(found)).T
    radius_px, views = picker.config.search.score_radius * picker.recipe.diameter_px, [found]
    views += (Image(turned(picker.probability, image, *view), found.grid, found.valid) for view in VIEWS)
    seen = judge.chance(np.stack([disc_mean(view, radius_px)[row, column] for view in views]))
    chance, counts = judge.chance(picks.score), picks.score >= judge.point.threshold
    low, high = judge.point.interval
    return Seen(
        micrograph, features(picker.network, image, picker.precision), len(picks), int(counts.sum()),
        close=int(((picks.score >= low) & (picks.score <= high)).sum()),
        decisions=float(counts.sum() + chance.sum()),
        wrong=float(np.where(counts, 1 - chance, chance).sum()),
        turning=float(np.abs(seen - seen.mean(axis=0)).mean(axis=0).sum()),
    )  # fmt: skip


def _described(picker: Picker, micrograph: Micrograph) -> Float[np.ndarray, " f"]:
    return features(picker.network, picker.prepare(micrograph), picker.precision)


def features(network: UNet, image: Image, precision: Precision) -> Float[np.ndarray, " f"]:
    """Return mean and standard deviation of each of the deepest features over the valid part of a prepared image."""
    step, device = network.shape.multiple, next(network.parameters()).device
    planes = (torch.from_numpy(np.array(plane, np.float32)) for plane in (image.data, image.valid))
    sums = torch.zeros(3, network.shape.width * 2**network.shape.depth, dtype=torch.float64)
    for tile, valid in zip(*(cut(p, LARGEST_WHOLE, network.shape.reach, step) for p in planes), strict=True):
        with torch.inference_mode(), autocast(device, precision):
            deepest = network.encode(_padded(tile.data, step).to(device))[-1][0].double().cpu()
        known = functional.avg_pool2d(_padded(valid.data, step), step)[0, 0] > 0.5
        (top, left), (first, last), (start, end) = tile.origin, tile.rows, tile.columns
        spans = (first, last, top), (start, end, left)
        rows, columns = (slice((low - at) // step, -(-(high - at) // step)) for low, high, at in spans)
        values = deepest[:, rows, columns][:, known[rows, columns]]
        sums += torch.stack((torch.full((len(values),), values.shape[1]), values.sum(1), values.square().sum(1)))
    count, total, squares = sums.clamp(min=1e-9).numpy()
    mean = total / count
    return np.concatenate((mean, np.sqrt(np.maximum(squares / count - mean**2, 0))))


def ranking(seen: Sequence[Seen], labelled: Sequence[Float[np.ndarray, " f"]], most: int) -> Iterator[Suggested]:
    """Yield the micrographs to be labelled next: half by what is unsure and what disagrees, half by what is new.

    The numbers have no common unit, so places among the others are added. What is new is measured anew after each
    choice, as farthest-first traversal does (Gonzalez 1985; Sener and Savarese, arXiv 1708.00489): ten alike do not
    lead the list. Wrong decisions are counted per decision, for crowded micrographs have more of both; one with
    fewer decisions than the median has its wrong ones divided by the median, else an empty one, where a single doubt
    is half of all, would be the most uncertain.
    """
    if not seen:
        return
    decisions = np.array([one.decisions for one in seen])
    decisions = np.maximum(decisions, max(float(np.median(decisions)), 1.0))
    uncertainty = np.array([one.wrong for one in seen]) / decisions
    disagreement = np.array([one.turning for one in seen]) / decisions
    vectors = _standardised(np.stack([*(one.features for one in seen), *labelled]))
    ours, novelty, free = vectors[: len(seen)], np.full(len(seen), np.inf), np.arange(len(seen))
    for vector in vectors[len(seen) :]:
        novelty = np.minimum(novelty, _apart(ours, vector))
    bounds = [float(np.quantile(values, REMARKABLE)) for values in (uncertainty, disagreement, novelty)]
    for rank in range(1, min(most, len(seen)) + 1):
        unsure, turning, new = (_places(values[free]) for values in (uncertainty, disagreement, novelty))
        best = int(free[np.argmax((unsure + turning) / 2 + new)])
        one, numbers = seen[best], (float(uncertainty[best]), float(disagreement[best]), float(novelty[best]))
        yield Suggested(rank, one.micrograph.name, str(one.micrograph.path), *numbers, one.candidates, one.counted,
                        _reason(one, numbers, bounds, rank))  # fmt: skip
        free, novelty = free[free != best], np.minimum(novelty, _apart(ours, ours[best]))


def write_csv(path: str | Path, suggested: Sequence[Suggested]) -> None:
    """Write the ranking as a table, whole or not at all."""
    text = io.StringIO()
    table = csv.DictWriter(text, [f.name for f in fields(Suggested)], lineterminator="\n")
    table.writeheader()
    table.writerows(asdict(one) for one in suggested)
    write_text(path, text.getvalue())


def _reason(one: Seen, numbers: tuple[float, float, float], bounds: Sequence[float], rank: int) -> str:
    """Say in words which of the numbers are high."""
    wrong, turning, novelty = numbers
    texts = (
        f"unsure near the threshold: {wrong:.0%} of decisions expected wrong, {one.close} candidates in its interval",
        f"turned or mirrored, it is picked otherwise: {turning:.0%} of decisions",
        f"unlike what is labelled{' or ranked above' if rank > 1 else ''}: {novelty:.2g} standard deviations apart",
    )
    high = [text for text, number, bound in zip(texts, numbers, bounds, strict=True) if number >= bound > 0]
    return "; ".join(high) or "no number is high; by the sum of their places"


def _places(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Return the place of each among all, from 0 for the least to 1 for the greatest; equal ones share it."""
    return (rankdata(values) - 1) / max(len(values) - 1, 1)


def _standardised(vectors: Float[np.ndarray, "n f"]) -> Float[np.ndarray, "n f"]:
    """Give each feature mean 0 and standard deviation 1; one that is the same everywhere tells nothing."""
    spread = vectors.std(axis=0)
    return (vectors - vectors.mean(axis=0)) / np.where(spread > 1e-9, spread, np.inf)


def _apart(vectors: Float[np.ndarray, "n f"], other: Float[np.ndarray, " f"]) -> Float[np.ndarray, " n"]:
    return np.sqrt(np.mean((vectors - other) ** 2, axis=1))


def _logit(score: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
    score = np.clip(score, 1e-6, 1 - 1e-6)
    return np.log(score / (1 - score))


def _last(image: Image) -> tuple[int, int]:
    """Return the last column and row."""
    return image.data.shape[1] - 1, image.data.shape[0] - 1


def _padded(plane: Float[Tensor, "h w"], multiple: int) -> Float[Tensor, "1 1 p q"]:
    h, w = plane.shape
    return functional.pad(plane[None, None], (0, -w % multiple, 0, -h % multiple), mode="reflect")
