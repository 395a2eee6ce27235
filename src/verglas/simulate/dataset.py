"""A folder of simulated micrographs and their truth."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Pillow

from verglas.errors import InputError
from verglas.io._base import whole_file, write_text
from verglas.io.micrographs import write_mrc
from verglas.simulate.micrograph import Simulated, Simulator
from verglas.simulate.scene import Scene


@dataclass(frozen=True, slots=True)
class Written:
    """A micrograph that is on disk with its truth."""

    name: str
    path: Path
    particles: int


def write_dataset(folder: str | Path, scene: Scene, micrographs: int, seed: int) -> Iterator[Written]:
    """Write micrographs one by one, each with its truth, and yield a record of each.

    ``micrographs/mic_0000.mrc``, ``truth/mic_0000.csv`` (centres and poses), ``junk/mic_0000.png`` (white
    is junk; only where there is some) and ``truth.json``. A micrograph depends on the scene, the seed and its own
    number alone. A folder that holds another scene or seed is refused.
    """
    for name, value, least in (("micrographs", micrographs, 1), ("seed", seed, 0)):
        if value < least:
            raise InputError("simulate", name, found=value, expected=f"at least {least}")
    simulator, folder = Simulator(scene), Path(folder)
    about = {
        "scene": asdict(scene),
        "seed": seed,
        "diameter_angstrom": simulator.particle.diameter_angstrom,
        "diameter_px": simulator.diameter_px,
    }
    _refuse_another(folder / "truth.json", about)
    return _written(folder, simulator, micrographs, about)


def _written(folder: Path, simulator: Simulator, micrographs: int, about: dict[str, Any]) -> Iterator[Written]:
    rows: list[dict[str, Any]] = []
    for number in range(micrographs):
        name = f"mic_{number:04d}"
        made = simulator(np.random.default_rng([about["seed"], number]), name)
        path = folder / "micrographs" / f"{name}.mrc"
        _write_truth(folder, made)
        write_mrc(path, made.image, simulator.scene.pixel_size_angstrom)
        junk_share = float(made.junk.mean())
        row = {"name": name, "particles": len(made.picks), "defocus_angstrom": made.defocus_angstrom}
        rows.append(row | {"junk_share": junk_share})
        write_text(folder / "truth.json", json.dumps(about | {"micrographs": rows}, indent=1) + "\n")
        yield Written(name, path, len(made.picks))


def _write_truth(folder: Path, made: Simulated) -> None:
    table = np.column_stack([made.picks.xy, made.visible, made.pose_degrees])
    lines = [f"{x:.3f},{y:.3f},{visible:.3f},{rot:.2f},{tilt:.2f},{psi:.2f}" for x, y, visible, rot, tilt, psi in table]
    write_text(folder / "truth" / f"{made.picks.micrograph}.csv", "\n".join(["x,y,visible,rot,tilt,psi", *lines, ""]))
    mask = folder / "junk" / f"{made.picks.micrograph}.png"
    if made.junk.any():
        with whole_file(mask) as temporary:
            Pillow.fromarray(made.junk.astype(np.uint8) * 255).save(temporary, format="PNG")
    else:
        mask.unlink(missing_ok=True)


def _refuse_another(path: Path, about: dict[str, Any]) -> None:
    """Refuse to mix data sets; what is on disk has been through JSON, so compare there."""
    if not path.exists():
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        before = None
    now = json.loads(json.dumps(about))
    if not isinstance(before, dict) or any(before.get(key) != value for key, value in now.items()):
        remedy = "Name another folder, or remove this one first."
        raise InputError(path, "scene or seed", found="another one's", expected="the same as now", remedy=remedy)
