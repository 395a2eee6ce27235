"""A study: which trainings are compared, who teaches and who is tested in each, and what identifies a run.

The matrix is data set x amount of labels x row (algorithm and settings) x seed. Micrographs are divided by name: the
test micrographs are the same for every run on a data set, and for each seed the others stand in an order whose first
ones are labelled, so that small amounts are inside large ones.
"""

import hashlib
import json
import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pydantic
import tomli_w
from pydantic import Field

from verglas import __version__
from verglas.config import STARTS, RunConfig, sentence
from verglas.errors import InputError
from verglas.io._base import copies, micrograph_name, write_text
from verglas.io.picks import write_picks
from verglas.materials import of_clicks, stands_for
from verglas.ranking import generator
from verglas.records import plain
from verglas.ssl import Algorithm, make_algorithm
from verglas.types import Collection, Micrograph, Picks, PickSet

Tree = dict[str, Any]

GOLDEN = (5**0.5 - 1) / 2

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


@dataclass(frozen=True, slots=True, order=True)
class Amount:
    """How much is labelled: a ratio of the training micrographs, so many of them, or so many clicked particles."""

    kind: Literal["ratio", "micrographs", "particles"]
    value: float

    def __str__(self) -> str:
        return f"{self.kind}_{self.value:g}"


@dataclass(frozen=True, slots=True)
class Study:
    """The matrix as its file has it; ``data``, ``settings`` and ``rows`` are trees of settings of a run.

    ``settings``, then ``set`` (texts such as ``train.steps=400``), are common to all rows; what a row has wins.
    A row may also hold ``start``: the ``row`` and the ``amount`` whose run it starts from, at no more labels than its
    own. ``spread`` is how many micrographs clicked particles come from, and more only where these have too few.
    ``test`` names test micrographs by data set; else the data's own split does, else ``test_share`` of those with
    labels is drawn. The unlabelled micrographs are the ``rest`` of the training ones, or these and those of the test.
    """

    __pydantic_config__: ClassVar[pydantic.ConfigDict] = pydantic.ConfigDict(extra="forbid")

    data: dict[str, Tree]
    rows: dict[str, Tree]
    ratios: tuple[Annotated[float, Field(gt=0, le=1)], ...] = ()
    micrographs: tuple[Annotated[int, Field(ge=1)], ...] = ()
    particles: tuple[Annotated[int, Field(ge=1)], ...] = ()
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = (0, 1, 2)
    pool: Literal["rest", "with-test"] = "rest"
    spread: Annotated[int, Field(ge=1)] = 3
    test: dict[str, tuple[str, ...]] = field(default_factory=dict)
    test_share: Annotated[float, Field(gt=0, lt=1)] = 0.25
    settings: Tree = field(default_factory=dict)
    set: tuple[str, ...] = ()

    @classmethod
    def load(cls, path: str | Path) -> "Study":
        """Read the TOML file of a study."""
        return cls.of(read_tree(path), str(path))

    @classmethod
    def of(cls, tree: Mapping[str, Any], where: str) -> "Study":
        """Check a tree of settings and return the study; ``where`` names their origin in errors."""
        try:
            study = pydantic.TypeAdapter(cls).validate_python(tree)
        except pydantic.ValidationError as error:
            first = error.errors()[0]
            key, known = ".".join(map(str, first["loc"])), ", ".join(f.name for f in fields(cls))
            odd = first["type"] == "unexpected_keyword_argument"
            found, expected = (key, f"one of {known}") if odd else (repr(first["input"]), sentence(first["msg"]))
            raise InputError(where, "setting" if odd else key or "study", found=found, expected=expected) from error
        _check(study, where)
        return study

    def save(self, path: Path) -> None:
        """Write the whole study as TOML."""
        write_text(path, tomli_w.dumps(asdict(self)))

    def amounts(self) -> Iterator[Amount]:
        """Yield the amounts of labels, each kind from the least to the most."""
        yield from (Amount("ratio", float(value)) for value in sorted(self.ratios))
        yield from (Amount("micrographs", value) for value in sorted(self.micrographs))
        yield from (Amount("particles", value) for value in sorted(self.particles))

    def config(self, data: str, row: str) -> RunConfig:
        """Return the settings of a run, but for its seed and for where its micrographs and labels are."""
        config = RunConfig().merged({"data": self.data[data]}, where=f"data.{data}")
        config = config.merged(self.settings, where="settings").with_settings(self.set)
        return config.merged({k: v for k, v in self.rows[row].items() if k != "start"}, where=f"rows.{row}")

    def start(self, row: str, amount: Amount) -> tuple[str, Amount] | None:
        """Return which row at which amount this one starts from, if it does."""
        start = self.rows[row].get("start")
        return (start["row"], replace(amount, value=start["amount"])) if start else None

    def cells(self) -> Iterator[tuple[str, str, Amount, int]]:
        """Yield data set, row, amount and seed of each run, each after the one it starts from."""
        allowed = set(self.amounts())
        for data in self.data:
            for row in sorted(self.rows, key=lambda row: len(_line(self.rows, row))):
                for amount in sorted(allowed):
                    begun = self.start(row, amount)
                    if begun is None or (begun[1] in allowed and begun[1] <= amount):
                        yield from ((data, row, amount, seed) for seed in self.seeds)


def read_tree(path: str | Path) -> Tree:
    """Read a TOML file as it is."""
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(path, "study", found=str(error), expected="a readable TOML file") from error


def _check(study: Study, where: str) -> None:
    """Refuse a study that names things twice or not at all, or that sets what is not a row's to set."""
    amounts = list(study.amounts())
    for key, values in (("data", study.data), ("rows", study.rows), ("seeds", study.seeds), ("amounts", amounts)):
        twice = [str(value) for value, n in Counter(map(str, values)).items() if n > 1]
        if not values or twice:
            raise InputError(where, key, found=f"{twice[0]} twice" if twice else "none", expected="one or more, once")
    for name in (*study.data, *study.rows):
        if not _NAME.fullmatch(name):
            raise InputError(where, "name", found=repr(name), expected="letters, digits and . _ + -, for a file name")
    for name in study.test.keys() - study.data.keys():
        raise InputError(where, "test", found=name, expected=f"one of {', '.join(study.data)}")
    own = {data: RunConfig().merged({"data": tree}, where=f"data.{data}") for data, tree in study.data.items()}
    for row in study.rows:
        _check_start(study, row, where)
        for data in study.data:
            config = study.config(data, row)
            if config.data != own[data].data or config.train.seed or config.train.start_from not in STARTS:
                expected = "no data, no train.seed and no run in train.start_from: the study sets these"
                raise InputError(where, f"rows.{row}", found="one of them, here or in settings", expected=expected)


def _check_start(study: Study, row: str, where: str) -> None:
    start = study.rows[row].get("start")
    if start is None:
        return
    if not isinstance(start, Mapping) or start.keys() != {"row", "amount"} or start["row"] not in study.rows:
        expected = f"{{row = one of {', '.join(study.rows)}, amount = one of the study}}"
        raise InputError(where, f"rows.{row}.start", found=repr(start), expected=expected)
    if row in _line(study.rows, row):
        raise InputError(where, f"rows.{row}.start", found="a circle", expected="a row that does not come from this")
    if not any(cell[1] == row for cell in study.cells()):
        expected = "an amount of the study, no larger than the largest"
        raise InputError(where, f"rows.{row}.start.amount", found=start["amount"], expected=expected)


def _line(rows: Mapping[str, Tree], row: str) -> list[str]:
    """Return the rows that a row comes from, one after the other."""
    line: list[str] = []
    while (start := rows[row].get("start")) and start["row"] not in line:
        row = start["row"]
        line.append(row)
    return line


# --- who teaches and who is tested


@dataclass(frozen=True, slots=True)
class Division:
    """Names of micrographs by role; of ``training`` the first ones are labelled and the rest is not."""

    test: tuple[str, ...]
    training: tuple[str, ...]
    unlabelled: tuple[str, ...]
    unused: tuple[str, ...]


def divide(collection: Collection, seed: int, test: Sequence[str] = (), share: float = 0.25) -> Division:
    """Give each micrograph its role; the test micrographs are the same for every seed.

    The validation micrographs of the data's own split are left out: their labels would not be counted.
    """
    split, counts = collection.split, {name: len(picks) for name, picks in collection.picks.items()}
    labelled = {*split.labelled, *split.test} if split else {*counts}
    given = tuple(dict.fromkeys(map(micrograph_name, test))) or (split.test if split else ())
    for name in given:
        if name not in labelled:
            raise InputError("study", "test", found=name, expected="a micrograph with labels, none of validation")
    drawn = _spread({n: counts[n] for n in labelled}, generator(0, "test"))[: max(1, round(share * len(labelled)))]
    tested = tuple(sorted(given or drawn))
    rest = {name: counts[name] for name in (split.labelled if split else labelled) if name not in tested}
    for role, bearing in (("training", any(rest.values())), ("test", any(counts[name] for name in tested))):
        if not bearing:
            found, remedy = "none with particles", "Label more micrographs, or choose other ones for the test."
            raise InputError("study", f"{role} micrographs", found=found, expected="one or more", remedy=remedy)
    names, order = {m.name for m in collection.micrographs}, _spread(rest, generator(seed, "training"))
    unlabelled = set(split.unlabelled) if split else names - labelled
    unused = names - {*tested, *order} - unlabelled
    return Division(tested, tuple(order), tuple(sorted(unlabelled)), tuple(sorted(unused)))


def _spread(counts: Mapping[str, int], random: np.random.Generator) -> list[str]:
    """Return names in an order of which every beginning is spread over their counts, and begins with one above 0.

    Ranks follow multiples of the golden ratio from a random start, whose gaps are as even as can be at every length.
    """
    ranked = sorted(random.permutation(sorted(counts)).tolist(), key=lambda name: counts[name])
    places = (random.uniform() + GOLDEN * np.arange(len(ranked))) % 1
    order = [ranked[rank] for rank in np.argsort(np.argsort(places))]
    first = next((k for k, name in enumerate(order) if counts[name]), 0)
    return [order.pop(first), *order] if order else []


def refuse_twins(micrographs: Iterable[Micrograph]) -> None:
    """Raise ``InputError`` where two files hold the same: one could teach what the other tests."""
    for first, second, *_ in copies(micrograph.path for micrograph in micrographs):
        raise InputError(
            second, "content", found=f"that of {first}", expected="each micrograph once",
            remedy="Leave one of them out: a test on what was trained on tells nothing.",
        )  # fmt: skip


def labels_of(collection: Collection, division: Division, amount: Amount, seed: int, spread: int) -> PickSet:
    """Return the labels that teach at this amount; those of a smaller amount are among them."""
    order, picks = division.training, collection.picks
    shapes = {m.name: m.shape for m in collection.micrographs}
    if amount.kind == "particles":
        chosen = _clicked([picks[name] for name in order], int(amount.value), spread, generator(seed, "clicks"))
    else:
        count = max(1, round(amount.value * len(order))) if amount.kind == "ratio" else int(amount.value)
        if count > len(order):
            raise InputError("study", str(amount), found=f"{len(order)} micrographs", expected=f"{count} or more")
        chosen = [picks[name] for name in order[:count]]
    return PickSet(tuple(chosen), shapes={p.micrograph: shapes[p.micrograph] for p in chosen})


def _clicked(ordered: Sequence[Picks], count: int, spread: int, random: np.random.Generator) -> list[Picks]:
    """Take labels in turn from the first ``spread`` micrographs, then from the next ones."""
    bearing = [picks for picks in ordered if len(picks)]
    kept: dict[str, list[int]] = {}
    for start in range(0, len(bearing), spread):
        group = bearing[start : start + spread]
        queues = [[(p.micrograph, int(i)) for i in random.permutation(len(p))] for p in group]
        for name, index in (click for turn in zip_longest(*queues) for click in turn if click):
            if count:
                kept.setdefault(name, []).append(index)
                count -= 1
    if count:
        raise InputError("study", "particles", found=f"{count} too few", expected="as many labels as are asked for")
    return [p.where(np.isin(np.arange(len(p)), kept[p.micrograph])) for p in bearing if p.micrograph in kept]


# --- the runs


@dataclass(frozen=True, slots=True, eq=False)
class Cell:
    """One run of the matrix: its place there, what it is made of, and the ``key`` that names its folder."""

    data: str
    row: str
    amount: Amount
    seed: int
    config: RunConfig
    labels: PickSet
    micrographs: tuple[Micrograph, ...]
    test: tuple[Micrograph, ...]
    start: str | None
    key: str = ""

    @property
    def place(self) -> dict[str, Any]:
        """Return where in the matrix it stands."""
        return {"data": self.data, "row": self.row, **asdict(self.amount), "seed": self.seed}

    def __str__(self) -> str:
        return f"{self.data} {self.row} {self.amount} seed {self.seed}"


def planned(study: Study, collections: Mapping[str, Collection]) -> tuple[list[Cell], dict[str, Division]]:
    """Return all runs, each after the one it starts from, and the division for each data set and seed."""
    divisions = {}
    for data, collection in collections.items():
        refuse_twins(collection.micrographs)
        for seed in study.seeds:
            divisions[f"{data}_{seed}"] = divide(collection, seed, study.test.get(data, ()), study.test_share)
    settings = {(data, row): study.config(data, row) for data in study.data for row in study.rows}
    cells: dict[tuple[str, str, Amount, int], Cell] = {}
    for data, row, amount, seed in study.cells():
        begun = study.start(row, amount)
        start = cells[data, *begun, seed].key if begun else None
        collection, division = collections[data], divisions[f"{data}_{seed}"]
        labels = labels_of(collection, division, amount, seed, study.spread)
        config = settings[data, row].with_train(seed=seed)
        partial = amount.kind == "particles" or config.data.labels_are == "partial"
        taught = set(labels.by_name())
        pool = {*division.training, *division.unlabelled, *(division.test if study.pool == "with-test" else ())}
        algorithm = algorithm_of(config, partial=partial)
        partly: Literal["partial", "complete"] = "partial" if partial and algorithm.partial else "complete"
        if partly == "complete":  # of clicks ``auto`` may make complete labels, which no other name does
            config = replace(config, algorithm=replace(config.algorithm, name=algorithm.name))
        config = of_clicks(config) if partial else config
        config = replace(config, data=replace(config.data, micrographs=(), labels=None, labels_are=partly))
        picked = algorithm.teacher == "picks" and partly == "partial"  # then it is the labelled ones that are picked
        taught |= pool if algorithm.strong_views and not picked else set()
        known = collection.by_name()
        chosen, tested = (tuple(known[n] for n in sorted(names)) for names in (taught, division.test))
        cell = Cell(data, row, amount, seed, config, labels, chosen, tested, start)
        truth = [collection.picks[m.name] for m in tested]
        cells[data, row, amount, seed] = replace(cell, key=_key(cell, truth, collection.diameter_px))
    return list(cells.values()), divisions


def algorithm_of(config: RunConfig, *, partial: bool) -> Algorithm:
    """Return the algorithm that these settings ask for, with labels that leave particles out or not."""
    name = stands_for(config.algorithm.name, complete=not partial)
    return make_algorithm(name, config.algorithm.options, config.loss)


def _key(cell: Cell, truth: Iterable[Picks], diameter_px: float) -> str:
    """Identify all that decides what a run ends in; names of rows and of data sets do not.

    Where labels are complete ``auto`` is known by what it stands for, so that it shares the runs of a row of that name.
    """
    settings = json.dumps(plain(asdict(cell.config)), sort_keys=True)
    digest = hashlib.blake2b(f"{__version__} {settings} {diameter_px} {cell.start}\n".encode(), digest_size=8)
    for role, micrographs in (("teaches", cell.micrographs), ("tests", cell.test)):
        for m in micrographs:
            about = m.path.stat()
            digest.update(f"{role} {m.name} {m.pixel_size_angstrom} {about.st_size} {about.st_mtime_ns}\n".encode())
    digest.update((labels_digest(cell.labels) + labels_digest(truth)).encode())
    return digest.hexdigest()


def labels_digest(labels: Iterable[Picks]) -> str:
    """Return a name for labels: where they are, on which micrographs."""
    digest = hashlib.blake2b(digest_size=8)
    for picks in labels:
        digest.update(f"{picks.micrograph} {len(picks)}\n".encode() + picks.xy.tobytes())
    return digest.hexdigest()


def write_plan(
    folder: Path,
    study: Study,
    cells: Sequence[Cell],
    divisions: Mapping[str, Division],
    collections: Mapping[str, Collection],
) -> None:
    """Write the study, the roles of its micrographs, the labels of the test and the list of its runs.

    Raises
    ------
    InputError
        If the folder holds a study of the same data with other roles: figures would not compare.
    """
    for name, division in divisions.items():
        path, text = folder / "splits" / f"{name}.json", json.dumps(asdict(division), indent=1) + "\n"
        if path.exists() and path.read_text(encoding="utf-8") != text:
            raise InputError(
                path, "roles", found="others than the micrographs and labels now give", expected="the same",
                remedy="The data or the test micrographs have changed: begin a study in a new folder.",
            )  # fmt: skip
        write_text(path, text)
    for data, collection in collections.items():
        tested = divisions[f"{data}_{study.seeds[0]}"].test
        shapes = {m.name: m.shape for m in collection.micrographs if m.name in tested}
        truth = PickSet(tuple(collection.picks[n] for n in tested), diameter_px=collection.diameter_px, shapes=shapes)
        write_picks(truth_path(folder, data), truth, counted_only=False)
    study.save(folder / "study.toml")
    listed = {"version": __version__, "cells": [cell.place | {"key": cell.key} for cell in cells]}
    write_text(folder / "cells.json", json.dumps(listed, indent=1) + "\n")


def truth_path(folder: Path, data: str) -> Path:
    """Return where the labels of the test micrographs of a data set are."""
    return folder / "splits" / f"{data}_test.star"
