"""Records drawn on a terminal: bars, warnings, and a table at the end."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from verglas import records

_LISTS = "suggested", "ways", "advice"  # in a summary; on a terminal they have been shown otherwise


def show(stream: Iterator[records.Record], as_json: bool) -> int:
    """Draw records as they come; print the summary, as JSON if asked. Return how many micrographs failed."""
    console = Console(stderr=True)
    failed, summary, suggested = 0, None, list[records.Suggested]()
    with _Bars(console) as bars:
        for record in stream:
            match record:
                case records.Failed(path, reason):
                    failed += 1
                    console.print(f"[red]left out[/] {escape(reason if path in reason else f'{path}: {reason}')}")
                case records.Note(text, warning):
                    console.print(f"[yellow]warning[/] {escape(text)}" if warning else escape(text), highlight=False)
                case records.Ruled(step, code, verdict, action, sentence):
                    done = "" if action == "say" else f": {action}"
                    console.print(f"[yellow]{verdict}[/] ({code}) at step {step}{done}. {escape(sentence)}")
                case records.Checked():
                    _print_finding(console, record)
                case records.Suggested():
                    suggested.append(record)
                case records.Summary():
                    summary = record
                case _:
                    bars.draw(record)
    if failed:
        console.print(f"[yellow]{failed} failed; the rest went on[/]")
    if summary is not None and as_json:
        print(json.dumps(records.plain(summary.facts), allow_nan=False))
    elif summary is not None:
        _print_suggested(suggested)
        _print_facts({key: value for key, value in summary.facts.items() if key not in _LISTS})
    return failed


def show_diagnosis(stream: Iterator[records.Record], as_json: bool) -> str:
    """Print each finding as it comes and the causes at the end, or all as one JSON object; return the verdict."""
    console, causes, summary = Console(stderr=as_json), [], None
    for record in stream:
        match record:
            case records.Checked() if not as_json:
                _print_finding(console, record)
            case records.Diagnosed():
                causes.append(record)
            case records.Note(text, warning) if not as_json:
                console.print(f"[yellow]warning[/] {escape(text)}" if warning else escape(text), highlight=False)
            case records.Summary():
                summary = record
    assert summary is not None, "the verb ends in a summary"
    if as_json:
        print(json.dumps(records.plain(summary.facts), allow_nan=False))
    else:
        _print_causes(console, causes)
    verdict: str = summary.facts["verdict"]
    return verdict


_SIGNS = {
    "ok": "[green]ok[/]     ", "info": "[blue]info[/]   ", "warn": "[yellow]warning[/]", "fail": "[red]FAULT[/]  ",
    "skipped": "[dim]skipped[/]",
}  # fmt: skip


def _print_finding(console: Console, found: records.Checked) -> None:
    """Print the verdict in words; the numbers and the remedy where there is a fault."""
    code = f" [bold]{found.code}[/]" if found.verdict in ("warn", "fail") else ""
    console.print(f"{_SIGNS[found.verdict]} {found.check}:{code} {escape(found.sentence)}", highlight=False)
    if code:
        numbers = ", ".join(f"{key.replace('_', ' ')} {_short(value)}" for key, value in found.evidence.items())
        console.print(f"        [dim]{escape(numbers)}[/]", highlight=False)
        console.print(f"        {escape(found.remedy)}", highlight=False)


def _print_causes(console: Console, causes: Sequence[records.Diagnosed]) -> None:
    if not causes:
        console.print("\nNo fault found.")
        return
    console.print("\n[bold]Possible causes, the most likely first[/]")
    for cause in causes:
        console.print(f"{cause.rank}. [bold]{cause.cause}[/] {escape(cause.sentence)}", highlight=False)
        for sign, texts in (("for", cause.evidence_for), ("against", cause.evidence_against)):
            for text in texts:
                console.print(f"   [dim]{sign}[/] {escape(text)}", highlight=False)
        console.print(f"   What to do: {escape(cause.remedy)}", highlight=False)


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def complain(sentence: str) -> None:
    """Print what went wrong."""
    Console(stderr=True).print(f"[red]error[/] {escape(sentence)}", highlight=False)


def print_evaluation(figures: Mapping[str, Any], as_json: bool) -> None:
    """Print figures of merit at each radius, with chance beside them."""
    if as_json:
        print(json.dumps(figures, allow_nan=False))
        return
    interval = figures["ci"]
    table = Table(title=f"{figures['n_picks']} picks against {figures['n_labels']} labels", title_justify="left")
    for heading in ("within", "AP", "F1", "precision", "recall", "best F1", "random F1", "grid F1"):
        table.add_column(heading, justify="right")
    for radius, at in figures["at_radius"].items():
        chance = figures["baselines"] or {}
        values = [at[key] for key in ("ap", "f1", "precision", "recall", "best_f1")]
        values += [chance.get(key, {}).get(radius, {}).get("f1") for key in ("random", "grid")]
        table.add_row(f"{radius} D", *("-" if value is None else f"{value:.3f}" for value in values))
    console = Console()
    console.print(table)
    bounds = ", ".join(
        f"{key.upper()} {interval[key][0]:.3f} to {interval[key][1]:.3f}" for key in ("ap", "f1") if interval.get(key)
    )
    console.print(f"{interval['kind']}: {bounds}", highlight=False)
    missing = figures["how"]["labelled_but_not_picked"]
    if missing:
        sentence = (
            f"{len(missing)} labelled micrographs are not in the pick file, so all their labels count as missed: "
        )
        console.print(f"[yellow]warning[/] {sentence}{escape(', '.join(missing[:5]))}", highlight=False)
    threshold = "all picks count" if figures["threshold"] is None else f"threshold {figures['threshold']:.3f}"
    console.print(f"{threshold} ({figures['how']['threshold']})", highlight=False)


class _Bars:
    """A progress bar for each kind of record on a terminal, and a line now and then elsewhere."""

    def __init__(self, console: Console) -> None:
        self.console = console
        columns = TextColumn("{task.description:<10}"), BarColumn(), TextColumn("{task.completed:.0f}/{task.total:.0f}")
        self.progress = Progress(*columns, TimeElapsedColumn(), TextColumn("{task.fields[note]}"), console=console)
        self.tasks: dict[str, Any] = {}
        self.validated = ""

    def __enter__(self) -> "_Bars":
        if self.console.is_terminal:
            self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def draw(self, record: records.Record) -> None:
        match record:
            case records.Prepared(_, done, total, _):
                self._advance("preparing", done, total)
            case records.Written(_, done, total, _):
                self._advance("simulating", done, total)
            case records.Progress(step, steps, _, loss):
                self._advance("learning", step, steps, f"loss {loss:.3f}{self.validated}")
            case records.Validated(_, ap, f1):
                self.validated = f", validation AP {ap:.3f}, best F1 {f1:.3f}"
            case records.Picked(_, done, total, candidates, counted):
                self._advance(
                    "picking", done, total, f"{candidates} candidates" if counted is None else f"{counted} picks"
                )
            case records.Studied(_, about, done, total, seconds, ap, f1):
                self.console.print(f"{about}: AP {ap:.3f}, F1 {f1:.3f}, {seconds:.0f} s", highlight=False)
                self._advance("studying", done, total)
            case records.Timed(device, threads, precision, rate, _, seconds):
                way = f"{device}, {threads} thread{'s' * (threads > 1)}, {precision}"
                self.console.print(f"{way}: {rate:.1f} micrographs/s, training {seconds:.0f} s", highlight=False)
            case records.Trained(_, step, seconds, stopped):
                self.console.print(f"{'stopped at' if stopped else 'learned in'} step {step}, {seconds:.0f} s")

    def _advance(self, name: str, done: int, total: int, note: str = "") -> None:
        if not self.console.is_terminal:
            if done == total or done % max(1, total // 5) == 0:
                self.console.print(f"{name} {done}/{total} {note}".rstrip(), highlight=False)
            return
        if name not in self.tasks:
            self.tasks[name] = self.progress.add_task(name, total=total, note=note)
        self.progress.update(self.tasks[name], completed=done, total=total, note=note)


def _print_suggested(suggested: Sequence[records.Suggested]) -> None:
    console = Console()
    if suggested:
        console.print("[bold]To be labelled next[/], with uncertainty, disagreement, novelty")
    for one in suggested:
        numbers = "  ".join(f"{value:.3f}" for value in (one.uncertainty, one.disagreement, one.novelty))
        console.print(f"{one.rank:3}. {numbers}  [bold]{escape(one.micrograph)}[/]", highlight=False, soft_wrap=True)
        console.print(f"     [dim]{escape(one.reason)}[/]", highlight=False, soft_wrap=True)


def _print_facts(facts: Any) -> None:
    table = Table(show_header=False, box=None, pad_edge=False)
    for key, value in facts.items():
        text = f"{value:.4g}" if isinstance(value, float) else escape(str(value))
        table.add_row(key.replace("_", " "), text)
    Console().print(table)
