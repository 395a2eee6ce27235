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
        return self.labels_only(student, labelled)

    def pseudo_label(self, belief: Float[Tensor, "*s"]) -> None:
        """Make none."""
