"""From a scene to a micrograph and its truth."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32

from verglas.errors import InputError
from verglas.simulate import exposure
from verglas.simulate.particles import find_particle, project
from verglas.simulate.scene import Scene
from verglas.simulate.surroundings import Canvas, add_lens, draw_ice, draw_junk
from verglas.types import Picks

_MOST_COVERED = 0.45  # circles placed at random jam at 0.547


@dataclass(frozen=True, slots=True, eq=False)
class Simulated:
    """A micrograph and all that is known of it.

    ``picks`` are the particles whose centre is in the frame and not on junk; ``visible`` is the share of each that
    is in the frame and clear of junk. ``pose_degrees`` holds (rot, tilt, psi): a particle is turned by
    Rz(psi) Ry(tilt) Rz(rot), then projected along z. ``junk`` marks carbon, contaminants, gold and aggregates.
    """

    image: Float32[np.ndarray, "h w"]
    picks: Picks
    visible: Float[np.ndarray, " n"]
    pose_degrees: Float[np.ndarray, "n 3"]
    junk: Bool[np.ndarray, "h w"]
    defocus_angstrom: float


def simulate(scene: Scene, generator: np.random.Generator) -> Simulated:
    """Simulate one micrograph; for several, make a ``Simulator`` once."""
    return Simulator(scene)(generator)


class Simulator:
    """Make micrographs of one scene; the particle is read or built once."""

    def __init__(self, scene: Scene) -> None:
        self.scene, pixel = scene, scene.pixel_size_angstrom
        self.particle = find_particle(scene.particle, scene.diameter_angstrom)
        self.diameter_px = self.particle.diameter_angstrom / pixel
        self._apart_px = max(0.0, self.diameter_px + scene.minimum_gap_angstrom / pixel)
        self._refuse_crowd()
        fringe = scene.wavelength_angstrom * max(map(abs, scene.defocus_angstrom)) * min(0.25, 0.5 / pixel)
        self._canvas = Canvas(scene.shape_px, int(self.diameter_px + fringe / pixel) + 8, pixel)

    def _refuse_crowd(self) -> None:
        (h, w), count = self.scene.shape_px, self.scene.particles
        if not 2 <= self.diameter_px <= min(h, w):
            raise InputError("scene", "diameter", found=f"{self.diameter_px:.1f} px", expected=f"2 to {min(h, w)} px")
        covered = count * np.pi / 4 * self._apart_px**2 / (h * w)
        if covered > _MOST_COVERED:
            found, expected = f"{count:g}, which cover {covered:.0%} with their gaps", f"at most {_MOST_COVERED:.0%}"
            remedy = "Ask for fewer, for a smaller minimum_gap_angstrom (below 0 they overlap) or a larger shape_px."
            raise InputError("scene", "particles", found=found, expected=expected, remedy=remedy)

    def __call__(self, generator: np.random.Generator, name: str = "simulated") -> Simulated:
        """Simulate a micrograph. Surroundings, particles and noise draw from streams of their own."""
        scene, canvas = self.scene, self._canvas
        drawing, placing, counting = generator.spawn(3)
        defocus, drift_angle = drawing.uniform(*scene.defocus_angstrom), drawing.uniform(0, np.pi)
        junk = draw_junk(scene, canvas, drawing)
        clumps = self._clumps(drawing)
        clear = self._clear(junk, clumps)
        xy = canvas.scatter(placing, scene.particles, self.diameter_px / 2, self._apart_px)
        column, row = np.rint(xy).astype(int).T
        xy = xy[clear[row, column]]
        pose = random_poses(placing, len(xy))

        potential = {blur: np.zeros(canvas.shape, np.float32) for blur in self.particle.blur_angstrom}
        self._add(potential, clumps, random_poses(drawing, len(clumps)), clear)
        visible = self._add(potential, xy, pose, clear)
        thickness = {"ice": draw_ice(scene, canvas, drawing), **junk}
        spectrum = exposure.potential_spectrum(scene, canvas, potential, thickness, drawing)
        contrast = exposure.form_image(scene, canvas, spectrum, defocus, drift_angle)
        image = exposure.detect(scene, canvas, exposure.transmit(contrast, thickness), counting)

        truth = xy - canvas.margin
        listed = np.all((truth >= 0) & (truth <= np.array(scene.shape_px)[::-1] - 1), axis=1)
        picks = Picks(name, truth[listed], np.ones(listed.sum()), source="simulated")
        return Simulated(image, picks, visible[listed], pose[listed], ~clear[canvas.frame], defocus)

    def _clumps(self, generator: np.random.Generator) -> Float[np.ndarray, "n 2"]:
        """Return the centres of particles that stick together; nobody would pick them."""
        canvas, reach = self._canvas, self.diameter_px / 2
        low, high = canvas.margin - reach, canvas.margin + np.array(canvas.frame_px)[::-1] + reach
        members = [
            generator.normal(centre, 0.6 * self.diameter_px, (5 + generator.poisson(7), 2))
            for centre in canvas.scatter(generator, self.scene.aggregates)
        ]
        return np.clip(np.concatenate([np.empty((0, 2)), *members]), low, high)

    def _clear(
        self, junk: Mapping[str, Float32[np.ndarray, "h w"]], clumps: Float[np.ndarray, "n 2"]
    ) -> Bool[np.ndarray, "h w"]:
        """Tell where on the canvas there is neither junk nor a clump."""
        covered = sum(junk.values(), np.zeros(self._canvas.shape, np.float32))
        for xy in clumps:
            add_lens(covered, xy, self.diameter_px / 2, 1.0)
        return covered == 0

    def _add(
        self,
        potential: Mapping[float, Float32[np.ndarray, "h w"]],
        xy: Float[np.ndarray, "n 2"],
        pose: Float[np.ndarray, "n 3"],
        clear: Bool[np.ndarray, "h w"],
    ) -> Float[np.ndarray, " n"]:
        """Add projections (V Å), in place; return the share of each that is in the frame and clear."""
        seen = np.zeros_like(clear)
        seen[self._canvas.frame] = clear[self._canvas.frame]
        visible = np.empty(len(xy))
        for n, (centre, angles) in enumerate(zip(xy, pose, strict=True)):
            window, boxes = project(self.particle, angles, centre, self.scene.pixel_size_angstrom)
            for blur, box in zip(self.particle.blur_angstrom, boxes, strict=True):
                potential[blur][window] += box
            mass = np.sum(boxes, axis=0)
            visible[n] = mass[seen[window]].sum() / mass.sum()
        return visible


def random_poses(generator: np.random.Generator, n: int) -> Float[np.ndarray, "n 3"]:
    """Return (rot, tilt, psi) in degrees, uniform over all orientations."""
    rot, psi = generator.uniform(-180, 180, (2, n))
    return np.stack([rot, np.degrees(np.arccos(generator.uniform(-1, 1, n))), psi], axis=1)
