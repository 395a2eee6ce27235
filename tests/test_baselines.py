"""Chance is what geometry and earlier figures say, and the picker without training sees dark blobs only."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from made_picks import DIAMETER, SIDE, collection, labels, shapes_of
from verglas.baselines import blob_baseline, chance
from verglas.evaluate import evaluate
from verglas.io.micrographs import read_image, read_micrograph
from verglas.io.picks import read_picks
from verglas.matching import match
from verglas.types import Grid, Image, Micrograph, Picks, PickSet

# --- pickers that look at nothing


def chance_of(
    truth: dict[str, Picks], shapes: dict[str, tuple[int, int]], diameter_px: float = DIAMETER
) -> dict[str, Any]:
    return chance(truth, shapes, diameter_px=diameter_px, shares=(0.2, 0.3, 0.5), seed=0)


def test_baselines_know_chance():
    """Few labels on a wide field: a random pick is right with the share that discs of the radius cover."""
    _, truth = collection(10)
    base = chance_of(truth, shapes_of(truth))
    n, area = sum(map(len, truth.values())) / 10, SIDE**2
    for share in (0.2, 0.3, 0.5):
        covered = 1 - np.exp(-np.pi * n * (share * DIAMETER) ** 2 / area)
        assert base["random"][f"{share:g}"]["f1"] == pytest.approx(covered, rel=0.35)
        assert base["grid"][f"{share:g}"]["f1"] > base["random"][f"{share:g}"]["f1"]
        assert base["grid"][f"{share:g}"]["ap"] < base["grid"][f"{share:g}"]["f1"]
    prior = base["all_positive"]["prior"]
    assert prior == pytest.approx(1 - np.exp(-np.pi * n * (DIAMETER / 2) ** 2 / area), rel=0.1)
    assert base["all_positive"]["pixel_f1"] == pytest.approx(2 * prior / (1 + prior))


def test_a_regular_truth_is_found_by_the_grid():
    x = np.arange(DIAMETER / 2, SIDE, DIAMETER) - 0.5
    truth = {"mic": labels("mic", np.stack(np.meshgrid(x, x), -1).reshape(-1, 2))}
    base = chance_of(truth, {"mic": (SIDE, SIDE)})
    assert base["grid"]["0.2"]["f1"] == 1


def test_random_picks_fill_the_micrograph_and_no_more():
    """Labels crowd the right end of a wide field: points thrown on a tall one would miss them all."""
    truth = {"mic": labels("mic", np.random.default_rng(9).uniform((900, 0), (1000, 100), (300, 2)))}
    base = chance_of(truth, {"mic": (100, SIDE)})
    assert 0.05 < base["random"]["0.5"]["f1"] < 0.15


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "random", "grid"),
    [
        ("bgal_10017", 0.32, {"0.5": 0.48, "0.3": 0.22, "0.2": 0.10}),
        ("cryoppp_10059", 0.44, {"0.5": 0.64, "0.3": 0.36, "0.2": 0.15}),
        ("cryoppp_10947", 0.49, {"0.5": 0.67, "0.3": 0.39, "0.2": 0.18}),
        ("klh", 0.21, {"0.5": 0.28, "0.3": 0.11, "0.2": 0.05}),
    ],
)
def test_chance_on_real_sets_is_as_published(real_data, name, random, grid):
    """Figures of earlier, independent code; it placed its points within a margin, hence the tolerance."""
    meta = json.loads((real_data / name / "meta.json").read_text())
    truth = read_picks(real_data / name / "coords").by_name()
    assert set(meta["test"]) < set(truth)
    w, h = meta["size_wh"]
    base = chance_of(truth, dict.fromkeys(truth, (h, w)), float(meta["diameter_px"]))
    assert base["random"]["0.5"]["f1"] == pytest.approx(random, abs=0.05)
    for key, expected in grid.items():
        assert base["grid"][key]["f1"] == pytest.approx(expected, abs=0.03)


# --- the picker without training


def dark_discs(rng: np.random.Generator, contrast: float) -> tuple[np.ndarray, np.ndarray]:
    every = np.arange(30.0, 280, 40)
    centres = np.stack(np.meshgrid(every, every), axis=-1).reshape(-1, 2)
    centres += rng.uniform(-8, 8, centres.shape)
    rows, columns = np.mgrid[:300, :300]
    inside = np.any([(columns - x) ** 2 + (rows - y) ** 2 <= 10**2 for x, y in centres], axis=0)
    return centres, rng.normal(0, 1, (300, 300)) + contrast * inside


def seen(data: np.ndarray, grid: Grid | None = None) -> Image:
    return Image(data.astype(np.float32), grid or Grid(), np.ones(data.shape, bool))


def blobs_of(image: Image) -> Picks:
    return blob_baseline(image, Micrograph("discs", Path("discs.mrc"), (300, 300)), diameter_px=20.0)


def test_the_baseline_finds_dark_discs_and_ranks_bright_ones_last():
    centres, dark = dark_discs(np.random.default_rng(9), -1.0)
    found = blobs_of(seen(dark))
    best = found.where(np.arange(len(found)) < len(centres))
    assert match(best.xy, best.score, centres, 6.0)[0].mean() > 0.95
    assert found.score.max() < 1
    _, bright = dark_discs(np.random.default_rng(9), 1.0)
    of_bright = blobs_of(seen(bright))
    assert match(of_bright.xy[: len(centres)], of_bright.score[: len(centres)], centres, 6.0)[0].mean() < 0.1


def test_the_baseline_does_not_depend_on_offset_and_gain():
    _, dark = dark_discs(np.random.default_rng(10), -1.0)
    np.testing.assert_allclose(blobs_of(seen(40 * dark + 700)).score, blobs_of(seen(dark)).score, atol=1e-3)


def test_the_baseline_looks_for_round_blobs_on_a_grid_with_unequal_steps():
    centres, dark = dark_discs(np.random.default_rng(12), -1.0)
    best = blobs_of(seen(dark[::4], Grid(dx=1.0, dy=4.0))).xy[: len(centres)]
    assert match(best, np.ones(len(best)), centres, 6.0)[0].mean() > 0.85


def test_the_baseline_ignores_bad_areas_and_flat_images():
    _, dark = dark_discs(np.random.default_rng(11), -1.0)
    valid = np.ones(dark.shape, bool)
    valid[:, 150:], dark[:, 150:] = False, -50.0
    assert (blobs_of(Image(dark, Grid(), valid)).xy[:, 0] < 150).all()
    assert len(blobs_of(seen(np.full((50, 50), 3.0)))) == 0
    assert len(blobs_of(Image(dark, Grid(), np.zeros_like(valid)))) == 0


@pytest.mark.data
def test_the_baseline_beats_chance_on_real_micrographs(real_data):
    """At 0.3 D a square grid reaches F1 0.22 and a second annotator 0.83."""
    folder = real_data / "bgal_10017"
    test = json.loads((folder / "meta.json").read_text())["test"]
    truth = {name: p for name, p in read_picks(folder / "coords").by_name().items() if name not in test}
    truth = {name: truth[name] for name in sorted(truth)[:3]}
    micrographs = [read_micrograph(folder / "images" / f"{name}.png") for name in truth]
    picks = PickSet(tuple(blob_baseline(seen(read_image(m)), m, diameter_px=27.0) for m in micrographs))
    found = evaluate(picks, truth, diameter_px=27.0, bootstraps=2).pooled
    assert 0.6 < found["at_radius"]["0.3"]["best_f1"] < 0.85
