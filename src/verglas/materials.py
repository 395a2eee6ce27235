"""What a training works on: micrographs prepared and stored, by role, and the labels it is judged by."""

import math
import threading
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from verglas.config import RunConfig
from verglas.data import Cropping, Stored
from verglas.errors import InputError
from verglas.grain import coarser, coarsest
from verglas.holdout import Holdout, plan, training_names
from verglas.io.micrographs import read_image
from verglas.labels import margin_px
from verglas.predict import ORIENTATIONS
from verglas.preprocess import Preprocess
from verglas.records import Failed, Note, Prepared, Record
from verglas.ssl import Algorithm, make_algorithm
from verglas.targets import away_from_border, distance_to_border
from verglas.types import Collection, Image, Picks

ALONE, ALONE_PARTIAL = "supervised", "pu"
"""What learns from labels alone: complete ones, and those that leave particles out."""

AUTO, AUTO_PARTIAL = "supervised", "self_training"
"""What ``auto`` stands for, with complete labels and with clicks that nothing else completes. Beside complete labels no
use of what is not labelled has gained reliably on every set; beside clicks on particles that the general network does
not know, self-training has (see the results)."""

CENTRED_PARTIAL = 0.5
"""Share of crops around a click, unless one is set."""


@dataclass(frozen=True, slots=True, eq=False)
class Materials:
    """All a training needs on disk: prepared micrographs by role, and what validation is held to.

    An area whose grain is beyond ``grain_limit`` is unlike all that is labelled.
    """

    labelled: tuple[Stored, ...]
    unlabelled: tuple[Stored, ...]
    validation: tuple[Stored, ...]
    holdout: Holdout
    truth: Mapping[str, Picks]
    prior: float
    grain_limit: float | None

    @property
    def held_labels(self) -> int:
        """How many labels are held out."""
        return sum(map(len, self.truth.values()))


def with_margin(config: RunConfig, collection: Collection) -> RunConfig:
    """Return the settings with the margin along the border in pixels, where it is to be that of the labels.

    Clicks tell it, too: a click is as likely on one particle as on another, so those near the border would have some.
    """
    if config.search.edge_px != "auto":
        return config
    taught = {name: collection.picks[name] for name in training_names(collection)}
    margin = margin_px(replace(collection, picks=taught))
    return replace(config, search=replace(config.search, edge_px=margin))


def of_clicks(config: RunConfig) -> RunConfig:
    """Return the settings as clicks have them, whatever they are taken for: weights that are drawn."""
    return config.with_train(start_from="scratch") if config.train.start_from == "auto" else config


def gather(
    collection: Collection, config: RunConfig, recipe: Preprocess, folder: Path, stop: threading.Event
) -> Generator[Record, None, Materials | None]:
    """Prepare every micrograph that training needs, but for those that ``folder`` holds already.

    Yield records and return the materials; None where ``stop`` was set before all were prepared.
    """
    holdout = plan(collection, config.train.holdout, np.random.default_rng(config.train.seed))
    names = training_names(collection)
    if not names:
        raise InputError(
            "labels", "labelled micrographs", found="none", expected="one or more",
            remedy="Check that label files have the names of their micrographs; verglas inspect shows what matches.",
        )  # fmt: skip
    wanted = list(dict.fromkeys([*names, *holdout.areas]))
    if chosen_algorithm(collection, config).strong_views:
        wanted += unlabelled_that_teach(collection, config, recipe)
    yield Note(f"validation: {holdout.how}")
    shelf = Shelf(collection, config, holdout, folder)
    micrographs, reading = collection.by_name(), config.data.reading()
    for done, name in enumerate(wanted, 1):
        if stop.is_set():
            return None
        if Stored.exists(folder, name):
            shelf.stored[name] = Stored.open(folder, name)
            continue
        try:
            image = recipe.prepare(read_image(micrographs[name], reading))
        except (InputError, OSError) as error:
            yield Failed(str(micrographs[name].path), str(error))
            continue
        valid = shelf.store(name, image).valid
        yield Prepared(name, done, len(wanted), float(1 - valid.mean()))
    return shelf.materials()


def gathered(collection: Collection, config: RunConfig, folder: Path) -> Materials:
    """Return what ``gather`` ends in, without its records."""
    records = gather(collection, config, config.recipe(collection.diameter_px), folder, threading.Event())
    while True:
        try:
            next(records)
        except StopIteration as end:
            materials: Materials = end.value
            return materials


class Shelf:
    """Prepared micrographs, stored in a folder as they come, with the masks that their labels make.

    Labelled ones come first: by their grain it is told which parts of the others may teach.
    """

    def __init__(self, collection: Collection, config: RunConfig, holdout: Holdout, folder: Path) -> None:
        self.collection, self.config, self.holdout, self.folder = collection, config, holdout, folder
        self.stored: dict[str, Stored] = {}

    def store(self, name: str, image: Image) -> Image:
        """Write a prepared micrograph and return it as it is stored: what is too coarse without labels is invalid."""
        about = self.collection, self.config, self.holdout, name
        if name not in self.collection.picks:
            strange = coarser(image, self.config.preprocess.working_diameter_px, self.grain_limit)
            image = replace(image, valid=image.valid & ~strange)
        self.stored[name] = Stored.write(self.folder, name, image, _masks(*about, image), _centres(*about, image))
        return image

    @cached_property
    def grain_limit(self) -> float | None:
        """The grain beyond which an area is unlike all that teaches by its labels; None where that is not known."""
        if not self.config.search.grain:
            return None
        found = []
        for one in self._teaching():
            _, known, unseen = one.masks()[:3]
            found.append(coarsest(one.image(), self.config.preprocess.working_diameter_px, known | unseen))
        told = [level for level in found if level is not None]
        return self.config.search.grain * max(told) if told else None

    def materials(self) -> Materials:
        """Give each micrograph its role; refuse what cannot teach."""
        collection, config, holdout, stored = self.collection, self.config, self.holdout, self.stored
        labelled = self._teaching()
        if not labelled:
            raise InputError("labels", "labelled micrographs", found="none that can be read", expected="one or more")
        validation = [stored[n] for n in holdout.areas if n in stored]
        truth = {s.name: holdout.inside(kept(collection, config, collection.picks[s.name])) for s in validation}
        unlabelled = [s for n, s in stored.items() if n not in collection.picks]
        prior = _prior(labelled)
        if not prior:
            margin = f" Nothing is learned within {_margin(config):.0f} px of the border (search.edge_px)."
            raise InputError(
                "labels", "labelled area for training", found="none", expected="some particles outside bad areas",
                remedy="Label more particles, or look at verglas inspect: are the labels where the particles are?"
                + margin * (_margin(config) > 0),
            )  # fmt: skip
        return Materials(tuple(labelled), tuple(unlabelled), tuple(validation), holdout, truth, prior, self.grain_limit)

    def _teaching(self) -> list[Stored]:
        """Return the labelled micrographs that are not held out, or not as a whole."""
        areas = self.holdout.areas
        names = [n for n in training_names(self.collection) if n not in areas or areas[n].partial]
        return [self.stored[n] for n in names if n in self.stored]


def chosen_algorithm(collection: Collection, config: RunConfig) -> Algorithm:
    """Return the algorithm that the settings ask for; ``auto`` is the one that these data call for."""
    name = stands_for(config.algorithm.name, complete=collection.complete)
    made = make_algorithm(name, config.algorithm.options, config.loss)
    if not collection.complete and not made.partial:
        raise InputError(
            "algorithm", "name", found=f"{name}, with labels that leave particles out",
            expected=f"{ALONE_PARTIAL} or {AUTO_PARTIAL}",
            remedy=f"{name} takes all that is not labelled for background. Give --algorithm auto, or "
            "--labels-are complete where every particle of the labelled micrographs is labelled.",
        )  # fmt: skip
    return made


def alone(collection: Collection, config: RunConfig, chosen: Algorithm) -> Algorithm:
    """Return what learns before unlabelled tiles come in: ``chosen`` itself, unless it teaches a student only."""
    if chosen.teacher != "picks":
        return chosen
    return make_algorithm(ALONE if collection.complete else ALONE_PARTIAL, {}, config.loss)


def stands_for(name: str, *, complete: bool) -> str:
    """Return the algorithm that a name asks for: ``auto`` asks for one by the labels."""
    return name if name != "auto" else AUTO if complete else AUTO_PARTIAL


def cropping(collection: Collection, config: RunConfig) -> Cropping:
    """Return how tiles are cut; where labels are partial half of the labelled ones around a click, or few show one."""
    train, centred = config.train, config.train.centred
    if centred is None:
        centred = 0.0 if collection.complete else CENTRED_PARTIAL
    return Cropping(train.batch, train.crop, config.model.stem, config.geometry, config.photometry, centred)


def unlabelled_cropping(collection: Collection, config: RunConfig, algorithm: Algorithm) -> Cropping:
    """Return how unlabelled tiles are cut: as many views as labelled tiles, or half for a student that begins anew.

    It learns for as many steps as the one before it, and with as many tiles it would take twice as long.
    """
    how, views = cropping(collection, config), 2 if algorithm.teacher == "picks" else max(1, algorithm.strong_views)
    return replace(how, batch=-(-how.batch // views))


def unlabelled_that_teach(collection: Collection, config: RunConfig, recipe: Preprocess) -> list[str]:
    """Return the unlabelled micrographs to prepare: all, unless they are picked for a student that begins anew.

    For that, seen from all sides, they are drawn by lot until their area is that of the student's tiles: more would
    take longer to pick than to learn from. Where labels leave particles out it is the labelled ones that are picked.
    """
    names, algorithm = unlabelled_names(collection), chosen_algorithm(collection, config)
    if algorithm.teacher != "picks":
        return names
    if not collection.complete:
        return []
    how, micrographs = unlabelled_cropping(collection, config, algorithm), collection.by_name()
    left, chosen = config.train.steps * how.batch * how.size**2 / len(ORIENTATIONS), list[str]()
    for name in np.random.default_rng(config.train.seed).permutation(names).tolist():
        if left <= 0:
            break
        left -= math.prod(recipe.working_shape(micrographs[name].shape))
        chosen.append(name)
    return chosen


def unlabelled_names(collection: Collection) -> list[str]:
    """Return the micrographs without labels that the data's own split does not reserve."""
    reserved = {*collection.split.validation, *collection.split.test} if collection.split else set()
    return [m.name for m in collection.micrographs if m.name not in collection.picks and m.name not in reserved]


def _masks(
    collection: Collection, config: RunConfig, holdout: Holdout, name: str, image: Image
) -> Sequence[np.ndarray]:
    """Return target, known, unseen and held-out; for an unlabelled micrograph where it may teach, if not everywhere."""
    if name not in collection.picks:
        return (within(collection, config, name, image),) if _margin(config) else ()
    picks, diameter_px = collection.picks[name], collection.diameter_px
    target, sure = config.target.draw(picks, image, diameter_px=diameter_px)
    sure = sure & within(collection, config, name, image)
    known = sure if collection.complete else sure & target
    held = holdout.areas[name].mask(image) if name in holdout.areas else np.zeros(target.shape, bool)
    return target, known & ~held, sure & ~known & ~held, known & held


def within(collection: Collection, config: RunConfig, name: str, image: Image) -> Bool[np.ndarray, "h w"]:
    """Mark the pixels of a prepared micrograph that are no nearer to its border than a pick may be."""
    return away_from_border(image, collection.by_name()[name].shape, _margin(config))


def _margin(config: RunConfig) -> float:
    assert not isinstance(config.search.edge_px, str), "a training knows its margin"
    return config.search.edge_px


def kept(collection: Collection, config: RunConfig, picks: Picks) -> Picks:
    """Return the labels that are no nearer to the border than a pick may be."""
    shape = collection.by_name()[picks.micrograph].shape
    return picks.where(distance_to_border(picks.xy, shape) >= _margin(config))


def _centres(
    collection: Collection, config: RunConfig, holdout: Holdout, name: str, image: Image
) -> list[tuple[float, float]]:
    """Return where the labels that teach lie on the prepared image."""
    if name not in collection.picks:
        return []
    xy = kept(collection, config, collection.picks[name]).xy
    if name in holdout.areas:
        xy = xy[~holdout.areas[name].holds(xy)]
    return [(x, y) for x, y in image.grid.from_micrograph(xy).tolist()]


def _prior(labelled: Sequence[Stored]) -> float:
    """Return the share of labelled positive pixels among all that may teach, looked at or not."""
    positive = teaching = 0
    for stored in labelled:  # one at a time: there may be thousands
        target, known, unseen = stored.masks()[:3]
        positive += int((target & known).sum())
        teaching += int((known | unseen).sum())
    return positive / max(1, teaching)
