"""Numbers in, figures out: SVG with text as outlines, the same bytes for the same numbers.

Colours are those of Okabe and Ito, told apart by colour-blind readers; where two kinds meet they differ in line
style as well, so that a grey print still says which is which.
"""

import base64
import io
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from scipy import ndimage

from verglas.types import Image

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL.Image import Image as Pillow

BLUE, SKY, YELLOW = "#0072B2", "#56B4E9", "#F0E442"
ORANGE, VERMILLION = "#E69F00", "#D55E00"
INK, FAINT = "#222222", "#8A8A8A"

_STYLE: Mapping[str, Any] = {
    "svg.fonttype": "path", "svg.hashsalt": "verglas", "font.family": "DejaVu Sans", "font.size": 9,
    "axes.titlesize": 9, "axes.labelsize": 9, "legend.fontsize": 8, "xtick.labelsize": 8, "ytick.labelsize": 8,
    "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": FAINT, "axes.linewidth": 0.8,
    "axes.labelcolor": INK, "text.color": INK, "xtick.color": INK, "ytick.color": INK, "axes.axisbelow": True,
    "axes.grid": True, "grid.color": "#E4E4E4", "grid.linewidth": 0.6, "lines.linewidth": 1.6,
    "legend.frameon": False, "legend.handlelength": 2.4, "hatch.linewidth": 0.6,
}  # fmt: skip

_ONE_AT_A_TIME = threading.Lock()  # the style of matplotlib is one for the whole process

_MOST_NAMES = 40
_LONGEST_NAME = 28

_WIDEST = 1100
"""Pixels of the longer side of a picture that is shown; finer ones are reduced."""

_MAP_WIDEST = 450

_STROKE = 1 / 480
"""Width of a circle's line as a share of the picture's width."""


@dataclass(frozen=True, slots=True, eq=False)
class Marks:
    """Circles of one kind: their centres in micrograph pixels, and how they look.

    ``dashes`` of them go around the circle, 0 for a full line; ``weight`` is the width of the line, 1 as usual.
    ``score`` is shown on pointing at a circle.
    """

    name: str
    xy: Float[np.ndarray, "n 2"]
    colour: str
    dashes: int = 0
    weight: float = 1.0
    score: Float[np.ndarray, " n"] | None = None


def learning_curve(
    step: Int[np.ndarray, " n"], loss: Float[np.ndarray, " n"], watch: Mapping[str, Float[np.ndarray, " n"]]
) -> str:
    """Draw the loss, as it was and smoothed over a twentieth of the points; below it, small, each of ``watch``."""

    def draw(figure: "Figure") -> None:
        rows = figure.subplots(1 + len(watch), 1, sharex=True, squeeze=False, height_ratios=[3] + [1] * len(watch))
        top, *small = rows[:, 0]
        _raw_and_smooth(top, step, loss, BLUE)
        top.set_ylabel("loss")
        if loss.min(initial=1) > 0 and loss.max(initial=1) > 20 * loss.min(initial=1):
            top.set_yscale("log")
        for axes, (name, values) in zip(small, watch.items(), strict=True):
            _raw_and_smooth(axes, step, values, FAINT)
            axes.set_ylabel(name, fontsize=7)
            axes.tick_params(labelsize=7)
        rows[-1, 0].set_xlabel("training step")

    return svg(draw, 5.4, 2.7 + 0.75 * len(watch))


def validation_curve(
    step: Int[np.ndarray, " n"],
    ap: Float[np.ndarray, " n"],
    best_f1: Float[np.ndarray, " n"],
    *,
    chosen: int | None = None,
) -> str:
    """Draw how well the held-out labels were found during training, and which step was ``chosen``."""

    def draw(figure: "Figure") -> None:
        axes = figure.subplots()
        axes.plot(step, ap, color=BLUE, marker="o", markersize=3.5, label="average precision (AP)")
        axes.plot(step, best_f1, color=ORANGE, marker="s", markersize=3.5, linestyle="--", label="F1 at best threshold")
        if chosen is not None:
            axes.axvline(chosen, color=INK, linewidth=0.9, linestyle=":", label=f"step kept: {chosen}")
        axes.set(xlabel="training step", ylabel="figure on held-out labels", ylim=(0, 1.02))
        figure.legend(loc="outside upper center", ncols=3)

    return svg(draw, 5.4, 3.4)


def precision_recall(
    precision: Float[np.ndarray, " k"],
    recall: Float[np.ndarray, " k"],
    score: Float[np.ndarray, " k"],
    *,
    threshold: float | None = None,
    interval: tuple[float, float] | None = None,
    chance: Mapping[str, float] | None = None,
) -> str:
    """Draw the curve over lines of equal F1, the point at ``threshold`` and the stretch its ``interval`` spans.

    ``chance`` names the F1 of pickers that look at nothing: what does not pass their lines is no skill.
    """

    def draw(figure: "Figure") -> None:
        axes = figure.subplots()
        axes.grid(visible=False)
        for f1 in np.arange(0.1, 0.95, 0.1):
            _iso_f1(axes, float(f1), color="#DCDCDC", linewidth=0.7)
            axes.text(1.01, f1 / (2 - f1), f"{f1:.1f}", color=FAINT, fontsize=7, va="center")
        axes.text(1.01, 1.0, "F1", color=FAINT, fontsize=7, va="center")
        for (name, f1), line in zip((chance or {}).items(), ("--", ":", "-."), strict=False):
            _iso_f1(axes, f1, color=FAINT, linewidth=1.1, linestyle=line, label=f"{name}: F1 {f1:.2f}")
        axes.plot(recall, precision, color=BLUE, label="candidates, best first")
        _operating_point(axes, precision, recall, score, threshold, interval)
        axes.set(xlabel="recall: share of labels found", ylabel="precision: share of picks that are labelled")
        axes.set(xlim=(0, 1), ylim=(0, 1.02))
        axes.legend(loc="lower left", frameon=True, facecolor="white", edgecolor="none", framealpha=0.9)

    return svg(draw, 5.4, 4.4)


def score_histogram(
    score: Float[np.ndarray, " n"],
    right: Bool[np.ndarray, " n"] | None = None,
    *,
    threshold: float | None = None,
    interval: tuple[float, float] | None = None,
) -> str:
    """Draw how many candidates have which score, right and wrong ones apart where ``right`` is known."""
    parts = [("candidates", score, BLUE, "-")]
    if right is not None:
        parts = [("not labelled", score[~right], VERMILLION, "--"), ("labelled", score[right], BLUE, "-")]
    bins = np.linspace(0, 1, 41)
    counts = [np.histogram(values, bins)[0] for _, values, _, _ in parts]
    tall = max(int(count.max()) for count in counts) > 30

    def draw(figure: "Figure") -> None:
        axes = figure.subplots()
        for (name, values, colour, line), count in zip(parts, counts, strict=True):
            style: dict[str, Any] = {
                "facecolor": colour + "38",
                "edgecolor": colour,
                "linestyle": line,
                "linewidth": 1.2,
            }
            axes.stairs(count, bins, fill=True, baseline=0.5 if tall else 0, label=f"{name}: {len(values)}", **style)
        if interval is not None:
            axes.axvspan(*interval, color=FAINT, alpha=0.25, linewidth=0, label="95 % interval of the threshold")
        if threshold is not None:
            axes.axvline(threshold, color=INK, linewidth=1.2, label=f"threshold {threshold:.2f}")
        if tall:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter("{x:.0f}")
            axes.set_ylim(bottom=0.5)
        axes.set(xlabel="score", ylabel="candidates per 0.025" + (" (log)" if tall else ""), xlim=(0, 1))
        figure.legend(loc="outside upper center", ncols=2)

    return svg(draw, 5.4, 3.4)


def by_micrograph(rows: Sequence[Mapping[str, Any]], *, pooled: float | None = None) -> str:
    """Draw F1 of each micrograph, best on top, as a dot on the line from precision to recall.

    ``rows`` are those of an ``Evaluation``; micrographs without labels have no F1 and are left out.
    """
    known = sorted((r for r in rows if r["f1"] is not None), key=lambda r: (r["f1"], r["micrograph"]))
    f1, precision, recall = (np.array([r[key] for r in known], float) for key in ("f1", "precision", "recall"))
    place, named = np.arange(len(known)), len(known) <= _MOST_NAMES

    def draw(figure: "Figure") -> None:
        axes = figure.subplots()
        axes.hlines(place, np.minimum(precision, recall), np.maximum(precision, recall), color="#C8C8C8", linewidth=1.2)
        axes.plot(precision, place, "|", color=BLUE, markersize=6, label="precision")
        axes.plot(recall, place, "x", color=VERMILLION, markersize=4, label="recall")
        axes.plot(f1, place, "o", color=INK, markersize=4.5 if named else 2.5, label="F1")
        if pooled is not None:
            axes.axvline(pooled, color=FAINT, linestyle="--", linewidth=1, label=f"pooled F1 {pooled:.2f}")
        names = [_printable(r["micrograph"]) for r in known] if named else []
        axes.set_yticks(place if named else [], names, parse_math=False)
        axes.set(xlabel="figure at the threshold", xlim=(-0.01, 1.01), ylim=(-0.7, max(len(known), 1) - 0.3))
        axes.set_ylabel("" if named else f"{len(known)} micrographs, best on top")
        figure.legend(loc="outside upper right", ncols=4)

    return svg(draw, 5.4, 1.1 + (0.19 * max(len(known), 2) if named else 4.0))


def overlay(
    image: Image,
    marks: Sequence[Marks],
    *,
    diameter_px: float,
    title: str = "",
    window: tuple[float, float, float, float] | None = None,
) -> str:
    """Draw circles of the particle's diameter over a micrograph as SVG, whose unit is the pixel of the micrograph.

    Each kind is a group of class ``marks``, so that a page can hide it. Bad areas are striped; what lies outside
    ``window`` (left, top, right, bottom) is dimmed.
    """
    left, top, width, height = _outline(image)
    source = data_uri(_encoded(_backdrop(image, diameter_px), "JPEG", quality=76), "image/jpeg")
    stroke, around = width * _STROKE, np.pi * diameter_px
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{left:g} {top:g} {width:g} {height:g}" role="img">',
        f"<title>{escape(''.join(filter(str.isprintable, title)))}</title>",
        f'<image x="{left:g}" y="{top:g}" width="{width:g}" height="{height:g}" href="{source}" '
        'preserveAspectRatio="none"/>',
    ]
    if window is not None:
        x0, y0, x1, y1 = window
        path = f"M{left:g} {top:g}h{width:g}v{height:g}h{-width:g}zM{x0:g} {y0:g}H{x1:g}V{y1:g}H{x0:g}z"
        parts.append(f'<path d="{path}" fill-rule="evenodd" fill="#000" fill-opacity=".45"/>')
    for kind in marks:
        dash = f' stroke-dasharray="{around / kind.dashes / 2:.3g}"' if kind.dashes else ""
        parts.append(
            f'<g class="marks" fill="none" stroke="{kind.colour}" stroke-width="{stroke * kind.weight:.3g}"{dash}>'
        )
        notes = [""] * len(kind.xy) if kind.score is None else [f"<title>{s:.3f}</title>" for s in kind.score]
        for (x, y), note in zip(kind.xy, notes, strict=True):
            parts.append(f'<circle cx="{x:.2f}" cy="{y:.2f}" r="{diameter_px / 2:g}">{note}</circle>')
        parts.append("</g>")
    return "\n".join([*parts, "</svg>\n"])


def picture(image: Image, marks: Sequence[Marks], *, diameter_px: float, width: int = 1000) -> bytes:
    """Draw the same as ``overlay`` as a PNG of this width in pixels, drawn at twice its size."""
    from PIL import Image as Pillow
    from PIL import ImageDraw

    left, top, wide, high = _outline(image)
    scale = 2 * width / wide
    canvas = (
        _backdrop(image, diameter_px).convert("RGB").resize((2 * width, round(high * scale)), Pillow.Resampling.BICUBIC)
    )
    pen, radius = ImageDraw.Draw(canvas), diameter_px / 2 * scale
    for kind in marks:
        turn = 360 / max(kind.dashes, 1)
        arcs = [(k * turn, k * turn + (turn / 2 if kind.dashes else turn)) for k in range(max(kind.dashes, 1))]
        for x, y in (kind.xy - (left, top)) * scale:
            for start, end in arcs:
                box = (x - radius, y - radius, x + radius, y + radius)
                pen.arc(box, start, end, fill=kind.colour, width=max(2, round(2 * width * _STROKE * kind.weight)))
    drawn = canvas.resize((width, round(canvas.height / 2)), Pillow.Resampling.BOX)
    return _encoded(drawn.quantize(40, Pillow.Quantize.FASTOCTREE), "PNG", optimize=True)


def crops(image: Image, xy: Float[np.ndarray, "n 2"], *, diameter_px: float, side: int = 72) -> list[bytes]:
    """Cut a square of two diameters around each position, as a JPEG of ``side`` pixels; outside it is black."""
    from PIL import Image as Pillow

    left, top, width, height = _outline(image)
    drawn = _backdrop(image, diameter_px)
    scale = drawn.width / width, drawn.height / height
    corners = (np.hstack((xy - diameter_px, xy + diameter_px)) - (left, top, left, top)) * (scale + scale)
    cut = (drawn.crop(tuple(box)).resize((side, side), Pillow.Resampling.BICUBIC) for box in np.rint(corners).tolist())
    return [_encoded(crop, "JPEG", quality=85) for crop in cut]


def score_map(probability: Image) -> bytes:
    """Draw a probability map as a small PNG, from dark blue (0) to yellow (1); bad areas are grey."""
    from matplotlib import colormaps
    from PIL import Image as Pillow

    every = -(-max(probability.data.shape) // _MAP_WIDEST)
    data, valid = probability.data[::every, ::every], probability.valid[::every, ::every]
    level = np.where(valid, np.rint(np.clip(data, 0, 1) * 254), 255).astype(np.uint8)
    ramp = np.vstack((colormaps["cividis"](np.linspace(0, 1, 255))[:, :3], (0.5, 0.5, 0.5)))
    drawn = Pillow.fromarray(level)
    drawn.putpalette(np.rint(ramp * 255).astype(np.uint8).tobytes())
    return _encoded(drawn, "PNG", optimize=True)


def data_uri(content: bytes | str, kind: str) -> str:
    """Return content of this media type as an address that holds it."""
    raw = content.encode() if isinstance(content, str) else content
    return f"data:{kind};base64,{base64.b64encode(raw).decode('ascii')}"


def _outline(image: Image) -> tuple[float, float, float, float]:
    """Return left, top, width and height of the picture in micrograph pixels, to the borders of its pixels."""
    (h, w), grid = image.data.shape, image.grid
    return grid.x0 - grid.dx / 2, grid.y0 - grid.dy / 2, w * grid.dx, h * grid.dy


def _backdrop(image: Image, diameter_px: float) -> "Pillow":
    """Return the micrograph for the eye: blurred by D/18, 1 to 99 % of its greys, bad areas striped.

    Greys end short of white, on which no bright circle shows.
    """
    from PIL import Image as Pillow

    grey, seen = ndimage.gaussian_filter(image.data, diameter_px / image.grid.dx / 18), image.valid
    low, high = np.percentile(grey[seen], (1, 99)) if seen.any() else (0.0, 1.0)
    shade = np.rint(np.clip((grey - low) / max(high - low, 1e-6), 0, 1) * 190 + 15).astype(np.uint8)
    drawn = Pillow.fromarray(shade if seen.all() else _striped(shade, ~seen))
    drawn.thumbnail((_WIDEST, _WIDEST), Pillow.Resampling.BOX)
    return drawn


def _striped(shade: UInt8[np.ndarray, "h w"], bad: Bool[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """Return the picture in colour, with purple stripes where it is bad."""
    row, column = np.ogrid[: shade.shape[0], : shade.shape[1]]
    stripes = bad & ((row + column) % 12 < 4)
    colour = np.repeat(shade[:, :, None], 3, axis=2)
    colour[bad] = colour[bad] // 2
    colour[stripes] = (204, 121, 167)
    return colour


def _encoded(drawn: "Pillow", form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    drawn.save(buffer, form, **options)
    return buffer.getvalue()


def svg(draw: "Callable[[Figure], None]", width: float, height: float) -> str:
    """Return what ``draw`` puts on a figure of this size in inches, without date, address or document type."""
    from matplotlib import style
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    buffer = io.StringIO()
    with _ONE_AT_A_TIME, style.context(["default", dict(_STYLE)]):
        figure = Figure(figsize=(width, height), layout="constrained")
        canvas = FigureCanvasSVG(figure)
        draw(figure)
        canvas.print_svg(buffer)
    text = buffer.getvalue()
    return re.sub(r"<metadata>.*?</metadata>\s*", "", text[text.index("<svg") :], flags=re.DOTALL)


def _raw_and_smooth(axes: "Axes", step: Int[np.ndarray, " n"], values: Float[np.ndarray, " n"], colour: str) -> None:
    finite = np.isfinite(values)
    step, values = step[finite], values[finite]
    axes.plot(step, values, color=colour, alpha=0.3, linewidth=0.8)
    axes.plot(step, _smoothed(values), color=colour)


def _smoothed(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Return the running mean over a twentieth of the values, over fewer at both ends."""
    if not len(values):
        return values
    kernel = np.ones(2 * (len(values) // 40) + 1)
    return np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")


def _iso_f1(axes: "Axes", f1: float, **style: Any) -> None:
    if f1 > 0:
        recall = np.linspace(f1 / (2 - f1), 1, 100)
        axes.plot(recall, f1 * recall / (2 * recall - f1), **style)


def _operating_point(
    axes: "Axes",
    precision: Float[np.ndarray, " k"],
    recall: Float[np.ndarray, " k"],
    score: Float[np.ndarray, " k"],
    threshold: float | None,
    interval: tuple[float, float] | None,
) -> None:
    """Mark the last point of the curve that still counts, and all those a threshold of the interval may end at."""
    if threshold is None or not np.any(score >= threshold):
        return
    low, high = interval or (threshold, threshold)
    first, at, last = (int(np.sum(score >= t)) - 1 for t in (high, threshold, low))
    if interval is not None:
        stretch = slice(max(first, 0), last + 1)
        style: dict[str, Any] = {"color": ORANGE, "linewidth": 5, "alpha": 0.55, "solid_capstyle": "butt"}
        axes.plot(recall[stretch], precision[stretch], label="95 % interval of the threshold", **style)
    axes.plot(recall[at], precision[at], "o", color=INK, markersize=6, label=f"threshold {threshold:.2f}")


def _printable(name: str) -> str:
    """Return a name that fits beside an axis and that the font has letters for; its middle is cut."""
    name = "".join(c if c.isprintable() and ord(c) < 0x250 else "?" for c in name)
    half = _LONGEST_NAME // 2
    return name if len(name) <= _LONGEST_NAME else f"{name[: half - 1]}…{name[-half:]}"
