"""Faults that are put into otherwise healthy trainings, to see whether the doctor names them.

Nothing here can be switched on in the product: labels and pictures are spoiled on disk, functions of the package are
replaced while training and doctor run, or the finished run is altered. Numbers are those of the method page.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image as Pillow
from safetensors.torch import load_file, save_file

from verglas import data as loading
from verglas import predict, train
from verglas.batch import Labelled, Unlabelled
from verglas.model import UNet
from verglas.ssl import fixmatch, mean_teacher
from verglas.ssl.thresholds import Quantile


@dataclass(frozen=True)
class Case:
    """What a fault may spoil before a training: label positions by micrograph (in pixels), picture files, settings."""

    labels: dict[str, np.ndarray]
    images: dict[str, Path]
    shape: tuple[int, int]
    diameter_px: float
    generator: np.random.Generator


Spoil = Callable[[Case], None]


@dataclass(frozen=True)
class Fault:
    """A fault: what it is, which causes may be named first, the settings it shows with, and how it is put in.

    ``labelled`` micrographs are needed. ``refused``: the settings are refused before anything runs.
    """

    about: str
    causes: tuple[str, ...]
    settings: tuple[str, ...] = ("algorithm.name=supervised",)
    spoil: Spoil | None = None
    during: Callable[[], Any] = nullcontext
    after: Callable[[Path], None] | None = None
    diameter: float = 1.0
    labelled: int = 2


# --- labels and pictures


def _each(change: Callable[[Case, np.ndarray], np.ndarray]) -> Spoil:
    """Change all positions; those that fall outside are dropped, or verglas would refuse them with an error.

    Of coordinates that are twice as large a quarter is left. Where particles are so faint that these do not show, the
    doctor says that labels of other micrographs look alike: LABEL_SCALE and UNRELATED are one class there.
    """

    def spoil(case: Case) -> None:
        for name, xy in case.labels.items():
            xy = change(case, xy)
            case.labels[name] = xy[((xy >= 0) & (xy <= np.array(case.shape[::-1]) - 1)).all(1)]

    return spoil


def _shifted(case: Case, xy: np.ndarray) -> np.ndarray:
    """Corner instead of centre of a box of 1.5 diameters."""
    return xy - 0.75 * case.diameter_px


def _upside_down(case: Case, xy: np.ndarray) -> np.ndarray:
    return np.column_stack([xy[:, 0], case.shape[0] - 1 - xy[:, 1]])


def _some(share: float) -> Callable[[Case, np.ndarray], np.ndarray]:
    return lambda case, xy: xy[case.generator.random(len(xy)) < share]


def _copy(case: Case) -> None:
    """Let a noisy twin of a labelled micrograph, under another name, be labelled, too."""
    name = next(iter(case.labels))
    with Pillow.open(case.images[name]) as file:
        pixels = np.asarray(file).astype(float)
    noisy = pixels + case.generator.normal(scale=0.1 * pixels.std(), size=pixels.shape)
    path = case.images[name].with_name("another.png")
    Pillow.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path)
    case.images["another"], case.labels["another"] = path, case.labels[name]


# --- functions of the package


def _patched(*changes: tuple[Any, str, Any]) -> Callable[[], Any]:
    @contextmanager
    def during() -> Iterator[None]:
        with ExitStack() as stack:
            for owner, name, new in changes:
                stack.enter_context(patch.object(owner, name, new))
            yield

    return during


_crops = loading._crops
_forward, _labelled, _unlabelled = predict._forward, loading.labelled_batch, loading.unlabelled_batch
_update, _together, _settle, _init = train.update_average, mean_teacher.together, Quantile.settle, UNet.__init__


def _labelled_as(change: Callable[[Labelled], Labelled]) -> list[tuple[Any, str, Any]]:
    def changed(*given: Any, **named: Any) -> Labelled:
        return change(_labelled(*given, **named))

    return [(owner, "labelled_batch", changed) for owner in (loading, train)]


def _unlabelled_as(change: Callable[[Unlabelled], Unlabelled]) -> list[tuple[Any, str, Any]]:
    def changed(*given: Any, **named: Any) -> Unlabelled:
        return change(_unlabelled(*given, **named))

    return [(owner, "unlabelled_batch", changed) for owner in (loading, train)]


def _seen_as(scale: float, level: float) -> Callable[[], Any]:
    return _patched(
        (predict, "_forward", lambda model, data, precision: _forward(model, data * scale + level, precision))
    )


def _per_crop(image: torch.Tensor) -> torch.Tensor:
    axes = (-2, -1)
    return 2 * (image - image.mean(axes, keepdim=True)) / image.std(axes, keepdim=True).clamp(min=1e-3) + 1


def _repeating(*given: Any, **named: Any) -> Any:
    stored, how, generator, *rest = given
    return _crops(stored, how, torch.Generator().manual_seed(generator.initial_seed()), *rest, **named)


def _average(keep: float, *, buffers: bool = True, add: bool = True) -> Callable[[], Any]:
    def update(average: torch.nn.Module, student: torch.nn.Module, step: int, span: float) -> None:
        pairs = [zip(average.parameters(), student.parameters(), strict=True)]
        pairs += [zip(average.buffers(), student.buffers(), strict=True)] if buffers else []
        with torch.no_grad():
            for old, new in (pair for each in pairs for pair in each if pair[0].is_floating_point()):
                old.mul_(keep).add_((1 - keep) * add * new)

    return _patched((train, "update_average", update))


def _with_gradient(teacher: Any, weak: torch.Tensor) -> torch.Tensor:
    return teacher(weak).float().sigmoid()


def _detached(*given: Any) -> Any:
    logits, views = _together(*given)
    return logits, views.detach()


def _dead(self: UNet, *given: Any, **named: Any) -> None:
    _init(self, *given, **named)
    with torch.no_grad():
        self.head.bias.fill_(-20.0)


def _reset(model: UNet, *_: Any) -> UNet:
    """Lose the running statistics of batch norms."""
    for norm in train.network.batch_norms(model):
        norm.reset_running_stats()
    return model.eval()


def _five_times(self: Quantile, belief: Any, valid: Any, prior: torch.Tensor, progress: float) -> None:
    _settle(self, belief, valid, (5 * prior).clamp(max=0.9), progress)


_BELIEVERS = (mean_teacher, fixmatch)
SOFT, FIX = ("algorithm.name=soft_teacher",), ("algorithm.name=fixmatch",)


# --- the finished run


def _head(weight: float, bias: float, *, add: bool) -> Callable[[Path], None]:
    """Multiply the weights of the last layer; add to its bias, or replace it."""

    def after(run: Path) -> None:
        tensors = load_file(run / "model.safetensors")
        tensors["head.weight"] = tensors["head.weight"] * weight
        tensors["head.bias"] = tensors["head.bias"] * add + bias
        save_file(tensors, run / "model.safetensors")

    return after


FAULTS: dict[str, Fault] = {
    "F01": Fault("trained on z-scores, evaluated on x/255", ("NORM_MISMATCH",), during=_seen_as(40 / 255, 128 / 255)),
    "F02a": Fault("z-scores divided by 255 once more for evaluation", ("NORM_MISMATCH",), during=_seen_as(1 / 255, 0)),
    "F02b": Fault("training crops normalised each by itself", ("NORM_MISMATCH",), during=_patched(
        *_labelled_as(lambda batch: replace(batch, image=_per_crop(batch.image))))),
    "F03": Fault("running statistics of batch norms lost", ("BN_STATS",),
                 during=_patched((train, "recalibrated", lambda model, *_: _reset(train.copy.deepcopy(model))))),
    "F04": Fault("teacher without the student's batch statistics", ("TEACHER_BUFFERS",), SOFT,
                 during=_average(0.9, buffers=False)),
    "F05": Fault("average multiplied, never added to", ("TEACHER_DEAD",), SOFT,
                 during=_average(0.9, add=False)),
    "F06": Fault("average of .999 from the start, no warm-up", ("TEACHER_STALE",), SOFT,
                 during=_average(0.999)),
    "F07": Fault("average never updated", ("TEACHER_STALE",), SOFT, during=_average(1.0)),
    "F08": Fault("teacher not detached", ("TEACHER_GRADIENT",), SOFT, during=_patched(
        *((owner, "belief_of", _with_gradient) for owner in _BELIEVERS))),
    "F09a": Fault("strong view mirrored, labels not", ("VIEWS_MISALIGNED",), SOFT, during=_patched(
        *_unlabelled_as(lambda batch: replace(batch, strong=batch.strong.flip(-1))))),
    "F09b": Fault("strong view moved by 4 px", ("VIEWS_MISALIGNED",), SOFT, during=_patched(
        *_unlabelled_as(lambda batch: replace(batch, strong=batch.strong.roll(4, -1))))),
    "F10": Fault("pseudo-labels predicted on augmented pictures", ("PL_PATH_MISALIGNED",), SOFT, during=_patched(
        *_unlabelled_as(lambda batch: replace(batch, weak=batch.strong[0])))),
    "F11": Fault("masks not mirrored with the picture", ("VIEWS_MISALIGNED",), during=_patched(
        *_labelled_as(lambda batch: replace(batch, target=batch.target.flip(-1), known=batch.known.flip(-1))))),
    "F12": Fault("no gradient through the strong view", ("NOOP_UNSUP",), SOFT, during=_patched(
        (mean_teacher, "together", _detached))),
    "F13": Fault("fixed threshold of .999", ("THRESHOLD_INERT",),
                 (*FIX, "algorithm.options.mask=fixed", "algorithm.options.threshold=0.999")),
    "F14": Fault("fixed threshold of .3", ("THRESHOLD_NOOP",),
                 (*FIX, "algorithm.options.mask=fixed", "algorithm.options.threshold=0.3")),
    "F16a": Fault("diameter three times too large", ("LABEL_SCALE",), diameter=3.0),
    "F16b": Fault("diameter three times too small", ("LABEL_SCALE",), diameter=1 / 3),
    "F17a": Fault("coordinates of a picture binned by 2", ("LABEL_SCALE",), spoil=_each(lambda _, xy: xy / 2)),
    "F17b": Fault("coordinates of a picture twice as fine", ("LABEL_SCALE", "UNRELATED"),
                  spoil=_each(lambda _, xy: xy * 2)),
    "F18": Fault("y flipped", ("FLIP_Y",), spoil=_each(_upside_down)),
    "F19": Fault("x and y swapped", ("SWAP_XY",), spoil=_each(lambda _, xy: xy[:, ::-1])),
    "F20": Fault("corners of boxes given as centres", ("LABEL_SHIFT",), spoil=_each(_shifted)),
    "F21": Fault("a labelled micrograph twice, renamed, with noise", ("SPLIT_LEAK",), spoil=_copy, labelled=4),
    "F22": Fault("60 % of the labels hidden, the rest called complete", ("PU_CEILING",), spoil=_each(_some(0.4))),
    "F23": Fault("rate of 1", ("LR_TOO_HIGH",), ("algorithm.name=supervised", "train.rate=1")),
    "F24": Fault("bias of the output at -20", ("DEAD_OUTPUT",), ("train.start_from=scratch",),
                 during=_patched((UNet, "__init__", _dead))),
    "F25": Fault("label files without a row", ("LABELS_EMPTY",), spoil=_each(lambda _, xy: xy[:0])),
    "F27": Fault("targets inverted", ("INVERTED",), during=_patched(
        *_labelled_as(lambda batch: replace(batch, target=1 - batch.target)))),
    "F28a": Fault("constant output just above .5", ("TOO_LITTLE_LEARNED",), after=_head(0, 0.05, add=False)),
    "F28b": Fault("constant output just below .5", ("TOO_LITTLE_LEARNED",), after=_head(0, -0.05, add=False)),
    "F29": Fault("skilled network, logits moved by -6", ("MISCALIBRATED",), after=_head(1, -6, add=True)),
    "F30": Fault("prior of the pseudo-labels five times too high", ("PRIOR_DRIFT",), FIX,
                 during=_patched((Quantile, "settle", _five_times))),
    "F32": Fault("loader repeats its crops", ("DUPLICATE_CROPS",), during=_patched((loading, "_crops", _repeating))),
}  # fmt: skip
"""Not here: F15 (two class weights), F02's stale recipe and F31 (scores that are no scores), which verglas refuses to
run with an error; F26 (one validation micrograph), which is its ordinary state and of which it says so."""
