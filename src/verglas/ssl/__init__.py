"""Learning algorithms: each turns a labelled and an unlabelled batch into a loss."""

import inspect
from collections.abc import Mapping
from typing import Any

from verglas.errors import InputError
from verglas.losses import Loss
from verglas.ssl._base import Algorithm, Step
from verglas.ssl.supervised import Supervised

ALGORITHMS: tuple[type[Algorithm], ...] = (Supervised,)

__all__ = ["ALGORITHMS", "Algorithm", "Step", "make_algorithm"]


def make_algorithm(name: str, options: Mapping[str, Any], loss: Loss) -> Algorithm:
    """Return the algorithm of this name; its options are the keywords of its constructor."""
    known = {algorithm.name: algorithm for algorithm in ALGORITHMS}
    if name not in known:
        raise InputError("algorithm", "name", found=repr(name), expected=f"one of {', '.join(known)}")
    accepted = [key for key in inspect.signature(known[name]).parameters if key != "loss"]
    for key in options:
        if key not in accepted:
            raise InputError(
                "algorithm.options", "option", found=key, expected=f"one of {accepted}" if accepted else "none",
                remedy=f"{name} takes {'these options only' if accepted else 'no options'}.",
            )  # fmt: skip
    return known[name](loss, **options)
