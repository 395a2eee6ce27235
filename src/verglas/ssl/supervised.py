"""Learn from the labels alone: the yardstick of every other algorithm."""

from torch import nn

from verglas.batch import Labelled, Unlabelled
from verglas.ssl._base import Algorithm, Step


class Supervised(Algorithm):
    """Ignore the unlabelled micrographs."""

    name = "supervised"

    def step(
        self,
        student: nn.Module,
        teacher: nn.Module | None,
        labelled: Labelled,
        unlabelled: Unlabelled | None,
        progress: float,
    ) -> Step:
        """Return the loss on the labelled tiles."""
        loss = self.loss(student(labelled.image), labelled.target, labelled.known)
        return Step(loss, {"supervised": loss.detach()})
