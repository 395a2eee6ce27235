"""Where the grain is coarser than on all that is labelled nothing is believed, and particles make no grain."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from toy import DIAMETER, SIDE, blobs, configured, write_toy
from verglas import api
from verglas.grain import grain, known_grain
from verglas.io.micrographs import read_image, read_micrograph, write_mrc
from verglas.io.picks import read_picks
from verglas.materials import gathered
from verglas.picker import Picker
from verglas.records import Note
from verglas.runs import Run
from verglas.types import Grid, Image

EDGE = 104


def _image(data: np.ndarray) -> Image:
    return Image(data.astype(np.float32), Grid(), np.ones(data.shape, bool))


def _carbon(seed: int = 5, gain: float = 2.5) -> np.ndarray:
    """Return noise that is so much stronger beyond the edge."""
    noise = np.random.default_rng(seed).normal(size=(SIDE, SIDE))
    noise[:, EDGE:] *= gain
    return noise.astype(np.float32)


@pytest.mark.parametrize("shape", [(160, 160), (157, 203), (41, 90)])
def test_noise_has_the_same_grain_everywhere(shape: tuple[int, int]) -> None:
    level = grain(_image(3 + 7 * np.random.default_rng(0).normal(size=shape)), 16.0)
    assert level.shape == tuple(-(-side // 4) for side in shape)
    assert level.min() > 0.85
    assert level.max() < 1.15


def test_grain_is_counted_in_medians_and_a_coarser_side_is_cut_out() -> None:
    image = _image(_carbon())
    level = grain(image, 16.0)
    assert level[:, -8:].mean() / level[:, :8].mean() == pytest.approx(2.5, rel=0.1)
    known = known_grain(image, 16.0, 1.2 * float(grain(_image(_carbon(gain=1.0)), 16.0).max())).valid
    assert known[:, : EDGE - 16].all()
    assert not known[:, EDGE + 16 :].any()
    assert known_grain(image, 16.0, None) is image


def test_particles_however_crowded_or_strong_make_little_grain() -> None:
    rng = np.random.default_rng(3)
    crowded = np.stack(np.meshgrid(np.arange(8, SIDE, 14.0), np.arange(8, EDGE, 14.0)), -1).reshape(-1, 2)
    few, many = (_image(blobs(rng, xy)) for xy in (np.array([[80.0, 80.0]]), crowded))
    assert grain(many, DIAMETER).max() < 1.2 * grain(few, DIAMETER).max()
    stronger = many.data * 2
    assert grain(_image(stronger), DIAMETER) == pytest.approx(grain(many, DIAMETER), rel=1e-4)


def test_what_is_not_valid_has_no_say() -> None:
    noise = np.random.default_rng(1).normal(size=(SIDE, SIDE))
    dirty, valid = noise.copy(), np.ones((SIDE, SIDE), bool)
    dirty[40:80, 40:80], valid[40:80, 40:80] = 1e6, False
    level = grain(Image(dirty.astype(np.float32), Grid(), valid), 16.0)
    assert level.max() < 1.2
    assert (level[12:18, 12:18] == 0).any()
    assert not grain(Image(noise.astype(np.float32), Grid(), np.zeros((SIDE, SIDE), bool)), 16.0).any()
    assert not grain(_image(np.zeros((SIDE, SIDE))), 16.0).any()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Toy micrographs, of which the last, without labels, has carbon at its right side."""
    folder = write_toy(tmp_path_factory.mktemp("carbon"), micrographs=3, labelled=2)
    path = folder / "mics" / "m2.mrc"
    pixels = read_image(read_micrograph(path)).copy()
    pixels[:, EDGE:] = _carbon()[:, EDGE:] * 1.4
    write_mrc(path, pixels, 2.0)
    return folder


@pytest.mark.parametrize(("factor", "searched"), [("1.2", False), ("0", True)])
def test_nothing_is_picked_on_a_grain_that_nobody_labelled(
    data: Path, tmp_path: Path, factor: str, searched: bool
) -> None:
    list(api.train(configured(data, f"search.grain={factor}"), tmp_path / "run"))
    limit = Run.open(tmp_path / "run").facts()["grain_limit"]
    assert (limit is None) == searched
    assert Picker.load(tmp_path / "run").grain_limit == limit
    records = list(api.pick(tmp_path / "run", [data / "mics"], tmp_path / "p.star", maps=tmp_path / "maps"))
    found = {part.micrograph: part.xy for part in read_picks(tmp_path / "p.star")}
    assert bool((found["m2"][:, 0] > EDGE + DIAMETER).any()) == searched
    assert (found["m2"][:, 0] < EDGE - DIAMETER).any()
    assert (found["m1"][:, 0] > EDGE + DIAMETER).any()
    told = [record.text for record in records if isinstance(record, Note) and "coarser grain" in record.text]
    assert [text.split(" have")[0] for text in told] == ([] if searched else ["1 of 3 micrographs"])


def test_no_student_learns_from_a_grain_that_nobody_labelled(data: Path, tmp_path: Path) -> None:
    config = configured(data, "algorithm.name=mean_teacher")
    collection = api._collect(config).collection
    materials = gathered(collection, config, tmp_path / "a")
    (one,) = materials.unlabelled
    valid = one.image().valid
    assert valid[:, : EDGE - 16].all()
    assert not valid[:, EDGE + 16 :].any()
    labelled = max(grain(each.image(), DIAMETER).max() for each in materials.labelled)
    assert materials.grain_limit == pytest.approx(1.2 * labelled)
    everything = gathered(collection, config.with_settings(["search.grain=0"]), tmp_path / "b")
    assert everything.grain_limit is None
    assert everything.unlabelled[0].image().valid.all()


def test_a_micrograph_that_was_labelled_is_searched_whatever_its_grain(data: Path, tmp_path: Path) -> None:
    config = configured(data)
    whole = api._collect(config).collection
    all_labelled = replace(whole, picks=dict(whole.picks) | {"m2": read_picks(data / "truth").by_name()["m2"]})
    materials = gathered(all_labelled, config, tmp_path / "a")
    assert materials.grain_limit is not None
    for one in materials.labelled:
        assert known_grain(one.image(), DIAMETER, materials.grain_limit).valid.all()


def test_the_general_network_was_shown_no_labels_and_searches_everything() -> None:
    assert Picker.load("general").grain_limit is None
