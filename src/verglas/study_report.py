"""What a study found: every figure with its spread over seeds, differences pair by pair, and a page to look at.

It needs the folder of the study and nothing else, so results of a cluster can be collected anywhere.
"""

import csv
import io
import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scipy import stats

from verglas import plots
from verglas.errors import InputError
from verglas.io._base import write_text
from verglas.plots import data_uri
from verglas.records import plain
from verglas.report import render
from verglas.study import Amount, Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PAIRED = ("ap@0.5", "f1@0.5", "ap@0.3", "f1@0.3")
"""Figures of which differences between rows are taken, seed by seed."""

DRAWN = {"ap@0.5": "AP within 0.5 D", "f1@0.3": "F1 at the threshold within 0.3 D"}

ALIKE = 0.1
"""Correlation of thumbnails above which two micrographs may be of the same place; see ``doctor.split``."""

NO_SKILL = 0.05
"""Skill in pixels, (AP - π)/(1 - π), below which a run has learned nothing."""

_UNIT = {"ratio": "share of training micrographs labelled", "micrographs": "labelled micrographs",
         "particles": "clicked particles"}  # fmt: skip
_LINES = (("-", "o"), ("--", "s"), (":", "^"), ("-.", "D"))
_COLOURS = (plots.BLUE, plots.VERMILLION, "#009E73", plots.ORANGE, "#CC79A7", plots.SKY, plots.INK)


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """The runs of one data set, amount and row: ``runs`` holds key and result by seed, in order of seeds."""

    data: str
    row: str
    amount: Amount
    seeds: int
    runs: Mapping[int, tuple[str, Mapping[str, Any]]]

    def values(self, figure: str) -> dict[int, float]:
        """Return a figure by seed, where it is defined."""
        known = {seed: result["figures"].get(figure) for seed, (_, result) in self.runs.items()}
        return {seed: value for seed, value in known.items() if value is not None}

    @property
    def keys(self) -> list[str]:
        """The names of the folders of the runs."""
        return [key for key, _ in self.runs.values()]

    @property
    def figures(self) -> list[str]:
        """The names of all figures."""
        return list(dict.fromkeys(name for _, result in self.runs.values() for name in result["figures"]))


# --- collecting


def collect(folder: Path, *, gaps: bool = False) -> list[Group]:
    """Read the results of a study, in the order of its file.

    Raises
    ------
    InputError
        If a run has no result, unless ``gaps`` may be left, or a place in the matrix has two.
    """
    study, groups = Study.load(folder / "study.toml"), dict[tuple[str, str, Amount], Group]()
    places: dict[tuple[str, str, Amount, int], str] = {}
    for cell in _json(folder / "cells.json")["cells"]:
        place = cell["data"], cell["row"], Amount(cell["kind"], cell["value"]), cell["seed"]
        if place in places:
            raise InputError(folder / "cells.json", " ".join(map(str, place)), found="twice", expected="one run")
        places[place] = cell["key"]
    if places.keys() != set(study.cells()):
        odd = " ".join(map(str, min(places.keys() ^ set(study.cells()))))
        remedy = "Repeat the study command; it writes both files."
        raise InputError(folder / "cells.json", odd, found="not in both", expected="as in study.toml", remedy=remedy)
    results = {key: _result(folder / "runs" / key) for key in places.values()}
    missing = [" ".join(map(str, place)) for place, key in places.items() if results[key] is None]
    if missing and not gaps:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        remedy = "Repeat the study command, or ask for a report with gaps."
        raise InputError(folder, "runs without result", found=missing[0] + more, expected="none", remedy=remedy)
    for data in study.data:
        for amount in study.amounts():
            for row in study.rows:
                at = {seed: places.get((data, row, amount, seed)) for seed in study.seeds}
                runs = {s: (key, result) for s, key in at.items() if key and (result := results[key]) is not None}
                if any(at.values()):
                    groups[data, row, amount] = Group(data, row, amount, len(study.seeds), runs)
    return list(groups.values())


def _result(home: Path) -> dict[str, Any] | None:
    return _json(home / "result.json") if (home / "result.json").is_file() else None


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(path, "file", found=str(error), expected="a JSON file of a study") from error


def leakage_path(folder: Path, data: str) -> Path:
    """Return where it is kept how much pictures of the test are like others."""
    return folder / "splits" / f"{data}_leakage.json"


def leakage(folder: Path, data: str) -> str | None:
    """Say in words if a picture of the test may be one that teaches."""
    if not leakage_path(folder, data).is_file():
        return None
    found = _json(leakage_path(folder, data))
    if found["highest_correlation"] <= ALIKE:
        return None
    return (
        f"{data}: {found['most_alike'][0]}, of the test, looks like {found['most_alike'][1]} (thumbnails correlate by "
        f"{found['highest_correlation']:.2f}, distinct micrographs by .03 at most): what teaches may also test."
    )


# --- figures


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Return mean, standard deviation, range, number, and the 95 % t interval of the mean where there are two."""
    n = len(values)
    if not n:
        return dict.fromkeys(("mean", "sd", "low", "high", "min", "max")) | {"n": 0}
    mean, sd = statistics.fmean(values), statistics.stdev(values) if n > 1 else None
    half = None if sd is None else float(stats.t.ppf(0.975, n - 1)) * sd / math.sqrt(n)
    low, high = (None, None) if half is None else (mean - half, mean + half)
    return {"mean": mean, "sd": sd, "low": low, "high": high, "min": min(values), "max": max(values), "n": n}


def gain(group: Group, base: Group, figure: str) -> dict[str, Any]:
    """Return the spread of the differences from the base, of seeds that both have."""
    ours, theirs = group.values(figure), base.values(figure)
    return spread([ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())])


def summed_up(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Return each group's figures, and its gain over the first row of the study at the same data and amount.

    A row that shares the runs of the first has no gain.
    """
    first = groups[0].row if groups else ""
    base = {(g.data, g.amount): g for g in groups if g.row == first}
    rows = []
    for group in groups:
        against = base.get((group.data, group.amount))
        other = against is not None and against.keys != group.keys
        gains = {key: gain(group, against, key) for key in PAIRED} if against is not None and other else {}
        rows.append({
            "data": group.data, "row": group.row, "kind": group.amount.kind, "value": group.amount.value,
            "runs": len(group.runs), "planned": group.seeds,
            "figures": {name: spread([*group.values(name).values()]) for name in group.figures},
            "gain_over": first if gains else None, "gain": gains,
            "verdicts": [said for _, _, said, _ in _verdicts(group)],
        })  # fmt: skip
    return rows


def write_results(folder: Path, *, gaps: bool = False) -> dict[str, Any]:
    """Write the summaries, a file for each data set, row and amount, and the page; return what is where."""
    groups = collect(folder, gaps=gaps)
    rows = summed_up(groups)
    for group, row in zip(groups, rows, strict=True):
        runs = [{"seed": seed, "run": key, **result} for seed, (key, result) in group.runs.items()]
        _write(folder / "results" / group.data / f"ssl_eval_{group.row}_{group.amount}.json", row | {"all": runs})
    gone = [f"{g.data} {g.row} {g.amount}" for g in groups if len(g.runs) < g.seeds]
    _write(folder / "summary.json", {"groups": rows, "gaps": gone})
    write_text(folder / "summary.csv", _table(rows))
    page = write_page(folder, groups, rows)
    return {"study": str(folder), "runs": sum(len(g.runs) for g in groups), "groups_with_gaps": len(gone),
            "summary": str(folder / "summary.csv"), "report": str(page)}  # fmt: skip


def _write(path: Path, values: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(plain(values), indent=1) + "\n")


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a line for each figure of each group, as CSV."""
    place, figures = ("data", "row", "kind", "value"), ("n", "mean", "sd", "low", "high", "min", "max")
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow((*place, "figure", *figures, "gain_n", "gain", "gain_low", "gain_high", "verdicts"))
    for row in rows:
        for name, found in row["figures"].items():
            gained = [row["gain"].get(name, {}).get(key) for key in ("n", "mean", "low", "high")]
            numbers = *(found[key] for key in figures), *gained
            table.writerow((*(row[key] for key in place), name, *numbers, "; ".join(row["verdicts"])))
    return text.getvalue()


# --- the page


def write_page(folder: Path, groups: Sequence[Group], rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write ``study.html``, one file that links to the reports of the runs beside it."""
    study = Study.load(folder / "study.toml")
    kinds = list(dict.fromkeys(group.amount.kind for group in groups))
    pairs = list(zip(groups, rows, strict=True))
    figures = [(data_uri(curves([pair for pair in pairs if pair[0].amount.kind == kind], figure), "image/svg+xml"),
                f"{name} against the {_UNIT[kind]}: mean over seeds, 95 % t interval (bars) and "
                "single runs (dashes).")
               for kind in kinds for figure, name in DRAWN.items()]  # fmt: skip
    html = render(
        "study.html.j2",
        title=f"Study {folder.resolve().name}",
        study=study,
        first=next(iter(study.rows)),
        warnings=[*filter(None, (leakage(folder, data) for data in study.data)), *_warnings(study, groups)],
        figures=figures,
        pairs=[(amount(group.amount), row, list(_verdicts(group))) for group, row in pairs],
        paired=PAIRED,
        settings={name: ", ".join(_flat(tree)) or "as all" for name, tree in study.rows.items()},
        common=", ".join([*_flat(study.settings), *study.set]),
        versions=sorted({result["version"] for group in groups for _, result in group.runs.values()}),
        runs=len({key for group in groups for key, _ in group.runs.values()}),
    )
    write_text(folder / "study.html", html)
    return folder / "study.html"


def _warnings(study: Study, groups: Sequence[Group]) -> Iterator[str]:
    """Yield what a reader must know before believing the figures."""
    for group in groups:
        if len(group.runs) < group.seeds:
            yield f"{group.data}, {group.row}, {amount(group.amount)}: {len(group.runs)} of {group.seeds} runs ended."
    if len(study.seeds) < 3:
        yield f"Seeds: {len(study.seeds)}. Intervals over fewer than three say next to nothing."
    results = [result for group in groups for _, result in group.runs.values()]
    if any(result["test"]["seen_unlabelled"] for result in results):
        yield "Transductive: rows with unlabelled micrographs learned from those of the test too, without their labels."
    for what in ("version", "device", "threads"):
        if len(found := sorted({str(result[what]) for result in results})) > 1:
            yield f"Runs differ in {what}: {', '.join(found)}."
    amounts, rows = (dict[tuple[str, ...], list[str]]() for _ in range(2))
    for group in groups:
        if group.runs:
            amounts.setdefault((group.data, group.row, *sorted(group.keys)), []).append(amount(group.amount))
            rows.setdefault((group.data, amount(group.amount), *group.keys), []).append(group.row)
    for (data, row, *_), same in amounts.items():
        if len(same) > 1:
            yield f"{data}, {row}: {' and '.join(same)} are the same micrographs, so the same runs."
    alike = dict[tuple[str, str], list[str]]()
    for (data, labels, *_), same in rows.items():
        if len(same) > 1:
            alike.setdefault((data, " and ".join(same)), []).append(labels)
    for (data, names), known in alike.items():
        yield f"{data}, {', '.join(known)}: {names} come to the same settings, so the same runs."
    labels_of = dict[tuple[str, str], set[str]]()
    for group in groups:
        if len(group.runs) > 1:
            digests = {result["labels"]["digest"] for _, result in group.runs.values()}
            labels_of.setdefault((group.data, amount(group.amount)), set()).update(digests)
    for (data, labels), digests in labels_of.items():
        if len(digests) == 1:
            yield f"{data}, {labels}: all seeds have the same labels, so the spread is that of the training alone."


def _verdicts(group: Group) -> Iterator[tuple[int, str, str, str]]:
    """Yield seed, address of the run's report, what became of it, and what its guard did."""
    for seed, (key, result) in group.runs.items():
        found, figures = result["doctor"], result["figures"]
        said = {"fail": "fault", "warn": "warning"}.get(found["verdict"], "learned")
        said = "no pick is right" if not figures["best_f1@0.5"] else said
        said = "no skill" if figures["pixel_skill"] < NO_SKILL else said
        cause = f" ({found['cause']})" if found["cause"] else ""
        yield seed, f"runs/{key}/run/report.html", said + cause, "; ".join(result["stages"])


def amount(value: Amount) -> str:
    """Return an amount of labels in words."""
    if value.kind == "ratio":
        return f"{100 * value.value:g} %"
    return f"{value.value:g} {value.kind.removesuffix('s') if value.value == 1 else value.kind}"


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}={value if isinstance(value, str) else json.dumps(value)}"


def curves(pairs: Sequence[tuple[Group, Mapping[str, Any]]], figure: str) -> str:
    """Draw a figure against the amount of labels, a panel for each data set and a line for each row."""
    sets, names = (list(dict.fromkeys(getattr(g, key) for g, _ in pairs)) for key in ("data", "row"))
    amounts = sorted({group.amount.value for group, _ in pairs})
    columns, low = min(3, len(sets)), _least(pairs, figure)

    def draw(canvas: "Figure") -> None:
        panels = canvas.subplots(-(-len(sets) // columns), columns, sharey=True, squeeze=False)
        for axes in panels.flat[len(sets) :]:
            axes.set_visible(False)
        for data, axes in zip(sets, panels.flat, strict=False):
            for number, row in enumerate(names):
                points = [(g, r) for g, r in pairs if (g.data, g.row) == (data, row) and g.values(figure)]
                _curve(axes, points, figure, number, _aside(number, len(names), amounts))
            axes.set_title(data)
            _amount_axis(axes, amounts, pairs[0][0].amount.kind)
            axes.set_ylim(low, 1.02)
        panels[0, 0].set_ylabel(DRAWN[figure])
        known = {
            label: one for axes in panels.flat for one, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        canvas.legend(known.values(), known.keys(), loc="outside upper center", ncols=4)

    tall = 3.1 * -(-len(sets) // columns) + 0.2 * -(-len(names) // 4)
    return plots.svg(draw, 5.4 if columns == 1 else 3.1 * columns, tall)


def _least(pairs: Sequence[tuple[Group, Mapping[str, Any]]], figure: str) -> float:
    """Return where the axis of a figure begins: a tenth that nothing drawn is below."""
    found = [row["figures"][figure] for group, row in pairs if group.values(figure)]
    least = min((value for one in found for value in (one["low"], one["min"]) if value is not None), default=0)
    return max(0, math.floor(10 * least) / 10)


def _aside(number: int, count: int, amounts: Sequence[float]) -> float:
    """Return by what factor a row is moved along the axis, so that rows do not hide each other."""
    return max(1.15, max(amounts) / min(amounts)) ** (0.035 * (number - (count - 1) / 2))


def _curve(
    axes: "Axes", points: Sequence[tuple[Group, Mapping[str, Any]]], figure: str, number: int, aside: float
) -> None:
    """Draw means with intervals and single runs of a row."""
    (line, marker), colour = _LINES[number % len(_LINES)], _COLOURS[number % len(_COLOURS)]
    found = [row["figures"][figure] for _, row in points]
    x, mean = [group.amount.value * aside for group, _ in points], [one["mean"] for one in found]
    bars = [[one["mean"] - max(one["low"], 0) if one["low"] is not None else 0 for one in found],
            [min(one["high"], 1) - one["mean"] if one["high"] is not None else 0 for one in found]]  # fmt: skip
    label = points[0][0].row if points else None
    axes.errorbar(
        x,
        mean,
        bars,
        color=colour,
        linestyle=line,
        marker=marker,
        markersize=4.5,
        capsize=4,
        linewidth=1.3,
        elinewidth=0.9,
        label=label,
    )
    for place, (group, _) in zip(x, points, strict=True):
        values = [*group.values(figure).values()]
        axes.plot([place] * len(values), values, "_", color=colour, markersize=6, markeredgewidth=0.9)


def _amount_axis(axes: "Axes", amounts: Sequence[float], kind: str) -> None:
    """Put the amounts on a logarithmic axis, each by its number."""
    axes.set_xscale("log")
    words = [f"{100 * value:g} %" if kind == "ratio" else f"{value:g}" for value in amounts]
    axes.set_xticks(amounts, words)
    axes.set_xticks([], minor=True)
    axes.set_xlim(min(amounts) / 1.4, max(amounts) * 1.4)
    axes.set_xlabel(_UNIT[kind])
