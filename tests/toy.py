"""A data set so easy and small that a network learns it in seconds: dark blobs on a jittered lattice."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from verglas.config import DataSettings, RunConfig
from verglas.io.micrographs import write_mrc

SIDE, DIAMETER, PIXEL_SIZE = 160, 16.0, 2.0
SETTINGS = (
    "model.width=4", "model.depth=2", "train.steps=8", "train.crop=64", "train.batch=2", "train.validate_every=4",
    "train.save_every=4", "train.threads=1", "train.precision='float32'", "preprocess.working_diameter_px=16",
    "search.least_score=0.0001", "search.edge_px=0",
)  # fmt: skip


def blobs(generator: np.random.Generator, xy: np.ndarray) -> np.ndarray:
    """Return dark blobs in noise."""
    y, x = np.mgrid[:SIDE, :SIDE]
    image = generator.normal(size=(SIDE, SIDE))
    for cx, cy in xy:
        image -= 2.5 * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * (DIAMETER / 4) ** 2))
    return image.astype(np.float32)


def write_toy(folder: Path, *, micrographs: int = 3, labelled: int = 2) -> Path:
    """Write micrographs, labels for the first few, and the truth of all."""
    generator = np.random.default_rng(0)
    for number in range(micrographs):
        xy = np.stack(np.meshgrid([24.0, 64, 104, 136], [24.0, 64, 104, 136]), -1).reshape(-1, 2)
        xy = xy + generator.uniform(-6, 6, xy.shape)
        write_mrc(folder / "mics" / f"m{number}.mrc", blobs(generator, xy), PIXEL_SIZE)
        for kind in ("labels", "truth")[0 if number < labelled else 1 :]:
            (folder / kind).mkdir(exist_ok=True)
            np.savetxt(folder / kind / f"m{number}.csv", xy, "%.3f", ",", header="x,y", comments="")
    return folder


def configured(folder: Path, *settings: str) -> RunConfig:
    """Return settings that train on the toy data."""
    where = DataSettings((str(folder / "mics"),), str(folder / "labels"), diameter_px=DIAMETER)
    return replace(RunConfig(), data=where).with_settings([*SETTINGS, *settings])
