"""Micrographs whose particles are known: potential, CTF, electron counts and detector, in that order.

Single scattering, one defocus per micrograph, noise terms judged by eye: good for finding faults, never the sole
proof of quality. Lengths are in Å, potentials in V, spatial frequencies in 1/Å unless a name says otherwise.
"""

from verglas.simulate.dataset import Written, write_dataset
from verglas.simulate.exposure import contrast_transfer
from verglas.simulate.micrograph import Simulated, Simulator, simulate
from verglas.simulate.particles import SHAPES
from verglas.simulate.scene import DEMO, Scene, scene_with

__all__ = [
    "DEMO",
    "SHAPES",
    "Scene",
    "Simulated",
    "Simulator",
    "Written",
    "contrast_transfer",
    "scene_with",
    "simulate",
    "write_dataset",
]
