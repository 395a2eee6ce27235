"""How fast micrographs are picked, and how much memory picking and training hold.

    python benchmarks/speed.py                # all of it, into results/speed.json (about 20 minutes, 25 GB of scratch)
    python benchmarks/speed.py rate large     # only these parts
    python benchmarks/speed.py profile scaling --device cuda

Results are kept by the name of the device. Nothing else should run meanwhile.

rate     micrographs per second for 1024 x 1024 float32 MRC, particle of 27 px, as the verb `pick` does it
large    one 4096 x 4096 float32 MRC, particle of 108 px: the whole of picking against reading the file and one
         forward rfft2 of it, alternating in one run; medians
memory   peak memory of `pick` for 8 and for 64 micrographs of 1024 x 1024
training peak memory of `train` on 6,000 labelled micrographs of 768 x 768 (hard links to 12 different ones), with
         what is mapped from disk counted
profile  where the time goes in picking and in a training step, each stage beside its floor: bytes over the rate at
         which memory or disk moves them, operations of the network over the rate of large matrix products; picking
         against reading and resampling alone; training against a bare loop of passes forward and back
scaling  picking against the number of micrographs and of particles, image side and threads; training against the
         number of labelled micrographs and threads; seconds and peak memory
"""

import argparse
import datetime
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import scipy.fft
import torch
from torch.utils.flop_counter import FlopCounterMode

from verglas import api
from verglas.config import DataSettings, RunConfig
from verglas.io.micrographs import read_image, read_micrograph
from verglas.io.pickfile import PickFile
from verglas.materials import gathered, with_margin
from verglas.picker import MOST_WORKERS, Picker
from verglas.predict import autocast, resolved_device
from verglas.preprocess import resize
from verglas.records import Progress, Summary, Validated
from verglas.simulate import Scene, write_dataset
from verglas.train import Trainer

RESULTS = Path(__file__).parent / "results" / "speed.json"


def scene(side: int, pixel_size_angstrom: float) -> Scene:
    """Return a dense field of particles of 190 Å, as in EMPIAR-10017."""
    return Scene(
        shape_px=(side, side), pixel_size_angstrom=pixel_size_angstrom, particles=400.0, diameter_angstrom=190.0,
        minimum_gap_angstrom=0.0, carbon=0.0,
    )  # fmt: skip


def main() -> None:
    parts: dict[str, Callable[[Path, torch.device], dict[str, Any]]] = {
        "rate": rate, "large": large, "memory": memory, "training": training, "profile": profile, "scaling": scaling,
    }  # fmt: skip
    if len(sys.argv) > 2 and sys.argv[1] == "--child":
        print(json.dumps(child(sys.argv[2], *sys.argv[3:])))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[[], *parts])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    device, path = resolved_device(options.device), options.results
    with tempfile.TemporaryDirectory() as scratch:
        run = small_run(Path(scratch))
        for part in options.parts or parts:
            made = parts[part](run, device) | {"date": datetime.date.today().isoformat(), "cores": os.cpu_count(),
                                               "threads": torch.get_num_threads()}  # fmt: skip
            print(part, json.dumps(made), flush=True)
            found = json.loads(path.read_text()) if path.exists() else {}
            found.setdefault(name_of(device), {})[part] = made
            path.write_text(json.dumps(found, indent=1) + "\n")


def name_of(device: torch.device) -> str:
    """Return what the device calls itself."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "CPU")
    return f"{model}, {os.cpu_count()} cores"


def tables(arguments: list[str]) -> list[str]:
    """Return the results as a table for each device, for the docs: of ``profile``, of ``scaling`` or of the rest."""
    found, wanted = json.loads(RESULTS.read_text()), arguments[0] if arguments else "rate"
    made = {"profile": profile_table, "scaling": scaling_table, "rate": summary_table}[wanted]
    lines: list[str] = []
    for device, parts in found.items():
        if wanted in parts:
            lines += ["", *made(device, parts)] if lines else made(device, parts)
    return lines or [f"`{wanted}` has not been measured."]


def summary_table(device: str, parts: dict[str, Any]) -> list[str]:
    rows = {
        "rate": lambda r: [("picking 1024 × 1024, micrographs per second", f"{r['micrographs_per_second']:.1f}")],
        "large": lambda r: [
            ("picking one 4096 × 4096, seconds", f"{r['pick_seconds']:.3f}"),
            ("... reading it and numpy's rfft2, seconds", f"{r['numpy_seconds']:.3f}"),
            ("... ratio to that", f"{r['ratio_to_numpy']:.2f}"),
            ("... ratio to reading and scipy's rfft2 with two workers", f"{r['ratio_to_scipy_two_workers']:.2f}"),
        ],
        "memory": lambda r: [
            (f"peak memory of picking {count} micrographs, MiB", f"{r[f'peak_mib_{count}']:.0f}") for count in (8, 64)
        ],
        "training": lambda r: [
            (f"peak memory of training on {r['micrographs']} micrographs of 768 × 768, MiB", f"{r['peak_mib']:.0f}")
        ],
    }  # fmt: skip
    shown = [row for part, made in rows.items() if part in parts for row in made(parts[part])]
    return [f"| {about(device, parts['rate'])} | |", "|---|---|", *(f"| {name} | {value} |" for name, value in shown)]


def small_run(scratch: Path) -> Path:
    """Train the default network for a few steps: enough to find as many particles as there are."""
    list(write_dataset(scratch / "s", scene(1024, 7.0), 1, seed=0))
    data = DataSettings((str(scratch / "s" / "micrographs"),), str(scratch / "s" / "truth"), diameter_angstrom=190.0)
    for file in (scratch / "s" / "truth").glob("*.png"):
        file.unlink()
    list(api.train(replace(RunConfig(), data=data).with_train(steps=60), scratch / "run"))
    return scratch / "run"


def about(device: str, part: dict[str, Any]) -> str:
    return f"{device}; {part['threads']} threads, {part['date']}"


def rate(run: Path, device: torch.device) -> dict[str, Any]:
    folder = run.parent / "rate"
    list(write_dataset(folder, scene(1024, 7.0), 24, seed=1))
    rates = []
    for number in range(5):
        rates.append(
            summary(api.pick(run, [folder / "micrographs"], run.parent / f"{number}.star", device=str(device)))[
                "micrographs_per_second"
            ]
        )
    return {"micrographs_per_second": statistics.median(rates), "runs": rates}


def large(run: Path, device: torch.device) -> dict[str, Any]:
    path, picker = simulated(run, 4096, 1.75), picker_for(run, 1.75, device)
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


def picker_for(run: Path, pixel_size_angstrom: float, device: torch.device) -> Picker:
    """Return the picker of the verb ``pick``, for particles of 190 Å at this pixel size."""
    made = Picker.load(run, device=device).folded()
    return made.for_diameter(190 / pixel_size_angstrom, None)


def simulated(run: Path, side: int, pixel_size_angstrom: float, particles: float = 400.0) -> Path:
    """Return a micrograph of this side, written once."""
    folder = run.parent / f"simulated-{side}-{pixel_size_angstrom}-{particles}"
    chosen = replace(scene(side, pixel_size_angstrom), particles=particles)
    list(write_dataset(folder, chosen, 1, seed=2))
    return folder / "micrographs" / "mic_0000.mrc"


def memory(run: Path, device: torch.device) -> dict[str, Any]:
    folder = run.parent / "memory"
    list(write_dataset(folder, scene(1024, 7.0), 8, seed=3))
    for number in range(8, 64):
        os.link(folder / "micrographs" / f"mic_{number % 8:04d}.mrc", folder / "micrographs" / f"mic_{number:04d}.mrc")
    peaks = {}
    for count in (8, 64):
        files = sorted(str(path) for path in (folder / "micrographs").glob("*.mrc"))[:count]
        out = str(run.parent / f"c{count}.star")
        peaks[f"peak_mib_{count}"] = in_child("pick", str(run), out, str(device), *files)
    return peaks


def training(run: Path, device: torch.device) -> dict[str, Any]:
    folder = run.parent / "many"
    list(write_dataset(folder, scene(768, 7.0), 12, seed=4))
    for kind, suffix in (("micrographs", ".mrc"), ("truth", ".csv")):
        for number in range(12, 6000):
            os.link(folder / kind / f"mic_{number % 12:04d}{suffix}", folder / kind / f"mic_{number:04d}{suffix}")
    for path in (folder / "truth").glob("*.png"):
        path.unlink()
    began = time.perf_counter()
    peak = in_child("train", str(folder), str(run.parent / "many-run"), str(device), "0.002")
    shutil.rmtree(run.parent / "many-run")
    return {"micrographs": 6000, "peak_mib": peak, "seconds": time.perf_counter() - began}


def in_child(*arguments: str) -> float:
    """Return the peak memory in MiB of a process of its own."""
    command = [sys.executable, __file__, "--child", *arguments]
    answer = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(json.loads(answer.stdout)["peak_mib"])


def child(verb: str, *arguments: str) -> dict[str, float]:
    if verb == "pick":
        run, out, device, *files = arguments
        list(api.pick(run, files, out, device=device))
    else:
        folder, out, device, holdout = arguments
        data = DataSettings((f"{folder}/micrographs",), f"{folder}/truth", diameter_angstrom=190.0)
        config = replace(RunConfig(), data=data)
        config = config.with_train(steps=100, validate_every=100, holdout=float(holdout), device=device)
        list(api.train(config, out))
    status = Path("/proc/self/status").read_text()  # getrusage would count the parent before exec
    return {"peak_mib": int(status.split("VmHWM:")[1].split()[0]) / 1024}


def summary(records: Any) -> Any:
    return [record for record in records if isinstance(record, Summary)][-1].facts


# --- where the time goes ---


def profile(run: Path, device: torch.device) -> dict[str, Any]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # picking gives each core a micrograph of its own
    try:
        single = machine_rates(run.parent, device)
        picking = {str(side): picking_stages(run, side, device, single) for side in (4096, 1024)}
    finally:
        torch.set_num_threads(before)
    for side, pixel_size_angstrom in ((4096, 1.75), (1024, 7.0)):
        picking[str(side)] |= against_reading(run, side, pixel_size_angstrom, device)
    rates = machine_rates(run.parent, device)
    return {"one_thread": single, "rates": rates, "picking": picking, "step": step_stages(run, device, rates)}


def medians(works: dict[str, Callable[[], Any]], rounds: int, device: torch.device) -> dict[str, float]:
    """Return the median time of each, taken in turns; the first round does not count."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds + 1):
        for name, work in works.items():
            began = time.perf_counter()
            work()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            times[name].append(time.perf_counter() - began)
    return {name: statistics.median(values[1:]) for name, values in times.items()}


def machine_rates(scratch: Path, device: torch.device) -> dict[str, float]:
    """Return how many bytes a second memory and disk move, and the network's operations a second at best."""
    source = np.ones(2**26, np.uint8)
    target, path = np.empty_like(source), scratch / "bytes"
    source.tofile(path)
    fetched = forgotten([path])

    def disk() -> None:
        forget([path])
        np.fromfile(path, np.uint8)

    n = 8192 if device.type == "cuda" else 1536
    matrices = [torch.randn(n, n, device=device).to(torch.bfloat16) for _ in range(2)]
    works = {"memory": lambda: np.copyto(target, source), "disk": disk, "matrix": lambda: matrices[0] @ matrices[1]}
    took = medians(works, 7, device)
    return {
        "memory_bytes_per_second": len(source) / took["memory"], "disk_bytes_per_second": len(source) / took["disk"],
        "operations_per_second": 2 * n**3 / took["matrix"], "disk_is_forgotten": float(fetched),
    }  # fmt: skip


def forget(paths: Iterable[Path]) -> None:
    """Ask the system to drop files from memory."""
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def forgotten(paths: list[Path]) -> bool:
    """Tell whether dropped files take clearly longer to read: not where the disk is memory, too."""
    for path in paths:
        path.read_bytes()
    took = []
    for drop in (False, True):
        if drop:
            forget(paths)
        began = time.perf_counter()
        for path in paths:
            path.read_bytes()
        took.append(time.perf_counter() - began)
    return took[1] > 1.5 * took[0]


def operations(work: Callable[[], Any]) -> float:
    """Return the multiplications and additions of the convolutions in ``work``."""
    with FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops())


def picking_stages(run: Path, side: int, device: torch.device, rates: dict[str, float]) -> dict[str, Any]:
    """Return seconds and floor of each stage for one micrograph, on one thread."""
    pixel_size_angstrom = 7.0 * 1024 / side
    path, picker = simulated(run, side, pixel_size_angstrom), picker_for(run, pixel_size_angstrom, device)
    micrograph = read_micrograph(path)
    pixels = read_image(micrograph)
    new = picker.recipe.working_shape(pixels.shape)
    image = picker.recipe.prepare(pixels)
    found = picker.probability(image)
    picks = picker.find(micrograph, found)

    def cold() -> None:
        forget([path])
        read_image(micrograph)

    works = {
        "read from disk": cold, "read from memory": lambda: read_image(micrograph),
        "resample": lambda: resize(pixels, new), "prepare": lambda: picker.recipe.prepare(pixels),
        "forward": lambda: picker.probability(image), "peaks": lambda: picker.find(micrograph, found),
        "write": lambda: file.add(picks, micrograph.shape),
    }  # fmt: skip
    with PickFile(run.parent / f"profile-{side}.star", "none") as file:
        took = medians(works, 7, device)
    took["normalise"] = took.pop("prepare") - took["resample"]
    tall, wide = (-(-n // 16) * 16 for n in image.data.shape)
    empty = torch.zeros(1, 1, tall, wide, device=device)
    with torch.no_grad():
        done = operations(lambda: picker.network(empty))
    memory_rate, disk_rate = rates["memory_bytes_per_second"], rates["disk_bytes_per_second"]
    floors = {
        "read from disk": path.stat().st_size / disk_rate, "read from memory": path.stat().st_size / memory_rate,
        "resample": (pixels.nbytes + image.data.nbytes) / memory_rate, "normalise": 2 * image.data.nbytes / memory_rate,
        "forward": done / rates["operations_per_second"], "peaks": found.data.nbytes / memory_rate,
        "write": 60.0 * len(picks) / memory_rate,
    }  # fmt: skip
    return {"seconds": took, "floor": floors, "operations": done, "picks": len(picks)}


def against_reading(run: Path, side: int, pixel_size_angstrom: float, device: torch.device) -> dict[str, float]:
    """Return seconds per micrograph of picking, and of reading and resampling alone, each on all cores."""
    path, picker = simulated(run, side, pixel_size_angstrom), picker_for(run, pixel_size_angstrom, device)
    count = (8 if side > 2048 else 24) * max(1, min(torch.get_num_threads(), MOST_WORKERS) // 2)
    files = [path.with_name(f"copy_{number}.mrc") for number in range(count)]
    for file in files:
        shutil.copy(path, file)
    many = [read_micrograph(file) for file in files]
    new = picker.recipe.working_shape(many[0].shape)

    def through(work: Callable[[Any], Any], cold: bool) -> Callable[[], None]:
        def done() -> None:
            if cold:
                forget(files)
            for _, result in picker.each(work, many):
                if isinstance(result, Exception):
                    raise result

        return done

    def alone(micrograph: Any) -> None:
        resize(read_image(micrograph), new)

    names = {"warm": False, "cold": True}
    works = {f"pick_{name}": through(picker.search, cold) for name, cold in names.items()}
    works |= {f"read_{name}": through(alone, cold) for name, cold in names.items()}
    took = {name: seconds / count for name, seconds in medians(works, 5, device).items()}
    return took | {f"ratio_{name}": took[f"pick_{name}"] / took[f"read_{name}"] for name in names}


def trainer_for(run: Path, labelled: int, device: torch.device, **changes: Any) -> Trainer:
    """Return a training on simulated micrographs of 1024 x 1024, of which so many are labelled."""
    folder = run.parent / f"labelled-{labelled}"
    list(write_dataset(folder, scene(1024, 7.0), labelled, seed=5))
    data = DataSettings((str(folder / "micrographs"),), str(folder / "truth"), diameter_angstrom=190.0)
    for file in (folder / "truth").glob("*.png"):
        file.unlink()
    config = replace(RunConfig(), data=data).with_train(**changes)
    collection = api._collect(config).collection
    config = with_margin(config, collection)
    materials = gathered(collection, config, folder / "prepared")
    return Trainer(config, materials, collection, device, lambda _: None)


def lengths(trainer: Trainer, ahead: bool | None = None, steps: int = 40) -> dict[str, float]:
    """Return seconds per step from the tenth on, and of one validation; tiles cut ahead, in turn, or as it is done."""
    if ahead is not None:
        trainer._foreseen = lambda: ahead and not trainer._validates(trainer.step + 1)  # type: ignore[method-assign]
    at: dict[int, float] = {}
    for record in trainer.run(threading.Event()):
        now = time.perf_counter()
        if isinstance(record, Progress):
            at[record.step] = now
        elif isinstance(record, Validated):
            return {"step": (at[steps] - at[10]) / (steps - 10), "validation": now - at[steps]}
    raise AssertionError("a training validates")


def step_stages(run: Path, device: torch.device, rates: dict[str, float]) -> dict[str, Any]:
    """Return seconds and floor of the parts of a training step on all threads, and the step against a bare loop."""
    trainer = trainer_for(run, 3, device, steps=400)
    labelled, unlabelled = trainer._batches()
    image = labelled.image.contiguous(memory_format=torch.channels_last)
    trainer._update(labelled, unlabelled)
    trainer.step = 1

    def forward() -> torch.Tensor:
        with autocast(device, trainer.precision):
            return trainer.student(image).float().mean()

    def bare() -> None:
        forward().backward()
        trainer.student.zero_grad(set_to_none=True)

    works = {
        "forward": forward, "forward and backward": bare, "update": lambda: trainer._update(labelled, unlabelled),
        "crop and augment": trainer._batches,
    }  # fmt: skip
    took = medians(works, 15, device)
    there, back = operations(forward), operations(bare)
    ways = {"as_is": None, "ahead": True, "in_turn": False}
    turns: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    for _ in range(3):
        for name, seen in turns.items():
            short = {"steps": 400, "validate_every": 40, "save_every": 1000}
            seen.append(lengths(trainer_for(run, 3, device, **short), ways[name]))
    loop = {name: statistics.median(one["step"] for one in seen) for name, seen in turns.items()}
    validation = statistics.median(one["validation"] for seen in turns.values() for one in seen)
    every, speed = trainer.config.train.validate_every, rates["operations_per_second"]
    seconds = {
        "crop and augment": took["crop and augment"], "forward": took["forward"],
        "backward": took["forward and backward"] - took["forward"],
        "loss, clipping, optimiser, average": took["update"] - took["forward and backward"],
        "validation, its share of a step": validation / every,
    }  # fmt: skip
    tiles = 4 * (image.numel() + sum(getattr(labelled, name).numel() for name in ("target", "known", "unseen")))
    weights = 4 * sum(p.numel() for p in trainer.student.parameters())
    floors = {
        "crop and augment": tiles / rates["memory_bytes_per_second"], "forward": there / speed,
        "backward": (back - there) / speed,
        "loss, clipping, optimiser, average": 12 * weights / rates["memory_bytes_per_second"],
    }  # fmt: skip
    bare_seconds = took["forward and backward"]
    return {
        "seconds": seconds, "floor": floors, "bare": bare_seconds, "loop": loop, "validation": validation,
        "share_of_bare": bare_seconds / loop["as_is"],
        "share_of_bare_with_validation": bare_seconds / (loop["as_is"] + validation / every),
        "precision": trainer.precision,
    }  # fmt: skip


def profile_table(device: str, parts: dict[str, Any]) -> list[str]:
    p = parts["profile"]
    lines = [f"| {about(device, p)} | milliseconds | floor | share |", "|---|---|---|---|"]

    def rows(what: str, one: dict[str, Any]) -> None:
        for name, seconds in one["seconds"].items():
            floor = one["floor"].get(name)
            share = "| |" if floor is None else f"| {1e3 * floor:.2f} | {floor / seconds:.0%} |"
            lines.append(f"| {what}: {name} | {1e3 * seconds:.2f} {share}")

    for side, one in p["picking"].items():
        rows(f"picking {side} × {side}, one thread", one)
    rows("training step, all threads", p["step"])
    lines += ["", f"| {about(device, p)} | |", "|---|---|"]
    for side, one in p["picking"].items():
        for name, where in (("warm", "in memory"), ("cold", "on disk")):
            took = f"{1e3 * one[f'pick_{name}']:.0f} ms, {one[f'ratio_{name}']:.2f} times"
            lines.append(f"| picking {side} × {side}, files {where}, to reading and resampling alone | {took} |")
    step, rates = p["step"], p["rates"]
    return [
        *lines,
        f"| bare loop forward and back, milliseconds | {1e3 * step['bare']:.1f} |",
        f"| training step, milliseconds | {1e3 * step['loop']['as_is']:.1f} |",
        f"| ... tiles always cut ahead | {1e3 * step['loop']['ahead']:.1f} |",
        f"| ... tiles always cut in turn | {1e3 * step['loop']['in_turn']:.1f} |",
        f"| rate of training steps to the bare loop | {step['share_of_bare']:.0%} |",
        f"| ... validation counted | {step['share_of_bare_with_validation']:.0%} |",
        f"| matrix products, 10¹² operations per second | {rates['operations_per_second'] / 1e12:.2f} |",
        f"| memory, GB per second | {rates['memory_bytes_per_second'] / 1e9:.1f} |",
        f"| disk, GB per second | {rates['disk_bytes_per_second'] / 1e9:.2f} |",
    ]


# --- how it grows ---


def scaling(run: Path, device: torch.device) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []

    def add(what: str, amount: float, works: dict[str, float], peak_mib: float | None = None) -> None:
        rows.append({"what": what, "amount": amount, "peak_mib": peak_mib, **works})

    def picked(path: Path, pixel_size_angstrom: float, count: int) -> float:
        picker, many = picker_for(run, pixel_size_angstrom, device), [read_micrograph(path)] * count

        def work() -> None:
            for _, result in picker.each(picker.search, many):
                if isinstance(result, Exception):
                    raise result

        return medians({"pick": work}, 2, device)["pick"]

    def peak(path: Path, count: int) -> float:
        folder = path.parent / f"links-{count}"
        folder.mkdir(exist_ok=True)
        for number in range(count):
            (folder / f"{number}.mrc").unlink(missing_ok=True)
            os.link(path, folder / f"{number}.mrc")
        files = sorted(map(str, folder.glob("*.mrc")))
        return in_child("pick", str(run), str(folder / "p.star"), str(device), *files)

    small = simulated(run, 1024, 7.0)
    for count in (8, 24, 72):
        add("micrographs", count, {"seconds": picked(small, 7.0, count)}, peak(small, count))
    for particles in (50, 200, 800):
        path = simulated(run, 1024, 7.0, float(particles))
        add("particles per micrograph, 16 micrographs", particles, {"seconds": picked(path, 7.0, 16)})
    for side in (1024, 2048, 4096):
        path = simulated(run, side, 7.0, 400.0 * (side / 1024) ** 2)
        add("image side in pixels, 4 micrographs", side, {"seconds": picked(path, 7.0, 4)}, peak(path, 4))
    short: dict[str, Any] = {"steps": 400, "validate_every": 40, "save_every": 1000}
    for labelled in (1, 4, 16):
        took = lengths(trainer_for(run, labelled, device, **short))
        held = in_child("train", str(run.parent / f"labelled-{labelled}"), str(run.parent / f"run-{labelled}"),
                        str(device), "0.25")  # fmt: skip
        add("labelled micrographs, a step and a validation", labelled,
            {"seconds": took["step"], "validation": took["validation"]}, held)  # fmt: skip
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            add("threads, 16 micrographs picked", threads, {"seconds": picked(small, 7.0, 16)})
        for threads in (1, 2):
            torch.set_num_threads(threads)
            took = lengths(trainer_for(run, 4, device, **short))
            add("threads, a step and a validation", threads,
                {"seconds": took["step"], "validation": took["validation"]})  # fmt: skip
    finally:
        torch.set_num_threads(before)
    return {"rows": rows}


def scaling_table(device: str, parts: dict[str, Any]) -> list[str]:
    p = parts["scaling"]
    lines = [f"| {about(device, p)} | | seconds | to the row above | peak MiB |", "|---|---|---|---|---|"]
    last: dict[str, Any] = {}
    for row in p["rows"]:
        times = f"{row['seconds'] / last['seconds']:.2f}" if last.get("what") == row["what"] else ""
        validation = f", {row['validation']:.2f}" if "validation" in row else ""
        held = "" if row["peak_mib"] is None else f"{row['peak_mib']:.0f}"
        lines.append(f"| {row['what']} | {row['amount']:g} | {row['seconds']:.3f}{validation} | {times} | {held} |")
        last = row
    return lines


if __name__ == "__main__":
    main()
