"""One step, the running average, the first outputs, learning by heart: healthy, and with faults planted."""

import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import nn

from toy import configured
from verglas import api
from verglas import data as loading
from verglas import train as training
from verglas.batch import Unlabelled
from verglas.doctor.consistency import Consistency
from verglas.doctor.ema import Ema
from verglas.doctor.gradscale import GradScale
from verglas.doctor.init import Init
from verglas.doctor.overfit import Overfit
from verglas.doctor.subject import Data, opened
from verglas.losses import Loss
from verglas.model import UNet
from verglas.ssl import _base, fixmatch, mean_teacher
from verglas.ssl.unimatch import UniMatch

unlabelled, belief_of, together = loading.unlabelled_batch, _base.belief_of, _base.together
make, loss, update = UNet.__init__, Loss.__call__, training.update_average


def named(algorithm: str) -> str:
    return f"algorithm.name='{algorithm}'"


TAUGHT = ("mean_teacher", "fixmatch", "unimatch", "self_training", "soft_teacher")

# --- one step


@pytest.mark.parametrize("algorithm", TAUGHT)
@pytest.mark.parametrize("settings", [[], ["model.norm='group'", "model.stem=1"]], ids=str)
def test_a_step_of_every_algorithm_is_sound(algorithm: str, settings: list[str], given: Callable[..., Data]) -> None:
    found = Consistency().check(given(named(algorithm), *settings))
    assert found.verdict == "ok", found.sentence
    assert float(found.evidence["echo_disagreement_share"] or 0) < 1e-3


@pytest.mark.parametrize("mask", ["fixed", "class", "free", "soft"])
def test_so_is_one_of_every_mask(mask: str, given: Callable[..., Data]) -> None:
    assert Consistency().check(given(named("fixmatch"), f"algorithm.options.mask='{mask}'")).verdict == "ok"


@pytest.mark.parametrize("options", [["loss.focal=1.0", "loss.bce=0.0"], ["loss.dice=10.0"], ["loss.tversky=1.0"]])
def test_so_is_one_with_another_loss(options: list[str], given: Callable[..., Data]) -> None:
    assert Consistency().check(given(named("soft_teacher"), *options)).verdict == "ok"


def test_no_question_where_nothing_is_unlabelled(given: Callable[..., Data]) -> None:
    for data in (
        given(named("supervised")), given(labels_are="partial"),
        given(named("soft_teacher"), "algorithm.options.weight=0.0"),
    ):  # fmt: skip
        found = Consistency().check(data)
        assert found.verdict == "skipped"
        assert found.sentence.endswith(".")


def everywhere(name: str, new: Any) -> ExitStack:
    """Replace a function that algorithms import by name."""
    stack = ExitStack()
    for module in (_base, mean_teacher, fixmatch):
        stack.enter_context(patch.object(module, name, new))
    return stack


def views_as(change: Callable[[Unlabelled], Unlabelled]) -> Any:
    return patch.object(loading, "unlabelled_batch", lambda *given: change(unlabelled(*given)))


def detached(*given: Any) -> Any:
    logits, views = together(*given)
    return logits, views.detach()


FAULTS: dict[str, tuple[Callable[[], Any], str]] = {
    "gradient": (
        lambda: everywhere("belief_of", lambda teacher, weak: teacher(weak).float().sigmoid()), "TEACHER_GRADIENT",
    ),
    "teacher shown noise": (
        lambda: everywhere("belief_of", lambda teacher, weak: belief_of(teacher, weak + 0.1)), "PL_PATH_MISALIGNED",
    ),
    "weak is strong": (lambda: views_as(lambda one: replace(one, weak=one.strong[0])), "PL_PATH_MISALIGNED"),
    "strong is weak": (
        lambda: views_as(lambda one: replace(one, strong=one.weak.expand_as(one.strong).clone())), "NOOP_UNSUP",
    ),
    "teacher not asked": (
        lambda: everywhere("belief_of", lambda teacher, weak: 0.3 * torch.ones_like(weak[..., ::2, ::2])), "NOOP_UNSUP",
    ),
    "belief mirrored": (
        lambda: everywhere("belief_of", lambda teacher, weak: belief_of(teacher, weak).flip(-1)), "VIEWS_MISALIGNED",
    ),
    "belief moved": (
        lambda: everywhere("belief_of", lambda teacher, weak: belief_of(teacher, weak).roll(2, -1)), "VIEWS_MISALIGNED",
    ),
    "strong mirrored": (lambda: views_as(lambda one: replace(one, strong=one.strong.flip(-1))), "VIEWS_MISALIGNED"),
    "strong moved": (lambda: views_as(lambda one: replace(one, strong=one.strong.roll(4, -1))), "VIEWS_MISALIGNED"),
}  # fmt: skip


@pytest.mark.parametrize("algorithm", ["fixmatch", "unimatch"])
@pytest.mark.parametrize("name", FAULTS)
def test_a_faulty_step_is_named(name: str, algorithm: str, given: Callable[..., Data]) -> None:
    fault, code = FAULTS[name]
    with fault():
        found = Consistency().check(given(named(algorithm)))
    assert (found.verdict, found.code) == ("fail", code), found.sentence


@pytest.mark.parametrize("algorithm", ["mean_teacher", "fixmatch"])
def test_a_term_without_a_gradient_through_the_strong_view_is_named(algorithm: str, given: Callable[..., Data]) -> None:
    with everywhere("together", detached):
        found = Consistency().check(given(named(algorithm)))
    assert found.code == "NOOP_UNSUP"
    assert "strong view 1" in found.sentence


def test_the_second_strong_view_must_count_too(given: Callable[..., Data]) -> None:
    def without(self: Any, student: Any, labelled: Any, tiles: Unlabelled, *labels: Any) -> Any:
        first = replace(tiles, strong=tiles.strong[:1].expand_as(tiles.strong))
        return real(self, student, labelled, first, *labels)

    real = UniMatch.agreement
    with patch.object(UniMatch, "agreement", without):
        found = Consistency().check(given(named("unimatch")))
    assert found.code == "NOOP_UNSUP"
    assert "strong view 2" in found.sentence


@pytest.mark.parametrize("algorithm", ["unimatch", "soft_teacher"])
def test_pseudo_labels_must_be_mixed_as_the_view_is(algorithm: str, given: Callable[..., Data]) -> None:
    with patch.object(Unlabelled, "seen", lambda self, values: values.expand_as(self.mixed)):
        assert Consistency().check(given(named(algorithm))).code == "VIEWS_MISALIGNED"


def test_what_is_not_valid_must_not_count(given: Callable[..., Data]) -> None:
    with patch.object(mean_teacher, "masked_mean", lambda values, mask: values.mean()):
        found = Consistency().check(given(named("mean_teacher")))
    assert found.code == "VIEWS_MISALIGNED"
    assert "not valid" in found.sentence


def test_no_change_of_grey_values_is_no_fault_where_none_is_asked_for(given: Callable[..., Data]) -> None:
    quiet = ("noise", "coloured_noise", "blur", "sharpen", "offset", "ramp")
    settings = [f"photometry.{key}=0.0" for key in quiet] + ["photometry.contrast=1.0", "photometry.gamma=1.0"]
    assert Consistency().check(given(named("soft_teacher"), *settings)).verdict == "ok"


# --- the running average


def averaged(keep: float, *, add: bool = True, buffers: bool = True, copied: bool = False, counts: bool = True) -> Any:
    def move(average: nn.Module, student: nn.Module, step: int, span: float) -> None:
        kept = min(1 - 1 / (step + 1), keep) if keep < 0.999 else keep
        for name, old in average.state_dict().items():
            new = student.state_dict()[name]
            if not old.is_floating_point():
                old.copy_(new if counts else old)
            elif "running" in name and copied:
                old.copy_(new)
            elif "running" not in name or buffers:
                old.mul_(kept).add_((1 - kept) * add * new)

    return patch.object(training, "update_average", move)


EMA: dict[str, tuple[Any, str]] = {
    "fades": (averaged(0.9, add=False), "TEACHER_DEAD"),
    "no numbers": (averaged(math.nan), "TEACHER_DEAD"),
    "no warm-up": (averaged(0.999), "TEACHER_STALE"),
    "never updated": (patch.object(training, "update_average", lambda *given: None), "TEACHER_STALE"),
    "statistics left behind": (averaged(0.9, buffers=False), "TEACHER_BUFFERS"),
    "statistics copied": (averaged(0.9, copied=True), "TEACHER_BUFFERS"),
    "counts left behind": (averaged(0.9, counts=False), "TEACHER_BUFFERS"),
}


@pytest.mark.parametrize("algorithm", ["soft_teacher", "supervised"])
@pytest.mark.parametrize("name", EMA)
def test_an_average_that_does_not_follow_is_named(name: str, algorithm: str, given: Callable[..., Data]) -> None:
    fault, code = EMA[name]
    with fault:
        found = Ema().check(given(named(algorithm), "train.steps=400"))
    assert (found.verdict, found.code) == ("fail", code), found.sentence


@pytest.mark.parametrize("settings", [
    [], ["train.average=0.0"], ["train.average=1.0"], ["train.steps=1"], ["train.steps=100000"],
    ["guard.earliest=0.0", "algorithm.name='soft_teacher'"], ["model.norm='group'"],
], ids=str)  # fmt: skip
def test_the_average_follows_whatever_its_span(settings: list[str], given: Callable[..., Data]) -> None:
    found = Ema().check(given(*settings))
    assert found.verdict == "ok"


def test_an_average_without_warm_up_has_the_residual_of_the_reports(given: Callable[..., Data]) -> None:
    def slow(average: nn.Module, student: nn.Module, step: int, span: float) -> None:
        for old, new in zip(average.state_dict().values(), student.state_dict().values(), strict=True):
            old.lerp_(new, 1 - 0.999) if old.is_floating_point() else old.copy_(new)

    with patch.object(training, "update_average", slow):
        found = Ema().check(given(named("soft_teacher"), "train.steps=130", "guard.earliest=0.1"))
        longer = Ema().check(given(named("supervised"), "train.steps=30000"))
    assert found.evidence["residual_at_end"] == pytest.approx(0.878, abs=1e-3)
    assert found.evidence["residual_at_first_use"] == pytest.approx(0.999**13, abs=1e-4)
    assert found.evidence["half_life_steps"] == pytest.approx(math.log(0.5) / math.log(0.999), rel=1e-3)
    assert longer.evidence["residual_at_end"] == pytest.approx(0, abs=1e-3)


def test_the_half_life_is_the_span(given: Callable[..., Data]) -> None:
    evidence = Ema().check(given("train.steps=1000", "train.average=0.05")).evidence
    assert evidence["half_life_steps"] == pytest.approx(evidence["span_steps"], rel=1e-3)
    assert evidence["span_steps"] == 50


# --- the first outputs


def begun_at(bias: float) -> Any:
    def begun(self: UNet, *given: Any, **named: Any) -> None:
        make(self, *given, **named)
        nn.init.constant_(self.head.bias, bias)  # type: ignore[arg-type]

    return patch.object(UNet, "__init__", begun)


@pytest.mark.parametrize("settings", [[], ["model.norm='group'"], ["model.norm='none'"], ["loss.focal=1.0"]], ids=str)
def test_the_network_begins_at_the_share_of_positives(settings: list[str], given: Callable[..., Data]) -> None:
    found = Init().check(given(*settings))
    assert found.verdict == "ok", found.sentence
    evidence = found.evidence
    assert evidence["loss"] == pytest.approx(evidence["best_constant_loss"], rel=0.05)
    assert evidence["mean_logit"] == pytest.approx(evidence["logit_of_prior"], abs=0.2)
    assert "means nothing" in found.sentence


def test_with_clicks_it_begins_at_their_share(given: Callable[..., Data]) -> None:
    found = Init().check(given(labels_are="partial"))
    assert found.verdict == "ok"
    assert found.evidence["logit_of_prior"] < -2


@pytest.mark.parametrize(
    ("bias", "verdict", "code"),
    [(-20, "fail", "DEAD_OUTPUT"), (math.nan, "fail", "DEAD_OUTPUT"), (-2, "warn", "INIT_OFF")],
)
def test_a_start_elsewhere_is_named(bias: float, verdict: str, code: str, given: Callable[..., Data]) -> None:
    with begun_at(bias):
        found = Init().check(given())
    assert (found.verdict, found.code) == (verdict, code)


@pytest.mark.parametrize(("rate", "code"), [(1.0, "LR_TOO_HIGH"), (0.01, "")])
def test_a_rate_that_no_weight_can_bear_is_named_before_the_first_step(
    rate: float, code: str, given: Callable[..., Data]
) -> None:
    assert Init().check(given(f"train.rate={rate}")).code == code


def test_a_last_layer_without_a_gradient_is_named(given: Callable[..., Data]) -> None:
    with patch.object(Loss, "__call__", lambda self, logits, target, known: 0 * loss(self, logits, target, known)):
        assert Init().check(given()).code == "DEAD_OUTPUT"


def test_a_second_stage_begins_elsewhere(trained: Path) -> None:
    config = configured(trained, "model.width=8", f"train.start_from='{trained / 'run'}'")
    with opened(None, api._collect(config).collection, config) as (data, _):
        found = Init().check(data)
        assert (found.verdict, "those of another run" in found.sentence) == ("info", True)
        with patch.object(Loss, "__call__", lambda self, logits, target, known: 0 * loss(self, logits, target, known)):
            assert Init().check(data).code == "DEAD_OUTPUT"


def test_a_start_from_the_general_network_is_said(given: Callable[..., Data]) -> None:
    data = given(*GENERAL)
    assert "those of the general network" in Init().check(data).sentence


# --- learning by heart


def test_two_crops_are_learned_by_heart(given: Callable[..., Data]) -> None:
    found = Overfit().check(given("train.rate=0.01"))
    assert found.verdict == "ok", found.sentence
    assert float(found.evidence["pixel_ap"] or 0) > 0.9


GENERAL = ("model.width=16", "model.depth=3", "preprocess.working_diameter_px=24")


@pytest.mark.parametrize(
    ("rate", "shape"), [(0.00001, ()), (1e-7, GENERAL)], ids=["another shape", "that of the general network"]
)
def test_too_low_a_rate_is_told_from_a_fault(rate: float, shape: tuple[str, ...], given: Callable[..., Data]) -> None:
    found = Overfit(steps=75).check(given(f"train.rate={rate:.7f}", *shape))
    assert (found.verdict, found.evidence["rate"]) == ("info", 0.01)


FORGETFUL: dict[str, Any] = {
    "targets the wrong way round": patch.object(
        Loss, "__call__", lambda self, logits, target, known: loss(self, logits, 1 - target, known)
    ),
    "no gradient": patch.object(
        Loss, "__call__", lambda self, logits, target, known: 0 * loss(self, logits, target, known)
    ),
    "no numbers": patch.object(
        Loss, "__call__", lambda self, logits, target, known: math.nan * loss(self, logits, target, known)
    ),
}


@pytest.mark.parametrize("name", FORGETFUL)
def test_what_cannot_be_learned_is_named(name: str, given: Callable[..., Data]) -> None:
    with FORGETFUL[name]:
        found = Overfit(steps=50).check(given("train.rate=0.01"))
    assert (found.verdict, found.code) == ("fail", "OVERFIT_FAILS"), found.sentence


def test_what_is_lost_with_running_statistics_is_mentioned(given: Callable[..., Data]) -> None:
    evaluate = UNet.eval

    def lost(self: UNet) -> UNet:
        for norm in (module for module in self.modules() if isinstance(module, nn.BatchNorm2d)):
            nn.init.zeros_(norm.weight)
        return evaluate(self)

    with patch.object(UNet, "eval", lost):
        found = Overfit().check(given("train.rate=0.01"))
    assert found.verdict == "info"
    assert "BN_STATS" in found.sentence


def test_clicks_cannot_be_learned_by_heart(given: Callable[..., Data]) -> None:
    assert Overfit().check(given(labels_are="partial")).verdict == "skipped"


# --- how much there is to learn from


def test_more_crops_have_smaller_gradients(given: Callable[..., Data]) -> None:
    found = GradScale().check(given())
    norms = [float(found.evidence[f"gradient_norm_of_{n}_crops"] or 0) for n in (1, 4, 16)]
    assert found.verdict == "info"
    assert norms[0] > norms[1] > norms[2] > 0


def test_the_budget_is_counted(given: Callable[..., Data]) -> None:
    data = given("train.steps=100", "train.warmup=0.0", "train.last_rate=1.0", "train.rate=0.002", "train.batch=3")
    evidence = GradScale().check(data).evidence
    labels = sum(len(stored.centres) for stored in data.materials.labelled)
    assert evidence["sum_of_rates"] == pytest.approx(0.2)
    assert evidence["crops_per_label"] == pytest.approx(300 / labels)


def test_clicks_have_gradients_too(given: Callable[..., Data]) -> None:
    assert GradScale().check(given(labels_are="partial")).verdict == "info"
