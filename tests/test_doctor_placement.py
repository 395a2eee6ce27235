"""The doctor on labels: are there any, do they lie on particles, and is the diameter theirs."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from verglas.config import RunConfig
from verglas.doctor.diameter import Diameter
from verglas.doctor.labels import Labels
from verglas.doctor.registration import Registration
from verglas.doctor.subject import Data
from verglas.io.collections import collect
from verglas.io.micrographs import read_image
from verglas.simulate import Scene, write_dataset
from verglas.types import Collection, Picks, Split, nothing

Change = Callable[[np.ndarray, tuple[int, int], float], np.ndarray]


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    """Three simulated micrographs, taller than wide, with all their labels."""
    folder = tmp_path_factory.mktemp("simulated")
    list(write_dataset(folder, Scene(shape_px=(480, 400), particles=55), 3, 1))
    return collect([str(folder / "micrographs")], folder / "truth", diameter_px=30).collection


def examined(collection: Collection, folder: Path) -> Data:
    return Data(collection, RunConfig(), folder)


def moved(collection: Collection, change: Change) -> Collection:
    shapes = {m.name: m.shape for m in collection.micrographs}
    places = {n: change(np.array(p.xy), shapes[n], collection.diameter_px) for n, p in collection.picks.items()}
    return replace(collection, picks={name: Picks(name, xy, np.ones(len(xy))) for name, xy in places.items()})


MISPLACED: dict[str, tuple[str, Change]] = {
    "y flipped": ("FLIP_Y", lambda xy, shape, d: np.column_stack([xy[:, 0], shape[0] - 1 - xy[:, 1]])),
    "x flipped": ("FLIP_X", lambda xy, shape, d: np.column_stack([shape[1] - 1 - xy[:, 0], xy[:, 1]])),
    "turned": ("ROT180", lambda xy, shape, d: np.array(shape)[::-1] - 1 - xy),
    "swapped": ("SWAP_XY", lambda xy, shape, d: xy[:, ::-1]),
    "half a box": ("LABEL_SHIFT", lambda xy, shape, d: xy + np.array([0.5 * d, 0])),
    "corners of boxes": ("LABEL_SHIFT", lambda xy, shape, d: xy - 0.75 * d),
    "binned": ("LABEL_SCALE", lambda xy, shape, d: xy / 2),
    "binned twice": ("LABEL_SCALE", lambda xy, shape, d: xy / 4),
    "twice as fine": ("LABEL_SCALE", lambda xy, shape, d: xy * 2),
    "anywhere": ("UNRELATED", lambda xy, shape, d: np.random.default_rng(0).random(xy.shape) * shape[::-1]),
}


def test_good_labels_are_where_they_should_be(healthy: Collection, tmp_path: Path) -> None:
    found = Registration().check(examined(healthy, tmp_path))
    assert (found.verdict, found.code) == ("ok", "")
    assert found.evidence["z_as_given"] < -20, "particles are dark"
    assert found.evidence["shift_diameters"] <= 0.06


@pytest.mark.parametrize("how", MISPLACED)
def test_misplaced_labels_are_named(healthy: Collection, tmp_path: Path, how: str) -> None:
    code, change = MISPLACED[how]
    found = Registration().check(examined(moved(healthy, change), tmp_path))
    assert found.code == code
    assert found.verdict == ("warn" if code == "UNRELATED" else "fail")


def faint(collection: Collection, folder: Path, noise: float) -> Collection:
    """Return the collection with so much more noise in its pictures, in their standard deviations."""
    generator, made = np.random.default_rng(0), []
    for micrograph in collection.micrographs:
        pixels = read_image(micrograph)
        pixels = pixels + generator.normal(scale=noise * pixels.std(), size=pixels.shape)
        path = folder / f"{micrograph.name}.mrc"
        with mrcfile.new(path) as file:
            file.set_data(pixels.astype(np.float32))
        made.append(replace(micrograph, path=path))
    return replace(collection, micrographs=tuple(made))


def test_where_labels_lie_on_nothing_a_weaker_sign_of_another_place_counts(healthy: Collection, tmp_path: Path) -> None:
    twice = moved(faint(healthy, tmp_path, 8.0), lambda xy, shape, _: (2 * xy)[(2 * xy < shape[::-1]).all(axis=1)])
    found = Registration().check(examined(twice, tmp_path))
    assert abs(found.evidence["z_as_given"]) < 3
    assert 4 < abs(found.evidence["z_0.5"]) < 6
    assert (found.verdict, found.code) == ("fail", "LABEL_SCALE")
    strict = Registration(least_elsewhere=6.0).check(examined(twice, tmp_path))
    assert strict.code != "LABEL_SCALE"


def test_the_shift_is_told_in_pixels(healthy: Collection, tmp_path: Path) -> None:
    found = Registration().check(examined(moved(healthy, lambda xy, _, d: xy + np.array([0.5, -0.4]) * d), tmp_path))
    assert found.evidence["shift_x_px"] == pytest.approx(-15, abs=1.5)
    assert found.evidence["shift_y_px"] == pytest.approx(12, abs=1.5)
    assert f"{found.evidence['shift_x_px']:+.1f}" in found.remedy


def test_the_factor_is_told(healthy: Collection, tmp_path: Path) -> None:
    found = Registration().check(examined(moved(healthy, lambda xy, *_: xy / 2), tmp_path))
    assert "multiply them by 2" in found.remedy


def test_hollow_particles_are_not_beside_their_labels(tmp_path: Path) -> None:
    """A wrong diameter makes a hollow particle look like a ring around its label."""
    list(write_dataset(tmp_path, Scene(shape_px=(480, 400), particles=40, particle="shell"), 2, 1))
    collection = collect([str(tmp_path / "micrographs")], tmp_path / "truth", diameter_px=10).collection
    found = Registration().check(examined(collection, tmp_path / "scratch"))
    assert found.evidence["shift_diameters"] > 0.25
    assert found.code != "LABEL_SHIFT"


def test_a_few_clicks_give_no_alarm(healthy: Collection, tmp_path: Path) -> None:
    lost = moved(healthy, lambda xy, shape, d: MISPLACED["anywhere"][1](xy[:5], shape, d))
    found = Registration().check(examined(lost, tmp_path))
    assert (found.verdict, found.code) == ("info", "")
    assert "too few" in found.sentence


@pytest.mark.parametrize("check", [Registration, Diameter])
def test_without_labels_nothing_is_compared(healthy: Collection, tmp_path: Path, check: type) -> None:
    assert check().check(examined(replace(healthy, picks={}), tmp_path)).verdict == "skipped"


def test_believable_labels_are_counted(healthy: Collection, tmp_path: Path) -> None:
    found = Labels().check(examined(healthy, tmp_path))
    assert found.verdict == "ok"
    labels = sum(map(len, healthy.picks.values()))
    summed = labels * np.pi * 15**2 / (3 * 480 * 400)
    assert found.evidence["labels"] == labels
    assert found.evidence["disc_sum_share"] == pytest.approx(summed)
    assert found.evidence["covered_share"] == pytest.approx(summed, rel=0.1), "discs hardly overlap"
    assert 1 < found.evidence["median_neighbour_diameters"] < 2


UNBELIEVABLE: dict[str, tuple[str, str, Change]] = {
    "none": ("fail", "LABELS_EMPTY", lambda xy, shape, d: xy[:0]),
    "outside": ("fail", "LABELS_OUTSIDE", lambda xy, shape, d: np.concatenate([xy, [[0, -9], [-9, 0]]])),
    "crowded": ("fail", "LABEL_SCALE", lambda xy, shape, d: xy / 4),
    "doubled": ("warn", "LABELS_DUPLICATED", lambda xy, shape, d: np.concatenate([xy, xy + 0.05 * d])),
    "dense": ("warn", "LABELS_DENSE", lambda xy, shape, d: _lattice(shape, d)),
}


def _lattice(shape: tuple[int, int], d: float) -> np.ndarray:
    x, y = (np.arange(d / 2, side, 0.95 * d) for side in shape[::-1])
    return np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)


@pytest.mark.parametrize("how", UNBELIEVABLE)
def test_unbelievable_labels_are_named(healthy: Collection, tmp_path: Path, how: str) -> None:
    verdict, code, change = UNBELIEVABLE[how]
    found = Labels().check(examined(moved(healthy, change), tmp_path))
    assert (found.verdict, found.code) == (verdict, code)


def test_labels_of_validation_do_not_stand_in_for_those_that_teach(healthy: Collection, tmp_path: Path) -> None:
    judging = replace(healthy, split=Split(validation=tuple(healthy.picks)))
    assert Labels().check(examined(judging, tmp_path)).code == "LABELS_EMPTY"


def test_empty_micrographs_among_others_are_no_fault(healthy: Collection, tmp_path: Path) -> None:
    first = next(iter(healthy.picks))
    some = replace(healthy, picks={**healthy.picks, first: nothing(first)})
    found = Labels().check(examined(some, tmp_path))
    assert found.verdict == "ok"
    assert found.evidence["labels_per_micrograph_least"] == 0


@pytest.mark.parametrize(("factor", "code"), [(3, "LABEL_SCALE"), (0.1, "LABEL_SCALE"), (1.1, ""), (0.9, "")])
def test_discs_must_fit(healthy: Collection, tmp_path: Path, factor: float, code: str) -> None:
    found = Labels().check(examined(replace(healthy, diameter_px=30 * factor), tmp_path))
    assert found.code == code


def test_the_right_diameter_is_confirmed(healthy: Collection, tmp_path: Path) -> None:
    found = Diameter().check(examined(healthy, tmp_path))
    assert found.verdict == "ok"
    assert found.evidence["likely_diameter_px"] == pytest.approx(30, rel=0.2)


@pytest.mark.parametrize(
    ("factor", "verdict", "code"),
    [(0.5, "warn", "DIAMETER_DOUBTFUL"), (2, "warn", "DIAMETER_DOUBTFUL"), (1 / 3, "fail", "LABEL_SCALE"),
     (4, "fail", "LABEL_SCALE")],
)  # fmt: skip
def test_a_wrong_diameter_is_seen(healthy: Collection, tmp_path: Path, factor: float, verdict: str, code: str) -> None:
    found = Diameter().check(examined(replace(healthy, diameter_px=30 * factor), tmp_path))
    assert (found.verdict, found.code) == (verdict, code)
    assert found.evidence["likely_diameter_px"] == pytest.approx(30, rel=0.4), "at four times too large 3 pixels remain"


def test_flipped_labels_tell_no_diameter(healthy: Collection, tmp_path: Path) -> None:
    found = Diameter().check(examined(moved(healthy, MISPLACED["y flipped"][1]), tmp_path))
    assert (found.verdict, found.code) == ("info", "")


def test_labels_beside_particles_tell_no_diameter(healthy: Collection, tmp_path: Path) -> None:
    found = Diameter().check(examined(moved(healthy, MISPLACED["corners of boxes"][1]), tmp_path))
    assert found.verdict == "skipped"


@pytest.mark.parametrize("name", ["bgal_10017", "cryoppp_10059", "cryoppp_10947", "klh"])
def test_real_labels_give_no_alarm(real_data: Path, tmp_path: Path, name: str) -> None:
    import json

    meta = json.loads((real_data / name / "meta.json").read_text())
    every = collect([str(real_data / name / "images")], real_data / name / "coords", diameter_px=meta["diameter_px"])
    names = [m.name for m in every.collection.micrographs if m.name not in meta["test"]][:1]
    picks = {name: every.collection.picks[name] for name in names}
    collection = replace(every.collection, picks=picks)
    for check in (Labels(), Registration(), Diameter()):
        assert check.check(examined(collection, tmp_path / check.name)).code == ""
