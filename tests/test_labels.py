"""Labels that do not fit their micrographs are named before anything is trained."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from verglas.labels import label_facts, margin_px
from verglas.types import Collection, Grid, Image, Micrograph, Picks

H, W, DIAMETER = 240, 320, 24.0
GRID = Grid(0.5, 0.5, 2.0, 2.0)


def particles(seed: int, n: int = 25) -> np.ndarray:
    return np.random.default_rng(seed).uniform(12, (W - 12, H - 12), (n, 2))


def picture(xy: np.ndarray, seed: int, depth: float = 2.5) -> Image:
    """Dark blobs in noise, prepared at half the size."""
    rows, columns = np.mgrid[: H // 2, : W // 2]
    data = np.random.default_rng(100 + seed).normal(size=rows.shape)
    for x, y in GRID.from_micrograph(xy):
        data -= depth * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 3.0**2))
    return Image(data.astype(np.float32), GRID, np.ones(rows.shape, bool))


WAYS = {
    "as given": lambda x, y: (x, y),
    "y flipped": lambda x, y: (x, H - 1 - y),
    "x flipped": lambda x, y: (W - 1 - x, y),
    "rotated 180": lambda x, y: (W - 1 - x, H - 1 - y),
    "x y swapped": lambda x, y: (y, x),
}


def case(
    way: str = "as given", *, n: int = 3, diameter: float = DIAMETER, depth: float = 2.5
) -> tuple[Collection, dict[str, Image]]:
    names = [f"m{k}" for k in range(n)]
    images = {name: picture(particles(k), k, depth) for k, name in enumerate(names)}
    picks = {
        name: Picks(name, np.column_stack(WAYS[way](*particles(k).T)), np.ones(25)) for k, name in enumerate(names)
    }
    micrographs = tuple(Micrograph(name, Path(f"{name}.mrc"), (H, W)) for name in names)
    return Collection(micrographs, picks, diameter), images


def test_good_labels_give_no_warning() -> None:
    facts = label_facts(*case())
    assert facts.warnings == ()
    assert facts.numbers["contrast_as_given"] < -10, "particles are dark"


@pytest.mark.parametrize("way", list(WAYS)[1:])
@pytest.mark.parametrize("n", [1, 3])
def test_turned_labels_are_named(way: str, n: int) -> None:
    facts = label_facts(*case(way, n=n))
    (sentence,) = facts.warnings
    assert f"fit the micrographs better {way} " in sentence
    assert "exported" in sentence


@pytest.mark.parametrize("depth", [2.5, -2.5])
def test_the_sign_of_the_contrast_is_not_presumed(depth: float) -> None:
    assert label_facts(*case(depth=depth)).warnings == ()
    assert "y flipped" in label_facts(*case("y flipped", depth=depth)).warnings[0]


def test_labels_that_say_nothing_are_doubted() -> None:
    data, images = case(depth=0.0)
    (sentence,) = label_facts(data, images).warnings
    assert "hardly differ from random positions" in sentence


@pytest.mark.parametrize(("factor", "warns"), [(1, False), (4, True)])
def test_a_diameter_that_covers_the_micrograph_is_doubted(factor: float, warns: bool) -> None:
    facts = label_facts(*case(diameter=factor * DIAMETER))
    assert any("on disk, not of a shrunken copy" in sentence for sentence in facts.warnings) == warns


def test_the_share_covered_is_that_of_discs() -> None:
    data, images = case(n=1)
    xy = np.array([[60.0, 60.0], [160.0, 60.0], [160.0, 180.0]])
    facts = label_facts(Collection(data.micrographs, {"m0": Picks("m0", xy, np.ones(3))}, DIAMETER), images)
    assert facts.numbers["largest_share_covered"] == pytest.approx(3 * np.pi * 12**2 / (H * W), rel=0.05)
    assert facts.numbers["median_nearest_neighbour_diameters"] == pytest.approx(100 / DIAMETER)


def test_what_there_is_is_counted() -> None:
    data, images = case()
    more = (*data.micrographs, Micrograph("u0", Path("u0.mrc"), (H, W)))
    picks = {**data.picks, "m2": Picks("m2", np.zeros((0, 2)), np.zeros(0))}
    numbers = label_facts(Collection(more, picks, DIAMETER), images).numbers
    assert (numbers["micrographs"], numbers["labelled"], numbers["labels"]) == (4, 3, 50)
    assert numbers["diameter_px"] == DIAMETER


def test_more_micrographs_make_surer() -> None:
    one, four = (abs(label_facts(*case(n=n)).numbers["contrast_as_given"]) for n in (1, 4))
    assert four == pytest.approx(2 * one, rel=0.3)


@pytest.mark.parametrize("labelled", [False, True])
def test_without_labels_or_pictures_nothing_is_claimed(labelled: bool) -> None:
    data, images = case()
    empty = {name: Picks(name, np.zeros((0, 2)), np.zeros(0)) for name in images}
    facts = label_facts(Collection(data.micrographs, empty if labelled else {}, DIAMETER), images)
    assert facts.warnings == ()
    assert facts.numbers["median_nearest_neighbour_diameters"] is None
    assert label_facts(data, {}).warnings == ()


def test_labels_outside_the_picture_do_no_harm() -> None:
    data, images = case(n=1)
    far = Picks("m0", np.concatenate([particles(0), [[1e6, -1e6]]]), np.ones(26))
    facts = label_facts(Collection(data.micrographs, {"m0": far}, DIAMETER), images)
    assert facts.warnings == ()


def _spread(count: int, margin: float, *, micrographs: int = 1, strays: int = 0, diameter: float = 30.0) -> Collection:
    """Return labels spread evenly but for a margin along the border, and a few that lie there all the same."""
    generator, shape = np.random.default_rng(0), (400, 500)
    made = tuple(Micrograph(f"m{n}", Path(f"m{n}.mrc"), shape) for n in range(micrographs))
    low, high = (margin, margin), (499 - margin, 399 - margin)
    picks = {one.name: Picks(one.name, generator.uniform(low, high, (count, 2)), np.ones(count)) for one in made}
    if strays:
        along = np.stack([generator.uniform(0, 499, strays), np.full(strays, 2.0)], 1)
        picks["m0"] = Picks("m0", np.concatenate([picks["m0"].xy, along]), np.ones(count + strays))
    return Collection(made, picks, diameter)


@pytest.mark.parametrize("strays", [0, 2])
def test_the_margin_that_labels_keep_is_found_though_a_few_lie_within(strays: int) -> None:
    for given in (_spread(600, 22.0, strays=strays), _spread(300, 22.0, micrographs=2, strays=strays)):
        assert 22.5 <= margin_px(given) < 23


@pytest.mark.parametrize(("complete", "width", "rarely"), [(True, 0, 0.02), (False, 3, 0.05)])
def test_labels_that_go_up_to_the_border_rarely_seem_to_keep_a_margin(
    complete: bool, width: float, rarely: float
) -> None:
    micrograph, generator = Micrograph("m", Path("m.mrc"), (400, 500)), np.random.default_rng(0)
    for count in (10, 30, 100, 300):
        margins = [
            margin_px(Collection((micrograph,), {"m": Picks("m", xy, np.ones(count))}, 30.0, complete=complete))
            for xy in generator.uniform((0, 0), (499, 399), (300, count, 2))
        ]
        assert np.mean(np.greater(margins, width)) < rarely


def test_clicks_tell_the_margin_without_the_gap_to_the_nearest_of_them() -> None:
    generator, (micrograph,) = np.random.default_rng(0), _spread(0, 0.0).micrographs
    clicked = [
        Collection((micrograph,), {"m0": Picks("m0", xy, np.ones(60))}, 30.0, complete=False)
        for xy in generator.uniform((22, 22), (477, 377), (100, 60, 2))
    ]
    told = [[margin_px(replace(one, complete=complete)) for one in clicked] for complete in (False, True)]
    assert np.median(told[0]) == pytest.approx(22, abs=0.5)
    assert np.median(told[1]) > 22.7


def test_a_margin_is_a_diameter_at_most_and_ten_clicks_say_nothing_of_one() -> None:
    assert margin_px(_spread(600, 80.0)) == 30.0
    assert margin_px(_spread(600, 80.0, diameter=50.0)) == 50.0
    assert margin_px(replace(_spread(30, 80.0), complete=False)) == 30.0
    assert margin_px(_spread(10, 80.0)) == 0.0
    nothing = Collection(
        (Micrograph("m", Path("m.mrc"), (400, 500)),), {"m": Picks("m", np.zeros((0, 2)), np.ones(0))}, 30
    )
    assert margin_px(nothing) == 0.0
