"""The knobs of a simulation."""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import Field, asdict, dataclass, field, fields
from numbers import Integral, Real
from typing import Any

import numpy as np

from verglas.errors import InputError

PER_SCATTERING_LENGTH = 47.878
"""Potential times area (V Å²) of an atom per Å of its scattering length: h²/(2π m e)."""


def _knob(default: Any, low: int | float, high: int | float) -> Any:
    return field(default=default, metadata={"range": (low, high)})


@dataclass(frozen=True, slots=True)
class Scene:
    """What to simulate. Every knob has a range, which is checked.

    Parameters
    ----------
    shape_px
        (rows, columns) of a micrograph.
    defocus_angstrom
        Lowest and highest underfocus; each micrograph draws its own.
    ice_gradient
        Thickness of the ice from one side to the other, as a share of the mean thickness.
    particles
        Mean number in a micrograph free of junk; the counts are Poisson. 0 for a control on false picks.
    minimum_gap_angstrom
        Between the circles around two particles; below 0 they may overlap, from -diameter on anywhere.
    particle
        One of ``SHAPES``, or the path of a PDB or mmCIF file.
    diameter_angstrom
        Of a procedural shape. A structure has its own: the longest way across its centre of mass.
    carbon
        Probability that the edge of the carbon film is in view.
    contaminants, gold_beads, aggregates
        Mean number per micrograph of ice crystals, of gold beads of 100 Å, of clumps of particles.
    drift_angstrom
        Way moved during the exposure.
    gain_stripes
        Relative standard deviation of the gain between columns.
    dead_pixels
        Share of pixels that count nothing.
    detector_blur
        b in the detector's response exp(-b (frequency · pixel size)²).
    """

    shape_px: tuple[int, int] = _knob((512, 512), 32, 8192)
    pixel_size_angstrom: float = _knob(4.0, 0.2, 50)
    voltage_kv: float = _knob(300.0, 60, 1000)
    spherical_aberration_mm: float = _knob(2.7, 0, 10)
    amplitude_contrast: float = _knob(0.1, 0, 1)
    dose_per_angstrom2: float = _knob(30.0, 0.01, 1e6)
    defocus_angstrom: tuple[float, float] = _knob((10_000.0, 25_000.0), -100_000, 100_000)
    b_factor_angstrom2: float = _knob(150.0, 0, 10_000)
    ice_thickness_angstrom: float = _knob(400.0, 0, 5000)
    ice_gradient: float = _knob(0.3, 0, 2)
    particles: float = _knob(75.0, 0, 20_000)
    minimum_gap_angstrom: float = _knob(0.0, -10_000, 10_000)
    particle: str = "lobes"
    diameter_angstrom: float = _knob(120.0, 10, 10_000)
    carbon: float = _knob(0.0, 0, 1)
    contaminants: float = _knob(0.0, 0, 1000)
    gold_beads: float = _knob(0.0, 0, 1000)
    aggregates: float = _knob(0.0, 0, 1000)
    drift_angstrom: float = _knob(0.0, 0, 100)
    gain_stripes: float = _knob(0.0, 0, 0.5)
    dead_pixels: float = _knob(0.0, 0, 0.5)
    detector_blur: float = _knob(1.2, 0, 100)

    def __post_init__(self) -> None:
        for knob in fields(self):
            object.__setattr__(self, knob.name, _checked(knob, getattr(self, knob.name)))
        low, high = self.defocus_angstrom
        if low > high:
            raise InputError("scene", "defocus_angstrom", found=f"{low:g} to {high:g}", expected="the lower one first")

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> "Scene":
        """Make a scene of a table as TOML or JSON give it; knobs that do not exist are refused."""
        knobs = {knob.name: knob for knob in fields(cls)}
        for name in table:
            if name not in knobs:
                raise InputError("scene", name, found="unknown", expected=f"one of {', '.join(knobs)}")
        return cls(**{name: _checked(knobs[name], value) for name, value in table.items()})

    @property
    def wavelength_angstrom(self) -> float:
        """The relativistic wavelength of the electrons."""
        volts = 1000 * self.voltage_kv
        return float(12.2643 / np.sqrt(volts * (1 + 0.978466e-6 * volts)))

    @property
    def interaction(self) -> float:
        """The phase shift per projected potential, in rad/(V Å)."""
        return (1 + self.voltage_kv / 510.999) * self.wavelength_angstrom / PER_SCATTERING_LENGTH


def scene_with(scene: Scene, settings: Iterable[str]) -> Scene:
    """Return the scene with knobs set by ``name=value``, the value as in TOML; a bare word is text."""
    table = asdict(scene)
    for text in settings:
        name, equals, value = text.partition("=")
        if not equals:
            raise InputError("scene", "setting", found=repr(text), expected="name=value, as dose_per_angstrom2=20")
        try:
            table[name.strip()] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            table[name.strip()] = value.strip()
    return Scene.from_table(table)


def _checked(knob: Field[Any], value: Any) -> Any:
    """Return the value as the type of the knob; refuse what is of another kind or out of range, NaN included."""
    if isinstance(knob.default, str):
        if not isinstance(value, str):
            raise InputError("scene", knob.name, found=value, expected="a name or a path")
        return value
    if not isinstance(knob.default, tuple):
        return _number(knob, value, type(knob.default))
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise InputError("scene", knob.name, found=value, expected="two numbers")
    return tuple(_number(knob, part, type(knob.default[0])) for part in value)


def _number(knob: Field[Any], value: Any, kind: type) -> Any:
    low, high = knob.metadata["range"]
    number = isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool)
    if not (number and low <= value <= high):
        words = "a whole number" if kind is int else "a number"
        raise InputError("scene", knob.name, found=value, expected=f"{words} from {low:g} to {high:g}")
    return kind(value)


DEMO = Scene(
    dose_per_angstrom2=15.0,
    defocus_angstrom=(8_000.0, 22_000.0),
    ice_thickness_angstrom=500.0,
    minimum_gap_angstrom=-30.0,
    diameter_angstrom=125.0,
    carbon=0.25,
    contaminants=0.8,
)
"""Micrographs to learn on: picking is neither trivial nor hopeless."""
