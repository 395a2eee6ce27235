"""What a training is watched by: pixel figures of student and average on held-out labels, and signs of sickness.

Every quantity has a name that ``gates`` gives rules for and records carry; what cannot be measured is left out.
"""

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from types import MappingProxyType

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import nn

from verglas.data import Stored, of_labelled, per_logit
from verglas.model import UNet, batch_norms
from verglas.predict import Precision, probability
from verglas.ranking import average_precision, best_f1, precision_recall_curve
from verglas.ssl import Algorithm
from verglas.types import Image

Map = Float[np.ndarray, "p q"]


@dataclass(frozen=True, slots=True, eq=False)
class Watched:
    """A map of student and average, with what is known there: particle core or not, held-out and known, valid."""

    student: Map
    average: Map
    target: Bool[np.ndarray, "p q"]
    held: Bool[np.ndarray, "p q"]
    unseen: Bool[np.ndarray, "p q"]
    valid: Bool[np.ndarray, "p q"]


def watch(
    student: UNet,
    average: UNet,
    algorithm: Algorithm,
    stored: Sequence[Stored],
    prior: float,
    precision: Precision,
    maps: Mapping[str, Image] = MappingProxyType({}),
) -> dict[str, float]:
    """Return all that can be measured on these micrographs, some of which bear held-out labels.

    ``prior`` is the share of positive pixels among the training labels; ``maps`` are what the average has found.
    """
    seen = copy.deepcopy(student).eval()
    looked = [_look(seen, average, each, precision, maps.get(each.name)) for each in stored]
    held = [one for one in looked if (one.held & one.target).any() and (one.held & ~one.target).any()]
    found = {"weight_norm_ratio": _norm(average) / max(_norm(student), 1e-12)}
    if held:
        target = np.concatenate([one.target[one.held] for one in held])
        for name, seen_by in (("average", [one.average for one in held]), ("student", [one.student for one in held])):
            belief = np.concatenate([one[where.held] for one, where in zip(seen_by, held, strict=True)])
            found |= {f"{name}_{key}": value for key, value in pixel_figures(target, belief).items()}
            if name == "average":
                found |= _pseudo_labels(algorithm, target, belief) | _ceiling(target, belief)
    else:
        found |= _against_unseen([one for one in looked if (one.held & one.target).any()])
    beliefs = np.concatenate([one.average[one.valid] for one in looked])
    if len(beliefs):
        given = np.concatenate([one.student[one.valid] for one in looked])
        found |= {"belief_mean": float(beliefs.mean()), "belief_sd": float(beliefs.std()), "prior": prior,
                  "agreement": _correlation(beliefs, given)}  # fmt: skip
    modes = _modes(copy.deepcopy(average), stored[0].image(), looked[0].average, precision)
    return found | across([one.average for one in looked]) | modes


def pixel_figures(target: Bool[np.ndarray, " n"], belief: Float[np.ndarray, " n"]) -> dict[str, float]:
    """Return AP, skill (AP − π)/(1 − π), best F1 and F1 at 0.5 of pixels, and the F1 of all-positive, 2π/(1 + π)."""
    share, called = float(target.mean()), belief >= 0.5
    ap = average_precision(target, belief, int(target.sum()))
    best, _ = best_f1(target, belief, int(target.sum()))
    half = 2 * float((called & target).sum()) / max(1.0, float(called.sum() + target.sum()))
    skill = (ap - share) / (1 - share) if share < 1 else 0.0
    return {"pixel_ap": ap, "skill": skill, "best_f1": best, "f1_half": half, "trivial_f1": 2 * share / (1 + share)}


def _against_unseen(looked: Sequence[Watched]) -> dict[str, float]:
    """Return the skill 2·AUC − 1 of telling held-out clicks from places where nobody looked.

    Particles among the latter lower it by their share at most.
    """
    if not looked:
        return {}
    clicked = np.concatenate([one.average[one.held & one.target] for one in looked])
    other = np.concatenate([one.average[elsewhere(one.unseen, one.target, one.valid)] for one in looked])
    return {"average_skill": 2 * auc(clicked, other) - 1}


def elsewhere(
    unseen: Bool[np.ndarray, "p q"], target: Bool[np.ndarray, "p q"], valid: Bool[np.ndarray, "p q"]
) -> Bool[np.ndarray, "p q"]:
    """Return where nobody looked; on a micrograph that is held out as a whole all places away from its clicks."""
    return unseen if unseen.any() else valid & ~target


def auc(particles: Float[np.ndarray, " n"], other: Float[np.ndarray, " m"]) -> float:
    """Return the chance that a pixel of a particle is believed in more than another one; ties count half."""
    ranked = np.sort(other)
    below = (np.searchsorted(ranked, particles, "left") + np.searchsorted(ranked, particles, "right")) / 2
    return float((below / len(ranked)).mean())


def _look(student: UNet, average: UNet, stored: Stored, precision: Precision, known: Image | None) -> Watched:
    image, stem = stored.image(), student.shape.stem
    maps = [probability(student, image, precision=precision)]
    maps.append(known or probability(average, image, precision=precision))
    target, _, unseen, held = masks_on_logits(stored, stem, maps[0].data.shape)
    return Watched(maps[0].data, maps[1].data, target, held, unseen, maps[0].valid)


def masks_on_logits(stored: Stored, stem: int, shape: tuple[int, ...]) -> Bool[np.ndarray, "4 p q"]:
    """Return target, known, unseen and held-out per logit; nothing of all these where there is no label.

    The target is set where half of its pixels are, the others where all are, and none where the micrograph ends.
    """
    masks, out = torch.from_numpy(np.array(stored.masks()))[None], np.zeros((4, *shape), bool)
    if of_labelled(masks):
        for i in range(4):
            whole = per_logit(masks[:, i : i + 1], stem, 1.0 if i else 0.5)[0, 0].numpy()
            out[i, : whole.shape[0], : whole.shape[1]] = whole[: shape[0], : shape[1]]
    return out


def _pseudo_labels(
    algorithm: Algorithm, target: Bool[np.ndarray, " n"], belief: Float[np.ndarray, " n"]
) -> dict[str, float]:
    """Return what pseudo-labels of these beliefs would be worth, by the labels that no one learned from."""
    made = algorithm.pseudo_label(torch.from_numpy(belief).to(algorithm.trust.device))
    if made is None:
        return {}
    label, weight = (part.cpu().numpy() for part in made)
    if not weight.any():
        return {}
    positive = float((label * weight).sum())
    return {
        "keep_positive": float(weight[target].mean()),
        "keep_negative": float(weight[~target].mean()) if (~target).any() else math.nan,
        "purity": float((label * weight)[target].sum()) / max(positive, 1e-12),
        "pseudo_positive_share": positive / max(float(weight.sum()), 1e-12),
        "held_prior": float(target.mean()),
    }


def _ceiling(target: Bool[np.ndarray, " n"], belief: Float[np.ndarray, " n"]) -> dict[str, float]:
    """Return what shows that labels leave particles out: the surest belief at labels, and precision early and late."""
    precision, recall, _ = precision_recall_curve(target, belief, int(target.sum()))
    early, late = (float(precision[np.searchsorted(recall, share)]) for share in (0.1, 0.5))
    return {"centre_belief": float(np.quantile(belief[target], 0.99)), "precision_early": early, "precision_late": late}


def across(maps: Sequence[Map]) -> dict[str, float]:
    """Return how alike maps of different micrographs are: near 1, the output does not depend on the input.

    Correlations are of the common part, pixel by pixel; the variance is that between micrographs at a pixel, as a
    share of all.
    """
    if len(maps) < 2:
        return {}
    p, q = (min(one.shape[axis] for one in maps) for axis in (0, 1))
    cut = np.stack([one[:p, :q] for one in maps]).astype(float)
    pairs = [_correlation(a.ravel(), b.ravel()) for a, b in combinations(cut, 2)]
    total = cut.var()
    between = float(cut.var(axis=0, ddof=1).mean() / total) if total > 1e-12 else 0.0
    return {"map_correlation": float(np.mean(pairs)), "map_variance_between": between}


def _modes(model: UNet, image: Image, found: Map, precision: Precision) -> dict[str, float]:
    """Return how far logits move from ``found`` when batch statistics replace the running ones (batch norm only)."""
    norms = batch_norms(model)
    if not norms:
        return {}
    for norm in norms:
        norm.train()
    running, batch = logits(found), logits(probability(model, image, precision=precision).data)
    return {"mode_gap": float(batch.mean() - running.mean()),
            "mode_sd_ratio": float(running.std() / max(batch.std(), 1e-6))}  # fmt: skip


def logits(found: Float[np.ndarray, "*s"]) -> Float[np.ndarray, "*s"]:
    """Return the logits of probabilities, which are cut at 1e-6."""
    p = found.clip(1e-6, 1 - 1e-6)
    return np.log(p / (1 - p))


def _correlation(a: Float[np.ndarray, " n"], b: Float[np.ndarray, " n"]) -> float:
    """Return Pearson's correlation; constants are alike."""
    if a.std() < 1e-6 or b.std() < 1e-6:
        return 1.0
    return float(np.corrcoef(a, b)[0, 1])


def _norm(model: nn.Module) -> float:
    return math.sqrt(sum(float(p.detach().float().pow(2).sum()) for p in model.parameters()))


def input_statistics(batches: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, float]]:
    """Yield mean and standard deviation of what goes into the network on each path."""
    for name, images in batches.items():
        yield f"{name}_mean", float(images.mean())
        yield f"{name}_sd", float(images.std())
