"""Clicks made complete by the network that comes with verglas, and that network itself."""

import json
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from toy import DIAMETER, PIXEL_SIZE, configured, write_toy
from verglas import api
from verglas.completion import CLICKS_FOUND, best_near, completed, joined
from verglas.errors import InputError
from verglas.io.collections import collect
from verglas.io.picks import read_picks
from verglas.matching import match
from verglas.model import Shape
from verglas.records import Failed, Note, Record, Validated
from verglas.runs import GENERAL, Run
from verglas.types import Collection, Picks, Split

EACH = 4
"""Clicks on each of two micrographs, of 16 particles."""


@pytest.fixture
def clicked(tmp_path: Path) -> Path:
    """The toy with a few clicks on two of its three micrographs."""
    folder = write_toy(tmp_path / "toy")
    for file in (folder / "labels").iterdir():
        file.write_text("\n".join(file.read_text().splitlines()[: EACH + 1]) + "\n")
    return folder


def collection(folder: Path, clicks: Sequence[Sequence[float]] | None = None) -> Collection:
    """Collect the toy as partly labelled; ``clicks`` are put in the place of the first micrograph's."""
    found = collect([folder / "mics"], folder / "labels", diameter_px=DIAMETER, complete=False).collection
    if clicks is None:
        return found
    xy = np.array(clicks, float).reshape(-1, 2)
    return replace(found, picks={"m0": Picks("m0", xy, np.ones(len(xy)))})


def made_of(given: Collection, folder: Path, *settings: str) -> tuple[Collection, list[Record]]:
    """Return what completion makes of a collection, and what it says."""
    config = configured(folder, "search.least_score=0.01", *settings)
    records, stream = list[Record](), completed(given, config, torch.device("cpu"))
    while True:
        try:
            records.append(next(stream))
        except StopIteration as end:
            return end.value, records


def partly(*settings: str) -> list[str]:
    return ["data.labels_are=partial", *settings]


def notes(records: Sequence[Record]) -> str:
    return " ".join(record.text for record in records if isinstance(record, Note))


def test_clicks_stay_and_the_other_particles_join_them(clicked: Path) -> None:
    given = collection(clicked)
    whole, records = made_of(given, clicked)
    assert whole.complete
    assert not given.complete
    for name, clicks in given.picks.items():
        labels, truth = whole.picks[name], read_picks(clicked / "truth" / f"{name}.csv").by_name()[name]
        np.testing.assert_array_equal(labels.xy[: len(clicks)], clicks.xy)
        right, _ = match(labels.xy, np.ones(len(labels)), truth.xy, DIAMETER / 2)
        assert len(right) / len(truth) >= CLICKS_FOUND
        assert len(right) / len(labels) > 0.95
    added = sum(map(len, whole.picks.values())) - 2 * EACH
    said = notes(records)
    assert "the general network knows what was clicked (skill 0.9" in said
    assert f"at 8 clicks): {added} of its picks complete the labels" in said


def test_micrographs_that_nobody_clicked_on_stay_unlabelled(clicked: Path) -> None:
    whole, _ = made_of(collection(clicked), clicked)
    assert set(whole.picks) == {"m0", "m1"}


def test_clicks_where_no_particle_is_are_left_as_they_are(clicked: Path) -> None:
    given = collection(clicked, [(44, 4), (84, 4), (4, 84), (4, 44)])
    whole, records = made_of(given, clicked)
    assert whole is given
    assert "does not know what was clicked" in notes(records)
    assert "stands aside" in notes(records)


def test_it_stands_aside_where_too_few_clicks_are_found(clicked: Path) -> None:
    """Of five clicks four are on particles: 0.8 is found from some score on. Of four three, and there is no score."""
    particles = read_picks(clicked / "truth" / "m0.csv").by_name()["m0"].xy[:4].tolist()
    for right, whole in ((4, True), (3, False)):
        given = collection(clicked, [*particles[:right], (44, 4)])
        assert made_of(given, clicked)[0].complete == whole


def test_it_stands_aside_where_clicks_are_found_but_hardly_told_from_the_rest(
    clicked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = collection(clicked)
    monkeypatch.setattr("verglas.completion.LEAST_SKILL", 1.0)  # it has a little less
    assert made_of(given, clicked)[0] is given


def test_without_a_click_it_stands_aside(clicked: Path) -> None:
    given = collection(clicked, [])
    assert made_of(given, clicked)[0] is given


def test_an_unreadable_micrograph_keeps_its_clicks(clicked: Path) -> None:
    given = collection(clicked)
    (clicked / "mics" / "m0.mrc").write_bytes(b"")
    whole, records = made_of(given, clicked)
    assert [record.path for record in records if isinstance(record, Failed)] == [str(clicked / "mics" / "m0.mrc")]
    assert whole.picks["m0"] is given.picks["m0"]
    assert len(whole.picks["m1"]) > EACH


def test_micrographs_kept_for_a_test_are_not_picked(clicked: Path) -> None:
    given = replace(collection(clicked), split=Split(labelled=("m0",), test=("m1",)))
    whole, _ = made_of(given, clicked)
    assert whole.picks["m1"] is given.picks["m1"]
    assert len(whole.picks["m0"]) > EACH


def test_it_suits_any_network_and_preparation_of_the_training(clicked: Path) -> None:
    """What picks is the network that comes with verglas, with a preparation of its own."""
    other = made_of(collection(clicked), clicked, "preprocess.flatten=0", "model.norm=none")[0]
    for name, labels in made_of(collection(clicked), clicked)[0].picks.items():
        np.testing.assert_array_equal(other.picks[name].xy, labels.xy)


def test_best_near() -> None:
    picks = Picks("a", np.array([[0.0, 0], [10, 0]]), np.array([0.9, 0.4]))
    labels = Picks("a", np.array([[1.0, 0], [14, 0], [50, 0]]), np.ones(3))
    assert best_near(labels, picks, 4.5) == [0.9, 0.4, 0.0]
    assert best_near(labels, picks.where(picks.score > 1), 4.5) == [0.0, 0.0, 0.0]
    assert best_near(labels.where(labels.score > 1), picks, 4.5) == []


def test_joined_keeps_labels_and_drops_picks_at_them() -> None:
    picks = Picks("a", np.array([[0.0, 0], [10, 0], [30, 0]]), np.array([0.9, 0.4, 0.2]))
    labels = Picks("a", np.array([[4.0, 0]]), np.array([1.0]))
    assert joined(labels, picks, 10.0).xy.tolist() == [[4, 0], [10, 0], [30, 0]]
    assert joined(None, picks, 10.0).xy.tolist() == picks.xy.tolist()
    assert joined(labels, picks.where(picks.score > 1), 10.0).xy.tolist() == [[4, 0]]


def test_a_training_from_clicks_learns_and_keeps_the_completed_labels(clicked: Path, tmp_path: Path) -> None:
    config = configured(clicked, *partly())
    records = list(api.train(config, tmp_path / "run"))
    run = Run.open(tmp_path / "run")
    assert "complete the labels" in notes(records)
    assert "algorithm: supervised" in notes(records)
    assert "general" in run.split()["how"]
    assert run.facts()["algorithm"] == "supervised"
    assert run.facts()["training_labels"] > 2 * EACH
    whole = run.completed(collection(clicked))
    assert whole.complete
    assert sum(map(len, whole.picks.values())) > 3 * EACH
    list(api.doctor(tmp_path / "run"))  # by the labels that were learned from
    found = {one["check"]: one for one in run.findings() if "check" in one}
    assert found


def test_a_training_from_clicks_goes_on_in_the_same_bytes(clicked: Path, tmp_path: Path) -> None:
    config = configured(clicked, *partly())
    list(api.train(config, tmp_path / "whole"))
    stop = threading.Event()
    for record in api.train(config, tmp_path / "parts", stop=stop):
        if isinstance(record, Validated):
            stop.set()
    list(api.train(config, tmp_path / "parts"))
    assert (tmp_path / "parts" / "model.safetensors").read_bytes() == (
        tmp_path / "whole" / "model.safetensors"
    ).read_bytes()
    said = [record["text"] for record in Run.open(tmp_path / "parts").records() if record["kind"] == "note"]
    assert sum("complete the labels" in text for text in said) == 1


def test_a_training_stopped_before_its_first_state_goes_on(clicked: Path, tmp_path: Path) -> None:
    config, stop = configured(clicked, *partly()), threading.Event()
    stop.set()
    list(api.train(config, tmp_path / "run", stop=stop))
    assert (tmp_path / "run" / "completed.star").exists()
    list(api.train(config, tmp_path / "run"))
    assert Run.open(tmp_path / "run").facts()["algorithm"] == "supervised"


def test_an_algorithm_that_is_named_gets_the_clicks(clicked: Path, tmp_path: Path) -> None:
    records = list(api.train(configured(clicked, *partly("algorithm.name=pu")), tmp_path / "run"))
    assert "complete the labels" not in notes(records)
    assert not (tmp_path / "run" / "completed.star").exists()
    assert Run.open(tmp_path / "run").facts()["algorithm"] == "pu"


def test_complete_labels_are_not_completed(clicked: Path, tmp_path: Path) -> None:
    list(api.train(configured(clicked), tmp_path / "run"))
    assert not (tmp_path / "run" / "completed.star").exists()
    given = replace(collection(clicked), complete=True)
    assert Run.open(tmp_path / "run").completed(given) is given


def test_the_general_network_picks_what_nobody_labelled(clicked: Path, tmp_path: Path) -> None:
    list(api.pick(GENERAL, [clicked / "mics"], tmp_path / "picks.star", diameter_px=DIAMETER))
    found = read_picks(tmp_path / "picks.star")
    assert found.diameter_px == DIAMETER
    assert found.pixel_size_angstrom == pytest.approx(PIXEL_SIZE)
    figures = api.evaluate(tmp_path / "picks.star", clicked / "truth").pooled
    assert figures["ap"] > 0.95
    angstrom = DIAMETER * PIXEL_SIZE
    list(api.pick(GENERAL, [clicked / "mics"], tmp_path / "same.star", diameter_angstrom=angstrom))
    assert read_picks(tmp_path / "same.star").by_name()["m0"].xy.tolist() == found.by_name()["m0"].xy.tolist()


def test_the_general_network_must_be_told_a_diameter(clicked: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"diameter is missing; expected diameter_px or diameter_angstrom"):
        list(api.pick(GENERAL, [clicked / "mics"], tmp_path / "picks.star"))
    assert not (tmp_path / "picks.star").exists()


def test_the_general_network_promises_no_precision(clicked: Path, tmp_path: Path) -> None:
    told = {"diameter_px": DIAMETER, "expected_precision": 0.9}
    with pytest.raises(InputError, match=r"expected precision is 0\.9 of a run that learned no particle of its own"):
        list(api.pick(GENERAL, [clicked / "mics"], tmp_path / "picks.star", **told))


def test_a_folder_of_that_name_goes_first(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (trained / "run").rename(trained / GENERAL)
    monkeypatch.chdir(trained)
    assert not Run.open(GENERAL).any_particle
    monkeypatch.chdir(trained.parent)
    assert Run.open(GENERAL).any_particle


def test_the_general_network_is_small_and_says_what_it_is() -> None:
    run = Run.open(GENERAL)
    assert run.config.model == Shape()
    assert run.config.data.micrographs == ()
    assert 0 < run.operating_point().threshold < 1
    assert "simulated" in run.operating_point().how
    assert (run.folder / "model.safetensors").stat().st_size < 1.2e6
    assert {"steps", "date", "version"} <= json.loads((run.folder / "model.json").read_text()).keys()


def test_a_run_picks_at_another_pixel_size_if_told_the_diameter(trained: Path, tmp_path: Path) -> None:
    """A micrograph of twice the pixel size: the same particles, in half the pixels."""
    from verglas.io.micrographs import read_image, write_mrc
    from verglas.preprocess import resize

    image = read_image(trained / "mics" / "m4.mrc")
    half = tmp_path / "half" / "m4.mrc"
    half.parent.mkdir()
    write_mrc(half, resize(image, (image.shape[0] // 2, image.shape[1] // 2)), 2 * PIXEL_SIZE)
    with pytest.raises(InputError, match="pixel size"):
        list(api.pick(trained / "run", [half], tmp_path / "no.star"))
    list(api.pick(trained / "run", [half], tmp_path / "picks.star", diameter_px=DIAMETER / 2))
    found = read_picks(tmp_path / "picks.star")
    counted = found.by_name()["m4"].above(found.threshold or 0.5)
    truth = read_picks(trained / "truth" / "m4.csv").by_name()["m4"].xy
    right, _ = match(2 * counted.xy + 0.5, counted.score, truth, DIAMETER / 2)
    assert len(right) / len(truth) > 0.8
    assert found.diameter_px == DIAMETER / 2
