"""Whether the loader shows something new at each step, of every labelled micrograph."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from verglas import data as loading
from verglas.data import Cropping, Stored
from verglas.doctor._base import DataCheck, Finding, Value
from verglas.doctor._probes import neutral
from verglas.doctor.subject import Data
from verglas.types import Grid, Image

BATCHES = 6
TURNS = 30
"""Crops for each micrograph: one that has its turn is missed with a chance of e^-30."""


class Crops(DataCheck):
    """Cut several batches with one stream and compare all crops, grey values unchanged.

    Crops are scaled at random here, so that even a micrograph as small as a crop gives no two alike.
    """

    name = "crops"
    question = "Does each batch show new crops, and every labelled micrograph its turn?"

    def check(self, data: Data) -> Finding:
        """Return how many crops are repeated, and what they show."""
        m, how = data.materials, neutral(data.cropping)
        how = replace(how, geometry=replace(how.geometry, scale=max(how.geometry.scale, 0.05)))
        generator = data.generator(self.name)
        batches = [loading.labelled_batch(m.labelled, how, generator) for _ in range(BATCHES)]
        repeated = {"labelled": _repeated([batch.image for batch in batches])}
        if data.algorithm.strong_views and m.unlabelled:
            weak = [loading.unlabelled_batch(m.unlabelled, how, 1, 0.0, generator).weak for _ in range(BATCHES)]
            repeated["unlabelled"] = _repeated(weak)
        fewest = _fewest(data, m.labelled, how)
        target, known = (torch.cat([getattr(batch, part) for batch in batches]) for part in ("target", "known"))
        positive = (target * known).flatten(1).sum(1)
        empty, share = float((positive == 0).float().mean()), float(positive.sum() / known.sum().clamp(min=1))
        evidence: dict[str, Value] = {f"{key}_repeated_share": value for key, value in repeated.items()}
        evidence |= {"crops": BATCHES * how.batch, "fewest_turns_share": fewest, "crops_without_positive_share": empty,
                     "crops_positive_share": share, "micrographs_positive_share": m.prior}  # fmt: skip
        twice = [key for key, value in repeated.items() if value]
        if twice:
            share = repeated[twice[0]]
            return Finding("fail", f"{share:.0%} of the {' and '.join(twice)} crops were shown before: the loader "
                           "repeats itself.", evidence, "DUPLICATE_CROPS",
                           "Give each consumer a random stream of its own, and do not set it back.")  # fmt: skip
        if not fewest:
            return Finding("fail", f"One of {len(m.labelled)} labelled micrographs is never shown.", evidence,
                           "DUPLICATE_CROPS", "Draw the micrograph of each crop from all labelled ones.")  # fmt: skip
        return Finding("ok", f"No crop of {BATCHES * how.batch} is repeated, each labelled micrograph has its turn; "
                       f"{empty:.0%} of the crops show no particle.", evidence)  # fmt: skip


def _repeated(batches: Sequence[Tensor]) -> float:
    """Return the share of crops that equal one before, of those that show anything."""
    crops = [crop for crop in torch.cat(list(batches)).flatten(1) if float(crop.max() - crop.min()) > 1e-6]
    return 1 - len({crop.numpy().tobytes() for crop in crops}) / len(crops) if crops else 0.0


def _fewest(data: Data, labelled: Sequence[Stored], how: Cropping) -> float:
    """Return how often the micrograph is shown that has the fewest turns, as a share of an equal part.

    In place of each micrograph stands a small one that tells which it is by its grey value and, in binary, by its
    masks: a fault that spoils one of the two is no matter of turns.
    """
    n, size = len(labelled), 4 * how.stem
    shape, geometry = (4 * size, 4 * size), replace(how.geometry, overhang=0.0)
    probes = []
    for number in range(1, n + 1):
        image = Image(np.full(shape, number, np.float32), Grid(), np.ones(shape, bool))
        bits = [np.full(shape, bool(number >> bit & 1)) for bit in range(3)]
        probes.append(Stored.write(data.scratch / "turns", str(number), image, bits))
    turns = replace(how, batch=TURNS * n, size=size, geometry=geometry)
    drawn = loading.labelled_batch(probes, turns, data.generator("turns"))
    grey = drawn.image[:, 0, size // 2, size // 2].mul(100).round()
    masks = torch.stack([(plane > 0.5).flatten(1).any(1) for plane in (drawn.target, drawn.known, drawn.unseen)])
    told = [torch.unique(sign, return_counts=True, dim=-1)[1] for sign in (grey, masks)]
    shown = max(told, key=len)
    return int(shown.min()) / TURNS if len(shown) >= n else 0.0
