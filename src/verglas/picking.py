"""Picking many micrographs into one file: bad ones stop nothing, and an interrupted call goes on where it was."""

import hashlib
import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path

import numpy as np
from jaxtyping import Float

from verglas.data import Stored
from verglas.errors import InputError
from verglas.io._base import write_text
from verglas.io.collections import Found
from verglas.io.pickfile import PickFile
from verglas.picker import Picker
from verglas.ranking import midway
from verglas.records import Failed, Note, Picked, Record, Summary
from verglas.runs import Run
from verglas.types import Micrograph, PickSet

STRANGE = 0.02
"""Share of a micrograph with a coarser grain than was labelled from which on it is told of."""


@dataclass(frozen=True, slots=True)
class Number:
    """The threshold that keeps so many picks of a micrograph on average: known when all are searched."""

    particles: float

    def threshold(self, scores: Float[np.ndarray, " n"], micrographs: int) -> float:
        """Return it for the scores of all candidates; where these are fewer, each one counts."""
        wanted, falling = max(1, round(self.particles * micrographs)), np.sort(scores)[::-1]
        return midway(falling, wanted - 1, wanted - 1) if wanted < len(falling) else 0.0


def pick_into(
    out: str | Path,
    picker: Picker,
    found: Found,
    chosen: float | Number,
    how: str,
    *,
    maps: str | Path | None,
    stop: threading.Event | None,
) -> Iterator[Record]:
    """Pick what was found into the file ``out``; the threshold ``chosen`` says which candidates count.

    With ``maps``, probability maps are kept in that folder. What could not be picked is listed beside ``out``.
    """
    total, failed, began = len(found.micrographs), dict[str, str](), time.perf_counter()
    strange = dict[str, float]()
    failed.update((str(failure.path), failure.reason) for failure in found.failures)
    with PickFile(out, _key(picker, found.micrographs, maps)) as file:
        earlier = {row["name"] for row in file.done}
        if earlier:
            yield Note(f"goes on after {len(earlier)} of {total} micrographs")
        todo = [micrograph for micrograph in found.micrographs if micrograph.name not in earlier]
        for micrograph, result in picker.pick_all(todo):
            if isinstance(result, Exception):
                failed[str(micrograph.path)] = str(result)
                yield Failed(str(micrograph.path), str(result))
            else:
                if maps is not None:
                    Stored.write(Path(maps), micrograph.name, picker.inside(micrograph, result.probability))
                if result.strange > STRANGE:
                    strange[micrograph.name] = result.strange
                file.add(result.picks, micrograph.shape)
                counted = None if isinstance(chosen, Number) else len(result.picks.above(chosen))
                yield Picked(micrograph.name, len(file.done), total, len(result.picks), counted)
            if stop is not None and stop.is_set():
                yield Note("stopped: repeat the command to go on", warning=True)
                return
        if not file.done:
            raise InputError(
                out, "picks", found=f"none: all {total} micrographs failed", expected="one that can be picked",
                remedy=f"The first reason: {next(iter(failed.values()))}",
            )  # fmt: skip
        if strange:
            most = max(strange, key=lambda name: strange[name])
            yield Note(
                f"{len(strange)} of {len(todo)} micrographs have areas of a coarser grain than any that was labelled, "
                f"as carbon has: nothing is picked there. Most on {most} ({strange[most]:.0%}). To have such areas "
                "searched label some of these, or train with --set search.grain=0."
            )
        if isinstance(chosen, Number):
            chosen = chosen.threshold(file.scores(), len(file.done))
        seconds, picked = time.perf_counter() - began, len(file.done) - len(earlier)
        path = file.finish(
            PickSet(
                (), threshold=chosen, threshold_how=how, diameter_px=picker.recipe.diameter_px,
                pixel_size_angstrom=picker.pixel_size_angstrom,
            )
        )  # fmt: skip
    _write_failed(path.with_suffix(".failed.jsonl"), failed)
    yield Summary({
        "picks": str(path), "micrographs": len(file.done), "failed": len(failed),
        "candidates": sum(row["candidates"] for row in file.done), "threshold": chosen, "threshold_how": how,
        "seconds": seconds, "micrographs_per_second": picked / seconds if seconds else None,
        "device": str(picker.device), "precision": picker.precision, "thorough": picker.thorough,
    })  # fmt: skip


def threshold_of(
    run: str | Path, threshold: float | None, precision: float | None, particles: float | None
) -> tuple[float | Number, str]:
    """Return the threshold that counts, and in words how it was chosen."""
    opened = Run.open(run)
    ways = {"--threshold": threshold, "--expected-precision": precision, "--particles-per-micrograph": particles}
    given = [name for name, value in ways.items() if value is not None]
    if len(given) > 1:
        raise InputError("pick", "threshold", found=" and ".join(given), expected="one of them")
    if particles is not None:
        if not 0 < particles < inf:
            raise InputError("pick", "--particles-per-micrograph", found=f"{particles:g}", expected="a number above 0")
        return Number(particles), f"the score that keeps {particles:g} picks a micrograph on average, as told"
    if threshold is not None:
        return threshold, "given by the user"
    if precision is not None and opened.any_particle:
        raise InputError(
            "pick", "expected precision", found=f"{precision:g} of a run that learned no particle of its own",
            expected="a run whose validation shows precision", remedy="Give --threshold, or train on some labels.",
        )  # fmt: skip
    point = opened.operating_point() if precision is None else opened.operating_point_for(precision)
    return point.threshold, point.how


def _write_failed(path: Path, failed: Mapping[str, str]) -> None:
    """Write which micrographs could not be used and why; nothing where all could."""
    if failed:
        write_text(path, "".join(json.dumps({"path": name, "reason": why}) + "\n" for name, why in failed.items()))
    else:
        path.unlink(missing_ok=True)


def _key(picker: Picker, micrographs: Sequence[Micrograph], maps: str | Path | None) -> str:
    """Identify what a pick file depends on: settings, model, and the micrographs as they are on disk."""
    settings = str(maps), picker.thorough, picker.recipe.hash, picker.config.search, picker.config.data.reading()
    digest = hashlib.blake2b(repr(settings).encode(), digest_size=8)
    for tensor in picker.network.state_dict().values():
        digest.update(tensor.cpu().numpy().tobytes())
    for micrograph in micrographs:
        about = micrograph.path.stat()
        digest.update(f"{micrograph.path} {about.st_size} {about.st_mtime_ns}\n".encode())
    return digest.hexdigest()
