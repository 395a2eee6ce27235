"""Whether a step on unlabelled tiles does what it should: who is shown what, who learns, and of which place."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from verglas import data as loading
from verglas.batch import Labelled, Unlabelled
from verglas.data import Cropping
from verglas.doctor._base import DataCheck, Finding, Value, skipped
from verglas.doctor._probes import NEUTRAL, Echo, neutral, smaller
from verglas.doctor.subject import Data
from verglas.ssl import Algorithm
from verglas.ssl._base import Consistent, Network

CROPS, SIDE = 3, 64


@dataclass(frozen=True, slots=True)
class Seen:
    """What a step with the real student and a sure teacher showed."""

    shown_weak: bool
    asked: bool
    teacher_gradient: float
    teacher_graph: bool
    value: float
    view_gradients: tuple[float, ...]
    student_gradient: float
    distinct: bool
    plain: bool


class Consistency(DataCheck):
    """Take one step without taking it, with a teacher that is as sure as can be, so that any mask keeps labels.

    The unlabelled term is the difference that full trust and no trust make. Then student and teacher both say the
    sign of what they see: they agree wherever pseudo-label and view are of the same place.
    """

    name = "consistency"
    question = "Does the student learn from strong views what the teacher says of the same place?"

    def __init__(
        self, *, most_disagreement: float = 0.03, least_gradient: float = 1e-9, most_drift: float = 1.33
    ) -> None:
        # Share of the term of a student that contradicts everywhere. Every algorithm, mask and loss: below .001; with
        # CutMix rectangles left out .1 to .2, a turn or a shift of 4 px .3 to .95. Gradients of views: 5e-5 to 5e-3.
        # Pseudo-labels of an echo hold its share of positives to 1 %, whatever the mask.
        self.most_disagreement, self.least_gradient = most_disagreement, least_gradient
        self.most_drift = most_drift

    def check(self, data: Data) -> Finding:
        """Return what one step does."""
        algorithm = data.algorithm
        if not isinstance(algorithm, Consistent) or not algorithm.weight or not data.collection.complete:
            return skipped(f"{algorithm.name} does not learn from unlabelled micrographs, or gives them no weight.")
        seen = self._step(data)
        apart, masked, drift = self._echoed(data)
        evidence: dict[str, Value] = {
            "unlabelled_term": seen.value, "teacher_gradient_norm": seen.teacher_gradient,
            "student_gradient_norm": seen.student_gradient, "least_view_gradient_norm": min(seen.view_gradients),
            "echo_disagreement_share": apart, "masked_disagreement_share": masked, "pseudo_positive_ratio": drift,
        }  # fmt: skip
        for code, sentence, remedy in self._faults(seen, apart, masked, drift):
            return Finding("fail", sentence, evidence, code, remedy)
        told = "Picks come with the tiles" if algorithm.teacher == "picks" else (
            "The teacher labels the weak view without a gradient")  # fmt: skip
        return Finding("ok", f"{told}, and the student learns from every strong view; an echo agrees with itself to "
                       f"{1 - apart:.0%}.", evidence)  # fmt: skip

    def _faults(self, seen: Seen, apart: float, masked: float, drift: float) -> Iterator[tuple[str, str, str]]:
        if seen.asked and not seen.shown_weak:
            yield ("PL_PATH_MISALIGNED", "The teacher is shown something else than the weak view.",
                   "Give the teacher unlabelled.weak, as it was cut.")  # fmt: skip
        if seen.teacher_graph or seen.teacher_gradient > 0:
            yield ("TEACHER_GRADIENT", "Gradients reach the teacher: it learns to agree instead of teaching.",
                   "Let the teacher predict under torch.no_grad(), as belief_of does.")  # fmt: skip
        if not seen.distinct and not seen.plain:
            yield ("PL_PATH_MISALIGNED", "The teacher is shown the strong view in place of the weak one.",
                   "Give the teacher the tile as it was cut, before any change of grey values.")  # fmt: skip
        if not seen.distinct:
            yield ("NOOP_UNSUP", "Strong views are the same as the weak one, although grey values should change.",
                   "Make strong views with photometry.view, and let the student see them.")  # fmt: skip
        dead = [i + 1 for i, norm in enumerate(seen.view_gradients) if norm <= self.least_gradient]
        if not seen.asked or seen.value == 0 or dead or seen.student_gradient <= self.least_gradient:
            what = f"strong view {dead[0]} has no part in it" if dead else "nobody learns from it"
            what = what if seen.asked else "it does not depend on what the teacher says"
            yield ("NOOP_UNSUP", f"The unlabelled term teaches nothing: {what} (value {seen.value:.3g}).",
                   "Compare the student on the strong view with the teacher on the weak one.")  # fmt: skip
        if not 1 / self.most_drift <= drift <= self.most_drift:
            yield ("PRIOR_DRIFT", f"Pseudo-labels of a sure teacher hold {drift:.2g} times the positives that it sees.",
                   "The prior of the mask must be the share of positives among the labels.")  # fmt: skip
        if apart > self.most_disagreement:
            yield ("VIEWS_MISALIGNED", f"Student and teacher that say the same of a place disagree to {apart:.0%}: "
                   "pseudo-label and view are of different places.",
                   "Move pseudo-label, weight and valid mask with the view: Unlabelled.seen.")  # fmt: skip
        if masked > self.most_disagreement:
            yield ("VIEWS_MISALIGNED", f"Pixels that are not valid count: {masked:.0%} of a disagreement on these.",
                   "Multiply by the valid mask as seen in the view.")  # fmt: skip

    def _step(self, data: Data) -> Seen:
        how = self._how(data)
        labelled, unlabelled = self._batches(data, how)
        student, teacher = data.network().train(), Echo(how.stem)
        tiles = _told(data.algorithm, Echo(how.stem), unlabelled)
        loss, gradients, views = {}, {}, {}
        for trust in (1.0, 0.0):
            strong = unlabelled.strong.clone().requires_grad_()
            model = copy.deepcopy(student)
            shown = replace(tiles, strong=strong)
            step = _trusting(data.algorithm, trust).step(model, teacher, labelled, shown, 1.0)
            step.loss.backward()
            loss[trust], views[trust] = float(step.loss.detach()), _gradient(strong)
            gradients[trust] = torch.cat([_gradient(p).flatten() for p in model.parameters()])
        changed = (views[1.0] - views[0.0]).flatten(1).norm(dim=1)
        quiet = data.config.photometry == NEUTRAL
        mixed = torch.where(_pixels(unlabelled.mixed, how.stem), unlabelled.weak.roll(1, 0), unlabelled.weak)
        apart = [(unlabelled.strong != tile).flatten(1).any(1).all() for tile in (mixed, unlabelled.weak)]
        _, as_cut = self._batches(data, replace(how, photometry=NEUTRAL))
        return Seen(
            shown_weak=all(torch.equal(shown, unlabelled.weak) for shown in teacher.shown),
            asked=bool(teacher.shown) or data.algorithm.teacher == "picks",
            teacher_gradient=float(_gradient(teacher.gain).norm()),
            teacher_graph=teacher.graph, value=loss[1.0] - loss[0.0], view_gradients=tuple(changed.tolist()),
            student_gradient=float((gradients[1.0] - gradients[0.0]).norm()),
            distinct=quiet or all(map(bool, apart)), plain=torch.equal(as_cut.weak, unlabelled.weak),
        )  # fmt: skip

    def _echoed(self, data: Data) -> tuple[float, float, float]:
        """Return the term of an agreeing echo, that of a disagreement where nothing is valid, and a ratio of positives.

        Both terms are shares of that of an echo that contradicts everywhere. Labels are what the echo says, so that
        their share of positives is that of the teacher, and should be that of the pseudo-labels.
        """
        how = neutral(self._how(data), overhang=0.4)
        _, unlabelled = self._batches(data, how)
        says = torch.where(Echo(how.stem).encode(unlabelled.weak)[0][:, :1] > 0, 1.0, 0.0)
        everywhere = torch.ones_like(says, dtype=torch.bool)
        labelled = Labelled(unlabelled.weak, says, everywhere, ~everywhere)
        half = torch.zeros_like(everywhere)
        half[..., : half.shape[-1] // 2] = True
        shown = torch.where(_pixels(half, how.stem), unlabelled.strong, -unlabelled.strong)
        full = replace(unlabelled, valid=everywhere)
        against = self._value(data, Echo(how.stem), Echo(how.stem, told=-1), labelled, full)
        term = self._value(data, Echo(how.stem), Echo(how.stem), labelled, unlabelled)
        masked = self._value(
            data, Echo(how.stem), Echo(how.stem), labelled, replace(unlabelled, strong=shown, valid=half)
        )
        drift = self._drift(data, labelled, unlabelled, float(says.mean()))
        return abs(term) / max(abs(against), 1e-9), abs(masked) / max(abs(against), 1e-9), drift

    def _drift(self, data: Data, labelled: Labelled, unlabelled: Unlabelled, share: float) -> float:
        """Return how many times the positives of an echo its pseudo-labels hold, of those that count."""
        algorithm, echo = data.algorithm, Echo(self._how(data).stem)
        with torch.no_grad():
            algorithm.step(echo, echo, labelled, unlabelled, 1.0)
            made = algorithm.pseudo_label(echo(unlabelled.weak).sigmoid())
        if made is None or not made[1].any():
            return 1.0
        label, weight = made
        return float((label * weight).sum() / weight.sum()) / max(share, 1e-6)

    def _value(
        self, data: Data, teacher: Network, student: Network, labelled: Labelled, unlabelled: Unlabelled
    ) -> float:
        unlabelled = _told(data.algorithm, teacher, unlabelled)
        with torch.no_grad():
            losses = [float(_trusting(data.algorithm, trust).step(student, teacher, labelled, unlabelled, 1.0).loss)
                      for trust in (1.0, 0.0)]  # fmt: skip
        return losses[0] - losses[1]

    def _how(self, data: Data) -> Cropping:
        return smaller(data.cropping, SIDE, data.config.model.multiple, CROPS)

    def _batches(self, data: Data, how: Cropping) -> tuple[Labelled, Unlabelled]:
        m, wants = data.materials, data.algorithm
        labelled = loading.labelled_batch(m.labelled, how, data.generator("labelled"))
        sources, generator = m.unlabelled or m.labelled, data.generator(self.name)
        return labelled, loading.unlabelled_batch(sources, how, wants.strong_views, wants.cutmix, generator)


def _told(algorithm: Algorithm, teacher: Network, unlabelled: Unlabelled) -> Unlabelled:
    """Return the tiles with what the teacher says of them, where an algorithm is told that with the tiles."""
    if algorithm.teacher != "picks":
        return unlabelled
    with torch.no_grad():
        return replace(unlabelled, belief=teacher(unlabelled.weak).sigmoid())


def _trusting(algorithm: Algorithm, trust: float) -> Algorithm:
    algorithm.trust.fill_(trust)
    return algorithm


def _gradient(tensor: Tensor) -> Tensor:
    return torch.zeros_like(tensor) if tensor.grad is None else tensor.grad


def _pixels(mask: Tensor, stem: int) -> Tensor:
    return mask.repeat_interleave(stem, -1).repeat_interleave(stem, -2)
