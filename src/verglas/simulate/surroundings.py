"""What lies around the particles: the canvas they are put on, ice, carbon, contaminants and gold."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32
from scipy import fft

from verglas.simulate.scene import PER_SCATTERING_LENGTH, Scene

_CARBON_ANGSTROM = 120.0
_GOLD_ANGSTROM = 100.0


class Material(NamedTuple):
    """Mean potential against the ice (V), granularity (V² Å³) and stopping power (that of ice is 1).

    Granularity is what each Å of thickness adds to the variance of the projected potential, times the area over
    which that is averaged: (47.878 f)² · atoms per Å³ · S. S < 1, for atoms keep their distance from one another.
    """

    potential_v: float
    granularity: float
    stopping: float


MATERIALS = {
    "ice": Material(0.0, (PER_SCATTERING_LENGTH * 3.04) ** 2 * 0.0314 * 0.07, 1.0),
    "carbon": Material(9.0, (PER_SCATTERING_LENGTH * 2.509) ** 2 * 0.1 * 0.3, 1.5),
    "contaminants": Material(4.5, 0.0, 1.0),
    "gold": Material(25.0, 0.0, 12.0),
}


@dataclass(frozen=True, slots=True)
class Canvas:
    """The frame of a micrograph and a margin around it.

    With it nothing wraps around, and what is centred outside reaches in. Positions are pixels of the canvas.
    """

    frame_px: tuple[int, int]
    margin: int
    pixel_size_angstrom: float

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns) of the canvas, fast to transform."""
        rows, columns = (fft.next_fast_len(n + 2 * self.margin, real=True) for n in self.frame_px)
        return rows, columns

    @property
    def frame(self) -> tuple[slice, slice]:
        """The part of the canvas that the micrograph shows."""
        rows, columns = (slice(self.margin, self.margin + n) for n in self.frame_px)
        return rows, columns

    @property
    def frequency(self) -> tuple[Float32[np.ndarray, "h 1"], Float32[np.ndarray, " f"]]:
        """Spatial frequencies along y and x, in 1/Å, as the transform of real pixels lays them out."""
        (rows, columns), pixel = self.shape, self.pixel_size_angstrom
        along_y, along_x = fft.fftfreq(rows, pixel), fft.rfftfreq(columns, pixel)
        return along_y.astype(np.float32)[:, None], along_x.astype(np.float32)

    def scatter(
        self, generator: np.random.Generator, mean: float, reach_px: float = 0.0, apart_px: float = 0.0
    ) -> Float[np.ndarray, "n 2"]:
        """Place a Poisson number, one after the other, in the frame and up to ``reach_px`` around it.

        ``mean`` counts those in the frame alone. Who finds no room in 100 tries stays away.
        """
        last = np.array(self.frame_px, float)[::-1] - 1
        found = np.empty((generator.poisson(mean * np.prod(1 + 2 * reach_px / last)), 2))
        n = 0
        for _ in range(100 * len(found)):
            if n == len(found):
                break
            point = generator.uniform(self.margin - reach_px, self.margin + last + reach_px)
            if ((found[:n] - point) ** 2).sum(axis=1).min(initial=np.inf) >= apart_px**2:
                found[n], n = point, n + 1
        return found[:n]


def draw_ice(scene: Scene, canvas: Canvas, generator: np.random.Generator) -> Float32[np.ndarray, "h w"]:
    """Draw the thickness of the ice: a wedge."""
    (rows, columns), (h, w) = canvas.shape, canvas.frame_px
    angle = generator.uniform(0, 2 * np.pi)
    y, x = np.ogrid[:rows, :columns]
    across = (x - canvas.margin - w / 2) / w * np.cos(angle) + (y - canvas.margin - h / 2) / h * np.sin(angle)
    return (scene.ice_thickness_angstrom * np.maximum(1 + scene.ice_gradient * across, 0)).astype(np.float32)


def draw_junk(scene: Scene, canvas: Canvas, generator: np.random.Generator) -> dict[str, Float32[np.ndarray, "h w"]]:
    """Draw the thickness, in Å, of carbon, contaminants and gold."""
    thickness = {name: np.zeros(canvas.shape, np.float32) for name in MATERIALS if name != "ice"}
    if generator.random() < scene.carbon:
        thickness["carbon"] += _carbon(canvas, generator)
    for xy in canvas.scatter(generator, scene.contaminants):
        radius = generator.uniform(80, 350)
        waves = generator.uniform(0, (0.15, 0.1, 0.05)), generator.uniform(0, 2 * np.pi, 3)
        height = radius * generator.uniform(0.3, 0.8)
        add_lens(thickness["contaminants"], xy, radius / canvas.pixel_size_angstrom, height, *waves)
    for xy in canvas.scatter(generator, scene.gold_beads):
        add_lens(thickness["gold"], xy, _GOLD_ANGSTROM / 2 / canvas.pixel_size_angstrom, _GOLD_ANGSTROM)
    return thickness


def _carbon(canvas: Canvas, generator: np.random.Generator) -> Float32[np.ndarray, "h w"]:
    """Draw a film with a round hole whose edge crosses the frame."""
    pixel, (h, w), (rows, columns) = canvas.pixel_size_angstrom, canvas.frame_px, canvas.shape
    angle, radius = generator.uniform(0, 2 * np.pi), generator.uniform(5000, 9000) / pixel
    from_edge = radius - generator.uniform(0.1, 0.4) * min(h, w)
    y, x = np.ogrid[:rows, :columns]
    x = x - (canvas.margin + w / 2 - from_edge * np.cos(angle))
    y = y - (canvas.margin + h / 2 - from_edge * np.sin(angle))
    wave = 0.003 * np.cos(17 * np.arctan2(y, x) + generator.uniform(0, 2 * np.pi))
    beyond_angstrom = (np.hypot(x, y) - radius * (1 + wave)) * pixel
    return (_CARBON_ANGSTROM * np.clip(beyond_angstrom / 60, 0, 1)).astype(np.float32)


def add_lens(
    thickness: Float32[np.ndarray, "h w"],
    xy: Float[np.ndarray, "2"],
    radius_px: float,
    height: float,
    waves: Float[np.ndarray, " k"] | tuple[float, ...] = (),
    phases: Float[np.ndarray, " k"] | tuple[float, ...] = (),
) -> None:
    """Add, in place, a lens whose outline carries 2, 3, … waves of the given amplitudes."""
    reach = int(1.5 * radius_px) + 2
    low = np.maximum(np.rint(xy).astype(int) - reach, 0)
    window = tuple(slice(start, start + 2 * reach + 1) for start in low[::-1])
    part = thickness[window]
    y, x = np.ogrid[: part.shape[0], : part.shape[1]]
    x, y = x + low[0] - xy[0], y + low[1] - xy[1]
    angle = np.arctan2(y, x)
    outline = 1 + sum(a * np.cos(k * angle + p) for k, (a, p) in enumerate(zip(waves, phases, strict=True), start=2))
    part += height * np.sqrt(np.maximum(1 - (x * x + y * y) / (radius_px * outline) ** 2, 0))
