"""Pick cryo-EM particles from a handful of labels. The verbs are in :mod:`verglas.api`."""

from verglas.errors import InputError
from verglas.types import Collection, Evaluation, Grid, Image, Micrograph, Picks, PickSet, Split

__version__ = "0.1.0"

__all__ = ["Collection", "Evaluation", "Grid", "Image", "InputError", "Micrograph", "PickSet", "Picks", "Split"]
