"""How fast micrographs are picked, and how much memory picking and training hold.

    python benchmarks/speed.py            # all of it, into results/speed.json (about 10 minutes, 25 GB of scratch)
    python benchmarks/speed.py rate large # only these parts

rate     micrographs per second for 1024 x 1024 float32 MRC, particle of 27 px, as the verb `pick` does it
large    one 4096 x 4096 float32 MRC, particle of 108 px: the whole of picking against reading the file and one
         forward rfft2 of it, alternating in one run; medians
memory   peak memory of `pick` for 8 and for 64 micrographs of 1024 x 1024
training peak memory of `train` on 6,000 labelled micrographs of 768 x 768 (hard links to 12 different ones), with
         what is mapped from disk counted
"""

import datetime
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import scipy.fft
import torch

from verglas import api
from verglas.config import DataSettings, RunConfig
from verglas.io.micrographs import read_image, read_micrograph
from verglas.picker import Picker
from verglas.records import Summary
from verglas.simulate import Scene, write_dataset

RESULTS = Path(__file__).parent / "results" / "speed.json"


def scene(side: int, pixel_size_angstrom: float) -> Scene:
    """Return a dense field of particles of 190 Å, as in EMPIAR-10017."""
    return Scene(
        shape_px=(side, side), pixel_size_angstrom=pixel_size_angstrom, particles=400.0, diameter_angstrom=190.0,
        minimum_gap_angstrom=0.0, carbon=0.0,
    )  # fmt: skip


def main() -> None:
    parts: dict[str, Callable[[Path], dict[str, Any]]] = {
        "rate": rate, "large": large, "memory": memory, "training": training,
    }  # fmt: skip
    if len(sys.argv) > 2 and sys.argv[1] == "--child":
        print(json.dumps(child(sys.argv[2], *sys.argv[3:])))
        return
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    with tempfile.TemporaryDirectory() as scratch:
        run = small_run(Path(scratch))
        for name in sys.argv[1:] or parts:
            found[name] = parts[name](run) | {"date": datetime.date.today().isoformat(), "cores": os.cpu_count(),
                                              "threads": torch.get_num_threads()}  # fmt: skip
            print(name, json.dumps(found[name]), flush=True)
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")


def tables(arguments: list[str]) -> list[str]:
    """Return the results as a table, for the docs."""
    found = json.loads(RESULTS.read_text())
    r, large_one, held, many = (found[name] for name in ("rate", "large", "memory", "training"))
    rows = [
        ("picking 1024 × 1024, micrographs per second", f"{r['micrographs_per_second']:.1f}"),
        ("picking one 4096 × 4096, seconds", f"{large_one['pick_seconds']:.3f}"),
        ("... reading it and numpy's rfft2, seconds", f"{large_one['numpy_seconds']:.3f}"),
        ("... ratio to that", f"{large_one['ratio_to_numpy']:.2f}"),
        ("... ratio to reading and scipy's rfft2 with two workers", f"{large_one['ratio_to_scipy_two_workers']:.2f}"),
        ("peak memory of picking 8 micrographs, MiB", f"{held['peak_mib_8']:.0f}"),
        ("peak memory of picking 64 micrographs, MiB", f"{held['peak_mib_64']:.0f}"),
        (f"peak memory of training on {many['micrographs']} micrographs of 768 × 768, MiB", f"{many['peak_mib']:.0f}"),
    ]
    about = f"{r['date']}, {r['cores']} cores, {r['threads']} threads"
    return [f"| {about} | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]


def small_run(scratch: Path) -> Path:
    """Train the default network for a few steps: enough to find as many particles as there are."""
    list(write_dataset(scratch / "s", scene(1024, 7.0), 1, seed=0))
    data = DataSettings((str(scratch / "s" / "micrographs"),), str(scratch / "s" / "truth"), diameter_angstrom=190.0)
    for file in (scratch / "s" / "truth").glob("*.png"):
        file.unlink()
    list(api.train(replace(RunConfig(), data=data).with_train(steps=60), scratch / "run"))
    return scratch / "run"


def rate(run: Path) -> dict[str, Any]:
    folder = run.parent / "rate"
    list(write_dataset(folder, scene(1024, 7.0), 24, seed=1))
    rates = []
    for number in range(5):
        rates.append(
            summary(api.pick(run, [folder / "micrographs"], run.parent / f"{number}.star"))["micrographs_per_second"]
        )
    return {"micrographs_per_second": statistics.median(rates), "runs": rates}


def large(run: Path) -> dict[str, Any]:
    folder = run.parent / "large"
    list(write_dataset(folder, scene(4096, 1.75), 1, seed=2))
    path = folder / "micrographs" / "mic_0000.mrc"
    picker = replace(
        Picker.load(run), recipe=replace(Picker.load(run).recipe, diameter_px=190 / 1.75), pixel_size_angstrom=None
    )
    many = [replace(read_micrograph(path), name=f"m{number}") for number in range(8)]

    def pick_all() -> None:
        for _, result in picker.pick_all(many):
            if isinstance(result, Exception):
                raise result

    yardsticks = {
        "numpy": lambda: [np.fft.rfft2(read_image(path)) for _ in many],
        "scipy_two_workers": lambda: [scipy.fft.rfft2(read_image(path), workers=2) for _ in many],
    }
    times: dict[str, list[float]] = {"pick": [], **{name: [] for name in yardsticks}}
    for _ in range(6):
        for name, work in {"pick": pick_all, **yardsticks}.items():
            began = time.perf_counter()
            work()
            times[name].append((time.perf_counter() - began) / len(many))
    medians = {name: statistics.median(values[1:]) for name, values in times.items()}
    return {f"{name}_seconds": value for name, value in medians.items()} | {
        f"ratio_to_{name}": medians["pick"] / medians[name] for name in yardsticks
    }


def memory(run: Path) -> dict[str, Any]:
    folder = run.parent / "memory"
    list(write_dataset(folder, scene(1024, 7.0), 8, seed=3))
    for number in range(8, 64):
        os.link(folder / "micrographs" / f"mic_{number % 8:04d}.mrc", folder / "micrographs" / f"mic_{number:04d}.mrc")
    peaks = {}
    for count in (8, 64):
        files = sorted(str(path) for path in (folder / "micrographs").glob("*.mrc"))[:count]
        peaks[f"peak_mib_{count}"] = in_child("pick", str(run), str(run.parent / f"c{count}.star"), *files)
    return peaks


def training(run: Path) -> dict[str, Any]:
    folder = run.parent / "many"
    list(write_dataset(folder, scene(768, 7.0), 12, seed=4))
    for kind, suffix in (("micrographs", ".mrc"), ("truth", ".csv")):
        for number in range(12, 6000):
            os.link(folder / kind / f"mic_{number % 12:04d}{suffix}", folder / kind / f"mic_{number:04d}{suffix}")
    for path in (folder / "truth").glob("*.png"):
        path.unlink()
    began = time.perf_counter()
    peak = in_child("train", str(folder), str(run.parent / "many-run"))
    shutil.rmtree(run.parent / "many-run")
    return {"micrographs": 6000, "peak_mib": peak, "seconds": time.perf_counter() - began}


def in_child(*arguments: str) -> float:
    """Return the peak memory in MiB of a process of its own."""
    command = [sys.executable, __file__, "--child", *arguments]
    answer = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(json.loads(answer.stdout)["peak_mib"])


def child(verb: str, *arguments: str) -> dict[str, float]:
    if verb == "pick":
        list(api.pick(arguments[0], arguments[2:], arguments[1]))
    else:
        folder, out = map(Path, arguments)
        data = DataSettings((str(folder / "micrographs"),), str(folder / "truth"), diameter_angstrom=190.0)
        config = replace(RunConfig(), data=data).with_train(steps=100, validate_every=100, holdout=0.002)
        list(api.train(config, out))
    status = Path("/proc/self/status").read_text()  # getrusage would count the parent before exec
    return {"peak_mib": int(status.split("VmHWM:")[1].split()[0]) / 1024}


def summary(records: Any) -> Any:
    return [record for record in records if isinstance(record, Summary)][-1].facts


if __name__ == "__main__":
    main()
