"""Clicks made complete: the network that comes with verglas picks the clicked micrographs, and the clicks judge it."""

import math
from collections.abc import Generator
from dataclasses import replace

import numpy as np
import torch
from scipy.spatial import cKDTree

from verglas import model as network
from verglas.config import RunConfig
from verglas.errors import InputError
from verglas.io.micrographs import read_image
from verglas.monitor import auc
from verglas.pick import find
from verglas.predict import all_around, at_precision
from verglas.records import Failed, Note, Record
from verglas.runs import Run
from verglas.targets import distance_to_nearest
from verglas.types import Collection, Picks, nothing

CLICKS_FOUND = 0.8
"""Share of clicks not learned from that a threshold must find, where precision cannot be known."""

LEAST_SKILL = 0.55
"""Skill (2 AUC - 1) at telling the pixels of clicks from all others, from which on the network is believed.

On micrographs not for testing, with 10 and 30 clicks and three draws: 0.77 to 0.87 on bgal_10017, where completed
labels do what complete ones do, and 0.87 to 0.96 on klh; 0.43 to 0.63 on cryoppp_10059, where they do more than clicks;
0.08 to 0.53 on cryoppp_10947, where they do less (AP 0.54 instead of 0.60 and 0.69).
"""


def completed(collection: Collection, config: RunConfig, device: torch.device) -> Generator[Record, None, Collection]:
    """Return the collection with its labels made complete; as it is where the network does not know the particles.

    It never saw a click, so each click tells honestly whether it knows these particles and from which score on a pick
    is one. Micrographs that cannot be read keep their clicks: training says why.
    """
    run, micrographs, diameter_px = Run.general(), collection.by_name(), collection.diameter_px
    recipe = replace(run.preprocess(), diameter_px=diameter_px)
    search = config.search.peaks() | {"exhaustive": False, "edge_px": 0.0}
    model, precision = network.to_device(run.model(), device), at_precision(config.train.precision, device)
    picked, scores, clicked, other = dict[str, Picks](), list[float](), list[np.ndarray](), list[np.ndarray]()
    tested = collection.split.test if collection.split else ()
    for name, clicks in collection.picks.items():
        if name in tested:
            continue
        try:
            image = recipe.prepare(read_image(micrographs[name], config.data.reading()))
        except (InputError, OSError) as error:
            yield Failed(str(micrographs[name].path), str(error))
            continue
        belief = all_around(model, image, precision=precision)
        picked[name] = find(belief, micrographs[name], diameter_px=diameter_px, **search)
        scores += best_near(clicks, picked[name], diameter_px / 2)
        distance = distance_to_nearest(clicks.xy, belief.grid, belief.data.shape, within=diameter_px / 2)
        clicked.append(belief.data[belief.valid & (distance <= config.target.core * diameter_px / 2)])
        other.append(belief.data[belief.valid & np.isinf(distance)])
    told, known = np.concatenate(clicked or [np.zeros(0)]), f"{len(scores)} clicks"
    skill = 2 * auc(told, np.concatenate(other)) - 1 if len(told) else 0.0
    threshold = sorted(scores)[-math.ceil(CLICKS_FOUND * len(scores))] if scores else 0.0
    if skill < LEAST_SKILL or not threshold:
        yield Note(
            f"the general network does not know what was clicked (skill {skill:.2f} at {known}), and stands aside"
        )
        return collection
    labels = {
        name: joined(clicks, picked[name].above(threshold), diameter_px) if name in picked else clicks
        for name, clicks in collection.picks.items()
    }
    added = sum(map(len, labels.values())) - sum(map(len, collection.picks.values()))
    yield Note(f"the general network knows what was clicked (skill {skill:.2f} at {known}): {added} of its picks "
               "complete the labels")  # fmt: skip
    return replace(collection, picks=labels, complete=True)


def best_near(labels: Picks, picks: Picks, within: float) -> list[float]:
    """Return the score of the nearest pick to each label; 0 where none is that near."""
    if not len(labels) or not len(picks):
        return [0.0] * len(labels)
    distance, nearest = cKDTree(picks.xy).query(labels.xy)
    return np.where(distance <= within, picks.score[nearest], 0.0).tolist()


def joined(labels: Picks | None, picks: Picks, diameter_px: float) -> Picks:
    """Return labels, and the picks further than half a diameter from each."""
    labels = labels or nothing(picks.micrograph)
    distance = cKDTree(labels.xy).query(picks.xy)[0] if len(picks) else np.zeros(0)
    others = picks.where(distance > diameter_px / 2)
    return replace(picks, xy=np.concatenate([labels.xy, others.xy]), score=np.concatenate([labels.score, others.score]))
