"""The only training loop: optimiser, running average, validation, students. It yields records and never prints."""

import copy
import hashlib
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from verglas import model as network
from verglas.batch import Batch, Labelled, Unlabelled, mapped
from verglas.completion import CLICKS_FOUND
from verglas.config import RunConfig
from verglas.data import Stored, labelled_batch, unlabelled_batch
from verglas.errors import InputError
from verglas.gates import Guard, Ruling
from verglas.lessons import Lessons
from verglas.matching import Pool
from verglas.materials import Materials, alone, chosen_algorithm, cropping, kept, unlabelled_cropping
from verglas.model import UNet
from verglas.monitor import input_statistics, watch
from verglas.operating import AtLeast, OperatingPoint, choose_threshold
from verglas.pick import find
from verglas.predict import Precision, all_around, at_precision, autocast, probability
from verglas.ranking import average_precision, best_f1, standard_error
from verglas.records import Note, Picked, Progress, Record, Ruled, Validated
from verglas.runs import GENERAL, Run
from verglas.ssl import Algorithm
from verglas.types import Collection, Image, Picks, PickSet

MOST_RECALIBRATING = 8
"""Labelled micrographs that batch statistics are measured on: more would take time at each validation."""

CLIP_MEMORY = 500
"""Steps over which the share of clipped gradients is averaged."""


class Trainer:
    """The state of a training, and one step after the other."""

    def __init__(
        self,
        config: RunConfig,
        materials: Materials,
        collection: Collection,
        device: torch.device,
        keep: Callable[[dict[str, Any]], None],
    ) -> None:
        self.config, self.materials, self.collection, self.device = config, materials, collection, device
        self.micrographs = collection.by_name()
        self.keep = keep
        self.cropping = cropping(collection, config)
        self.precision: Precision = at_precision(config.train.precision, device)
        if device.type == "cuda":
            torch.backends.cudnn.deterministic = True  # a run that is resumed must go on as it would have
        self.labelled_random, self.unlabelled_random = _streams(config.train.seed)
        self.start = start(config, collection)
        self.started_from = _name_of(self.start)
        self.student = beginning(config, materials, self.start)
        network.to_device(self.student, device)
        self.average = copy.deepcopy(self.student).eval()
        self.best = copy.deepcopy(self.student.state_dict())
        self.best_ap, self.shipped_ap, self.best_step = -1.0, -1.0, 0
        self.algorithm: Algorithm = chosen_algorithm(collection, config).to(device)
        self.alone: Algorithm = alone(collection, config, self.algorithm).to(device)
        self.lessons = Lessons(materials, collection, config) if self.algorithm.teacher == "picks" else None
        self.unlabelled_cropping = unlabelled_cropping(collection, config, self.algorithm)
        self.optimiser = _optimiser(self.student, config)
        self.guard = Guard(config.guard, config.train.steps)
        self.gate: dict[str, Any] = {}
        self.step, self.seconds, self.slower = 0, 0.0, 1.0
        self.begun, self.until, self.round = 0, config.train.steps, 0
        self.picks_with: dict[str, Any] = {}
        self.picks_above = 0.5
        self.clipped: Tensor | float = 0.0

    def run(self, stop: threading.Event) -> Iterator[Record]:
        """Train to the end, or until ``stop`` is set; yield a record now and then."""
        settings, last = self.config.train, time.perf_counter()
        with ThreadPoolExecutor(1) as pool:
            ahead: Future[tuple[Labelled, Unlabelled | None]] | None = None
            yield from self._pick(stop)
            while self.step < self.until and not (stop.is_set() and ahead is None):
                if self.step and self.step % settings.save_every == 0:
                    self.save()
                batches = ahead.result() if ahead else self._batches()
                ahead = pool.submit(self._batches) if self._foreseen() and not stop.is_set() else None
                watched = self._update(*batches)
                self.step += 1
                now = time.perf_counter()
                self.seconds, last = self.seconds + now - last, now
                if self.step % 10 and self.step not in (1, self.until) and not self._validates(self.step):
                    continue  # what is watched stays on the device, so that it need not be waited for
                seen = {key: float(value) for key, value in watched.items()}
                if self.step % 10 == 0 or self.step in (1, self.until):
                    rest = {key: value for key, value in seen.items() if key != "loss"}
                    yield Progress(self.step, self.expected_steps(), self.seconds, seen["loss"], self._rate(), rest)
                if self._validates(self.step):
                    yield from self._consider(self._validate(seen))
                    yield from self._pick(stop)

    def save(self) -> None:
        """Keep all that decides what comes next, in types that load with ``weights_only``."""
        self.keep({
            **self._position(), "gate": self.gate, "guard": self.guard.state(),
            "unlabelled_random": self.unlabelled_random.get_state(),
            "seconds": self.seconds, "threads": torch.get_num_threads(),
        })  # fmt: skip

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up where ``state`` left off."""
        self._return(state)
        self.unlabelled_random.set_state(state["unlabelled_random"])
        self.guard.restore(state["guard"])
        self.gate, self.seconds = state["gate"], state["seconds"]

    def _position(self) -> dict[str, Any]:
        """Return what a training goes on from, were it not for unlabelled micrographs."""
        return {
            "student": self.student.state_dict(), "average": self.average.state_dict(), "best": self.best,
            "best_ap": self.best_ap, "shipped_ap": self.shipped_ap, "best_step": self.best_step,
            "algorithm": self.algorithm.state_dict(), "alone": self.alone.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "labelled_random": self.labelled_random.get_state(), "step": self.step, "slower": self.slower,
            "clipped": float(self.clipped), "begun": self.begun, "until": self.until, "round": self.round,
            "picks_with": self.picks_with, "picks_above": self.picks_above,
        }  # fmt: skip

    def _return(self, state: Mapping[str, Any]) -> None:
        """Take up a position."""
        self.student.load_state_dict(state["student"])
        self.average.load_state_dict(state["average"])
        self.algorithm.load_state_dict(state["algorithm"])
        self.alone.load_state_dict(state["alone"])
        self.optimiser.load_state_dict(copy.deepcopy(state["optimiser"]))
        self.labelled_random.set_state(state["labelled_random"])
        self.best, self.best_step = state["best"], state["best_step"]
        self.best_ap, self.shipped_ap = state["best_ap"], state["shipped_ap"]
        self.step, self.slower, self.clipped = state["step"], state["slower"], state["clipped"]
        self.begun, self.until, self.round = state["begun"], state["until"], state["round"]
        self.picks_with, self.picks_above = state["picks_with"], state["picks_above"]
        self.guard.steps = self.until

    def _validates(self, step: int) -> bool:
        return step % self.config.train.validate_every == 0 or step == self.until

    def _foreseen(self) -> bool:
        """Tell whether tiles of the next step can be cut during this one, so that the network need not wait for them.

        Not where a state is saved or a validation may change the stage in between: no state holds the randomness of
        tiles that were cut and not learned from. Nor where the network has every core: the threads of a convolution
        wait for each other, so what disturbs one holds up all (62 to 67 ms a step instead of 45 to 50 on two cores).
        """
        after, spare = self.step + 1, self.device.type != "cpu" or torch.get_num_threads() < (os.cpu_count() or 1)
        return spare and not self._validates(after) and after % self.config.train.save_every != 0

    def _batches(self) -> tuple[Labelled, Unlabelled | None]:
        """Cut the tiles of a step; unlabelled ones only in their stage."""
        wants, opened, lessons = self.algorithm, self.guard.opened is not None, self.lessons
        taught, how, pool = self.materials.labelled, self.cropping, self.materials.unlabelled
        if opened and lessons:
            taught, how, pool = lessons.sources(self.round)
        labelled = _to(labelled_batch(taught, how, self.labelled_random), self.device)
        if not opened or not pool:
            return labelled, None
        sources = pool, self.unlabelled_cropping, wants.strong_views, wants.cutmix, self.unlabelled_random
        return labelled, _to(unlabelled_batch(*sources), self.device)

    def _consider(self, validated: Validated) -> Iterator[Record]:
        """Yield a validation and what the guard makes of it; do as the guard says."""
        yield validated
        guard, seen, step, lessons = self.guard, validated.watch, self.step, self.lessons
        able = bool(lessons or (lessons is None and self.algorithm.strong_views and self.materials.unlabelled))
        able &= self.collection.complete or validated.ap != 0  # who finds none of the clicks has nothing to teach
        if able and guard.opens(step, validated.ap, seen, at_end=bool(lessons)):
            self.gate = copy.deepcopy(self._position())
            if lessons:
                yield Note(f"step {step}: {len(lessons)} micrographs are picked, and a new student learns from that")
                self._begin_anew(lessons)
            else:
                yield Note(f"step {step}: {len(self.materials.unlabelled)} unlabelled micrographs come in")
        elif lessons and guard.opened is not None:
            yield from self._judge_student(lessons, seen)
        else:
            if lessons and step == self.until and not guard.closed:
                yield Note(f"labels alone: skill {seen.get('average_skill', math.nan):.2f}, too little to pick with")
            early = step < guard.settings.earliest * guard.steps
            for ruling in guard.judge(validated.ap, self.materials.held_labels, seen, early=early):
                yield Ruled(step, ruling.code, ruling.verdict, ruling.action, ruling.sentence)
                yield from self._obey(ruling)
                if ruling.action == "go back":
                    break

    def _judge_student(self, lessons: Lessons, seen: Mapping[str, float]) -> Iterator[Record]:
        """At the end of a student that began anew say what is wrong; keep it, let another begin, or go back."""
        if self.step < self.until:
            return
        labels = self.materials.held_labels
        outdone = self.guard.outdone(self.shipped_ap, math.inf if self.collection.complete else labels)
        for ruling in [outdone] if outdone else self.guard.judge(math.nan, labels, seen):
            action = ruling.action if ruling.action == "go back" else "say"  # too late for anything else
            yield Ruled(self.step, ruling.code, ruling.verdict, action, ruling.sentence)
            if action == "go back":
                yield from self._obey(ruling)
                return
        if self.round < self.algorithm.rounds:
            yield Note(f"step {self.step}: another student begins")
            self.gate = copy.deepcopy(self._position())
            self._begin_anew(lessons)

    def _begin_anew(self, lessons: Lessons) -> None:
        """Let a new student begin, which learns for as many steps along the same schedule, and keep that state.

        It is held to the one before, and learns what that one picks.
        """
        self.guard.begin(self.step, self.shipped_ap, self.step + self.config.train.steps)
        if not self.collection.complete:
            self.picks_above = self.operating_point(self._seen_all_around(self.shipped())).threshold
        self.picks_with, self.round = copy.deepcopy(self.best), self.round + 1
        self.begun, self.until = self.step, self.guard.steps
        self.student = beginning(self.config, self.materials, self.start, self.round)
        network.to_device(self.student, self.device)
        self.average = copy.deepcopy(self.student).eval()
        self.optimiser = _optimiser(self.student, self.config)
        self.best_ap, self.shipped_ap, self.clipped, self.slower = -1.0, -1.0, 0.0, 1.0
        for stored in lessons.to_pick(self.round):
            stored.forget()
        self.save()

    def _pick(self, stop: threading.Event) -> Iterator[Record]:
        """Pick the micrographs that a student is to learn from, but for those that were picked already."""
        if not self.lessons or not self.round or self.guard.opened is None:
            return
        pool = self.lessons.to_pick(self.round)
        missing = [(done, stored) for done, stored in enumerate(pool, 1) if not stored.believed()]
        if not missing:
            return
        model = self._with(self.picks_with)
        for done, stored in missing:
            if stop.is_set():
                return
            image = stored.image()
            picks = self._find(stored.name, all_around(model, image, precision=self.precision), edge_px=0.0)
            self.lessons.write(stored, image, picks, self.picks_above)
            yield Picked(stored.name, done, len(pool), len(picks), len(picks.above(self.picks_above)))

    def expected_steps(self) -> int:
        """Return at which step the training ends, if nothing comes in between."""
        anew = self.lessons and not self.guard.closed
        return self.until + (self.algorithm.rounds - self.round) * self.config.train.steps if anew else self.until

    def _obey(self, ruling: Ruling) -> Iterator[Record]:
        match ruling.action:
            case "go back" if self.guard.opened is not None:
                trust = self.algorithm.trust / 2
                step = self.guard.go_back()
                self._return(copy.deepcopy(self.gate))
                if self.lessons:
                    yield Note(f"back to step {step}, before the last student began: the one before it is shipped",
                               warning=True)  # fmt: skip
                    return
                self.algorithm.trust.copy_(trust)
                after = "labels alone teach from here" if self.guard.closed else "half their weight if they come again"
                yield Note(f"back to step {step}, before unlabelled micrographs came in: {after}", warning=True)
            case "lower weight":
                self.algorithm.trust.mul_(0.5)
            case "lower rate":
                self.slower /= 2
            case "renew teacher":
                self.average.load_state_dict(self.student.state_dict())

    def shipped(self) -> UNet:
        """Return the averaged model of the last step that was as good as the best on validation."""
        return self._with(self.best)

    def _with(self, state: Mapping[str, Any]) -> UNet:
        """Return a model of this state, ready to predict."""
        model = copy.deepcopy(self.average)
        model.load_state_dict(state)
        return model.eval()

    def training_labels(self) -> int:
        """Return how many labels teach: those of the labelled micrographs outside the held-out areas."""
        picks = [kept(self.collection, self.config, self.collection.picks[s.name]) for s in self.materials.labelled]
        held = [self.materials.truth[p.micrograph] for p in picks if p.micrograph in self.materials.truth]
        return sum(map(len, picks)) - sum(map(len, held))

    def candidates(self, model: UNet, maps: Mapping[str, Image] = MappingProxyType({})) -> PickSet:
        """Return all candidates that the model finds in the held-out areas; some of its ``maps`` may be known."""
        picks = [self._search(model, stored, maps.get(stored.name)) for stored in self.materials.validation]
        shapes = {p.micrograph: self.micrographs[p.micrograph].shape for p in picks}
        return PickSet(tuple(map(self.materials.holdout.inside, picks)), shapes=shapes)

    def _seen_all_around(self, model: UNet) -> PickSet:
        """Return the candidates in held-out areas that a student would be given: of the mean of all orientations."""
        stored = self.materials.validation
        return self.candidates(
            model, {one.name: all_around(model, one.image(), precision=self.precision) for one in stored}
        )

    def operating_point(self, candidates: PickSet) -> OperatingPoint:
        """Choose the threshold on the held-out labels; 0.5, and a sentence that says why, where there is no basis.

        Where these are clicks, it is by a recall; and of a student, by clicks and what was picked for it beside them.
        """
        truth, diameter_px = self.materials.truth, self.collection.diameter_px
        labels = self.materials.held_labels
        if not labels or not len(candidates):
            why = f"0.5 for want of a basis: {labels} held-out labels and {len(candidates)} candidates there"
            return OperatingPoint(0.5, why, 0.0, 0.0, 0.0, (0.0, 1.0), len(truth), labels)
        where, seed = self.materials.holdout.how, self.config.train.seed
        if self.collection.complete:
            point = choose_threshold(candidates, truth, diameter_px=diameter_px, seed=seed)
            return replace(point, how=f"{point.how}; on {where}")
        clicks = Pool.of(candidates.by_name(), truth).by_micrograph(diameter_px / 2)
        if self.lessons and self.round:
            before = self._seen_all_around(self._with(self.picks_with))
            picks = [self.lessons.completed(found.above(self.picks_above)) for found in before]
            inside = [self.materials.holdout.inside(kept(self.collection, self.config, found)) for found in picks]
            truth = {found.micrograph: found for found in inside}
            where += f", where {sum(map(len, truth.values())) - labels} picks complete the labels"
            point = choose_threshold(candidates, truth, diameter_px=diameter_px, seed=seed)
        else:
            goal = AtLeast("recall", min(CLICKS_FOUND, float(clicks.right.sum()) / labels))
            point = choose_threshold(candidates, truth, diameter_px=diameter_px, goal=goal, seed=seed)
        reached = clicks.whole(point.threshold)
        return replace(
            point, how=f"{point.how}; on {where}", f1=reached["f1"], precision=reached["precision"],
            recall=reached["recall"], n_labels=labels,
        )  # fmt: skip

    def _search(self, model: UNet, stored: Stored, found: Image | None) -> Picks:
        return self._find(stored.name, found or probability(model, stored.image(), precision=self.precision))

    def _find(self, name: str, found: Image, **changes: float) -> Picks:
        search = self.config.search.peaks() | {"exhaustive": False} | changes
        return find(found, self.micrographs[name], diameter_px=self.collection.diameter_px, **search)

    def _update(self, labelled: Labelled, unlabelled: Unlabelled | None) -> dict[str, Tensor | float]:
        """Learn from one batch; return what there is to watch, without waiting for it."""
        settings, progress = self.config.train, self.guard.progress(self.step)
        for group in self.optimiser.param_groups:
            group["lr"] = self._rate()
        learning = self.alone if progress is None else self.algorithm
        teacher = self.average if learning.teacher == "average" else None
        with autocast(self.device, self.precision):
            step = learning.step(self.student, teacher, labelled, unlabelled, progress or 0.0)
        step.loss.backward()
        limit = settings.clip_norm or math.inf
        norm = nn.utils.clip_grad_norm_(self.student.parameters(), limit)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        own, span = self.step - self.begun, settings.average * (self.until - self.begun)
        update_average(self.average, self.student, own, span)
        self.clipped = self.clipped + ((norm > limit).float() - self.clipped) / min(own + 1, CLIP_MEMORY)
        seen: dict[str, Tensor | float] = {"loss": step.loss.detach(), "gradient_norm": norm, "clip_rate": self.clipped}
        if self._validates(self.step + 1):
            tiles = {"labelled_input": labelled.image}
            tiles |= {} if unlabelled is None else {"weak_input": unlabelled.weak, "strong_input": unlabelled.strong}
            seen |= dict(input_statistics(tiles))
        return {**seen, **step.watch}

    def _rate(self) -> float:
        """Return the rate of this step: linear warm-up, then a cosine (Loshchilov & Hutter, arXiv 1608.03983)."""
        s, step, steps = self.config.train, self.step - self.begun, self.until - self.begun
        warm = min(1.0, (step + 1) / max(1.0, s.warmup * steps))
        fallen = s.last_rate + (1 - s.last_rate) * 0.5 * (1 + math.cos(math.pi * step / steps))
        return self.slower * s.rate * warm * fallen

    def _validate(self, seen: Mapping[str, float]) -> Validated:
        """Score the averaged model on the held-out labels; keep it if none was better by more than a standard error.

        Among states that a few labels cannot tell apart the latest is the best calibrated.
        """
        m, truth = self.materials, self.materials.truth
        average = recalibrated(self.average, m.labelled, self.precision)
        judging = tuple(stored for stored in m.validation if len(truth[stored.name])) or m.validation or m.labelled[:1]
        shown = judging[:2] + m.unlabelled[:1]
        maps = {stored.name: probability(average, stored.image(), precision=self.precision) for stored in shown}
        pool = Pool.of(self.candidates(average, maps).by_name(), truth)
        ranked, labels = pool.by_micrograph(self.collection.diameter_px / 2), self.materials.held_labels
        ap = average_precision(ranked.right, ranked.score, labels)
        f1, threshold = best_f1(ranked.right, ranked.score, labels)
        self.best_ap = max(self.best_ap, ap)
        # Without held-out labels AP is NaN: the last state is as good as any.
        as_good = not ap < self.best_ap - standard_error(self.best_ap, labels)
        if as_good:
            self.shipped_ap, self.best_step = ap, self.step
            self.best = copy.deepcopy(average.state_dict())
        measured = watch(self.student, average, self.algorithm, shown, m.prior, self.precision, maps)
        if not self.collection.complete and "average_skill" in measured:
            clicks = sum(len(truth.get(stored.name, ())) for stored in shown)
            measured["average_skill_error"] = 2 * standard_error((measured["average_skill"] + 1) / 2, clicks)
        measured |= {"labels_seen": float(labels), "clipped_steps": float(min(self.step - self.begun, CLIP_MEMORY))}
        measured |= {"step": float(self.step - self.begun)} | dict(seen)
        return Validated(self.step, ap, f1, math.nan if threshold is None else threshold, as_good, measured)


def _streams(seed: int) -> tuple[torch.Generator, torch.Generator]:
    """Return the randomness of labelled and of unlabelled tiles: labels come in the same order with both or one."""
    return torch.Generator().manual_seed(seed), torch.Generator().manual_seed(_another(seed, "unlabelled tiles"))


def _another(seed: int, consumer: str) -> int:
    """Return a seed for another stream: 32 bits, since torch ignores those beyond."""
    return int.from_bytes(hashlib.blake2b(f"{consumer} {seed}".encode(), digest_size=4).digest())


def start(config: RunConfig, collection: Collection) -> Run | None:
    """Return the run whose weights a training starts from; None where they are drawn.

    ``auto`` is the general network, unless it has another shape or other preprocessing. Nor is it where clicks teach:
    if it knows what was clicked, it has completed the labels, and what begins with its weights would repeat its errors.
    """
    wanted, recipe = config.train.start_from, config.recipe(collection.diameter_px)
    if wanted == "scratch" or (wanted == "auto" and config.data.labels_are == "partial"):
        return None
    run = Run.general() if wanted == "auto" else Run.open(wanted)
    given = replace(run.preprocess(), diameter_px=recipe.diameter_px) if run.any_particle else run.preprocess()
    if given == recipe and run.config.model == config.model:
        return run
    if wanted == "auto":
        return None
    raise InputError(
        "train", "start_from", found=f"{given}, {run.config.model}", expected=f"{recipe}, {config.model}",
        remedy="Both stages need the same diameter, the same preprocessing and the same network.",
    )  # fmt: skip


def _name_of(run: Run | None) -> dict[str, str] | None:
    """Return where weights come from, and which they are."""
    if run is None:
        return None
    digest = hashlib.blake2b((run.folder / "model.safetensors").read_bytes(), digest_size=8).hexdigest()
    return {"run": GENERAL if run.any_particle else str(run.folder), "weights": digest}


def beginning(config: RunConfig, materials: Materials, run: Run | None, again: int = 0) -> UNet:
    """Return a network with the weights of a run, or without one with drawn weights, by other lots ``again``."""
    if run is not None:
        return run.model().train()
    with torch.random.fork_rng():
        seed = config.train.seed
        torch.manual_seed(_another(seed, f"student {again}") if again else seed)
        return UNet(config.model, prior=materials.prior)


def update_average(average: nn.Module, student: nn.Module, step: int, span: float) -> None:
    """Move the running average towards the student, floating-point buffers included; integer buffers are copied.

    The factor warms up as 1 − 1/(t+1) and ends where ``span`` steps halve what was before, so the average never
    remembers the initial weights for long.
    """
    keep = min(1 - 1 / (step + 1), 2 ** (-1 / span) if span > 0 else 0.0)
    pairs = [*zip(average.state_dict().values(), student.state_dict().values(), strict=True)]
    real, whole = ([pair for pair in pairs if pair[0].is_floating_point() == kind] for kind in (True, False))
    with torch.no_grad():
        torch._foreach_lerp_([old for old, _ in real], [new for _, new in real], 1 - keep)
        for old, new in whole:
            old.copy_(new)


def recalibrated(model: UNet, labelled: Sequence[Stored], precision: Precision) -> UNet:
    """Return the model with the statistics of its batch norms measured on labelled micrographs as they are picked.

    Those gathered in training are of noisy crops. On micrographs without labels they would move with carbon and ice,
    which costs more than the difference between micrographs.
    """
    model = copy.deepcopy(model).eval()
    norms = network.batch_norms(model)
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    for stored in labelled[:MOST_RECALIBRATING] if norms else ():
        probability(model, stored.image(), precision=precision)
    return model.eval()


def _optimiser(model: nn.Module, config: RunConfig) -> torch.optim.AdamW:
    """Return AdamW (arXiv 1711.05101) that decays weights of convolutions, and neither norms nor biases."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    free = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": config.train.weight_decay}, {"params": free, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.train.rate, fused=True)


def _to(batch: Batch, device: torch.device) -> Batch:
    """Move the tensors of a batch to the device, without waiting for a GPU."""
    if device.type == "cpu":
        return batch
    pinned = device.type == "cuda"
    ready = mapped(batch, Tensor.pin_memory) if pinned else batch
    return mapped(ready, partial(Tensor.to, device=device, non_blocking=pinned))
