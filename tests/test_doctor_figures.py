"""The drawings of checks are valid SVG, the same each time, and show what they were given."""

import xml.etree.ElementTree as ET

import numpy as np
import pytest

from verglas.doctor import figures

RNG = np.random.default_rng(0)
TARGET = np.arange(400) < 60
BELIEF = np.clip(RNG.normal(0.3, 0.1, 400) + 0.4 * TARGET, 0, 1)
MAPS = [("first", RNG.random((30, 40))), ("second", RNG.random((300, 200)).astype(np.float32))]

DRAWINGS = {
    "logits": lambda: figures.logits(TARGET, BELIEF, threshold=0.4),
    "reliability": lambda: figures.reliability(np.array([0.1, 0.6]), np.array([0.2, 0.5]), np.array([90.0, 10.0])),
    "keep_rates": lambda: figures.keep_rates(np.array([0.5, 0.9]), np.array([1.0, 0.1]), np.array([1.0, 0.8])),
    "over_steps": lambda: figures.over_steps(
        np.array([50, 100]), {"ap": np.array([0.2, np.nan])}, marks={"in": 60}, limits=(0, 1)
    ),
    "sweep": lambda: figures.sweep(np.array([0.9, 0.2]), np.array([0.3, 0.6]), chosen=0.4, interval=(0.3, 0.5)),
    "maps": lambda: figures.maps(MAPS),
}


@pytest.mark.parametrize("name", DRAWINGS)
def test_a_drawing_is_svg_on_its_own_and_the_same_each_time(name):
    drawn = DRAWINGS[name]()
    assert ET.fromstring(drawn).tag == "{http://www.w3.org/2000/svg}svg"
    assert drawn == DRAWINGS[name]()
    assert len(drawn) < 80_000
    assert "http://www.w3.org/2000/svg" in drawn
    assert "<!DOCTYPE" not in drawn


@pytest.mark.parametrize(
    "other",
    [
        lambda: figures.logits(TARGET, BELIEF / 2, threshold=0.4),
        lambda: figures.logits(~TARGET, BELIEF, threshold=0.4),
        lambda: figures.logits(TARGET, BELIEF, threshold=0.6),
        lambda: figures.logits(TARGET, BELIEF),
    ],
)
def test_a_drawing_depends_on_all_that_it_is_given(other):
    assert other() != DRAWINGS["logits"]()


def test_beliefs_of_zero_and_one_and_no_pixels_at_all_can_be_drawn():
    assert "<svg" in figures.logits(np.array([True, False]), np.array([1.0, 0.0]), threshold=1.0)
    assert "<svg" in figures.logits(np.zeros(0, bool), np.zeros(0))


def test_large_maps_are_coarsened_and_constant_ones_can_be_drawn():
    small, large = (figures.maps([("map", RNG.random((n, n)))]) for n in (96, 960))
    assert len(large) < 2 * len(small)
    assert figures.maps([("constant", np.ones((8, 8)))]).count("<image") == 1
