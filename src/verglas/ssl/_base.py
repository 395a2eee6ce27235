"""What an algorithm is: two batches in, a loss out."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor, nn

from verglas.batch import Labelled, Unlabelled
from verglas.losses import Loss


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """All an algorithm may say of a step: the loss, and numbers worth watching."""

    loss: Float[Tensor, ""]
    watch: Mapping[str, Float[Tensor, ""]] = field(default_factory=dict)


class Algorithm(nn.Module, ABC):
    """A way to learn. It has no parameters; what it must remember between steps are buffers.

    ``teacher`` says which second model the trainer keeps for it: none, or the running average of the student.
    ``strong_views`` is the number of strong views of each unlabelled tile it wants;
    with 0 it is given no unlabelled tiles.
    """

    name: ClassVar[str]
    teacher: ClassVar[Literal["none", "average"]] = "none"
    strong_views: ClassVar[int] = 0

    def __init__(self, loss: Loss) -> None:
        super().__init__()
        self.loss = loss

    @abstractmethod
    def step(
        self,
        student: nn.Module,
        teacher: nn.Module | None,
        labelled: Labelled,
        unlabelled: Unlabelled | None,
        progress: float,
    ) -> Step:
        """Return the loss of one step; ``progress`` runs from 0 to 1 over the training.

        It never calls ``backward`` and touches neither optimiser nor teacher.
        """
