"""Particles as points that scatter: procedural shapes, and atoms with the water they displace."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float
from scipy.spatial.transform import Rotation

from verglas.errors import InputError
from verglas.io.structures import read_structure
from verglas.simulate.scene import PER_SCATTERING_LENGTH

SHAPES = ("lobes", "shell", "rod", "ring", "disc")
"""Particles that need no file."""

ATOM_BLUR_ANGSTROM = 1.0
_WATER_BLUR_ANGSTROM = 3.0
_WATER_V = 4.5
_DISPLACED_ANGSTROM3 = 17.4  # per heavy atom
_PROTEIN_EXCESS_V = 2.1  # what the atoms of a protein less the water they displace come to
_SCATTERING_LENGTH_ANGSTROM = {"H": 0.529, "D": 0.529, "C": 2.509, "N": 2.211, "O": 1.983, "P": 5.488, "S": 5.161}
_POINTS_ACROSS = 30
_LOBES = (  # x, y, z and radius: four unlike subunits, twisted, and a small one on top
    (-0.42, -0.33, 0.12, 0.42),
    (0.44, -0.30, -0.14, 0.40),
    (-0.40, 0.34, -0.16, 0.38),
    (0.41, 0.33, 0.18, 0.42),
    (0.02, 0.02, 0.44, 0.32),
)


@dataclass(frozen=True, slots=True, eq=False)
class Particle:
    """Points about their centre of mass; ``weight`` (V Å³), once for each blur that widens them."""

    xyz: Float[np.ndarray, "n 3"]
    weight: tuple[Float[np.ndarray, " n"], ...]
    blur_angstrom: tuple[float, ...]

    @property
    def diameter_angstrom(self) -> float:
        """The longest way across, through the centre of mass."""
        return 2 * float(np.linalg.norm(self.xyz, axis=1).max())


def find_particle(kind: str, diameter_angstrom: float) -> Particle:
    """Make one of ``SHAPES``, or read the file of that name."""
    if kind in SHAPES:
        return make_particle(kind, diameter_angstrom)
    if not Path(kind).suffix:
        expected = f"one of {', '.join(SHAPES)}, or the path of a PDB or mmCIF file"
        raise InputError("scene", "particle", found=repr(kind), expected=expected)
    return read_particle(kind)


def make_particle(shape: str, diameter_angstrom: float) -> Particle:
    """Fill one of ``SHAPES`` with points; in the mean it is as dense, against water, as protein is."""
    axis = (np.arange(_POINTS_ACROSS) + 0.5) / _POINTS_ACROSS * 2 - 1
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    inside = _inside(shape, x, y, z)
    xyz = np.stack([x[inside], y[inside], z[inside]], axis=1)
    xyz -= xyz.mean(axis=0)
    scale = diameter_angstrom / 2 / np.linalg.norm(xyz, axis=1).max()
    spacing = 2 / _POINTS_ACROSS * scale
    weight = np.full(len(xyz), _PROTEIN_EXCESS_V * spacing**3)
    return Particle(xyz * scale, (weight,), (max(_WATER_BLUR_ANGSTROM, 0.8 * spacing),))


def read_particle(path: str | Path) -> Particle:
    """Read the atoms of a PDB or mmCIF file; elements without a known scattering length count as sulphur."""
    atoms = read_structure(path)
    lengths = [_SCATTERING_LENGTH_ANGSTROM.get(e, _SCATTERING_LENGTH_ANGSTROM["S"]) for e in atoms.element]
    heavy = np.array([e not in ("H", "D") for e in atoms.element])
    potential = PER_SCATTERING_LENGTH * np.array(lengths) * atoms.occupancy
    water = -_WATER_V * _DISPLACED_ANGSTROM3 * heavy * atoms.occupancy
    mass = potential + water
    if mass.sum() <= 0:
        raise InputError(path, "occupancies", found="0 throughout", expected="atoms that are there")
    centred = atoms.xyz - mass @ atoms.xyz / mass.sum()
    return Particle(centred, (potential, water), (ATOM_BLUR_ANGSTROM, _WATER_BLUR_ANGSTROM))


def project(
    particle: Particle, pose_degrees: Float[np.ndarray, "3"], xy: Float[np.ndarray, "2"], pixel_size_angstrom: float
) -> tuple[tuple[slice, slice], list[Float[np.ndarray, "h w"]]]:
    """Project a turned particle, centred on ``xy``, onto pixels, one plane (V Å) per blur.

    Return the window they fill and the planes. Points are shared between four pixels, bilinearly: that keeps both
    sum and centre of mass.
    """
    rot, tilt, psi = pose_degrees
    turn = Rotation.from_euler("ZYZ", (psi, tilt, rot), degrees=True).as_matrix()
    place = particle.xyz @ turn[:2].T / pixel_size_angstrom + xy
    first = np.floor(place.min(axis=0)).astype(int)
    cell = np.floor(place).astype(int)
    (u, v), (x, y) = (place - cell).T, (cell - first).T
    columns, rows = (cell.max(axis=0) - first + 2).tolist()
    shares = ((0, (1 - u) * (1 - v)), (1, u * (1 - v)), (columns, (1 - u) * v), (columns + 1, u * v))
    planes = [np.zeros(rows * columns) for _ in particle.weight]
    for step, share in shares:
        for plane, weight in zip(planes, particle.weight, strict=True):
            plane += np.bincount(y * columns + x + step, weight * share, rows * columns)
    window = slice(first[1], first[1] + rows), slice(first[0], first[0] + columns)
    return window, [plane.reshape(rows, columns) / pixel_size_angstrom**2 for plane in planes]


def _inside(
    shape: str, x: Float[np.ndarray, "*s"], y: Float[np.ndarray, "*s"], z: Float[np.ndarray, "*s"]
) -> Bool[np.ndarray, "*s"]:
    """Tell which points of the unit ball belong to a shape; its own axis is z."""
    across = np.hypot(x, y)
    match shape:
        case "shell":
            return abs(np.hypot(across, z) - 0.83) < 0.17
        case "rod":
            return (across < 0.27) & (abs(z) < 0.96)
        case "ring":
            return np.hypot(across - 0.7, z) < 0.3
        case "disc":
            return (across < 0.97) & (abs(z) < 0.25)
    return np.any([(x - u) ** 2 + (y - v) ** 2 + (z - w) ** 2 < r * r for u, v, w, r in _LOBES], axis=0)
