"""Figures are valid, the same for the same numbers, and say what they were given; circles sit on the particles."""

import base64
import io
import re
import subprocess
import sys
import threading
import xml.etree.ElementTree as ET
from itertools import combinations

import matplotlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow
from scipy.ndimage import gaussian_filter

from verglas import plots
from verglas.plots import Marks
from verglas.ranking import precision_recall_curve
from verglas.types import Grid, Image

SVG = "{http://www.w3.org/2000/svg}"
EMPTY = np.zeros(0)


def row(name: str, f1: float | None, precision: float = 0.6, recall: float = 0.7) -> dict:
    return {"micrograph": name, "f1": f1, "precision": precision, "recall": recall}


def curve() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    score = np.concatenate([rng.beta(5, 2, 80), rng.beta(1, 6, 200)])
    return precision_recall_curve(np.arange(280) < 80, score, 100)


def learning() -> str:
    step = np.arange(0, 400, 10)
    return plots.learning_curve(
        step, np.exp(-step / 100), {"rate": np.linspace(1, 0, 40), "gradient norm": np.ones(40)}
    )


def validating() -> str:
    step = np.array([50, 100, 150])
    return plots.validation_curve(step, np.array([0.2, 0.6, 0.5]), np.array([0.3, 0.6, 0.6]), chosen=100)


def recalling() -> str:
    return plots.precision_recall(*curve(), threshold=0.4, interval=(0.3, 0.5), chance={"grid": 0.48, "random": 0.3})


def scoring() -> str:
    score = np.linspace(0, 1, 500)
    return plots.score_histogram(score, score > 0.6, threshold=0.5, interval=(0.4, 0.55))


def comparing() -> str:
    return plots.by_micrograph([row("a", 0.7), row("b", 0.9)], pooled=0.8)


FIGURES = [learning, validating, recalling, scoring, comparing]


# --- figures


@pytest.mark.parametrize("draw", FIGURES)
def test_a_figure_is_svg_on_its_own_and_the_same_each_time(draw):
    text = draw()
    root = ET.fromstring(text)
    assert root.tag == f"{SVG}svg"
    assert text == draw()
    assert not re.search(r"<(script|metadata|image|foreignObject|!DOCTYPE)", text)
    assert not re.search(r'(href|src)="(?!#)', text)
    assert "url(" not in re.sub(r"url\(#", "", text)
    assert not list(root.iter(f"{SVG}text")), "text would need a font"
    assert len(text) < 150_000


def test_other_numbers_make_another_figure():
    step, loss = np.arange(50), np.linspace(1, 0.5, 50)
    first = plots.learning_curve(step, loss, {})
    other = loss.copy()
    other[20] = 2.0
    assert plots.learning_curve(step, other, {}) != first


def test_figures_leave_no_trace_in_matplotlib_and_may_be_drawn_at_once():
    before, alone = dict(matplotlib.rcParams), recalling()
    drawn: list[str] = []
    threads = [threading.Thread(target=lambda: drawn.append(recalling())) for _ in range(3)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert drawn == [alone] * 3
    assert dict(matplotlib.rcParams) == before


def test_a_users_style_changes_nothing():
    alone = validating()
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "text.usetex": False}):
        assert validating() == alone


def test_import_is_light_and_pyplot_stays_out():
    code = (
        "import sys, numpy as np; from verglas import plots; assert 'matplotlib' not in sys.modules;"
        "plots.validation_curve(np.array([1]), np.array([.5]), np.array([.5]));"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("n", [0, 1, 2])
def test_short_and_broken_curves_are_drawn(n):
    step, gap = np.arange(n), np.full(n, np.nan)
    for loss in (np.ones(n), gap, np.zeros(n)):
        ET.fromstring(plots.learning_curve(step, loss, {"rate": gap}))
        ET.fromstring(plots.validation_curve(step, loss, gap))


@given(
    st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=200),
    st.floats(-5, 5),
)
@settings(max_examples=50, deadline=None)
def test_smoothing_keeps_constants_and_stays_within_what_it_averages(values, constant):
    array = np.array(values)
    smooth = plots._smoothed(array)
    assert smooth.shape == array.shape
    assert smooth.min() >= array.min() - 1e-9
    assert smooth.max() <= array.max() + 1e-9
    assert plots._smoothed(np.full(len(array), constant)) == pytest.approx(constant)


def test_smoothing_keeps_a_line_straight_inside_and_halves_noise():
    line = np.arange(200.0)
    assert plots._smoothed(line)[10:-10] == pytest.approx(line[10:-10])
    noise = np.random.default_rng(0).normal(size=2000)
    assert plots._smoothed(noise).std() < 0.5 * noise.std()


class Recorder:
    """Axes that remember what was plotted."""

    def __init__(self) -> None:
        self.lines: list[tuple[np.ndarray, np.ndarray, dict]] = []

    def plot(self, x: object, y: object, *_: object, **style: object) -> None:
        self.lines.append((np.atleast_1d(x), np.atleast_1d(y), style))


@pytest.mark.parametrize("f1", [0.05, 0.48, 0.95])
def test_lines_of_equal_f1_are_that(f1):
    axes = Recorder()
    plots._iso_f1(axes, f1)
    recall, precision, _ = axes.lines[0]
    assert 2 * precision * recall / (precision + recall) == pytest.approx(f1)
    assert precision[0] == pytest.approx(1)
    assert recall[-1] == pytest.approx(1)


def test_the_operating_point_is_the_last_that_counts_and_its_stretch_what_the_interval_spans():
    precision, recall, score = (
        np.array([1, 0.9, 0.8, 0.7]),
        np.array([0.2, 0.4, 0.6, 0.8]),
        np.array([0.9, 0.7, 0.5, 0.3]),
    )
    axes = Recorder()
    plots._operating_point(axes, precision, recall, score, 0.5, (0.3, 0.8))
    stretch, point = axes.lines
    assert (point[0].item(), point[1].item()) == (0.6, 0.8)
    assert stretch[0].tolist() == [0.2, 0.4, 0.6, 0.8]
    axes = Recorder()
    plots._operating_point(axes, precision, recall, score, 0.45, (0.4, 0.6))
    assert axes.lines[0][0].tolist() == [0.4, 0.6]


def test_a_threshold_that_nothing_reaches_has_no_point():
    axes = Recorder()
    plots._operating_point(axes, np.ones(1), np.ones(1), np.array([0.5]), 0.6, None)
    plots._operating_point(axes, EMPTY, EMPTY, EMPTY, 0.6, (0.5, 0.7))
    plots._operating_point(axes, np.ones(1), np.ones(1), np.array([0.5]), None, None)
    assert not axes.lines


def test_chance_is_drawn_and_named():
    assert "<!-- random: F1 0.30 -->" in recalling()
    assert "random" not in plots.precision_recall(*curve())
    ET.fromstring(plots.precision_recall(*curve(), chance={"nothing": 0.0}))


def test_histogram_counts_each_candidate_once():
    score = np.concatenate([np.linspace(0.05, 0.4, 70), np.linspace(0.5, 1, 30)])
    text = plots.score_histogram(score, score >= 0.45, threshold=0.45)
    assert "<!-- labelled: 30 -->" in text
    assert "<!-- not labelled: 70 -->" in text
    assert "<!-- candidates: 100 -->" in plots.score_histogram(score)


@pytest.mark.parametrize("right", [None, np.zeros(0, bool)])
def test_histogram_of_nothing(right):
    ET.fromstring(plots.score_histogram(EMPTY, right))


def test_micrographs_are_ordered_by_f1_and_those_without_labels_left_out():
    text = plots.by_micrograph([row("middle", 0.5), row("none", None), row("best", 0.9), row("worst", 0.1)])
    ticks = [name for name in re.findall(r"<!-- (\w+) -->", text) if name in ("middle", "none", "best", "worst")]
    assert ticks == ["worst", "middle", "best"]  # the axis counts upwards


@pytest.mark.parametrize("name", ["$\\frac{$", "<script>&", "a--b", "\udc80\x00\n", "電子顕微鏡", "x" * 300, ""])
def test_hostile_names_are_drawn(name):
    text = plots.by_micrograph([row(name, 0.5), row("other", 0.6)])
    ET.fromstring(text.encode())
    assert "<script>" not in text


def test_names_are_cut_in_the_middle():
    short = plots._printable("Falcon_2012_06_12-15_17_31_0_long_suffix_17")
    assert len(short) == 28
    assert short.startswith("Falcon_2012")
    assert short.endswith("suffix_17")
    assert plots._printable("mic1") == "mic1"


def test_many_micrographs_are_drawn_without_names():
    rows = [row(f"mic{k}", k / 500) for k in range(500)]
    text = plots.by_micrograph(rows)
    assert "mic7" not in text
    assert "500 micrographs" in text
    ET.fromstring(plots.by_micrograph([]))


def test_colours_differ_for_colour_blind_readers():
    # Machado, Oliveira & Fernandes 2009 (doi 10.1109/TVCG.2009.113), severity 1: deuteranopia, protanopia
    for blindness in (
        [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
        [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    ):
        seen = [np.array(blindness) @ linear(c) for c in (plots.SKY, plots.VERMILLION, plots.YELLOW)]
        assert min(np.linalg.norm(a - b) for a, b in combinations(seen, 2)) > 0.25


def linear(colour: str) -> np.ndarray:
    return (np.array([int(colour[k : k + 2], 16) for k in (1, 3, 5)]) / 255) ** 2.2


# --- micrographs


def blob(grid: Grid, shape: tuple[int, int], xy: tuple[float, float], width_px: float) -> Image:
    """A bright blob in noise, at a position of the micrograph."""
    columns, rows = np.meshgrid(np.arange(shape[1], dtype=float), np.arange(shape[0], dtype=float))
    place = grid.to_micrograph(np.stack([columns.ravel(), rows.ravel()], axis=1))
    data = np.exp(-np.sum((place - xy) ** 2, axis=1) / (2 * width_px**2)).reshape(shape)
    noise = np.random.default_rng(0).normal(scale=0.01, size=shape)
    return Image((data + noise).astype(np.float32), grid, np.ones(shape, bool))


def flat(shape: tuple[int, int] = (120, 160), valid: np.ndarray | None = None) -> Image:
    data = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    return Image(data, Grid(), np.ones(shape, bool) if valid is None else valid)


def at(*xy: tuple[float, float]) -> np.ndarray:
    return np.array(xy, float).reshape(-1, 2)


def background(svg: str) -> tuple[np.ndarray, tuple[float, float, float, float]]:
    """Return the pixels of an overlay's micrograph, and where it says they lie."""
    element = ET.fromstring(svg).find(f"{SVG}image")
    raw = base64.b64decode(element.get("href").removeprefix("data:image/jpeg;base64,"))
    frame = tuple(float(element.get(key)) for key in ("x", "y", "width", "height"))
    return np.asarray(Pillow.open(io.BytesIO(raw))), frame


GRIDS = [Grid(), Grid(3.5, 1.5, 8.0, 8.0), Grid(-20.0, 40.0, 2.0, 3.0), Grid(0.25, 0.1, 0.5, 0.4)]


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("place", [(40.0, 30.0), (117.0, 62.0)])
def test_a_circle_lies_on_its_particle(grid, place):
    x, y = grid.to_micrograph(at(place))[0]
    width = 4 * grid.dx
    svg = plots.overlay(blob(grid, (90, 150), (x, y), width), [Marks("a", at((x, y)), "#fff")], diameter_px=2 * width)
    pixels, (left, top, wide, high) = background(svg)
    r, c = brightest(pixels)
    seen = left + (c + 0.5) * wide / pixels.shape[1], top + (r + 0.5) * high / pixels.shape[0]
    circle = ET.fromstring(svg).find(f".//{SVG}circle")
    assert seen[0] == pytest.approx(float(circle.get("cx")), abs=1.5 * grid.dx)
    assert seen[1] == pytest.approx(float(circle.get("cy")), abs=1.5 * grid.dy)
    assert float(circle.get("r")) == pytest.approx(width)
    assert [float(v) for v in ET.fromstring(svg).get("viewBox").split()] == pytest.approx([left, top, wide, high])


def brightest(pixels: np.ndarray) -> tuple[float, float]:
    """Return row and column of the middle of what is brightest, which is cut off at the top."""
    smooth = gaussian_filter(pixels.astype(float), 2)
    rows, columns = np.nonzero(smooth > smooth.min() + 0.8 * np.ptp(smooth))
    return float(rows.mean()), float(columns.mean())


def test_a_large_micrograph_is_reduced_and_stays_in_place():
    grid, place = Grid(), (2400.0, 900.0)
    image = blob(grid, (1500, 3000), place, 120)
    pixels, (left, top, wide, high) = background(plots.overlay(image, [], diameter_px=200))
    assert max(pixels.shape) == 1100
    r, c = brightest(pixels)
    assert left + (c + 0.5) * wide / pixels.shape[1] == pytest.approx(place[0], abs=6)
    assert top + (r + 0.5) * high / pixels.shape[0] == pytest.approx(place[1], abs=6)


def test_overlay_has_a_group_for_each_kind_even_an_empty_one():
    kinds = [
        Marks("right", at((20, 20), (50, 60)), plots.SKY, score=np.array([0.9, 0.25])),
        Marks("missed", at(), plots.YELLOW, 6),
        Marks("wrong", at((100, 90)), plots.VERMILLION, 0, 1.5),
    ]
    root = ET.fromstring(plots.overlay(flat(), kinds, diameter_px=20, title="a <b> & c"))
    groups = root.findall(f"{SVG}g")
    assert [g.get("class") for g in groups] == ["marks"] * 3
    assert [g.get("stroke") for g in groups] == [plots.SKY, plots.YELLOW, plots.VERMILLION]
    assert [len(g) for g in groups] == [2, 0, 1]
    assert [t.text for t in groups[0].iter(f"{SVG}title")] == ["0.900", "0.250"]
    assert groups[0].get("stroke-dasharray") is None
    assert float(groups[1].get("stroke-dasharray")) == pytest.approx(np.pi * 20 / 12, rel=0.01)
    assert float(groups[2].get("stroke-width")) == pytest.approx(1.5 * float(groups[0].get("stroke-width")), rel=0.01)
    assert root.find(f"{SVG}title").text == "a <b> & c"


def test_overlay_survives_names_that_are_no_text():
    ET.fromstring(plots.overlay(flat(), [], diameter_px=20, title="\udc80\x00</title><script>").encode())


def test_the_window_is_left_bright():
    path = ET.fromstring(plots.overlay(flat(), [], diameter_px=20, window=(30, 0, 90, 120))).find(f"{SVG}path")
    assert path.get("d").endswith("M30 0H90V120H30z")
    assert path.get("fill-rule") == "evenodd"
    assert ET.fromstring(plots.overlay(flat(), [], diameter_px=20)).find(f"{SVG}path") is None


def rgb(png: bytes) -> np.ndarray:
    return np.asarray(Pillow.open(io.BytesIO(png)).convert("RGB")).astype(int)


def alike(pixels: np.ndarray, colour: str) -> np.ndarray:
    wanted = np.array([int(colour[k : k + 2], 16) for k in (1, 3, 5)])
    return np.abs(pixels - wanted).max(axis=-1) < 70


def on_circle(pixels: np.ndarray, scale: float, xy: tuple[float, float], radius: float, colour: str) -> float:
    """Return the share of a circle that has this colour."""
    turn = np.linspace(0, 2 * np.pi, 200)
    x, y = xy[0] + radius * np.cos(turn), xy[1] + radius * np.sin(turn)
    column, row_ = np.floor((x + 0.5) * scale).astype(int), np.floor((y + 0.5) * scale).astype(int)
    reach = [alike(pixels[row_ + i, column + j], colour) for i in (-1, 0, 1) for j in (-1, 0, 1)]
    return float(np.any(reach, axis=0).mean())


def test_picture_has_the_right_colours_in_the_right_places_and_nowhere_else():
    right, wrong = (40.0, 60.0), (120.0, 50.0)
    kinds = [Marks("right", at(right), plots.SKY), Marks("wrong", at(wrong), plots.VERMILLION)]
    pixels = rgb(plots.picture(flat(), kinds, diameter_px=40, width=640))
    assert pixels.shape == (480, 640, 3)
    assert on_circle(pixels, 4, right, 20, plots.SKY) > 0.97
    assert on_circle(pixels, 4, wrong, 20, plots.VERMILLION) > 0.97
    assert on_circle(pixels, 4, wrong, 20, plots.SKY) < 0.03
    for elsewhere in ((right[0] + 4, right[1]), (right[1], right[0]), (80.0, 60.0)):
        assert on_circle(pixels, 4, elsewhere, 20, plots.SKY) < 0.6, elsewhere
    assert not alike(pixels[230:250, 150:170], plots.SKY).any(), "the particle itself stays free"


def test_dashes_leave_gaps():
    pixels = rgb(plots.picture(flat(), [Marks("missed", at((80, 60)), plots.YELLOW, 6)], diameter_px=60, width=640))
    assert 0.4 < on_circle(pixels, 4, (80, 60), 30, plots.YELLOW) < 0.75


@pytest.mark.parametrize("grid", [Grid(), Grid(100.0, -50.0, 4.0, 4.0)])
def test_picture_and_overlay_agree_where_the_micrograph_begins(grid):
    place = grid.to_micrograph(at((80, 60)))
    image = Image(flat().data, grid, flat().valid)
    pixels = rgb(plots.picture(image, [Marks("a", place, plots.SKY)], diameter_px=40 * grid.dx, width=640))
    assert on_circle(pixels, 4, (80, 60), 20, plots.SKY) > 0.97


def test_bad_areas_are_striped_and_the_rest_is_grey():
    valid = np.ones((120, 160), bool)
    valid[:40, :60] = False
    pixels = rgb(plots.picture(flat(valid=valid), [], diameter_px=20, width=160))
    purple = pixels[:, :, 0] - pixels[:, :, 1] > 40
    assert 0.2 < purple[:40, :60].mean() < 0.5
    assert not purple[42:, :].any()
    assert not purple[:, 62:].any()


def test_nothing_but_bad_areas_is_drawn():
    nowhere = flat(valid=np.zeros((120, 160), bool))
    ET.fromstring(plots.overlay(nowhere, [], diameter_px=20))
    assert plots.crops(nowhere, at((5, 5)), diameter_px=20)


def test_contrast_is_robust_to_a_few_bright_pixels():
    data = np.random.default_rng(0).normal(size=(200, 200)).astype(np.float32)
    spiked = data.copy()
    spiked[3, 3] = 1e4
    whole = np.ones(data.shape, bool)
    clean, dirty = (background(plots.overlay(Image(d, Grid(), whole), [], diameter_px=18))[0] for d in (data, spiked))
    assert np.abs(clean[50:].astype(int) - dirty[50:]).mean() < 3
    assert clean.std() > 30


def test_pictures_are_the_same_each_time_and_of_decent_size():
    image = flat((700, 700))
    places = np.random.default_rng(1).uniform(0, 700, (600, 2))
    kinds = [Marks("picks", places, plots.SKY, score=np.linspace(0, 1, 600))]
    overlay, picture = (draw(image, kinds, diameter_px=24.0) for draw in (plots.overlay, plots.picture))
    assert overlay == plots.overlay(image, kinds, diameter_px=24.0)
    assert picture == plots.picture(image, kinds, diameter_px=24.0)
    assert len(overlay) < 350_000
    assert len(picture) < 350_000


def test_score_map_runs_from_blue_to_yellow_and_is_grey_where_nothing_was_searched():
    values = np.array([[0.0, 1.0, 0.5], [0.2, 0.7, 2.0]], np.float32)
    valid = np.array([[True, True, False], [True, True, True]])
    pixels = rgb(plots.score_map(Image(values, Grid(), valid)))
    assert pixels.shape == (2, 3, 3)
    assert pixels[0, 0, 2] > pixels[0, 0, 0] + 40
    assert pixels[0, 1, 0] > pixels[0, 1, 2] + 100
    assert pixels[0, 2].tolist() == [128, 128, 128]
    assert pixels[1, 2].tolist() == pixels[0, 1].tolist(), "beyond 1 is as 1"
    luminance = rgb(
        plots.score_map(Image(np.linspace(0, 1, 50, dtype=np.float32)[None], Grid(), np.ones((1, 50), bool)))
    )
    assert (np.diff(luminance[0] @ (0.2126, 0.7152, 0.0722)) > -1).all(), "brighter is more likely, in grey too"


def test_a_large_score_map_is_thinned():
    chart = Image(np.tile(np.linspace(0, 1, 1000, dtype=np.float32), (600, 1)), Grid(), np.ones((600, 1000), bool))
    pixels = rgb(plots.score_map(chart))
    assert pixels.shape == (200, 334, 3)
    assert pixels[0, -1, 0] > 200 > 60 > pixels[0, 0, 0]


@pytest.mark.parametrize("grid", GRIDS)
def test_crops_are_centred_on_their_position(grid):
    (place,) = grid.to_micrograph(at((70, 45)))
    width = 4 * grid.dx
    (crop,) = plots.crops(blob(grid, (90, 150), tuple(place), width), place[None], diameter_px=3 * width, side=61)
    pixels = np.asarray(Pillow.open(io.BytesIO(crop))).astype(float)
    assert pixels.shape == (61, 61)
    r, c = brightest(pixels)
    assert (r, c) == (pytest.approx(30, abs=2.5), pytest.approx(30, abs=2.5))


def test_crops_at_the_border_are_black_outside():
    inside, corner = (
        np.asarray(Pillow.open(io.BytesIO(c))) for c in plots.crops(flat(), at((80, 60), (0, 0)), diameter_px=20)
    )
    assert inside.min() >= 0
    assert corner[:30, :30].max() < 30
    assert corner[42:, 42:].mean() > 60
    assert plots.crops(flat(), at(), diameter_px=20) == []


@given(st.binary(max_size=200))
def test_data_addresses_hold_what_was_given(raw):
    kind, content = plots.data_uri(raw, "image/png").split(",")
    assert kind == "data:image/png;base64"
    assert base64.b64decode(content) == raw


def test_text_is_encoded_in_utf8():
    assert base64.b64decode(plots.data_uri("Å", "text/plain").split(",")[1]) == "Å".encode()
