"""Where the grain is coarser than on all that is labelled nothing is believed, and particles make little grain."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from toy import DIAMETER, SIDE, configured, write_toy
from verglas import api
from verglas.errors import InputError
from verglas.grain import coarser, coarsest, grain
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


def _carbon(seed: int = 5, gain: float = 2.5, edge: int = EDGE) -> np.ndarray:
    """Return noise that is so much stronger beyond the edge."""
    noise = np.random.default_rng(seed).normal(size=(SIDE, SIDE))
    noise[:, edge:] *= gain
    return noise.astype(np.float32)


def _everywhere(image: Image) -> np.ndarray:
    return np.ones(image.data.shape, bool)


@pytest.mark.parametrize("shape", [(160, 160), (157, 203), (41, 90)])
def test_noise_has_the_same_grain_everywhere(shape: tuple[int, int]) -> None:
    level = grain(_image(3 + 7 * np.random.default_rng(0).normal(size=shape)), 16.0)
    assert level.shape == tuple(-(-side // 4) for side in shape)
    assert level.min() > 0.9
    assert level.max() < 1.25


def test_a_place_is_in_the_middle_of_its_window() -> None:
    image = _image(_carbon())
    turned = Image(image.data[::-1, ::-1].copy(), Grid(), image.valid)
    np.testing.assert_allclose(grain(turned, 16.0), grain(image, 16.0)[::-1, ::-1], rtol=0.06)


@pytest.mark.parametrize("edge", [40, 80, 104])
def test_a_coarser_side_is_cut_out_though_it_covers_most(edge: int) -> None:
    image, plain = _image(_carbon(edge=edge)), _image(_carbon(gain=1.0))
    level = grain(image, 16.0)
    assert level[:, -8:].mean() / level[:, :4].mean() == pytest.approx(2.5, rel=0.1)
    limit = coarsest(plain, 16.0, _everywhere(plain))
    assert limit is not None
    strange = coarser(image, 16.0, 1.2 * limit)
    assert strange[:, edge + 16 :].all()
    assert not strange[:, : edge - 20].any()
    assert not coarser(image, 16.0, None).any()


def test_particles_however_crowded_and_strong_make_less_grain_than_the_limit_allows() -> None:
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:SIDE, :SIDE]
    crowded, noise = np.zeros((SIDE, SIDE)), rng.normal(size=(2, SIDE, SIDE))
    for cx, cy in np.stack(np.meshgrid(np.arange(8, SIDE, 14.0), np.arange(8, EDGE, 14.0)), -1).reshape(-1, 2):
        crowded -= np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * 4.0**2))
    plain = _image(noise[0])
    limit = coarsest(plain, DIAMETER, _everywhere(plain))
    assert limit is not None
    for strength in (2.5, 10.0):
        assert not coarser(_image(noise[1] + strength * crowded), DIAMETER, 1.2 * limit).any()


def test_what_is_not_valid_has_no_say() -> None:
    noise = np.random.default_rng(1).normal(size=(SIDE, SIDE))
    dirty, valid = noise.copy(), np.ones((SIDE, SIDE), bool)
    dirty[40:90, 40:90], valid[40:90, 40:90] = 1e6, False
    level = grain(Image(dirty.astype(np.float32), Grid(), valid), 16.0)
    assert level.max() < 1.35
    assert (level[12:20, 12:20] == 0).any()
    assert not grain(Image(noise.astype(np.float32), Grid(), np.zeros((SIDE, SIDE), bool)), 16.0).any()
    assert not grain(_image(np.zeros((SIDE, SIDE))), 16.0).any()


def test_the_coarsest_is_that_of_the_part_asked_for_and_a_small_part_tells_nothing() -> None:
    image = _image(_carbon())
    left = np.zeros((SIDE, SIDE), bool)
    left[:, : EDGE - 24] = True
    told = [coarsest(image, 8.0, part) for part in (left, _everywhere(image))]
    assert told[0] is not None
    assert told[1] is not None
    assert told[0] < 1.4
    assert told[1] > 2
    left[20:] = False
    assert coarsest(image, 8.0, left) is None


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Toy micrographs, of which the last, without labels, has carbon at its right side."""
    folder = write_toy(tmp_path_factory.mktemp("carbon"), micrographs=3, labelled=2)
    path = folder / "mics" / "m2.mrc"
    pixels = read_image(read_micrograph(path)).copy()
    pixels[:, EDGE:] = _carbon()[:, EDGE:]
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
    records = list(api.pick(tmp_path / "run", [data / "mics"], tmp_path / "p.star"))
    found = {part.micrograph: part.xy for part in read_picks(tmp_path / "p.star")}
    assert bool((found["m2"][:, 0] > EDGE + DIAMETER).any()) == searched
    assert (found["m2"][:, 0] < EDGE - DIAMETER).any()
    assert (found["m1"][:, 0] > EDGE + DIAMETER).any()
    told = [record.text for record in records if isinstance(record, Note) and "coarser grain" in record.text]
    assert [text.split(" have")[0] for text in told] == ([] if searched else ["1 of 3 micrographs"])
    assert all(re.search(r"Most on m2 \([34]\d%\)", text) for text in told)


def test_a_kept_map_is_0_there_and_not_left_out_of_pixel_figures(data: Path, tmp_path: Path) -> None:
    list(api.train(configured(data), tmp_path / "run"))
    picker = Picker.load(tmp_path / "run")
    searched = picker.search(read_micrograph(data / "mics" / "m2.mrc"))
    p = searched.probability
    beyond = (EDGE + DIAMETER) / SIDE * p.data.shape[1]
    assert not p.data[:, int(beyond) :].any()
    assert (p.data[:, : int(beyond / 2)] > 0).all()
    assert p.valid.all()
    assert searched.strange == pytest.approx((p.data == 0).mean())


def test_no_student_learns_from_a_grain_that_nobody_labelled(data: Path, tmp_path: Path) -> None:
    config = configured(data, "algorithm.name=mean_teacher")
    collection = api._collect(config).collection
    materials = gathered(collection, config, tmp_path / "a")
    valid = materials.unlabelled[0].image().valid
    assert valid[:, : EDGE - 24].all()
    assert not valid[:, EDGE + 16 :].any()
    everything = gathered(collection, config.with_settings(["search.grain=0"]), tmp_path / "b")
    assert everything.grain_limit is None
    assert everything.unlabelled[0].image().valid.all()


def test_a_label_on_a_micrograph_with_carbon_raises_the_limit_unless_it_is_only_held_out(
    data: Path, tmp_path: Path
) -> None:
    collection = api._collect(configured(data)).collection
    limits = []
    for name, labelled in (("plain", ("m0", "m1")), ("carbon", ("m0", "m1", "m2"))):
        picks = {one: read_picks(data / "truth").by_name()[one] for one in labelled}
        limits.append(gathered(replace(collection, picks=picks), configured(data), tmp_path / name).grain_limit)
    assert limits[1] > 1.5 * limits[0]


@pytest.mark.parametrize("value", ["0.5", "-1", "0.99"])
def test_a_limit_below_what_is_labelled_is_refused(data: Path, value: str) -> None:
    with pytest.raises(InputError, match=r"search\.grain"):
        configured(data, f"search.grain={value}")


def test_the_general_network_was_shown_no_labels_and_searches_everything() -> None:
    assert Picker.load("general").grain_limit is None
