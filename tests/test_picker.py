"""Picking: in order, the same alone or in a batch, and never stopped by a bad file."""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from verglas.errors import InputError
from verglas.io.micrographs import read_micrograph
from verglas.io.picks import read_picks
from verglas.matching import match
from verglas.picker import AHEAD, Picker, _ahead

DIAMETER = 16.0


def test_one_micrograph_gives_the_same_alone_and_in_a_batch(trained_once: Path) -> None:
    picker = Picker.load(trained_once / "run")
    paths = sorted((trained_once / "mics").glob("*.mrc"))
    together = dict(picker.pick_all([read_micrograph(path) for path in paths]))
    for path in paths:
        alone, found = picker.pick(path), together[read_micrograph(path)]
        assert not isinstance(found, Exception)
        np.testing.assert_array_equal(alone.xy, found.picks.xy)
        np.testing.assert_array_equal(alone.score, found.picks.score)


def test_unseen_blobs_are_found_where_they_are(trained_once: Path) -> None:
    picker = Picker.load(trained_once / "run")
    truth = read_picks(trained_once / "truth").by_name()
    for name in ("m2", "m3", "m4"):
        found = picker.pick(trained_once / "mics" / f"{name}.mrc")
        best = found.where(np.arange(len(found)) < len(truth[name]))
        right, _ = match(best.xy, best.score, truth[name].xy, 0.25 * DIAMETER)
        assert right.mean() > 0.85


def test_a_folded_picker_finds_the_same(trained_once: Path) -> None:
    picker, path = Picker.load(trained_once / "run"), trained_once / "mics" / "m2.mrc"
    found, again = picker.pick(path), picker.folded().pick(path)
    sure = found.score > 0.05
    np.testing.assert_allclose(again.xy[: sure.sum()], found.xy[sure], atol=0.01)
    np.testing.assert_allclose(again.score[: sure.sum()], found.score[sure], atol=1e-4)


def test_a_thorough_picker_finds_the_same_on_a_turned_micrograph(trained_once: Path) -> None:
    picker = replace(Picker.load(trained_once / "run"), thorough=True)
    image = picker.prepare(read_micrograph(trained_once / "mics" / "m2.mrc"))
    on_its_side = replace(image, data=np.rot90(image.data), valid=np.rot90(image.valid))
    found, turned = picker.probability(image).data, picker.probability(on_its_side).data
    np.testing.assert_allclose(np.rot90(found), turned, atol=1e-5)
    plain = replace(picker, thorough=False)
    assert np.abs(np.rot90(plain.probability(image).data) - plain.probability(on_its_side).data).max() > 1e-3


def test_bad_files_are_reported_in_their_place(trained: Path) -> None:
    paths = sorted((trained / "mics").glob("*.mrc"))
    micrographs = [read_micrograph(path) for path in paths]
    paths[1].write_bytes(paths[1].read_bytes()[:5000])
    paths[3].unlink()
    results = list(Picker.load(trained / "run").pick_all(micrographs))
    assert [m.name for m, _ in results] == [m.name for m in micrographs]
    assert [isinstance(result, Exception) for _, result in results] == [False, True, False, True, False]
    assert "m1.mrc" in str(results[1][1])


def test_another_pixel_size_is_refused_with_the_remedy(trained_once: Path) -> None:
    picker = Picker.load(trained_once / "run")
    other = replace(read_micrograph(trained_once / "mics" / "m2.mrc"), pixel_size_angstrom=1.5)
    with pytest.raises(InputError, match="--pixel-size-angstrom"):
        picker.prepare(other)


@pytest.mark.parametrize("workers", [1, 3])
def test_only_a_few_micrographs_are_read_ahead(trained_once: Path, workers: int) -> None:
    """Memory must not grow with the number of micrographs, also when what is found is taken slowly."""
    picker = Picker.load(trained_once / "run")
    micrograph = read_micrograph(trained_once / "mics" / "m2.mrc")
    searched, begun = picker.search(micrograph), []
    stream = _ahead(lambda m: (begun.append(m), searched)[1], [micrograph] * 50, workers)
    for taken in range(1, 11):
        next(stream)[1].result()
        time.sleep(0.01)
        assert len(begun) <= taken + workers + AHEAD
    assert sum(1 for _ in stream) == 40


def test_the_number_of_threads_changes_nothing(trained_once: Path) -> None:
    micrographs = [read_micrograph(path) for path in sorted((trained_once / "mics").glob("*.mrc"))]
    picker, found = Picker.load(trained_once / "run"), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append([result.picks.xy for _, result in picker.pick_all(micrographs)])
        assert torch.get_num_threads() == threads
    torch.set_num_threads(1)
    for one, two in zip(*found, strict=True):
        np.testing.assert_array_equal(one, two)


def test_a_damaged_model_is_named(trained: Path) -> None:
    path = trained / "run" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"model\.safetensors"):
        Picker.load(trained / "run")
