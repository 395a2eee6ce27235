"""The plan of a study: micrographs have one role each, small amounts are inside large ones, a run is what it is of."""

import copy
import itertools
import os
import re
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from toy import DIAMETER, write_toy
from verglas.errors import InputError
from verglas.io.collections import collect
from verglas.study import Amount, Study, divide, labels_of, planned, refuse_twins, write_plan
from verglas.types import Collection, Micrograph, Picks, Split

ROOT = Path(__file__).parents[1]
TREE: dict[str, Any] = {
    "data": {"toy": {"micrographs": ["mics"], "labels": "labels", "diameter_px": DIAMETER}},
    "rows": {"supervised": {"algorithm": {"name": "supervised"}}, "fixmatch": {"algorithm": {"name": "fixmatch"}}},
    "ratios": [0.2, 0.5], "seeds": [0, 1],
}  # fmt: skip


def study(**changes: Any) -> Study:
    return Study.of({**copy.deepcopy(TREE), **changes}, "study.toml")


def made(counts: list[int], unlabelled: int = 0) -> Collection:
    """Return a collection with so many labels on each micrograph."""
    names = [f"m{k:03}" for k in range(len(counts) + unlabelled)]
    picks = {
        name: Picks(name, np.arange(2.0 * n).reshape(n, 2), np.ones(n)) for name, n in zip(names, counts, strict=False)
    }
    return Collection(tuple(Micrograph(n, Path(n), (999, 999)) for n in names), MappingProxyType(picks), DIAMETER)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_toy(tmp_path, micrographs=7, labelled=6)


def collected(data: Path) -> dict[str, Collection]:
    return {"toy": collect([data / "mics"], data / "labels", diameter_px=DIAMETER).collection}


# --- roles

counted = some.lists(some.integers(0, 40), min_size=4, max_size=60).filter(lambda counts: min(counts) > 0)


@given(counts=counted, seed=some.integers(0, 99), extra=some.integers(0, 3))
@settings(max_examples=25, deadline=None)
def test_each_micrograph_has_one_role_and_the_same_call_gives_the_same(
    counts: list[int], seed: int, extra: int
) -> None:
    collection = made(counts, extra)
    division = divide(collection, seed)
    roles = [*division.test, *division.training, *division.unlabelled, *division.unused]
    assert sorted(roles) == sorted(collection.by_name())
    assert len(division.test) == max(1, round(len(counts) / 4))
    assert len(division.unlabelled) == extra
    assert divide(collection, seed) == division
    assert divide(collection, seed + 1).test == division.test, "the test is the same for all seeds"


@given(counts=counted, seed=some.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_smaller_amounts_are_inside_larger_ones(counts: list[int], seed: int) -> None:
    collection = made(counts)
    division = divide(collection, seed)
    ratios = [Amount("ratio", r) for r in (0.01, 0.05, 0.1, 0.5, 1.0)]
    available = sum(counts[int(name[1:])] for name in division.training)
    clicks = [Amount("particles", n) for n in (1, 3, 10, 30) if n <= available]
    for amounts in (ratios, clicks):
        for few, many in itertools.pairwise([labels_of(collection, division, a, seed, 3).by_name() for a in amounts]):
            assert few.keys() <= many.keys() <= set(division.training)
            for name, picks in few.items():
                assert {*map(tuple, picks.xy)} <= {*map(tuple, many[name].xy)}


@given(seed=some.integers(0, 999), size=some.integers(20, 200))
@settings(max_examples=25, deadline=None)
def test_every_beginning_is_spread_over_the_counts(seed: int, size: int) -> None:
    division = divide(made(list(range(1, size + 1))), seed)
    rank = {name: k / len(division.training) for k, name in enumerate(sorted(division.training))}
    places = [rank[name] for name in division.training]
    for length in range(4, len(places) + 1):
        gaps = np.diff([0, *sorted(places[:length]), 1])
        assert gaps.max() < 3 / length + 2 / len(places), "a random order leaves gaps of log(n)/n and more"
        assert abs(np.mean(places[:length]) - 0.5) < 0.2


def test_seeds_label_other_micrographs() -> None:
    collection = made(list(range(10, 50)))
    assert len({divide(collection, seed).training[0] for seed in range(8)}) > 3


def test_the_first_labelled_micrograph_bears_particles() -> None:
    collection = made([0] * 20 + [5, 6, 7])
    assert all(int(divide(collection, seed, ["m022"]).training[0][1:]) >= 20 for seed in range(10))


def test_given_test_micrographs_are_those_of_the_test() -> None:
    division = divide(made([5] * 8), 0, ["m003", "folder/m001.mrc"])
    assert division.test == ("m001", "m003")
    with pytest.raises(InputError, match="test is m999"):
        divide(made([5] * 8), 0, ["m999"])
    for test, role in (("m000", "training"), ("m001", "test")):
        with pytest.raises(InputError, match=f"{role} micrographs is none"):
            divide(made([5, 0]), 0, [test])


def test_the_split_of_the_data_is_kept_and_its_validation_is_left_out() -> None:
    collection = made([5] * 6, 1)
    names = [*collection.by_name()]
    split = Split(labelled=tuple(names[:3]), validation=(names[3],), test=tuple(names[4:6]), unlabelled=(names[6],))
    division = divide(replace(collection, split=split), 0)
    assert set(division.training) == {*names[:3]}
    assert (division.test, division.unused, division.unlabelled) == (tuple(names[4:6]), (names[3],), (names[6],))
    fewer = divide(replace(collection, split=split), 0, [names[4]])
    assert names[5] in fewer.unused, "a test micrograph of the data set never teaches"


def test_clicked_particles_come_in_turn_from_a_few_micrographs() -> None:
    collection = made([12] * 8)
    division = divide(collection, 0)
    clicked = labels_of(collection, division, Amount("particles", 10), 0, 3)
    assert sorted(map(len, clicked)) == [3, 3, 4]
    assert {p.micrograph for p in clicked} == {*division.training[:3]}
    more = labels_of(collection, division, Amount("particles", 40), 0, 3)
    assert {p.micrograph for p in more} == {*division.training[:6]}, "as many more as are needed"
    with pytest.raises(InputError, match="28 too few"):
        labels_of(collection, division, Amount("particles", 100), 0, 3)


def test_more_micrographs_than_there_are_is_an_error() -> None:
    collection = made([5] * 8)
    with pytest.raises(InputError, match="micrographs_9 is 6 micrographs"):
        labels_of(collection, divide(collection, 0), Amount("micrographs", 9), 0, 3)


def test_two_files_of_one_content_are_refused(data: Path) -> None:
    collection = collected(data)["toy"]
    refuse_twins(collection.micrographs)
    (data / "mics" / "copy.mrc").write_bytes((data / "mics" / "m3.mrc").read_bytes())
    with pytest.raises(InputError, match=r"m3.*each micrograph once"):
        refuse_twins(collected(data)["toy"].micrographs)


# --- the matrix


def test_all_places_of_the_matrix_are_planned_once(data: Path) -> None:
    cells, divisions = planned(study(), collected(data))
    places = [(cell.row, cell.amount.value, cell.seed) for cell in cells]
    assert sorted(places) == sorted(itertools.product(("supervised", "fixmatch"), (0.2, 0.5), (0, 1)))
    assert len({cell.key for cell in cells}) == 8
    for cell in cells:
        division, taught = divisions[f"toy_{cell.seed}"], {m.name for m in cell.micrographs}
        alone = cell.row == "supervised"
        assert taught == ({*cell.labels.by_name()} if alone else {*division.training, *division.unlabelled})
        assert not taught & {m.name for m in cell.test}
        assert cell.config.train.seed == cell.seed


def test_with_the_test_only_its_pixels_teach_and_only_where_there_is_no_label_to_learn_from(data: Path) -> None:
    rest, transductive = (planned(study(pool=pool), collected(data))[0] for pool in ("rest", "with-test"))
    for a, b in zip(rest, transductive, strict=True):
        seen = {m.name for m in b.micrographs} & {m.name for m in b.test}
        assert seen == (set() if b.row == "supervised" else {m.name for m in b.test})
        assert (a.key == b.key) == (b.row == "supervised")
        assert not seen & {*b.labels.by_name()}


@pytest.mark.parametrize(
    ("algorithm", "are"), [("supervised", "complete"), ("pu", "partial"), ("auto", "partial"), ("fixmatch", "complete")]
)
def test_clicks_are_partial_labels_for_algorithms_that_take_them(data: Path, algorithm: str, are: str) -> None:
    clicks = study(rows={"a": {"algorithm": {"name": algorithm}}}, ratios=[0.5], particles=[20])
    cells = planned(clicks, collected(data))[0]
    assert {cell.amount.kind: cell.config.data.labels_are for cell in cells} == {"particles": are, "ratio": "complete"}
    assert {cell.config.search.edge_px for cell in cells} == {"auto"}
    begun = {cell.amount.kind: cell.config.train.start_from for cell in cells}
    assert begun == {"particles": "scratch", "ratio": "auto"}


def test_the_default_shares_the_runs_of_what_it_stands_for_where_labels_are_complete(data: Path) -> None:
    rows = {name: {"algorithm": {"name": name}} for name in ("auto", "supervised", "pu", "self_training")}
    cells, _ = planned(study(rows=rows, ratios=[0.5], particles=[20], seeds=[0]), collected(data))
    keys = {(cell.row, cell.amount.kind): cell.key for cell in cells}
    assert keys["auto", "ratio"] == keys["supervised", "ratio"]
    assert len({keys[row, "particles"] for row in rows}) == 4


def test_a_second_stage_comes_after_its_first_and_never_has_fewer_labels(data: Path) -> None:
    rows = {
        "third": {"start": {"row": "second", "amount": 0.2}},
        "second": {"start": {"row": "first", "amount": 0.2}, "train": {"steps": 9}},
        "first": {},
    }
    cells, _ = planned(study(rows=rows, ratios=[0.1, 0.2, 0.9]), collected(data))
    before = set()
    for cell in cells:
        assert cell.start is None or cell.start in before
        before.add(cell.key)
    assert {cell.amount.value for cell in cells if cell.row != "first"} == {0.2, 0.9}


def test_amounts_that_are_the_same_micrographs_are_the_same_run(data: Path) -> None:
    cells, _ = planned(study(ratios=[0.01, 0.02], micrographs=[1]), collected(data))
    assert len(cells) == 12
    assert len({cell.key for cell in cells}) == 4


def touched(data: Path) -> None:
    os.utime(data / "mics" / "m1.mrc", (1, 1))


def moved(data: Path) -> None:
    for path in (data / "labels").iterdir():
        path.write_text(path.read_text().replace("x,y\n", "x,y\n80,80\n"))


def left(data: Path) -> None:
    """Change nothing."""


@pytest.mark.parametrize(
    ("change", "changes", "same"),
    [
        (left, {}, True),
        (left, {"rows": {"other_name": TREE["rows"]["supervised"], "fixmatch": TREE["rows"]["fixmatch"]}}, True),
        (left, {"set": ["train.steps=399"]}, False),
        (left, {"settings": {"loss": {"dice": 0.5}}}, False),
        (left, {"seeds": [2, 3]}, False),
        (touched, {}, False),
        (moved, {}, False),
    ],
)
def test_a_run_is_known_by_all_that_matters_and_by_nothing_else(
    data: Path, change: Callable[[Path], None], changes: dict[str, Any], same: bool
) -> None:
    before = [cell.key for cell in planned(study(), collected(data))[0] if cell.row == "fixmatch"]
    change(data)
    after = [cell.key for cell in planned(study(**changes), collected(data))[0] if cell.row == "fixmatch"]
    assert (before == after) == same
    assert same or not set(before) & set(after)


def test_a_study_keeps_its_roles(data: Path, tmp_path: Path) -> None:
    folder, collections = tmp_path / "study", collected(data)
    cells, divisions = planned(study(), collections)
    write_plan(folder, study(), cells, divisions, collections)
    assert Study.load(folder / "study.toml") == study()
    more = study(seeds=[0, 1, 2])
    write_plan(folder, more, *planned(more, collections), collections)
    other = study(test={"toy": ["m0"]})
    with pytest.raises(InputError, match="begin a study in a new folder"):
        write_plan(folder, other, *planned(other, collections), collections)


def test_the_example_of_the_docs_is_a_study() -> None:
    (text,) = re.findall(r"```toml\n(.*?)```", (ROOT / "docs" / "study.md").read_text(encoding="utf-8"), re.S)
    example = Study.of(tomllib.loads(text), "docs")
    assert len(list(example.cells())) == 3 * 2 * 3
    assert example.config("bgal", "focal").loss.focal == 0.7


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ratio": [0.1]}, "setting is ratio"),
        ({"ratios": [0.0]}, "ratios.0 is 0.0"),
        ({"ratios": []}, "amounts is none"),
        ({"ratios": [0.1, 0.10]}, "amounts is ratio_0.1 twice"),
        ({"seeds": [1, 1]}, "seeds is 1 twice"),
        ({"rows": {}}, "rows is none"),
        ({"rows": {"../a": {}}}, "name is '../a'"),
        ({"rows": {"a": {"train": {"step": 3}}}}, "Did you mean train.steps"),
        ({"rows": {"a": {"train": {"seed": 3}}}}, "the study sets these"),
        ({"rows": {"a": {"data": {"labels": "else"}}}}, "the study sets these"),
        ({"set": ["train.start_from=run"]}, "no run in train.start_from: the study sets these"),
        ({"rows": {"a": {"start": {"row": "b", "amount": 0.2}}}}, "rows.a.start is"),
        ({"rows": {"a": {"start": {"row": "a", "amount": 0.2}}}}, "a circle"),
        ({"rows": {"a": {"start": {"row": "b", "amount": 0.3}}, "b": {}}}, r"start.amount is 0\.3"),
        ({"data": {"toy": {"diameter": 5}}}, "data.diameter"),
        ({"test": {"tyo": ["m1"]}}, "test is tyo"),
        ({"pool": "all"}, "pool is 'all'"),
    ],
)
def test_a_study_that_makes_no_sense_is_refused_with_the_place(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        study(**changes)
