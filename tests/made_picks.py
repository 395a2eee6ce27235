"""Labels and picks of known quality, and their figures."""

import numpy as np

from verglas.evaluate import evaluate
from verglas.types import Picks, PickSet

DIAMETER = 20.0
SIDE = 1000


def labels(name: str, xy: np.ndarray) -> Picks:
    return Picks(name, xy, np.ones(len(xy)), "labels")


def noisy_picks(
    rng: np.random.Generator, truth: Picks, *, found: float = 0.8, wrong: int = 60, by: float = 0.1
) -> Picks:
    """Some of the labels, off by a tenth of a diameter and scored high, among wrong picks that score lower."""
    hit = truth.xy[rng.random(len(truth)) < found]
    xy = np.concatenate((hit + rng.normal(0, DIAMETER * 0.05, hit.shape), rng.uniform(0, SIDE, (wrong, 2))))
    score = np.concatenate((rng.normal(0.6 + by, 0.15, len(hit)), rng.normal(0.4, 0.15, wrong)))
    return Picks(truth.micrograph, xy, np.clip(score, 0.01, 1), "made up")


def collection(n: int, seed: int = 0, by: float = 0.1) -> tuple[PickSet, dict[str, Picks]]:
    rng = np.random.default_rng(seed)
    truth = {f"mic{k}": labels(f"mic{k}", rng.uniform(0, SIDE, (rng.integers(60, 90), 2))) for k in range(n)}
    picks = tuple(noisy_picks(rng, t, by=by) for t in truth.values())
    return PickSet(picks, threshold=0.5), truth


def shapes_of(truth: dict[str, Picks]) -> dict[str, tuple[int, int]]:
    return dict.fromkeys(truth, (SIDE, SIDE))


def quick(picks: PickSet, truth: dict[str, Picks], **options: object) -> dict:
    return dict(evaluate(picks, truth, diameter_px=DIAMETER, bootstraps=50, **options).pooled)
