"""Learning algorithms: each turns a labelled and an unlabelled batch into a loss."""

import inspect
from collections.abc import Mapping
from typing import Any

from verglas.errors import InputError
from verglas.losses import Loss
from verglas.ssl._base import Algorithm, Step
from verglas.ssl.fixmatch import FixMatch
from verglas.ssl.mean_teacher import MeanTeacher
from verglas.ssl.pu import PositiveUnlabelled
from verglas.ssl.self_training import SelfTraining
from verglas.ssl.soft_teacher import SoftTeacher
from verglas.ssl.supervised import Supervised
from verglas.ssl.unimatch import UniMatch

ALGORITHMS: tuple[type[Algorithm], ...] = (
    Supervised, MeanTeacher, FixMatch, UniMatch, SelfTraining, SoftTeacher, PositiveUnlabelled,
)  # fmt: skip

__all__ = ["ALGORITHMS", "Algorithm", "Step", "make_algorithm"]


def make_algorithm(name: str, options: Mapping[str, Any], loss: Loss) -> Algorithm:
    """Return the algorithm of this name; its options are the keywords of its constructor."""
    known = {algorithm.name: algorithm for algorithm in ALGORITHMS}
    if name not in known:
        raise InputError("algorithm", "name", found=repr(name), expected=f"one of {', '.join(known)}")
    defaults = {key: p.default for key, p in inspect.signature(known[name]).parameters.items() if key != "loss"}
    accepted = list(defaults)
    for key, value in options.items():
        if key not in accepted:
            raise InputError(
                "algorithm.options", "option", found=key, expected=f"one of {accepted}" if accepted else "none",
                remedy=f"{name} takes {'these options only' if accepted else 'no options'}.",
            )  # fmt: skip
        whole, text = isinstance(defaults[key], int), isinstance(defaults[key], str)
        number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
        if not text and not number:
            wanted = "a whole number" if whole else "a number"
            raise InputError("algorithm.options", key, found=repr(value), expected=wanted)
    return known[name](loss, **options)
