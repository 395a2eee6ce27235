"""What a microscopist looks at: one HTML file that needs no other, and says first in words what to expect."""

import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from verglas import plots
from verglas.config import RunConfig
from verglas.evaluate import evaluate
from verglas.holdout import Area
from verglas.io._base import whole_file, write_text
from verglas.matching import Pool
from verglas.operating import OperatingPoint
from verglas.pages import RADIUS, Page, Rule, at_threshold, choose_pages, judged, marks
from verglas.plots import Marks, data_uri
from verglas.ranking import precision_recall_curve
from verglas.runs import Run
from verglas.types import Evaluation, Image, Picks, PickSet

__all__ = ["Page", "choose_pages", "overlay_file", "write_inspection", "write_report"]

STRICT = 0.3
"""Reach at which chance is low: skill is claimed where this agrees."""

COMMANDS = (
    ("Pick all micrographs", "verglas pick {run} --micrographs 'micrographs/*.mrc' --out picks.star"),
    ("Compare with labels the training has not seen", "verglas evaluate picks.star test-labels/"),
    ("Hand the picks to RELION", "verglas export picks.star relion-picks --format relion-folder"),
)


def overlay_file(path: Path, page: Page, *, threshold: float | None, diameter_px: float) -> Path:
    """Write a micrograph with its picks (and labels, where there are any) as a PNG; return where."""
    circles = marks(page, Rule(threshold, diameter_px))
    with whole_file(path) as temporary:
        temporary.write_bytes(plots.picture(page.image, circles, diameter_px=diameter_px))
    return path


def write_report(
    run: Run,
    pages: Sequence[Page],
    *,
    evaluation: Evaluation | None = None,
    validation: tuple[PickSet, Mapping[str, Picks]] | None = None,
    path: Path | None = None,
) -> Path:
    """Write the report of a finished training as one HTML file; return where.

    Parameters
    ----------
    pages
        Micrographs of which the best, the worst and the most uncertain are shown.
    evaluation
        Figures on labels that training and threshold have not seen, where there are any.
    validation
        All candidates in the held-out areas, and the labels there.
    path
        By default ``report.html`` in the run folder.
    """
    facts, split, point = run.facts(), run.split(), _operating_point(run)
    rule = _rule(point, evaluation, facts["diameter_px"])
    areas = {name: _area(values) for name, values in split["validation"].items()}
    pages = [judged(page, rule) for page in pages]
    held_out = _held_out(validation, areas, pages, rule)
    history, main = _history(run), evaluation or held_out
    just, hardly = at_threshold(pages, rule)
    html = render(
        "report.html.j2",
        title=f"Training {run.folder.resolve().name}",
        facts=facts,
        split=split,
        point=point,
        rule=rule,
        partial=run.config.data.labels_are == "partial" and not run.completes,
        completes=run.completes,
        algorithm=facts.get("algorithm", run.config.algorithm.name),
        tables=[_table(name, e) for name, e in (("evaluated", evaluation), ("held out", held_out)) if e is not None],
        figures=_figures(history, facts, main, validation, rule),
        shown=[_shown(why, page, rule, areas, split) for why, page in choose_pages(pages)],
        n_pages=len(pages),
        pieces=[
            (what, [(f"{score:.2f}", data_uri(piece, "image/jpeg")) for score, piece in side])
            for what, side in (("Just counted", just), ("Just not counted", hardly))
        ],
        warnings=_warnings(history, evaluation, held_out, split),
        failed=[(record["path"], record["reason"]) for record in history["failed"]],
        settings=_settings(run.config),
        findings=[one for one in run.findings() if one["kind"] == "checked"],
        causes=[one for one in run.findings() if one["kind"] == "diagnosed"],
        how=main.how if main is not None else None,
        commands=[(what, command.format(run=shlex.quote(str(run.folder)))) for what, command in COMMANDS],
    )
    path = path or run.folder / "report.html"
    write_text(path, html)
    return path


def write_inspection(path: Path, pages: Sequence[Page], facts: Mapping[str, Any], warnings: Sequence[str]) -> Path:
    """Write the labels over their micrographs as one HTML file, with what was measured; return where.

    ``facts`` must hold ``diameter_px``; its other entries are shown as they are.
    """
    diameter = float(facts["diameter_px"])
    shown = []
    for page in pages:
        labels = Marks("labels", page.labels.xy if page.labels else np.zeros((0, 2)), plots.SKY)
        picture = plots.overlay(page.image, (labels,), diameter_px=diameter, title=page.name)
        shown.append({"name": page.name, "labels": page.labels, "marks": (labels,), "picture": _inline(picture)})
    rows = [(key.replace("_", " "), _text(value)) for key, value in _flat(facts)]
    write_text(path, render("inspection.html.j2", title="Labels", shown=shown, rows=rows, warnings=warnings))
    return path


# --- what the figures rest on


def _operating_point(run: Run) -> OperatingPoint | None:
    return run.operating_point() if (run.folder / "operating_point.json").is_file() else None


def _rule(point: OperatingPoint | None, evaluation: Evaluation | None, diameter_px: float) -> Rule:
    """Return the threshold of the evaluation, if it has one of its own, else the one that validation chose."""
    given = evaluation.pooled["threshold"] if evaluation is not None else None
    if point is None or (given is not None and not math.isclose(given, point.threshold, abs_tol=1e-6)):
        return Rule(given, diameter_px)
    return Rule(point.threshold, diameter_px, point.interval)


def _area(values: Mapping[str, Any]) -> Area:
    """Read an area from JSON, which has no infinity."""
    low, high = (math.inf * sign if values[key] is None else values[key] for key, sign in (("low", -1), ("high", 1)))
    return Area(values["axis"], low, high)


def _held_out(
    validation: tuple[PickSet, Mapping[str, Picks]] | None, areas: Mapping[str, Area], pages: Sequence[Page], rule: Rule
) -> Evaluation | None:
    """Evaluate on the held-out areas, each moved to the origin so that chance is computed for it alone."""
    if validation is None or not any(map(len, validation[1].values())):
        return None
    candidates, truth = validation
    shapes = {page.name: _extent(page.image) for page in pages} | dict(candidates.shapes)
    windows = {name: _window(areas.get(name, Area()), shapes[name]) for name in truth if name in shapes}
    found = tuple(_moved(p, windows.get(p.micrograph)) for p in candidates if p.micrograph in truth)
    sizes = {name: (round(y1 - y0), round(x1 - x0)) for name, (x0, y0, x1, y1) in windows.items()}
    return evaluate(
        PickSet(found, rule.threshold, shapes=sizes),
        {name: _moved(labels, windows.get(name)) for name, labels in truth.items()},
        diameter_px=rule.diameter_px,
    )


def _extent(image: Image) -> tuple[int, int]:
    """Return the shape (h, w) of the micrograph as far as its prepared image reaches."""
    (h, w), grid = image.data.shape, image.grid
    return round(grid.y0 + (h - 0.5) * grid.dy + 0.5), round(grid.x0 + (w - 0.5) * grid.dx + 0.5)


def _window(area: Area, shape: tuple[int, int]) -> tuple[float, float, float, float]:
    """Return left, top, right and bottom of an area of a micrograph of this shape (h, w)."""
    window = [0.0, 0.0, float(shape[1]), float(shape[0])]
    window[area.axis] = max(window[area.axis], area.low)
    window[area.axis + 2] = min(window[area.axis + 2], area.high)
    left, top, right, bottom = window
    return left, top, right, bottom


def _moved(picks: Picks, window: tuple[float, float, float, float] | None) -> Picks:
    return picks if window is None else replace(picks, xy=picks.xy - window[:2])


def _history(run: Run) -> dict[str, list[dict[str, Any]]]:
    """Return the records by kind; where a training went on from an earlier step, the last word on a step counts."""
    names = "note", "failed", "progress", "validated", "ruled"
    kinds: dict[str, dict[Any, dict[str, Any]]] = {kind: {} for kind in names}
    records = run.records() if (run.folder / "records.jsonl").is_file() else iter(())
    for record in records:
        if record["kind"] in kinds:
            key = next(record[name] for name in ("code", "step", "text", "path") if name in record)
            kinds[record["kind"]][key] = record
    return {kind: list(by_key.values()) for kind, by_key in kinds.items()}


def _warnings(
    history: Mapping[str, list[dict[str, Any]]],
    evaluation: Evaluation | None,
    held_out: Evaluation | None,
    split: Mapping[str, Any],
) -> list[str]:
    """Return what a reader must know before believing the figures."""
    sentences = [note["text"] for note in history["note"] if note["warning"]]
    for ruled in history["ruled"]:
        done = "" if ruled["action"] == "say" else f" ({ruled['action']})"
        sentences.append(f"{ruled['verdict']} at step {ruled['step']}{done}: {ruled['sentence']}")
    main = evaluation or held_out
    if main is not None and (chance := _chance(main, STRICT)) and (f1 := _at(main, STRICT)["f1"]) is not None:
        best = max(chance.values())
        if f1 <= best:
            reached = f"within {STRICT:g} D the picks reach F1 {f1:.2f}, places chosen without looking {best:.2f}"
            sentences.append(f"No skill: {reached}.")
    if evaluation is not None:
        names = {row["micrograph"] for row in evaluation.rows}
        seen = names & ({*split["labelled"]} | split["validation"].keys())
        if seen:
            sentences.append(
                f"{len(seen)} of {len(names)} evaluated micrographs had a part in training or in choosing the "
                "threshold: figures on them flatter."
            )
    return sentences


def _at(evaluation: Evaluation, radius: float) -> Mapping[str, Any]:
    figures: Mapping[str, Any] = evaluation.pooled["at_radius"][f"{radius:g}"]
    return figures


def _chance(evaluation: Evaluation, radius: float) -> dict[str, float]:
    """Return the F1 of pickers that look at nothing."""
    baselines = evaluation.pooled["baselines"] or {}
    names = {"best square grid": "grid", "random places": "random"}
    return {name: baselines[key][f"{radius:g}"]["f1"] for name, key in names.items() if key in baselines}


# --- what is shown


def _table(where: str, evaluation: Evaluation) -> dict[str, Any]:
    """Return the figures of one evaluation at both radii, each with its interval, beside chance."""
    rows = []
    for radius in (RADIUS, STRICT):
        at = _at(evaluation, radius)
        figures = {key: (at[key], at["ci"].get(key)) for key in ("ap", "f1", "precision", "recall")}
        rows.append({"radius": radius, "figures": figures, "chance": _chance(evaluation, radius)})
    pooled, kind = evaluation.pooled, _at(evaluation, RADIUS)["ci"]["kind"]
    counts = {key: pooled[key] for key in ("n_labels", "n_picks", "n_micrographs", "threshold")}
    return {"where": where, "rows": rows, "interval": kind, **counts}


def _figures(
    history: Mapping[str, list[dict[str, Any]]],
    facts: Mapping[str, Any],
    main: Evaluation | None,
    validation: tuple[PickSet, Mapping[str, Picks]] | None,
    rule: Rule,
) -> list[tuple[str, str]]:
    """Return each figure as an address that holds it, with its caption."""
    drawn: list[tuple[str, str]] = []
    if validation is not None and any(len(p) for p in validation[0]):
        ranked = Pool.of(validation[0].by_name(), validation[1]).by_micrograph(RADIUS * rule.diameter_px)
        right, score, n_labels = ranked.right, ranked.score, int(ranked.labels.sum())
        marked: dict[str, Any] = {"threshold": rule.threshold, "interval": rule.interval}
        if n_labels:
            curve = precision_recall_curve(right, score, n_labels)
            chance = _chance(main, RADIUS) if main is not None else {}
            caption = f"Precision and recall of the candidates on held-out labels, matched within {RADIUS:g} D."
            drawn.append((plots.precision_recall(*curve, **marked, chance=chance), caption))
        caption = "Scores of all candidates in the held-out areas. A clear valley makes the threshold safe."
        drawn.append((plots.score_histogram(score, right, **marked), caption))
    if main is not None and any(row["f1"] is not None for row in main.rows):
        caption = f"Each micrograph at the threshold, within {main.how['radius']:g} D."
        drawn.append((plots.by_micrograph(main.rows, pooled=main.pooled["f1"]), caption))
    if history["validated"]:
        step, ap, f1 = _columns(history["validated"], "step", "ap", "best_f1")
        caption = "Held-out labels during training. The last step is kept whose AP is within an error of the best."
        drawn.append((plots.validation_curve(step.astype(int), ap, f1, chosen=facts.get("best_step")), caption))
    if history["progress"]:
        step, loss, rate = _columns(history["progress"], "step", "loss", "rate")
        (norm,) = _columns([record["watch"] for record in history["progress"]], "gradient_norm")
        watch = {"rate": rate} | ({"gradient norm": norm} if np.isfinite(norm).any() else {})
        caption = "Loss on the training crops: single steps (faint) and smoothed."
        drawn.append((plots.learning_curve(step.astype(int), loss, watch), caption))
    return [(data_uri(figure, "image/svg+xml"), caption) for figure, caption in drawn]


def _columns(records: Iterable[Mapping[str, Any]], *keys: str) -> list[Float[np.ndarray, " n"]]:
    """Return a column of numbers for each key; what is missing is NaN."""
    return [np.array([_number(record.get(key)) for record in records]) for key in keys]


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _shown(why: str, page: Page, rule: Rule, areas: Mapping[str, Area], split: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the template shows of a page."""
    area, window = areas.get(page.name, Area()), None
    inside = area.holds(page.picks.xy).all() and (page.labels is None or area.holds(page.labels.xy).all())
    if area.partial and inside:
        window = _window(area, _extent(page.image))
    circles = marks(page, rule)
    picture = plots.overlay(page.image, circles, diameter_px=rule.diameter_px, title=page.name, window=window)
    chart = None if page.probability is None else data_uri(plots.score_map(page.probability), "image/png")
    return {
        "why": why, "page": page, "marks": circles, "picture": _inline(picture), "map": chart,
        "counted": len(page.picks.above(rule.threshold)), "role": _role(page.name, areas, split),
        "dimmed": window is not None, "bad": float(1 - page.image.valid.mean()),
    }  # fmt: skip


def _role(name: str, areas: Mapping[str, Area], split: Mapping[str, Any]) -> str:
    if name in areas:
        return "a strip of it was held out from training" if areas[name].partial else "held out from training"
    return "used for training: figures on it flatter" if name in split["labelled"] else "not used for training"


def _settings(config: RunConfig) -> list[tuple[str, str, bool]]:
    """Return each setting with its value and whether it differs from the default."""
    default = dict(_flat(asdict(RunConfig())))
    return [(key, _text(value), default.get(key) != value) for key, value in _flat(asdict(config))]


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _text(value: Any) -> str:
    if isinstance(value, bool | None):
        return {True: "yes", False: "no", None: "–"}[value]
    if isinstance(value, float):
        return f"{value:.4g}"
    return ", ".join(map(_text, value)) if isinstance(value, list | tuple) else str(value)


def _inline(svg: str) -> Markup:
    """Return one of our own drawings as part of a page, whose language needs no name space."""
    return Markup(svg.replace(' xmlns="http://www.w3.org/2000/svg"', "", 1))


def render(template: str, **values: Any) -> str:
    """Return the page that a template makes of the values; what is not marked as safe is escaped."""
    environment = Environment(
        loader=PackageLoader("verglas"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "figure": _figure,
        "duration": _duration,
        "svg": lambda text: data_uri(text, "image/svg+xml"),
    }
    html = environment.get_template(template).render(**values)
    return html.encode("utf-8", "replace").decode()  # a file name need not be text


def _figure(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.2f}"


def _duration(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )
