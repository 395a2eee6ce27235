"""Learn from the labels alone: the yardstick of every other algorithm."""

from jaxtyping import Float
from torch import Tensor

from verglas.batch import Labelled, Unlabelled
from verglas.ssl._base import Algorithm, Network, Step


class Supervised(Algorithm):
    """Ignore the unlabelled micrographs."""

    name = "supervised"

    def step(
        self,
        student: Network,
        teacher: Network | None,
        labelled: Labelled,
        unlabelled: Unlabelled | None,
        progress: float,
    ) -> Step:
        """Return the loss on the labelled tiles."""
        loss = self.loss(student(labelled.image), labelled.target, labelled.known)
        return Step(loss, {"supervised": loss.detach()})

    def pseudo_label(self, belief: Float[Tensor, "*s"]) -> None:
        """Make none."""
