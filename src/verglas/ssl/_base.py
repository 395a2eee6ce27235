"""What an algorithm is: two batches in, a loss out."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from verglas.batch import Labelled, Unlabelled
from verglas.errors import check_range
from verglas.losses import Loss


@runtime_checkable
class Network(Protocol):
    """What an algorithm asks of student and teacher: logits, in one go or by way of features."""

    def __call__(self, image: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b 1 p q"]: ...
    def encode(self, image: Float[Tensor, "b 1 h w"]) -> list[Tensor]: ...
    def decode(self, features: list[Tensor]) -> Float[Tensor, "b 1 p q"]: ...


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """All an algorithm may say of a step: the loss, and numbers worth watching."""

    loss: Float[Tensor, ""]
    watch: Mapping[str, Float[Tensor, ""]] = field(default_factory=dict)


class Algorithm(nn.Module, ABC):
    """A way to learn. It has no parameters; what it must remember between steps are buffers.

    ``teacher`` says who tells it of unlabelled tiles: nobody; the running average of the student, as a second model;
    or the ``picks`` of what labels alone made, which come with the tiles of a student that begins anew, in ``rounds``;
    such an algorithm has a say in what a student learns only. ``strong_views`` is the number of strong views of each
    unlabelled tile it wants, ``cutmix`` the largest share of each that shows another tile; without views it is
    given no unlabelled tiles. ``partial`` algorithms learn from labels that leave particles out. The guard lowers
    ``trust`` where unlabelled tiles do harm.
    """

    name: ClassVar[str]
    teacher: ClassVar[Literal["none", "average", "picks"]] = "none"
    strong_views: ClassVar[int] = 0
    partial: ClassVar[bool] = False
    cutmix: float = 0.0
    rounds: int = 1
    trust: Tensor

    def __init__(self, loss: Loss) -> None:
        super().__init__()
        self.loss = loss
        self.register_buffer("trust", torch.ones(()))

    @abstractmethod
    def step(
        self,
        student: Network,
        teacher: Network | None,
        labelled: Labelled,
        unlabelled: Unlabelled | None,
        progress: float,
    ) -> Step:
        """Return the loss of one step; ``progress`` runs from 0 to 1 while unlabelled tiles are learned from.

        Before that stage, ``unlabelled`` is None and only labels teach. It never calls ``backward`` and touches
        neither optimiser nor teacher.
        """

    def labels_only(self, student: Network, labelled: Labelled) -> Step:
        """Return the step of supervised learning."""
        loss = self.loss(student(labelled.image), labelled.target, labelled.known)
        return Step(loss, {"supervised": loss.detach()})

    @abstractmethod
    def pseudo_label(self, belief: Float[Tensor, "*s"]) -> tuple[Float[Tensor, "*s"], Float[Tensor, "*s"]] | None:
        """Return the target that a teacher's probabilities become, and how much each pixel counts (0 to 1).

        None where the algorithm makes no such labels. The trainer audits them on held-out labels.
        """


Terms = tuple[Float[Tensor, "b 1 p q"], Float[Tensor, ""], Mapping[str, Float[Tensor, ""]]]


class Consistent(Algorithm, ABC):
    """An algorithm that wants the student to say of strong views what a teacher says of the weak one.

    Its term counts ``weight`` times ``trust``, reached along a ramp at ``ramp_until`` (share of the stage).
    """

    def __init__(self, loss: Loss, *, weight: float, ramp_until: float, cutmix: float) -> None:
        super().__init__(loss)
        check_range("algorithm.options", 0, 1000, weight=weight)
        check_range("algorithm.options", 0, 1, ramp_until=ramp_until, cutmix=cutmix)
        self.weight, self.ramp_until, self.cutmix = weight, ramp_until, cutmix

    def step(
        self,
        student: Network,
        teacher: Network | None,
        labelled: Labelled,
        unlabelled: Unlabelled | None,
        progress: float,
    ) -> Step:
        """Return the loss on labels and, where there are unlabelled tiles, the weighted term on these."""
        if unlabelled is None:
            return self.labels_only(student, labelled)
        logits, agree, watch = self.terms(student, teacher, labelled, unlabelled, progress)
        learn = self.loss(logits, labelled.target, labelled.known)
        weight = self.trust * self.weight * ramp(progress, self.ramp_until)
        seen = {"supervised": learn, "unsupervised": agree, "weight": weight, **watch}
        return Step(learn + weight * agree, {key: value.detach() for key, value in seen.items()})

    @abstractmethod
    def terms(
        self, student: Network, teacher: Network | None, labelled: Labelled, unlabelled: Unlabelled, progress: float
    ) -> Terms:
        """Return the student's logits of labelled tiles, the unlabelled term, and what else is worth watching."""


def belief_of(teacher: Network | None, weak: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b 1 p q"]:
    """Return the teacher's probabilities, without a graph."""
    assert teacher is not None, "the trainer keeps the teacher an algorithm declares"
    with torch.no_grad():
        return teacher(weak).float().sigmoid()


def ramp(progress: float, until: float) -> float:
    """Return a factor that rises from nearly 0 to 1 at ``until`` (Laine & Aila, arXiv 1610.02242, section 3.1)."""
    return math.exp(-5 * (1 - min(1.0, progress / until)) ** 2) if until else 1.0


def together(
    student: Network, labelled: Labelled, strong: Float[Tensor, "v b 1 h w"]
) -> tuple[Float[Tensor, "a 1 p q"], Float[Tensor, "v b 1 p q"]]:
    """Return the student's logits of labelled tiles and strong views, from one pass: one set of batch statistics."""
    v, b = strong.shape[:2]
    logits = student(torch.cat([labelled.image, strong.flatten(0, 1)])).float()
    return logits[: -v * b], logits[-v * b :].unflatten(0, (v, b))
