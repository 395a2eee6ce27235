"""The drawings of checks: small SVG, in the style of the report."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int

from verglas.monitor import logits as to_logits
from verglas.plots import BLUE, FAINT, INK, ORANGE, SKY, VERMILLION, svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LINES = ((BLUE, "-"), (VERMILLION, "--"), (ORANGE, "-."), (SKY, ":"), (INK, "-"), (FAINT, "--"))
_FINEST_MAP = 96
"""Pixels of the longer side of a small map."""


def logits(target: Bool[np.ndarray, " n"], belief: Float[np.ndarray, " n"], *, threshold: float | None = None) -> str:
    """Draw which logits pixels of particles and of background have, each as shares of its class."""
    z = to_logits(belief)
    low, high = (float(z.min()), float(z.max())) if len(z) else (-1.0, 1.0)
    bins = np.linspace(low - 0.1, high + 0.1, 61)

    def draw(figure: "Figure") -> None:
        axes = figure.subplots()
        for name, part, (colour, line) in (
            ("background", z[~target], (VERMILLION, "--")),
            ("particle cores", z[target], (BLUE, "-")),
        ):
            height = np.histogram(part, bins)[0] / max(len(part), 1)
            _filled(axes, height, bins, colour, line, f"{name}: {len(part)} pixels")
        axes.axvline(0, color=FAINT, linewidth=0.9, linestyle=":", label="belief .5")
        if threshold is not None and 0 < threshold < 1:
            at = float(np.log(threshold / (1 - threshold)))
            axes.axvline(at, color=INK, linewidth=1.2, label=f"threshold {threshold:.2f}")
        axes.set(xlabel="logit of the belief", ylabel="share of the class per bin", ylim=(0, None))
        figure.legend(loc="outside upper center", ncols=2)

    return svg(draw, 5.4, 3.2)


def reliability(belief: Float[np.ndarray, " k"], share: Float[np.ndarray, " k"], count: Float[np.ndarray, " k"]) -> str:
    """Draw how often a belief came true: mean ``belief`` of each bin, the ``share`` of particles, how many pixels."""

    def draw(figure: "Figure") -> None:
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        top.plot([0, 1], [0, 1], color=FAINT, linestyle=":", label="as believed, so it is")
        top.plot(belief, share, color=BLUE, marker="o", markersize=3.5, label="found")
        top.set(ylabel="share that is particle", ylim=(0, 1.02))
        bottom.vlines(belief, 0.5, np.maximum(count, 0.5), color=BLUE, linewidth=4)
        bottom.set_yscale("log")
        bottom.set(xlabel="belief", ylabel="pixels", xlim=(0, 1), ylim=(0.5, None))
        figure.legend(loc="outside upper center", ncols=2)

    return svg(draw, 4.4, 4.0)


def keep_rates(
    threshold: Float[np.ndarray, " k"], positive: Float[np.ndarray, " k"], negative: Float[np.ndarray, " k"]
) -> str:
    """Draw which share of particle and of background pixels each threshold keeps, as pairs of bars."""
    place = np.arange(len(threshold))

    def draw(figure: "Figure") -> None:
        axes = figure.subplots()
        bars = (("particle pixels", positive, BLUE, -0.2, None), ("background pixels", negative, VERMILLION, 0.2, "//"))
        for name, values, colour, shift, hatch in bars:
            axes.bar(place + shift, values, 0.38, facecolor=colour + "60", edgecolor=colour, hatch=hatch, label=name)
        axes.set_xticks(place, [f"{value:g}" for value in threshold])
        axes.set(xlabel="confidence threshold", ylabel="share kept", ylim=(0, 1.02))
        figure.legend(loc="outside upper center", ncols=2)

    return svg(draw, 5.4, 3.0)


def over_steps(
    step: Int[np.ndarray, " n"],
    watched: Mapping[str, Float[np.ndarray, " n"]],
    *,
    marks: Mapping[str, int] | None = None,
    limits: tuple[float, float] | None = None,
) -> str:
    """Draw several quantities over the steps, gaps where one is not finite; ``marks`` names steps to be seen."""

    def draw(figure: "Figure") -> None:
        axes = figure.subplots()
        for (name, values), (colour, line) in zip(watched.items(), _LINES, strict=False):
            axes.plot(step, values, color=colour, linestyle=line, marker="o", markersize=3, label=name)
        for name, at in (marks or {}).items():
            axes.axvline(at, color=INK, linewidth=0.9, linestyle=":", label=f"{name}: {at}")
        axes.set(xlabel="training step", ylim=limits)
        figure.legend(loc="outside upper center", ncols=3)

    return svg(draw, 5.4, 3.2)


def sweep(
    threshold: Float[np.ndarray, " k"],
    f1: Float[np.ndarray, " k"],
    *,
    chosen: float,
    interval: tuple[float, float] | None = None,
) -> str:
    """Draw F1 of the picks over the threshold, with the one in use and its interval."""

    def draw(figure: "Figure") -> None:
        axes = figure.subplots()
        axes.plot(threshold, f1, color=BLUE, label="F1 of picks on held-out labels")
        if interval is not None:
            axes.axvspan(*interval, color=FAINT, alpha=0.25, linewidth=0, label="95 % interval of the threshold")
        axes.axvline(chosen, color=INK, linewidth=1.2, label=f"threshold in use {chosen:.2f}")
        axes.axvline(0.5, color=FAINT, linewidth=0.9, linestyle=":")
        axes.set(xlabel="threshold", ylabel="F1", xlim=(0, 1), ylim=(0, 1.02))
        figure.legend(loc="outside upper center", ncols=2)

    return svg(draw, 5.4, 3.2)


def maps(named: Sequence[tuple[str, Float[np.ndarray, "_ _"]]]) -> str:
    """Draw small maps in a row, coarsened where they are large, all on one scale of grey values."""
    small = [(name, data[:: _stride(data), :: _stride(data)]) for name, data in named]
    low, high = min(float(d.min()) for _, d in small), max(float(d.max()) for _, d in small)

    def draw(figure: "Figure") -> None:
        row: Any = figure.subplots(1, len(small), squeeze=False)[0]
        for axes, (name, data) in zip(row, small, strict=True):
            axes.imshow(data, cmap="cividis", vmin=low, vmax=max(high, low + 1e-6), interpolation="nearest")
            axes.set_title(name, fontsize=7, parse_math=False)
            axes.grid(visible=False)
            axes.set(xticks=[], yticks=[])

    return svg(draw, 1.5 * len(small), 1.8)


def _stride(data: Float[np.ndarray, "_ _"]) -> int:
    return -(-max(data.shape) // _FINEST_MAP)


def _filled(
    axes: "Axes", height: Float[np.ndarray, " n"], bins: Float[np.ndarray, " m"], colour: str, line: str, label: str
) -> None:
    axes.stairs(
        height, bins, fill=True, facecolor=colour + "38", edgecolor=colour, linestyle=line, linewidth=1.2, label=label
    )
