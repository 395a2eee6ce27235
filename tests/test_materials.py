"""What a training works on: where something is known, and where the border keeps it from being so."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from toy import DIAMETER, SIDE, configured, write_toy
from verglas import api
from verglas.config import RunConfig
from verglas.data import Stored, unlabelled_batch
from verglas.doctor.subject import Data
from verglas.errors import InputError
from verglas.io.picks import read_picks
from verglas.lessons import Lessons
from verglas.materials import cropping, gathered, with_margin
from verglas.picker import Picker
from verglas.records import Checked
from verglas.runs import Run
from verglas.targets import distance_to_border
from verglas.types import Picks, Split


@pytest.mark.parametrize("complete", [True, False])
def test_nothing_is_known_of_the_margin_along_the_border(tmp_path: Path, complete: bool) -> None:
    folder = write_toy(tmp_path, micrographs=1, labelled=1)
    config = configured(folder, "preprocess.working_diameter_px=16")
    collection = replace(api._collect(config).collection, complete=complete)
    wide = config.with_settings(["search.edge_px=20"])
    whole, kept = (gathered(collection, one, tmp_path / name) for one, name in ((config, "a"), (wide, "b")))
    _, known, unseen, held, valid = whole.labelled[0].masks()
    _, known_kept, unseen_kept, held_kept, valid_kept = kept.labelled[0].masks()
    inside = np.zeros((SIDE, SIDE), bool)
    inside[20 : SIDE - 20, 20 : SIDE - 20] = True
    assert known.shape == inside.shape
    for before, after in ((known, known_kept), (unseen, unseen_kept), (held, held_kept)):
        assert np.array_equal(after, before & inside)
    assert (known & ~inside).any()
    assert np.array_equal(valid, valid_kept)


def test_a_training_keeps_the_margin_of_its_labels_and_so_do_its_picks(tmp_path: Path) -> None:
    folder = write_toy(tmp_path, micrographs=3, labelled=2)
    usual = configured(folder, f"search.edge_px={RunConfig().search.edge_px}")
    records = list(api.train(usual, tmp_path / "run"))
    assert any("16 px are kept from the border, as labels do" in getattr(record, "text", "") for record in records)
    assert Run.open(tmp_path / "run").config.search.edge_px == DIAMETER
    list(api.pick(tmp_path / "run", [folder / "mics"], tmp_path / "picks.star"))
    xy = np.concatenate([part.xy for part in read_picks(tmp_path / "picks.star")])
    assert len(xy)
    assert (np.minimum(xy, SIDE - 1 - xy) + 0.5).min() >= DIAMETER
    loose = replace(Picker.load(tmp_path / "run"), config=configured(folder))
    found = loose.pick(folder / "mics" / "m2.mrc").xy
    assert (np.minimum(found, SIDE - 1 - found) + 0.5).min() < DIAMETER


def test_a_picker_of_another_diameter_scales_the_margin(tmp_path: Path) -> None:
    folder = write_toy(tmp_path, micrographs=2, labelled=2)
    list(api.train(configured(folder, "search.edge_px=12"), tmp_path / "run"))
    other = Picker.load(tmp_path / "run").for_diameter(2 * DIAMETER, None)
    assert other.config.search.edge_px == 24


def test_no_unlabelled_tile_teaches_what_lies_in_the_margin(tmp_path: Path) -> None:
    folder = write_toy(tmp_path, micrographs=2, labelled=1)
    shares = []
    for edge, count in (("0", 1), ("20", 2)):
        config = configured(folder, f"search.edge_px={edge}", "algorithm.name=mean_teacher", "train.batch=8")
        materials = gathered(api._collect(config).collection, config, tmp_path / edge)
        (one,) = materials.unlabelled
        assert one.masks().shape == (count, SIDE, SIDE)
        assert one.image().valid.all()
        how = cropping(api._collect(config).collection, config)
        shares.append(unlabelled_batch([one], how, 1, 0.0, torch.Generator().manual_seed(0)).valid)
    assert (shares[0] >= shares[1]).all()
    assert shares[1].any()
    assert shares[0].float().mean() > shares[1].float().mean() + 0.1


def test_nothing_is_held_out_in_the_margin_and_no_tile_is_cut_around_a_label_there(tmp_path: Path) -> None:
    folder = write_toy(tmp_path, micrographs=2, labelled=2)
    config = configured(folder, "search.edge_px=22")
    collection = api._collect(config).collection
    materials = gathered(collection, config, tmp_path / "a")
    whole = gathered(collection, config.with_settings(["search.edge_px=0"]), tmp_path / "b")
    assert 0 < materials.held_labels < whole.held_labels
    for picks in materials.truth.values():
        assert distance_to_border(picks.xy, (SIDE, SIDE)).min() >= 22
    centres = np.array(materials.labelled[0].centres)
    assert 0 < len(centres) < len(whole.labelled[0].centres)
    with pytest.raises(InputError, match=r"Nothing is learned within 100 px of the border \(search\.edge_px\)"):
        gathered(collection, config.with_settings(["search.edge_px=100"]), tmp_path / "c")


def test_a_kept_map_says_nothing_of_the_margin(tmp_path: Path) -> None:
    folder = write_toy(tmp_path, micrographs=2, labelled=2)
    list(api.train(configured(folder, "search.edge_px=20"), tmp_path / "run"))
    list(api.pick(tmp_path / "run", [folder / "mics" / "m0.mrc"], tmp_path / "p.star", maps=tmp_path / "maps"))
    valid = Stored.open(tmp_path / "maps", "m0").image().valid
    inside = valid.shape[0] * 20 // SIDE
    assert valid[inside:-inside, inside:-inside].all()
    assert valid.sum() == (valid.shape[0] - 2 * inside) ** 2


def test_an_inspection_tells_the_margin_that_a_training_would_keep(tmp_path: Path) -> None:
    folder = write_toy(tmp_path, micrographs=2, labelled=2)
    for edge, told in (("auto", DIAMETER), ("7", 7)):
        *_, summary = api.inspect(configured(folder, f"search.edge_px={edge}"), tmp_path / edge)
        assert summary.facts["margin_px"] == told


def test_the_doctor_looks_at_data_with_the_margin_of_their_labels(tmp_path: Path) -> None:
    folder = write_toy(tmp_path, micrographs=2, labelled=2)
    plain, kept = (list(api.doctor(config=configured(folder, f"search.edge_px={edge}"))) for edge in ("0", "auto"))
    skipped = [[one.check for one in records if isinstance(one, Checked) and one.verdict == "skipped"] for records in
               (plain, kept)]  # fmt: skip
    assert skipped[0] == skipped[1]
    config = configured(folder, "search.edge_px=auto")
    assert Data(api._collect(config).collection, config, tmp_path / "scratch").config.search.edge_px == DIAMETER


def test_what_a_student_is_to_believe_leaves_the_margin_out(tmp_path: Path) -> None:
    folder = write_toy(tmp_path, micrographs=2, labelled=1)
    for complete in (True, False):
        config = configured(folder, "search.edge_px=20", "algorithm.name=self_training")
        collection = replace(api._collect(config).collection, complete=complete)
        lessons = Lessons(gathered(collection, config, tmp_path / f"{complete}"), collection, config)
        stored = lessons.to_pick(1)[0]
        lessons.write(stored, stored.image(), read_picks(folder / "truth").by_name()[stored.name], 0.0)
        known = np.load(stored._path(stored.belief))[1] > 0
        assert known[20 : SIDE - 20, 20 : SIDE - 20].any()
        known[20 : SIDE - 20, 20 : SIDE - 20] = False
        assert not known.any()


def test_the_margin_is_that_of_labels_that_teach_clicks_included(tmp_path: Path) -> None:
    folder = write_toy(tmp_path, micrographs=2, labelled=2)
    config = configured(folder, "search.edge_px=auto")
    collection = api._collect(config).collection
    at_border = replace(collection.picks["m1"], xy=np.full((16, 2), 1.0))
    mixed = replace(collection, picks=dict(collection.picks) | {"m1": at_border})
    assert with_margin(config, mixed).search.edge_px == 0
    test_only = replace(mixed, split=Split(test=("m1",)))
    assert with_margin(config, test_only).search.edge_px == DIAMETER
    line = np.linspace(15, SIDE - 15, 60)
    clicks = replace(collection, picks={"m0": Picks("m0", np.column_stack([line, line]), np.ones(60))})
    told = [with_margin(config, replace(clicks, complete=complete)).search.edge_px for complete in (False, True)]
    assert 0 < told[0] < told[1] < 15.5
