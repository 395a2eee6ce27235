"""Physics of the exposure: potential, contrast transfer, intensity, electron counts, detector."""

import math
from collections.abc import Mapping

import numpy as np
from jaxtyping import Complex, Float, Float32
from scipy import fft

from verglas.simulate.particles import ATOM_BLUR_ANGSTROM
from verglas.simulate.scene import Scene
from verglas.simulate.surroundings import MATERIALS, Canvas

_MEAN_FREE_PATH_ANGSTROM = 3000.0  # of electrons in ice
_DARKEST = 0.02  # least intensity: the weak-phase approximation alone may fall below 0


def contrast_transfer(
    scene: Scene, frequency: Float[np.ndarray, "*s"], defocus_angstrom: float
) -> Float[np.ndarray, "*s"]:
    """Return the CTF with its envelope at spatial frequencies in 1/Å; underfocus is positive."""
    square, absorbed = frequency * frequency, scene.amplitude_contrast
    shifted = math.sqrt(1 - absorbed**2)
    wavelength, spherical_angstrom = scene.wavelength_angstrom, 1e7 * scene.spherical_aberration_mm
    phase = math.pi * wavelength * square * (defocus_angstrom - 0.5 * spherical_angstrom * wavelength**2 * square)
    envelope = np.exp(-scene.b_factor_angstrom2 / 4 * square)
    return (shifted * np.sin(phase) + absorbed * np.cos(phase)) * envelope


def potential_spectrum(
    scene: Scene,
    canvas: Canvas,
    particles: Mapping[float, Float32[np.ndarray, "h w"]],
    thickness: Mapping[str, Float32[np.ndarray, "h w"]],
    generator: np.random.Generator,
) -> Complex[np.ndarray, "h f"]:
    """Join particles, given under the blur of their points, with mean and granular potential of the materials."""
    along_y, along_x = canvas.frequency
    square = along_y**2 + along_x**2
    mean = sum(MATERIALS[name].potential_v * t for name, t in thickness.items())
    variance = sum(MATERIALS[name].granularity * t for name, t in thickness.items()) / scene.pixel_size_angstrom**2
    grains = np.sqrt(variance) * generator.standard_normal(canvas.shape, np.float32)
    layers = [(ATOM_BLUR_ANGSTROM, mean + grains), *particles.items()]
    return sum(fft.rfft2(layer) * np.exp(-2 * (math.pi * blur) ** 2 * square) for blur, layer in layers)


def form_image(
    scene: Scene,
    canvas: Canvas,
    spectrum: Complex[np.ndarray, "h f"],
    defocus_angstrom: float,
    drift_angle: float = 0.0,
) -> Float[np.ndarray, "h w"]:
    """Return the contrast, positive where dark; drift smears it along ``drift_angle``."""
    along_y, along_x = canvas.frequency
    transfer = contrast_transfer(scene, np.hypot(along_y, along_x), defocus_angstrom)
    smear = np.sinc(scene.drift_angstrom * (along_x * math.cos(drift_angle) + along_y * math.sin(drift_angle)))
    return 2 * fft.irfft2(scene.interaction * spectrum * transfer * smear, canvas.shape)


def transmit(
    contrast: Float[np.ndarray, "h w"], thickness: Mapping[str, Float[np.ndarray, "h w"]]
) -> Float[np.ndarray, "h w"]:
    """Return the share of electrons that arrives at each pixel; materials stop the rest."""
    stopped = sum(MATERIALS[name].stopping * t for name, t in thickness.items()) / _MEAN_FREE_PATH_ANGSTROM
    return np.exp(-stopped) * np.maximum(1 - contrast, _DARKEST)


def detect(
    scene: Scene, canvas: Canvas, arriving: Float[np.ndarray, "rows columns"], generator: np.random.Generator
) -> Float32[np.ndarray, "h w"]:
    """Count electrons; blur, stripe and kill pixels as the detector does; keep the frame."""
    counts = generator.poisson(scene.dose_per_angstrom2 * scene.pixel_size_angstrom**2 * arriving)
    along_y, along_x = (f * scene.pixel_size_angstrom for f in canvas.frequency)
    response = np.exp(-scene.detector_blur * (along_y**2 + along_x**2))
    image = fft.irfft2(fft.rfft2(counts.astype(np.float32)) * response, canvas.shape)[canvas.frame]
    gain = 1 + scene.gain_stripes * generator.standard_normal(image.shape[1])
    alive = generator.random(image.shape, np.float32) >= scene.dead_pixels
    return (image * gain * alive).astype(np.float32)
