"""Simulated micrographs obey the physics they claim, and their truth is true."""

import json
import math
import time
from dataclasses import Field, asdict, fields, replace
from pathlib import Path
from typing import Any

import gemmi
import mrcfile
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow
from scipy import constants, ndimage, stats
from scipy.spatial.distance import pdist
from scipy.spatial.transform import Rotation

from verglas.errors import InputError
from verglas.simulate import DEMO, SHAPES, Scene, Simulator, contrast_transfer, scene_with, simulate, write_dataset
from verglas.simulate.exposure import detect, form_image, potential_spectrum, transmit
from verglas.simulate.micrograph import random_poses
from verglas.simulate.particles import make_particle, project, read_particle
from verglas.simulate.surroundings import MATERIALS, Canvas, add_lens, draw_ice, draw_junk

EMPTY = Scene(shape_px=(256, 192), particles=0.0, ice_thickness_angstrom=0.0)
CLEAN = replace(EMPTY, dose_per_angstrom2=1e5, detector_blur=0.0)
"""Next to no noise: what is seen is the particles alone."""


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def transfer(scene: Scene, frequency: float, defocus_angstrom: float) -> float:
    return float(contrast_transfer(scene, np.array([frequency]), defocus_angstrom)[0])


# --- optics ---


@given(
    kv=st.floats(80, 400),
    cs=st.floats(0, 5),
    absorbed=st.floats(0, 0.99),
    b=st.floats(0, 300),
    defocus=st.floats(-3e4, 3e4),
    frequency=st.floats(0, 0.3),
)
def test_ctf_is_that_of_si_units(
    kv: float, cs: float, absorbed: float, b: float, defocus: float, frequency: float
) -> None:
    """One sine with the amplitude contrast as a phase, all from fundamental constants."""
    energy, mass, c = kv * 1e3 * constants.e, constants.m_e, constants.c
    wavelength = constants.h / math.sqrt(2 * mass * energy * (1 + energy / (2 * mass * c**2)))
    k = frequency * 1e10
    chi = math.pi * wavelength * defocus * 1e-10 * k**2 - math.pi / 2 * cs * 1e-3 * wavelength**3 * k**4
    expected = math.sin(chi + math.asin(absorbed)) * math.exp(-b * frequency**2 / 4)
    scene = Scene(voltage_kv=kv, spherical_aberration_mm=cs, amplitude_contrast=absorbed, b_factor_angstrom2=b)
    assert transfer(scene, frequency, defocus) == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize(("kv", "wavelength", "interaction"), [(300, 0.019687, 6.53e-4), (200, 0.025079, 7.29e-4)])
def test_constants_of_the_beam(kv: float, wavelength: float, interaction: float) -> None:
    scene = Scene(voltage_kv=float(kv))
    assert scene.wavelength_angstrom == pytest.approx(wavelength, rel=1e-4)
    assert scene.interaction == pytest.approx(interaction, rel=1e-3)


def test_ctf_agrees_with_torch_ctf() -> None:
    torch_ctf = pytest.importorskip("torch_ctf")
    theirs = torch_ctf.calculate_ctf_1d(
        defocus=1.5,
        voltage=300,
        spherical_aberration=2.7,
        amplitude_contrast=0.1,
        phase_shift=0,
        pixel_size=2.0,
        n_samples=101,
        oversampling_factor=1,
    )
    ours = contrast_transfer(Scene(b_factor_angstrom2=0.0), np.linspace(0, 0.25, 101), 15_000.0)
    np.testing.assert_allclose(ours, np.asarray(theirs).squeeze(), atol=5e-4)


def test_a_cosine_of_potential_comes_out_times_the_ctf() -> None:
    canvas = Canvas((64, 64), 16, 4.0)
    scene = Scene(drift_angstrom=7.0)
    x = np.arange(canvas.shape[1]) / canvas.shape[1]
    potential = np.tile(10 * np.cos(2 * np.pi * 6 * x), (canvas.shape[0], 1)).astype(np.float32)
    thickness = {"ice": np.zeros_like(potential)}
    spectrum = potential_spectrum(scene, canvas, {2.0: potential}, thickness, rng())
    along = 6 / canvas.shape[1] / 4.0
    factor = 2 * scene.interaction * transfer(scene, along, 12_000.0) * math.exp(-2 * (math.pi * 2.0 * along) ** 2)
    for angle, smear in ((0.0, np.sinc(7.0 * along)), (math.pi / 2, 1.0)):
        contrast = form_image(scene, canvas, spectrum, 12_000.0, angle)
        np.testing.assert_allclose(contrast, potential * factor * smear, atol=2e-6)


# --- particles ---


@pytest.mark.parametrize("shape", SHAPES)
@settings(max_examples=10, deadline=None)
@given(
    seed=st.integers(0, 99),
    pixel=st.floats(1, 9),
    x=st.floats(100, 101),
    y=st.floats(100, 101),
)
def test_projection_keeps_mass_and_centre(shape: str, seed: int, pixel: float, x: float, y: float) -> None:
    particle = make_particle(shape, 120.0)
    window, (plane,) = project(particle, random_poses(rng(seed), 1)[0], np.array([x, y]), pixel)
    assert plane.sum() * pixel**2 == pytest.approx(particle.weight[0].sum(), rel=1e-9)
    rows, columns = ndimage.center_of_mass(plane)
    assert window[1].start + columns == pytest.approx(x, abs=1e-6)
    assert window[0].start + rows == pytest.approx(y, abs=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_fill_their_diameter_and_differ(shape: str) -> None:
    particle = make_particle(shape, 150.0)
    assert particle.diameter_angstrom == pytest.approx(150)
    np.testing.assert_allclose(particle.xyz.mean(axis=0), 0, atol=1e-9)
    volume = particle.weight[0].sum() / 2.1
    analytic = {
        "shell": 4 / 3 * np.pi * (1 - 0.66**3),
        "rod": np.pi * 0.27**2 * 1.92,
        "ring": 2 * np.pi**2 * 0.7 * 0.09,
        "disc": np.pi * 0.97**2 * 0.5,
    }
    if shape in analytic:  # of 30 points across the outermost are put on the sphere: that adds to the volume
        assert 0.95 < volume / (analytic[shape] * 75**3) < 1.25
    others = [make_particle(other, 150.0) for other in SHAPES if other != shape]
    spread = np.sort(np.linalg.eigvalsh(np.cov(particle.xyz.T)))
    assert all(np.abs(spread / np.sort(np.linalg.eigvalsh(np.cov(o.xyz.T))) - 1).max() > 0.05 for o in others)


def test_pose_is_rz_ry_rz() -> None:
    """A particle turned by hand projects, unturned, to the same picture."""
    particle, pose = make_particle("lobes", 120.0), np.array([40.0, 75.0, -110.0])
    turn = Rotation.from_euler("z", -110, degrees=True)
    turn *= Rotation.from_euler("y", 75, degrees=True) * Rotation.from_euler("z", 40, degrees=True)
    turned = replace(particle, xyz=turn.apply(particle.xyz))
    centre = np.array([50.3, 49.8])
    (window, (plane,)), (window_by_hand, (by_hand,)) = (
        project(particle, pose, centre, 4.0),
        project(turned, np.zeros(3), centre, 4.0),
    )
    assert window == window_by_hand
    np.testing.assert_allclose(plane, by_hand, rtol=1e-6, atol=1e-6)


def test_poses_are_uniform_over_all_orientations() -> None:
    """Turned axes are uniform on the sphere; the trace of a uniform rotation has mean 0, its square mean 1."""
    rot, tilt, psi = random_poses(rng(), 4000).T
    turn = Rotation.from_euler("ZYZ", np.stack([psi, tilt, rot], 1), degrees=True).as_matrix()
    for axis in np.eye(3):
        for part in (turn @ axis).T:
            assert stats.kstest(part, stats.uniform(-1, 2).cdf).pvalue > 1e-3
    trace = np.trace(turn, axis1=1, axis2=2)
    assert abs(trace.mean()) < 4 / math.sqrt(4000)
    assert (trace**2).mean() == pytest.approx(1, abs=4 * math.sqrt(2 / 4000))


@pytest.fixture
def structure(tmp_path: Path) -> Path:
    """A lopsided cloud of atoms, written by gemmi."""
    made, chain, residue = gemmi.Structure(), gemmi.Chain("A"), gemmi.Residue()
    residue.name, residue.seqid = "LYS", gemmi.SeqId(1, " ")
    places = rng(5).normal(0, (40, 15, 8), (2000, 3)) + 100
    for number, place in enumerate(places):
        atom = gemmi.Atom()
        atom.element = gemmi.Element(("C", "C", "C", "N", "O", "S")[number % 6])
        atom.name, atom.pos = atom.element.name, gemmi.Position(*place)
        residue.add_atom(atom)
    chain.add_residue(residue)
    made.add_model(gemmi.Model(1))
    made[0].add_chain(chain)
    path = tmp_path / "cloud.cif"
    made.make_mmcif_document().write_file(str(path))
    return path


def test_structure_weighs_atoms_less_water(structure: Path) -> None:
    particle = read_particle(structure)
    atoms = [a for chain in gemmi.read_structure(str(structure))[0] for r in chain for a in r]
    length = {"C": 2.509, "N": 2.211, "O": 1.983, "S": 5.161}
    potential = np.array([47.878 * length[a.element.name] for a in atoms])
    np.testing.assert_allclose(particle.weight[0], potential)
    np.testing.assert_allclose(particle.weight[1], -17.4 * 4.5)
    net = sum(particle.weight)
    np.testing.assert_allclose(net @ particle.xyz, 0, atol=1e-6)
    moved = particle.xyz - [a.pos.tolist() for a in atoms]
    np.testing.assert_allclose(moved, np.tile(moved[0], (len(moved), 1)), atol=1e-9)


def test_structure_is_dark_where_the_truth_says(structure: Path) -> None:
    scene = replace(CLEAN, shape_px=(512, 512), particle=str(structure), particles=6.0)
    made = simulate(scene, rng(2))
    assert len(made.picks) > 2
    for x, y in np.rint(made.picks.xy[made.visible > 0.99]).astype(int):
        around = made.image[max(y - 8, 0) : y + 9, max(x - 8, 0) : x + 9]
        assert around.mean() < np.median(made.image)


# --- truth ---


def in_register(image: np.ndarray, expected: np.ndarray) -> tuple[float, float]:
    """Shift, in pixels, of the peak of the cross-correlation, refined by a parabola."""
    spectrum = np.fft.fft2(image - image.mean()) * np.conj(np.fft.fft2(expected - expected.mean()))
    map_ = np.fft.fftshift(np.fft.ifft2(spectrum).real)
    row, column = np.unravel_index(map_.argmax(), map_.shape)
    shift = []
    for line, at in ((map_[:, column], row), (map_[row], column)):
        left, top, right = line[at - 1 : at + 2]
        shift.append(float(at - len(line) // 2 + 0.5 * (left - right) / (left - 2 * top + right)))
    return shift[1], shift[0]


@pytest.mark.parametrize("shape", SHAPES)
def test_particles_lie_where_the_truth_says(shape: str) -> None:
    """Each is compared with points drawn by another route: rounded cells of the turned cloud about its centre."""
    scene = replace(CLEAN, particle=shape, particles=8.0, minimum_gap_angstrom=20.0, pixel_size_angstrom=3.0)
    simulator = Simulator(scene)
    made = simulator(rng(11))
    whole = made.visible > 0.999
    assert whole.sum() >= 2
    expected = np.zeros(scene.shape_px)
    for (x, y), (rot, tilt, psi) in zip(made.picks.xy, made.pose_degrees, strict=True):
        turn = Rotation.from_euler("ZYZ", (psi, tilt, rot), degrees=True)
        column, row = np.rint(turn.apply(simulator.particle.xyz)[:, :2] / 3.0 + (x, y)).astype(int).T
        seen = (column >= 0) & (column < 192) & (row >= 0) & (row < 256)
        np.add.at(expected, (row[seen], column[seen]), 1.0)
    dx, dy = in_register(-made.image.astype(float), ndimage.gaussian_filter(expected, 1))
    assert abs(dx) < 0.2
    assert abs(dy) < 0.2


@pytest.mark.parametrize("shape", SHAPES)
def test_particles_are_dark(shape: str) -> None:
    made = simulate(replace(CLEAN, particle=shape, particles=10.0), rng(1))
    radius = 120 / 4 / 2
    y, x = np.ogrid[:256, :192]
    covered = np.any([np.hypot(x - u, y - v) < radius for u, v in made.picks.xy], axis=0)
    assert made.image[covered].mean() < made.image[~covered].mean() - 0.002 * made.image.mean()


@given(seed=st.integers(0, 500), shape=st.sampled_from([(64, 160), (200, 96)]), gap=st.floats(-60, 30))
@settings(max_examples=15, deadline=None)
def test_truth_is_in_the_frame_and_keeps_its_distance(seed: int, shape: tuple[int, int], gap: float) -> None:
    scene = Scene(shape_px=shape, particles=4.0, minimum_gap_angstrom=gap, carbon=0.5, contaminants=1.0)
    made = simulate(scene, rng(seed))
    xy = made.picks.xy
    assert made.image.shape == made.junk.shape == shape
    assert len(xy) == len(made.visible) == len(made.pose_degrees)
    assert ((xy >= 0) & (xy <= (shape[1] - 1, shape[0] - 1))).all()
    assert not made.junk[tuple(np.rint(xy[:, ::-1]).astype(int).T)].any()
    assert pdist(xy).min(initial=np.inf) >= (120 + gap) / 4 - 1e-9
    assert ((made.visible > 0) & (made.visible <= 1 + 1e-9)).all()


def test_overlap_comes_with_a_negative_gap() -> None:
    crowded = replace(EMPTY, particles=60.0, minimum_gap_angstrom=-120.0)
    assert pdist(simulate(crowded, rng()).picks.xy).min() < 120 / 4 / 3


def test_visible_is_the_share_within_the_frame() -> None:
    """Of a shell cut by a plane at height c, in radii, a share (1 + c)² (2 - c) / 4 of each of its balls is left."""
    shown = []
    for seed in range(30):
        made = simulate(replace(EMPTY, particle="shell", particles=8.0), rng(seed))
        x, y = made.picks.xy.T + 0.5
        cut_once = (x < 15) & (y > 17) & (y < 256 - 17)
        for share, visible in zip(x[cut_once] / 15, made.visible[cut_once], strict=True):
            outer, inner = ((1 + c) ** 2 * (2 - c) / 4 for c in (share, min(share / 0.66, 1.0)))
            shown.append(visible - (outer - 0.66**3 * inner) / (1 - 0.66**3))
    assert len(shown) > 8
    assert np.abs(shown).max() < 0.04


@pytest.mark.parametrize("mean", [0.0, 5.0, 20.0])
def test_particles_is_their_mean_number(mean: float) -> None:
    simulator = Simulator(replace(EMPTY, particles=mean, minimum_gap_angstrom=-60.0))
    counts = [len(simulator(rng(seed)).picks) for seed in range(40)]
    assert np.mean(counts) == pytest.approx(mean, abs=3.5 * math.sqrt(mean / 40))


def test_half_seen_particles_stand_at_the_edge_too() -> None:
    """Density up to the very edge equals that of the middle: no bare rim that a net could learn."""
    simulator = Simulator(replace(EMPTY, particles=20.0, minimum_gap_angstrom=-120.0))
    x = np.concatenate([simulator(rng(seed)).picks.xy[:, 0] for seed in range(60)])
    assert stats.kstest(x, stats.uniform(0, 191).cdf).pvalue > 1e-3


# --- noise ---


def test_counts_are_poisson_before_the_detector() -> None:
    for dose in (0.5, 20.0):
        image = simulate(replace(EMPTY, dose_per_angstrom2=dose, detector_blur=0.0), rng(3)).image
        assert image.mean() == pytest.approx(dose * 16, rel=5 * math.sqrt(1 / (dose * 16 * image.size)))
        assert image.var() / image.mean() == pytest.approx(1, abs=5 * math.sqrt(2 / image.size))
        np.testing.assert_allclose(image, np.rint(image), atol=2e-3)


def test_detector_blur_has_the_stated_response() -> None:
    canvas = Canvas((240, 240), 8, 3.0)
    arriving = np.ones(canvas.shape)
    image = detect(Scene(pixel_size_angstrom=3.0, detector_blur=1.2), canvas, arriving, rng())
    power = np.abs(np.fft.fft2(image - image.mean())) ** 2 / image.size / image.mean()
    k = np.hypot(*np.meshgrid(*[np.fft.fftfreq(240)] * 2))
    for low, high in ((0.0, 0.1), (0.2, 0.25), (0.45, 0.5)):
        ring = (k > low) & (k <= high)
        assert power[ring].mean() == pytest.approx(np.exp(-2.4 * k[ring] ** 2).mean(), rel=5 / math.sqrt(ring.sum()))


def test_ice_stops_electrons_and_slopes() -> None:
    canvas = Canvas((128, 128), 16, 4.0)
    ice = draw_ice(Scene(ice_thickness_angstrom=600.0, ice_gradient=0.5), canvas, rng())
    assert ice[canvas.frame].mean() == pytest.approx(600, rel=0.01)
    slope = math.hypot(np.diff(ice, axis=0).mean(), np.diff(ice, axis=1).mean())
    assert slope * 128 == pytest.approx(0.5 * 600, rel=1e-3)
    arriving = transmit(np.zeros(canvas.shape), {"ice": ice})
    np.testing.assert_allclose(arriving, np.exp(-ice / 3000), rtol=1e-5)
    assert transmit(np.full((2, 2), 3.0), {"ice": np.zeros((2, 2))}).tolist() == [[0.02, 0.02], [0.02, 0.02]]


def test_grains_have_the_variance_of_their_atoms_whatever_the_pixel() -> None:
    """Water of 0.0314 molecules per Å³ at S = 0.07, carbon of 0.1 atoms at 0.3."""
    for material, density, length, structure_factor in (("ice", 0.0314, 3.04, 0.07), ("carbon", 0.1, 2.509, 0.3)):
        for pixel in (2.0, 5.0):
            canvas = Canvas((128, 128), 4, pixel)
            thickness = np.full(canvas.shape, 300, np.float32)
            scene = Scene(pixel_size_angstrom=pixel)
            spectrum = potential_spectrum(scene, canvas, {}, {material: thickness}, rng())
            along_y, along_x = canvas.frequency
            blur = np.exp(-2 * np.pi**2 * (along_y**2 + along_x**2))
            potential = np.fft.irfft2(spectrum / blur, canvas.shape)
            expected = 47.878**2 * length**2 * density * structure_factor * 300 / pixel**2
            assert potential.var() == pytest.approx(expected, rel=0.06)
            assert potential.mean() == pytest.approx(300 * MATERIALS[material].potential_v, abs=30)


def test_drift_blurs_along_one_direction() -> None:
    still = replace(CLEAN, particles=15.0, b_factor_angstrom2=0.0)
    sharp, drifted = (simulate(replace(still, drift_angstrom=d), rng(4)) for d in (0.0, 30.0))
    np.testing.assert_array_equal(sharp.picks.xy, drifted.picks.xy)
    assert drifted.image.std() < 0.9 * sharp.image.std()


def test_stripes_and_dead_pixels() -> None:
    scene = replace(EMPTY, dose_per_angstrom2=100.0, dead_pixels=0.01, gain_stripes=0.05)
    image = simulate(scene, rng()).image
    assert (image == 0).mean() == pytest.approx(0.01, abs=0.003)
    columns = np.median(image, axis=0) / np.median(image)
    assert columns.std() == pytest.approx(0.05, rel=0.25)
    assert (np.median(image, axis=1) / np.median(image)).std() < 0.01


# --- junk ---


def test_carbon_comes_as_often_as_asked_and_leaves_a_hole() -> None:
    """The edge passes 0.1 to 0.4 of the shorter side from the middle of the frame."""
    canvas = Canvas((96, 160), 24, 8.0)
    y, x = np.ogrid[:96, :160]
    from_middle = np.hypot(x - 80, y - 48) / 96
    drawn = [draw_junk(Scene(carbon=0.3), canvas, rng(seed))["carbon"][canvas.frame] > 0 for seed in range(60)]
    assert np.mean([carbon.any() for carbon in drawn]) == pytest.approx(0.3, abs=0.18)
    nearest = [from_middle[carbon].min() for carbon in drawn if carbon.any()]
    assert min(nearest) > 0.05
    assert 0.3 < max(nearest) < 0.45


@given(x=st.floats(-5, 75), y=st.floats(-5, 55), radius=st.floats(4, 12))
@settings(deadline=None)
def test_lens_is_round_and_where_it_should_be(x: float, y: float, radius: float) -> None:
    thickness = np.zeros((50, 70), np.float32)
    add_lens(thickness, np.array([x, y]), radius, 20.0)
    rows, columns = np.ogrid[:50, :70]
    distance = np.hypot(columns - x, rows - y)
    assert (thickness[distance < radius - 1e-6] > 0).all()
    assert (thickness[distance > radius + 1e-6] == 0).all()
    assert thickness.max(initial=0) <= 20
    if 12 < x < 57 and 12 < y < 37:
        assert thickness.sum() == pytest.approx(2 / 3 * np.pi * radius**2 * 20, rel=0.1)


@pytest.mark.parametrize("knob", ["carbon", "contaminants", "gold_beads"])
def test_junk_mask_covers_what_is_dark(knob: str) -> None:
    """Without particles, ice and fringes, all that is darker than the beam is under the mask, and the reverse."""
    scene = replace(CLEAN, shape_px=(384, 384), amplitude_contrast=1.0, defocus_angstrom=(0.0, 0.0))
    scene = replace(scene, spherical_aberration_mm=0.0, b_factor_angstrom2=0.0)
    seed = next(s for s in range(50) if simulate(replace(scene, **{knob: 1.0}), rng(s)).junk.any())
    made = simulate(replace(scene, **{knob: 1.0}), rng(seed))
    beam = scene.dose_per_angstrom2 * 16
    inside = ndimage.binary_erosion(made.junk, iterations=3, border_value=1)
    outside = ~ndimage.binary_dilation(made.junk, iterations=3)
    assert inside.any()
    assert made.image[inside].max() < 0.97 * beam
    assert abs(made.image[outside] / beam - 1).max() < 0.02
    assert not len(made.picks)


def test_gold_is_darkest_and_of_its_size() -> None:
    scene = replace(EMPTY, shape_px=(256, 256), gold_beads=6.0, pixel_size_angstrom=2.0)
    made = simulate(scene, rng(1))
    labels, n = ndimage.label(made.junk)
    sizes = [2 * math.sqrt((labels == i).sum() / math.pi) * 2.0 for i in range(1, n + 1)]
    assert min(abs(size - 100) for size in sizes) < 4
    assert made.image[ndimage.binary_erosion(made.junk, iterations=15)].mean() < 0.5 * np.median(made.image)


def test_aggregates_are_junk_made_of_particles() -> None:
    made = simulate(replace(CLEAN, shape_px=(400, 400), aggregates=2.0), rng(3))
    assert 0.005 < made.junk.mean() < 0.4
    beam = CLEAN.dose_per_angstrom2 * 16
    assert made.image[made.junk].mean() < 0.99 * beam
    assert made.image[made.junk].min() < 0.85 * beam
    beyond_fringes = ~ndimage.binary_dilation(made.junk, iterations=12)
    assert abs(made.image[beyond_fringes] / beam - 1).max() < 0.01
    assert not len(made.picks)


def test_no_particles_means_no_particles() -> None:
    made = simulate(EMPTY, rng())
    assert made.picks.xy.shape == (0, 2)
    assert made.visible.shape == (0,)
    assert made.pose_degrees.shape == (0, 3)
    assert not made.junk.any()


# --- randomness ---


def test_same_seed_same_bytes_other_seed_others() -> None:
    scene = replace(DEMO, shape_px=(128, 128), particles=5.0, aggregates=1.0)
    a, b, c = simulate(scene, rng(1)), Simulator(scene)(rng(1)), simulate(scene, rng(2))
    assert a.image.tobytes() == b.image.tobytes() != c.image.tobytes()
    assert a.picks.xy.tobytes() == b.picks.xy.tobytes()
    assert a.pose_degrees.tobytes() == b.pose_degrees.tobytes()


def test_noise_knobs_move_no_particle() -> None:
    scene = replace(DEMO, shape_px=(128, 128), particles=5.0)
    plain = simulate(scene, rng(7))
    noisy = simulate(replace(scene, dose_per_angstrom2=1.0, detector_blur=0.0, dead_pixels=0.1), rng(7))
    np.testing.assert_array_equal(plain.picks.xy, noisy.picks.xy)
    np.testing.assert_array_equal(plain.junk, noisy.junk)
    assert plain.defocus_angstrom == noisy.defocus_angstrom


def test_defocus_is_drawn_within_its_limits_and_no_scene_changes() -> None:
    scene = replace(EMPTY, shape_px=(64, 64), defocus_angstrom=(9e3, 1.1e4))
    before = asdict(scene)
    drawn = [simulate(scene, rng(seed)).defocus_angstrom for seed in range(20)]
    assert 9e3 <= min(drawn) < max(drawn) <= 1.1e4
    assert asdict(scene) == before


# --- knobs ---


@pytest.mark.parametrize("knob", [f for f in fields(Scene) if "range" in f.metadata], ids=lambda f: f.name)
def test_every_knob_refuses_what_is_out_of_range_or_no_number(knob: Field[Any]) -> None:
    low, high = knob.metadata["range"]
    wrong = [low - 1, high + 1, math.nan, math.inf, "much", None, True]
    if isinstance(knob.default, tuple):
        wrong = [(high, bad) for bad in wrong] + [(high,), (high, high, high), high]
    for value in wrong:
        with pytest.raises(InputError) as error:
            Scene.from_table({knob.name: value})
        assert error.value.field == knob.name
    for limit in (low, high):
        Scene.from_table({knob.name: [limit] * 2 if isinstance(knob.default, tuple) else limit})


def test_a_scene_survives_json_and_takes_whole_numbers_and_lists() -> None:
    assert Scene.from_table(json.loads(json.dumps(asdict(DEMO)))) == DEMO
    scene = Scene.from_table({"particles": 3, "shape_px": [64, 96], "defocus_angstrom": [5000, 6000]})
    assert scene == Scene(particles=3.0, shape_px=(64, 96), defocus_angstrom=(5000.0, 6000.0))
    assert isinstance(scene.particles, float)
    with pytest.raises(InputError, match="colour is unknown"):
        Scene.from_table({"colour": 1})


def test_knobs_are_set_from_a_command_line() -> None:
    settings = ["particle = ring", "shape_px=[64, 96]", "dose_per_angstrom2=7", "particles=0"]
    made = scene_with(DEMO, settings)
    assert made == replace(DEMO, particle="ring", shape_px=(64, 96), dose_per_angstrom2=7.0, particles=0.0)
    assert scene_with(DEMO, ['particle="a=b.pdb"']).particle == "a=b.pdb"
    assert scene_with(DEMO, []) == DEMO
    for wrong, field in (
        ("carbon", "setting"),
        ("colour=1", "colour"),
        ("carbon=lots", "carbon"),
        ("carbon=", "carbon"),
    ):
        with pytest.raises(InputError) as error:
            scene_with(DEMO, [wrong])
        assert error.value.field == field


@pytest.mark.parametrize(
    ("knobs", "field"),
    [
        ({"defocus_angstrom": (2e4, 1e4)}, "defocus_angstrom"),
        ({"particle": 7}, "particle"),
        ({"particle": "cube"}, "particle"),
        ({"particle": "cube.obj"}, "file type"),
        ({"particle": "absent.pdb"}, "file"),
        ({"particles": 500.0}, "particles"),
        ({"particles": 100.0, "minimum_gap_angstrom": 100.0}, "particles"),
        ({"diameter_angstrom": 3000.0, "particles": 0.0}, "diameter"),
        ({"shape_px": (64.5, 64)}, "shape_px"),
    ],
)
def test_impossible_scenes_are_refused(knobs: dict[str, object], field: str) -> None:
    with pytest.raises(InputError) as error:
        simulate(Scene.from_table(knobs), rng())
    assert error.value.field == field


# --- data sets ---


SMALL = replace(DEMO, shape_px=(96, 128), particles=4.0, contaminants=1.0)


def test_dataset_holds_images_and_their_truth(tmp_path: Path) -> None:
    records = list(write_dataset(tmp_path, SMALL, 4, seed=3))
    truth = json.loads((tmp_path / "truth.json").read_text())
    assert truth["scene"] == json.loads(json.dumps(asdict(SMALL)))
    assert truth["diameter_px"] == pytest.approx(SMALL.diameter_angstrom / 4)
    assert (
        [r.name for r in records] == [row["name"] for row in truth["micrographs"]] == [f"mic_{k:04d}" for k in range(4)]
    )
    simulator = Simulator(SMALL)
    for number, (record, row) in enumerate(zip(records, truth["micrographs"], strict=True)):
        made = simulator(np.random.default_rng([3, number]))
        with mrcfile.open(record.path) as mrc:
            np.testing.assert_array_equal(mrc.data, made.image)
            assert mrc.voxel_size.x == pytest.approx(4.0)
        lines = (tmp_path / "truth" / f"{record.name}.csv").read_text().splitlines()
        assert lines[0] == "x,y,visible,rot,tilt,psi"
        table = np.array([line.split(",") for line in lines[1:]], float).reshape(-1, 6)
        np.testing.assert_allclose(table[:, :2], made.picks.xy, atol=6e-4)
        np.testing.assert_allclose(table[:, 3:], made.pose_degrees, atol=6e-3)
        assert record.particles == row["particles"] == len(made.picks)
        mask = tmp_path / "junk" / f"{record.name}.png"
        assert mask.exists() == made.junk.any()
        if made.junk.any():
            np.testing.assert_array_equal(np.asarray(Pillow.open(mask)) > 0, made.junk)
    assert any((tmp_path / "junk").glob("*.png"))


def test_micrographs_do_not_depend_on_how_many_were_asked(tmp_path: Path) -> None:
    for folder, count in (("few", 2), ("many", 3)):
        list(write_dataset(tmp_path / folder, SMALL, count, seed=1))
    for name in ("micrographs/mic_0001.mrc", "truth/mic_0001.csv"):
        assert (tmp_path / "few" / name).read_bytes() == (tmp_path / "many" / name).read_bytes()
    first, second = ((tmp_path / "few" / f"micrographs/mic_000{k}.mrc").read_bytes() for k in (0, 1))
    assert first != second


def test_stopping_early_leaves_a_whole_smaller_set_that_can_be_finished(tmp_path: Path) -> None:
    next(write_dataset(tmp_path, SMALL, 3, seed=1))
    assert len(json.loads((tmp_path / "truth.json").read_text())["micrographs"]) == 1
    assert not [p for p in tmp_path.rglob("*") if p.name.endswith(".tmp")]
    list(write_dataset(tmp_path, SMALL, 3, seed=1))
    assert len(json.loads((tmp_path / "truth.json").read_text())["micrographs"]) == 3


def test_another_data_set_is_not_overwritten(tmp_path: Path) -> None:
    list(write_dataset(tmp_path, SMALL, 1, seed=1))
    for scene, seed in ((SMALL, 2), (replace(SMALL, particles=5.0), 1)):
        with pytest.raises(InputError, match="another"):
            write_dataset(tmp_path, scene, 1, seed=seed)
    (tmp_path / "truth.json").write_text("{")
    with pytest.raises(InputError, match="another"):
        write_dataset(tmp_path, SMALL, 1, seed=1)


@pytest.mark.parametrize(("count", "seed"), [(0, 1), (1, -1)])
def test_dataset_refuses_bad_counts_at_once(count: int, seed: int, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        write_dataset(tmp_path, SMALL, count, seed=seed)
    assert not list(tmp_path.iterdir())


# --- quality of the defaults ---


def test_demo_is_neither_trivial_nor_hopeless() -> None:
    """A matched blob of the particle's size scores centres above elsewhere, with overlap: AUC 0.85 to 0.999."""
    simulator = Simulator(DEMO)
    here, there = [], []
    for seed in range(3):
        made = simulator(rng(seed))
        assert 45 <= len(made.picks) <= 110
        width = simulator.diameter_px / 5
        score = ndimage.gaussian_filter(made.image, 4 * width) - ndimage.gaussian_filter(made.image, width)
        row, column = np.rint(made.picks.xy[:, ::-1]).astype(int).T
        away = np.ones(DEMO.shape_px, bool)
        away[row, column] = False
        away = (ndimage.distance_transform_edt(away) > simulator.diameter_px * 0.7) & ~made.junk
        here.append(score[row, column])
        there.append(score[away][::97])
    here, there = np.concatenate(here), np.concatenate(there)
    auc = stats.mannwhitneyu(here, there).statistic / len(here) / len(there)
    assert 0.85 < auc < 0.999


def test_a_large_micrograph_takes_seconds() -> None:
    started = time.perf_counter()
    made = simulate(replace(DEMO, shape_px=(1024, 1024), particles=90.0), rng())
    assert time.perf_counter() - started < 5
    assert len(made.picks) > 50
