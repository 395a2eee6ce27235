"""Results as lines of JSON, one for each cell of a benchmark: computed once, and found again by its key."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from verglas.study_report import spread

Cell = dict[str, Any]


def key_of(cell: Mapping[str, Any]) -> str:
    """Return a name for all that a cell says."""
    return hashlib.blake2b(json.dumps(cell, sort_keys=True).encode(), digest_size=6).hexdigest()


def order_of(names: Sequence[str], draw: int) -> list[str]:
    """Return names in an order drawn once, beginning with number ``draw`` and going on around the end."""
    return np.roll(np.random.default_rng(0).permutation(names), -draw).tolist()


def read(results: Path) -> list[dict[str, Any]]:
    """Return what is in the results."""
    return [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []


def missing(results: Path, cells: Iterable[Cell]) -> list[Cell]:
    """Return the cells that are not in the results, each once."""
    done = {row["key"] for row in read(results)}
    return [cell for key, cell in {key_of(cell): cell for cell in cells}.items() if key not in done]


def fill(
    results: Path,
    cells: Sequence[Cell],
    compute: Callable[[Cell], dict[str, Any]],
    line: Callable[[dict[str, Any]], str],
    *,
    jobs: int | None = None,
) -> None:
    """Compute a row for each cell, add it to the results as it comes, and print it as a line.

    With ``jobs`` in so many processes, else in this one.
    """
    if jobs is None:
        _write(results, cells, map(compute, cells), line)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        _write(results, cells, pool.map(compute, cells), line)


def mean_and_interval(apart: Sequence[float]) -> str:
    """Return the mean of differences and, of two or more, its 95 % t interval."""
    of = spread(apart)
    return f"{of['mean']:+.3f}" + ("" if of["low"] is None else f" ({of['low']:+.3f} to {of['high']:+.3f})")


def _write(
    results: Path, cells: Sequence[Cell], found: Iterable[dict[str, Any]], line: Callable[[dict[str, Any]], str]
) -> None:
    for cell, values in zip(cells, found, strict=True):
        row = {"key": key_of(cell), **cell, **values}
        with results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(line(row), flush=True)
