"""Which micrographs are worth labelling next."""

import csv
import threading
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from toy import PIXEL_SIZE, SIDE, blobs
from verglas import api
from verglas.errors import InputError
from verglas.io.collections import find_micrographs
from verglas.io.micrographs import write_mrc
from verglas.model import Shape, UNet
from verglas.operating import OperatingPoint
from verglas.picker import Picker
from verglas.records import Failed, Note, Picked, Record, Suggested, Summary
from verglas.runs import Run
from verglas.suggest import (
    Judge,
    Seen,
    features,
    look,
    ranking,
    suggestions,
    write_csv,
)
from verglas.types import Grid, Image, Micrograph


@pytest.fixture(scope="module")
def toy(trained_once: Path) -> tuple[Run, Picker, tuple[Micrograph, ...]]:
    found = find_micrographs([trained_once / "mics"]).micrographs
    return Run.open(trained_once / "run"), Picker.load(trained_once / "run"), found


def seen(name: str, feature: float, *, wrong: float = 5.0, turning: float = 2.0, decisions: float = 50.0) -> Seen:
    micrograph = Micrograph(name, Path(f"{name}.mrc"), (SIDE, SIDE))
    return Seen(micrograph, np.array([feature, 1.0]), 40, 20, 3, decisions, wrong, turning)


def names(records: list[Record]) -> list[str]:
    return [record.micrograph for record in records if isinstance(record, Suggested)]


def order(pool: list[Seen], labelled: float = 0.0, most: int = 20) -> list[str]:
    return names(list(ranking(pool, [np.array([labelled, 1.0])], most)))


def image(data: np.ndarray, valid: np.ndarray | None = None) -> Image:
    return Image(data, Grid(), np.ones(data.shape, bool) if valid is None else valid)


def test_what_is_least_like_the_labelled_ones_leads_where_nothing_else_differs() -> None:
    assert order([seen("near", 0.1), seen("far", 3.0), seen("middle", 1.0)])[0] == "far"


def test_two_alike_do_not_both_lead() -> None:
    pool = [seen("far", 3.0), seen("its twin", 2.99), seen("other side", -2.0), seen("near", 0.1)]
    assert order(pool)[:2] == ["far", "other side"]


@pytest.mark.parametrize("number", ["wrong", "turning"])
def test_what_is_unsure_or_disagrees_leads_where_nothing_else_differs(number: str) -> None:
    assert order([seen("a", 1.0), replace(seen("b", 1.0), **{number: 20.0}), seen("c", 1.0)])[0] == "b"


def test_a_crowded_micrograph_is_not_uncertain_for_its_particles() -> None:
    crowded = seen("crowded", 1.0, wrong=20, turning=8, decisions=200)
    assert order([crowded, seen("unsure", 1.0, wrong=8, turning=3), seen("plain", 1.0)])[0] == "unsure"


def test_an_empty_micrograph_is_not_uncertain_for_one_doubt() -> None:
    empty = seen("empty", 1.0, wrong=0.3, turning=0.1, decisions=0.3)
    assert order([empty, seen("a", 1.0), seen("b", 1.0)])[-1] == "empty"


def test_no_more_are_ranked_than_asked_for_and_none_twice() -> None:
    pool = [seen(f"m{i}", float(i)) for i in range(6)]
    assert len(order(pool, most=3)) == 3
    assert sorted(order(pool)) == [f"m{i}" for i in range(6)]


def test_the_reasons_are_those_numbers_that_are_high() -> None:
    pool = [seen("far", 9.0), *(seen(f"m{i}", 0.1 * i) for i in range(5)), seen("unsure", 0.2, wrong=30)]
    said = {one.micrograph: one.reason for one in ranking(pool, [np.array([0.0, 1.0])], 20)}
    assert "unlike what is labelled" in said["far"]
    assert "60% of decisions" in said["unsure"]
    assert "unlike" not in said["m0"]


def test_features_do_not_depend_on_tiles_or_on_what_is_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    network = UNet(Shape(width=4, depth=2)).eval()
    data = np.random.default_rng(0).normal(size=(SIDE, SIDE)).astype(np.float32)
    valid = np.ones((SIDE, SIDE), bool)
    valid[:, 120:] = False
    bad = np.array(data)
    bad[:, 150:] = 50
    whole = features(network, image(data, valid), "float32")
    assert whole.shape == (2 * 16,)
    assert np.allclose(features(network, image(bad, valid), "float32"), whole, atol=1e-5)
    assert not np.allclose(features(network, image(bad), "float32"), features(network, image(data), "float32"))
    monkeypatch.setattr("verglas.suggest.LARGEST_WHOLE", 128)
    assert np.allclose(features(network, image(data, valid), "float32"), whole, atol=1e-5)


def test_features_are_mean_and_spread_of_the_deepest_level() -> None:
    network = UNet(Shape(width=4, depth=1)).eval()
    data = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    with torch.inference_mode():
        deepest = network.encode(torch.from_numpy(data)[None, None])[-1][0].flatten(1).numpy()
    expected = np.concatenate((deepest.mean(axis=1), deepest.std(axis=1)))
    assert np.allclose(features(network, image(data), "float32"), expected, atol=1e-5)


def test_chances_are_calibrated_on_the_held_out_labels(trained: Path) -> None:
    run = Run.open(trained / "run")
    candidates, truth = run.validation()
    boasting = [replace(p, score=20 * p.score / (1 + 19 * p.score)) for p in candidates]
    run.write_validation(replace(candidates, picks=tuple(boasting)), truth)
    judge, labels = Judge.of(run), sum(map(len, truth.values()))
    assert sum(p.score.sum() for p in boasting) > 1.3 * labels
    assert sum(judge.chance(p.score).sum() for p in boasting) == pytest.approx(labels, rel=0.15)
    assert (np.diff(judge.chance(np.linspace(0.01, 0.99, 20))) > 0).all()


def test_partial_labels_calibrate_nothing(trained: Path) -> None:
    config = trained / "run" / "config.toml"
    config.write_text(config.read_text().replace('labels_are = "complete"', 'labels_are = "partial"'))
    judge = Judge.of(Run.open(trained / "run"))
    assert judge.chance(np.array([0.2, 0.7])) == pytest.approx([0.2, 0.7])


def test_wrong_decisions_are_counted_by_the_threshold(toy: tuple[Run, Picker, tuple[Micrograph, ...]]) -> None:
    _, picker, micrographs = toy
    picks = picker.pick(micrographs[3].path)
    low, threshold, high = np.quantile(picks.score, (0.2, 0.7, 0.9)).tolist()
    one = look(picker, Judge(OperatingPoint(threshold, "", 1, 1, 1, (low, high), 1, 1)), micrographs[3])
    counts = picks.score >= threshold
    assert (one.candidates, one.counted) == (len(picks), counts.sum())
    assert one.close == ((picks.score >= low) & (picks.score <= high)).sum()
    assert one.wrong == pytest.approx((1 - picks.score)[counts].sum() + picks.score[~counts].sum(), rel=1e-4)
    assert one.decisions == pytest.approx(counts.sum() + picks.score.sum(), rel=1e-4)


def test_a_run_that_sees_all_views_alike_does_not_disagree_much(
    toy: tuple[Run, Picker, tuple[Micrograph, ...]],
) -> None:
    run, picker, micrographs = toy
    one = look(picker, Judge.of(run), micrographs[3])
    assert 0 < one.turning < 0.2 * one.decisions


def test_what_is_kept_of_a_micrograph_does_not_grow_with_it(
    toy: tuple[Run, Picker, tuple[Micrograph, ...]], tmp_path: Path
) -> None:
    run, picker, micrographs = toy
    large = np.tile(blobs(np.random.default_rng(0), np.full((1, 2), 80.0)), (4, 4))
    write_mrc(tmp_path / "large.mrc", large, PIXEL_SIZE)
    (big,) = find_micrographs([tmp_path]).micrographs
    for micrograph in (micrographs[3], big):
        kept = look(picker, Judge.of(run), micrograph)
        assert kept.features.shape == (2 * 8 * 2**2,)
        assert all(not isinstance(getattr(kept, f.name), np.ndarray) for f in fields(Seen) if f.name != "features")


def test_a_strange_micrograph_is_suggested_first_and_a_bad_file_stops_nothing(
    toy: tuple[Run, Picker, tuple[Micrograph, ...]], tmp_path: Path
) -> None:
    run, picker, micrographs = toy
    y, x = np.mgrid[:SIDE, :SIDE]
    strange = np.random.default_rng(0).normal(size=(SIDE, SIDE)) + 6 * np.sin(x / 5) * np.sin(y / 3)
    write_mrc(tmp_path / "strange.mrc", strange.astype(np.float32), PIXEL_SIZE)
    write_mrc(tmp_path / "cut.mrc", strange.astype(np.float32), PIXEL_SIZE)
    odd = find_micrographs([tmp_path]).micrographs
    (tmp_path / "cut.mrc").write_bytes((tmp_path / "cut.mrc").read_bytes()[:2000])
    records = list(suggestions(run, picker, micrographs[:2], (*micrographs[2:], *odd)))
    assert [Path(r.path).name for r in records if isinstance(r, Failed)] == ["cut.mrc"]
    assert [r.done for r in records if isinstance(r, Picked)] == [1, 2, 3, 5]
    assert names(records)[0] == "strange"
    assert sorted(names(records)) == ["m2", "m3", "m4", "strange"]
    assert records == list(suggestions(run, picker, micrographs[:2], (*micrographs[2:], *odd)))


def test_a_stop_ranks_what_was_looked_at(toy: tuple[Run, Picker, tuple[Micrograph, ...]]) -> None:
    run, picker, micrographs = toy
    stop = threading.Event()
    stop.set()
    records = list(suggestions(run, picker, micrographs[:1], micrographs[1:], stop=stop))
    assert names(records) == [micrographs[1].name]
    assert any(isinstance(record, Note) and record.warning for record in records)


def test_nothing_to_choose_from_is_said(toy: tuple[Run, Picker, tuple[Micrograph, ...]]) -> None:
    run, picker, micrographs = toy
    with pytest.raises(InputError, match="--micrographs"):
        list(suggestions(run, picker, micrographs, ()))
    with pytest.raises(InputError, match="labelled micrographs is none"):
        list(suggestions(run, picker, (), micrographs[:1]))
    with pytest.raises(InputError, match="most"):
        list(suggestions(run, picker, micrographs[:1], micrographs[1:], most=0))


def test_the_table_holds_what_the_records_hold(tmp_path: Path) -> None:
    suggested = list(ranking([seen("a", 1.0), seen("b", 2.0)], [np.array([0.0, 1.0])], 20))
    write_csv(tmp_path / "suggest.csv", suggested)
    with (tmp_path / "suggest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["micrograph"] for row in rows] == [one.micrograph for one in suggested]
    assert [float(row["novelty"]) for row in rows] == [one.novelty for one in suggested]
    assert [row["reason"] for row in rows] == [one.reason for one in suggested]


def test_the_verb_ranks_what_the_training_has_no_labels_of_and_writes_the_table(
    trained_once: Path, tmp_path: Path
) -> None:
    *records, last = api.suggest(trained_once / "run", out=tmp_path / "next.csv", most=2)
    assert names(records) == [
        row["micrograph"] for row in csv.DictReader((tmp_path / "next.csv").read_text().splitlines())
    ]
    assert set(names(records)) < {"m2", "m3", "m4"}
    assert isinstance(last, Summary)
    assert [one["micrograph"] for one in last.facts["suggested"]] == names(records)


def test_labelled_micrographs_among_those_given_are_not_suggested(trained_once: Path, tmp_path: Path) -> None:
    given = [trained_once / "mics" / f"m{i}.mrc" for i in (0, 3)]
    assert names(list(api.suggest(trained_once / "run", given, tmp_path / "next.csv"))) == ["m3"]
