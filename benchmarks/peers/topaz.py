"""Topaz as a program: shrunken pictures in, picks in micrograph pixels out, and what each command cost.

Topaz shrinks by a truncated Fourier transform, so its pixel (0, 0) is that of the micrograph, and to whole sides, so
position p there is p · side / shrunken side here: a little more than the factor, which would err by pixels at the end.
"""

import math
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from install import variables
from material import Labels

from verglas.io.micrographs import read_image, read_micrograph, write_mrc
from verglas.io.picks import read_picks
from verglas.types import PickSet, nothing

Shapes = Mapping[str, tuple[int, int]]

MASK, MASK_COUNTED = 29, 203
"""Pixels within 3 of a position, what Topaz learns as particle; and the number that its 0.3.20 reckons with."""

DEFAULT_THRESHOLD = -6.0
"""Log-odds at which ``topaz extract`` stops unless told."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What processes took: wall and processor seconds in all, and the memory of the largest."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_mib: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.seconds + other.seconds, self.cpu_seconds + other.cpu_seconds, max(self.peak_mib, other.peak_mib)
        )


def run(command: Sequence[str | Path], environment: Mapping[str, str], log: Path) -> Cost:
    """Run a program to its end and return what it cost; say where its words are if it fails."""
    began = time.perf_counter()
    with log.open("ab") as words:
        child = subprocess.Popen([*map(str, command)], env=environment, stdout=words, stderr=words)
        _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(f"{command[0]} ended with {child.returncode}:\n{log.read_text(errors='replace')[-2000:]}")
    return Cost(time.perf_counter() - began, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


@dataclass(frozen=True, slots=True)
class Topaz:
    """Topaz at one working scale: ``factor`` micrograph pixels are one of its own."""

    program: Path
    factor: int
    diameter_px: float
    threads: int
    work: Path

    @property
    def radius(self) -> int:
        """Half a diameter in shrunken pixels: no two picks are nearer."""
        return max(1, round(self.diameter_px / self.factor / 2))

    def prepare(self, images: Sequence[Path]) -> tuple[list[Path], Cost]:
        """Shrink and normalise; writing MRC files, which is all that Topaz shrinks, is not counted."""
        raw, out = self.work / "raw", self.work / f"small{self.factor}"
        for image in images:
            write_mrc(raw / f"{image.stem}.mrc", read_image(image))
        files = [raw / f"{image.stem}.mrc" for image in images]
        cost = self._topaz("preprocess", "-s", self.factor, "-d", -1, "-t", 0, "--sample", 1, "-o", out, *files)
        return [out / file.name for file in files], cost

    def train(
        self, images: Sequence[Path], labels: Labels, shapes: Shapes, updates: int, *, pretrained: bool
    ) -> tuple[Path, Cost]:
        """Learn as Topaz does unless told otherwise, but for the number of updates and the share of particles."""
        listed, targets, out = self.work / "images.txt", self.work / "targets.txt", self.work / "curve.txt"
        listed.write_text("image_name\tpath\n" + "".join(f"{path.stem}\t{path}\n" for path in images))
        targets.write_text(target_text(labels.picks, shapes, self.factor))
        pixels = sum(math.prod(read_micrograph(path).shape) for path in images)
        cost = self._topaz(
            "train", "-d", -1, "--num-workers", 0, "-j", self.threads, *aims(labels, pixels),
            "--pretrained" if pretrained else "--no-pretrained", "--epoch-size", updates, "--num-epochs", 1,
            "--train-images", listed, "--train-targets", targets, "--save-prefix", self.work / "model", "-o", out,
        )  # fmt: skip
        return self.work / "model_epoch1.sav", cost

    def extract(self, model: str | Path, images: Sequence[Path]) -> tuple[Path, Cost]:
        """Pick down to Topaz's own default threshold."""
        out = self.work / "extracted.txt"
        cost = self._topaz("extract", "-d", -1, "-j", self.threads, "--num-workers", 0, "-m", model, "-r", self.radius,
                           "-t", DEFAULT_THRESHOLD, "-o", out, *images)  # fmt: skip
        return out, cost

    def _topaz(self, *arguments: object) -> Cost:
        environment = variables(self.program.parents[1], self.threads)
        return run([self.program, *map(str, arguments)], environment, self.work / "topaz.log")


def aims(labels: Labels, pixels: int) -> list[object]:
    """Return the options that say how many of the pixels lie on a particle: its paper's, not its program's count.

    Told a number of particles, Topaz 0.3.20 counts seven times too many pixels for each, once for every row of its
    mask. Complete labels are therefore given as such, and from the share for clicks Topaz takes its own wrong one off.
    """
    if labels.complete:
        return ["--method", "PN", "--pi", MASK * labels.particles / pixels]
    unseen = labels.particles - len(labels.picks)
    return ["--method", "GE-binomial", "--pi", (MASK * unseen + MASK_COUNTED * len(labels.picks)) / pixels]


def ratio(shape: tuple[int, int], factor: int) -> tuple[float, float]:
    """Return how many micrograph pixels one of Topaz's is, in x and in y."""
    height, width = shape
    return width / (width // factor), height / (height // factor)


def target_text(labels: PickSet, shapes: Shapes, factor: int) -> str:
    """Return labels as Topaz reads them: whole pixels of the shrunken pictures."""
    rows = ["image_name\tx_coord\ty_coord"]
    for part in labels:
        whole = np.floor(part.xy / ratio(shapes[part.micrograph], factor) + 0.5).astype(int)
        rows += [f"{part.micrograph}\t{x}\t{y}" for x, y in whole.tolist()]
    return "\n".join(rows) + "\n"


def in_micrograph(file: Path, shapes: Shapes, factor: int, diameter_px: float, threshold: float | None) -> PickSet:
    """Read what Topaz extracted as picks in micrograph pixels; a micrograph without any is there too."""
    only_header = file.read_text(encoding="utf-8").count("\n") < 2
    found = {} if only_header else read_picks(file).by_name()
    parts = [replace(found.get(name, nothing(name)), source="topaz") for name in shapes]
    whole = tuple(replace(part, xy=part.xy * ratio(shapes[part.micrograph], factor)) for part in parts)
    return PickSet(whole, threshold, diameter_px=diameter_px, shapes=dict(shapes))
