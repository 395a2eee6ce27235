"""What is held out from training: its share, and that areas mean one thing for labels and pixels."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verglas.holdout import FEWEST_MICROGRAPHS, Area, Holdout, plan, training_names
from verglas.types import Collection, Grid, Image, Micrograph, Picks, Split


def collection(*labels: int, split: Split | None = None, unlabelled: int = 3) -> Collection:
    """Micrographs m0, m1, ... with so many labels each, and some without."""
    generator = np.random.default_rng(0)
    picks = {
        f"m{k}": Picks(f"m{k}", generator.uniform(0, (800, 600), (n, 2)), np.ones(n)) for k, n in enumerate(labels)
    }
    names = [*picks, *(f"u{k}" for k in range(unlabelled))]
    return Collection(tuple(Micrograph(n, Path(f"{n}.mrc"), (600, 800)) for n in names), picks, 50.0, split=split)


def held(data: Collection, holdout: Holdout) -> dict[str, int]:
    return {name: len(holdout.inside(data.picks[name])) for name in holdout.areas}


# --- few micrographs: strips ---


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
@pytest.mark.parametrize("n", [1, 2, FEWEST_MICROGRAPHS - 1])
@pytest.mark.parametrize("seed", range(6))
def test_of_few_micrographs_each_gives_its_share(share: float, n: int, seed: int) -> None:
    data = collection(*[200] * n)
    holdout = plan(data, share, np.random.default_rng(seed))
    assert set(holdout.areas) == set(data.picks)
    for name, count in held(data, holdout).items():
        assert count == pytest.approx(200 * share, abs=2)
        assert holdout.areas[name].partial
    assert f"({sum(held(data, holdout).values())} labels)" in holdout.how


def test_strips_lie_on_every_side() -> None:
    data = collection(100)
    strips = [plan(data, 0.25, np.random.default_rng(seed)).areas["m0"] for seed in range(30)]
    assert {(strip.axis, np.isfinite(strip.low)) for strip in strips} == {(a, b) for a in (0, 1) for b in (False, True)}


@given(st.integers(2, 12), st.floats(0.05, 0.6), st.integers(0, 100))
@settings(max_examples=80, deadline=None)
def test_both_sides_have_labels(n: int, share: float, seed: int) -> None:
    data = collection(n)
    holdout = plan(data, share, np.random.default_rng(seed))
    assert 0 < held(data, holdout)["m0"] < n


@pytest.mark.parametrize("seed", range(8))
def test_a_single_label_teaches(seed: int) -> None:
    holdout = plan(collection(1), 0.25, np.random.default_rng(seed))
    assert dict(holdout.areas) == {}
    assert "too few labels" in holdout.how
    assert set(plan(collection(1, 40), 0.25, np.random.default_rng(seed)).areas) == {"m1"}


def test_micrographs_seen_to_be_empty_have_no_strip() -> None:
    holdout = plan(collection(50, 0, 50), 0.25, np.random.default_rng(0))
    assert set(holdout.areas) == {"m0", "m2"}
    assert "each of 2 labelled micrographs" in holdout.how


# --- enough micrographs: whole ones ---


@pytest.mark.parametrize(("n", "share", "count"), [(4, 0.25, 1), (8, 0.25, 2), (10, 0.5, 5), (4, 0.0, 1), (5, 1.0, 4)])
def test_of_enough_micrographs_whole_ones_are_held_out(n: int, share: float, count: int) -> None:
    data = collection(*[20] * n)
    holdout = plan(data, share, np.random.default_rng(0))
    assert len(holdout.areas) == count
    assert not any(area.partial for area in holdout.areas.values())
    assert set(held(data, holdout).values()) == {20}
    assert holdout.how == f"{count} of {n} labelled micrographs"
    assert all(type(name) is str for name in holdout.areas)


@pytest.mark.parametrize("seed", range(10))
def test_validation_has_labels_though_most_micrographs_are_empty(seed: int) -> None:
    data = collection(*[0] * 12, *[10] * 4)
    holdout = plan(data, 0.25, np.random.default_rng(seed))
    assert sum(held(data, holdout).values()) == 10
    assert len(holdout.areas) == 1 + 3, "a quarter of either sort"


def test_the_generator_decides_which() -> None:
    data = collection(*[20] * 8)
    plans = [frozenset(plan(data, 0.25, np.random.default_rng(seed)).areas) for seed in range(20)]
    assert plans[0] == frozenset(plan(data, 0.25, np.random.default_rng(0)).areas)
    assert len(set(plans)) > 5
    assert frozenset.union(*plans) == set(data.picks)


def test_the_order_of_micrographs_does_not_matter() -> None:
    data = collection(*[20] * 8)
    turned = Collection(data.micrographs[::-1], dict(reversed(data.picks.items())), data.diameter_px)
    one, other = (set(plan(c, 0.25, np.random.default_rng(3)).areas) for c in (data, turned))
    assert one == other


# --- a split of the data's own ---


def test_the_datas_own_split_is_respected() -> None:
    split = Split(labelled=("m0", "m1", "m2", "m3"), validation=("m4",), test=("m5",))
    data = collection(*[20] * 6, split=split)
    holdout = plan(data, 0.25, np.random.default_rng(0))
    assert dict(holdout.areas) == {"m4": Area()}
    assert training_names(data) == ("m0", "m1", "m2", "m3")


def test_what_is_kept_for_the_test_is_not_validated_on() -> None:
    split = Split(labelled=("m0", "m1", "m2", "m3"), test=("m4", "m5"))
    data = collection(*[20] * 6, split=split)
    for seed in range(20):
        assert not plan(data, 0.5, np.random.default_rng(seed)).areas.keys() & {"m4", "m5"}


def test_without_a_split_all_labelled_micrographs_teach() -> None:
    assert training_names(collection(3, 0, 5)) == ("m0", "m1", "m2")


# --- areas ---


@given(
    st.sampled_from([0, 1]),
    st.floats(-50, 900),
    st.booleans(),
    st.builds(Grid, st.floats(-5, 5), st.floats(-5, 5), st.floats(1, 12), st.floats(1, 12)),
)
@settings(max_examples=60, deadline=None)
def test_pixels_and_labels_agree_on_what_lies_inside(axis: int, border: float, far: bool, grid: Grid) -> None:
    area = Area(axis, border, np.inf) if far else Area(axis, -np.inf, border)
    image = Image(np.zeros((40, 60), np.float32), grid, np.ones((40, 60), bool))
    rows, columns = np.mgrid[:40, :60]
    xy = grid.to_micrograph(np.stack([columns.ravel(), rows.ravel()], 1).astype(float))
    clear = np.abs(xy[:, axis] - border) > 1e-9
    np.testing.assert_array_equal(area.mask(image).ravel()[clear], area.holds(xy)[clear])


def test_a_strip_between_two_lines() -> None:
    area = Area(1, 10.0, 20.0)
    xy = np.array([[0.0, 9.9], [0.0, 10.0], [99.0, 19.9], [0.0, 20.0]])
    assert area.holds(xy).tolist() == [False, True, True, False]
    assert area.partial
    assert not Area().partial
    assert Area().holds(xy).all()
