"""The doctor on picks: whether they are where the labels are, and what they say of labels that leave particles out."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from toy import SIDE, configured
from verglas import api, pick
from verglas.doctor import Finding, RunCheck
from verglas.doctor.picks import TURNS, Picks
from verglas.doctor.pu import Pu, Surest, share_alike
from verglas.doctor.subject import opened
from verglas.runs import Run
from verglas.types import Picks as Found

PARTIAL = ("data.labels_are=partial", "algorithm.name=pu")
NNPU = "algorithm.options.risk=nnpu"


def ask(check: RunCheck, toy: Path, *settings: str) -> Finding:
    """Ask about the trained toy, as if these had been its settings."""
    config = configured(toy, "model.width=8", *settings)
    with opened(Run.open(toy / "run"), api._collect(config).collection, config) as (_, found):
        assert found is not None
        return check.check(found)


@contextmanager
def changed(change: Any) -> Iterator[None]:
    """Let the picker change its picks on the way out."""

    def find(*args: Any, **options: Any) -> Found:
        found = pick.find(*args, **options)
        xy, score = change(found.xy, found.score)
        return replace(found, xy=xy, score=score)

    with patch("verglas.picker.find", find):
        yield


def label_all(toy: Path, share: float = 1.0) -> None:
    """Label every micrograph, with this share of its particles."""
    generator = np.random.default_rng(1)
    shutil.rmtree(toy / "labels")
    (toy / "labels").mkdir()
    for path in (toy / "truth").glob("*.csv"):
        head, *rows = path.read_text(encoding="utf-8").splitlines()
        some = [row for row in rows if generator.random() < share]
        (toy / "labels" / path.name).write_text("\n".join([head, *some]) + "\n", encoding="utf-8")


def test_picks_of_a_healthy_run_are_in_place(trained: Path) -> None:
    found = ask(Picks(), trained)
    assert found.verdict == "ok"
    assert found.evidence["f1_as_they_are"] > 0.8


@pytest.mark.parametrize("way", [name for name in TURNS if "scale" not in name])
def test_turned_picks_are_misplaced(trained: Path, way: str) -> None:
    label_all(trained)
    with changed(lambda xy, score: (TURNS[way](xy, SIDE, SIDE), score)):
        found = ask(Picks(), trained)
    assert (found.verdict, found.code) == ("fail", "PICKS_MISPLACED")
    back = {"turned by 90 degrees": "turned by 270 degrees", "turned by 270 degrees": "turned by 90 degrees"}
    assert found.evidence["best_other"] == back.get(way, way)


@pytest.mark.parametrize(
    ("change", "best"),
    [
        (lambda xy, score: (xy + 8.0, score), "shifted by (-8, -8) px"),
        (lambda xy, score: (xy * 2 + 0.5, score), "at half the scale"),
        (lambda xy, score: (xy / 2 - 0.25, score), "at twice the scale"),
    ],
    ids=["half a box", "twice", "half"],
)
def test_shifted_and_scaled_picks_are_misplaced(trained: Path, change: Any, best: str) -> None:
    label_all(trained)
    with changed(change):
        found = ask(Picks(), trained)
    assert (found.verdict, found.code) == ("fail", "PICKS_MISPLACED")
    assert found.evidence["best_other"] == best


def test_random_picks_are_not_called_misplaced(trained: Path) -> None:
    generator = np.random.default_rng(2)
    with changed(lambda xy, score: (generator.uniform(0, SIDE, (20, 2)), np.full(20, 0.9))):
        assert ask(Picks(least_apart=0), trained, "search.separation=0").code == ""


def test_particles_picked_twice_are_found(trained: Path) -> None:
    with changed(lambda xy, score: (np.concatenate([xy, xy + 1]), np.concatenate([score, score]))):
        found = ask(Picks(), trained)
    assert (found.verdict, found.code) == ("fail", "PICKS_DUPLICATED")


def test_where_nothing_is_picked_nothing_is_told(trained: Path) -> None:
    with changed(lambda xy, score: (xy[:0], score[:0])):
        assert ask(Picks(), trained).verdict == "skipped"


def test_complete_labels_have_no_ceiling(trained: Path) -> None:
    label_all(trained)
    found = ask(Pu(earliest=0), trained)
    assert found.verdict == "ok"
    assert found.evidence["precision_of_surest_percent"] > 90


def test_labels_that_leave_particles_out_are_a_ceiling(trained: Path) -> None:
    """A network that is equally sure of all particles, labelled or not: two dozen scores would differ by chance."""
    label_all(trained, 0.4)
    with changed(lambda xy, score: (xy, np.full(len(xy), 0.9))):
        found = ask(Pu(earliest=0), trained)
    assert (found.verdict, found.code) == ("fail", "PU_CEILING")
    assert found.evidence["completeness_percent"] == pytest.approx(40, abs=20)
    assert "partial" in found.remedy


def test_a_network_that_knows_nothing_shows_no_ceiling(trained: Path) -> None:
    label_all(trained, 0.4)
    generator = np.random.default_rng(2)
    with changed(lambda xy, score: (generator.uniform(0, SIDE, (60, 2)), generator.random(60))):
        assert ask(Pu(earliest=0), trained).verdict == "ok"


@pytest.mark.parametrize(("tight", "code"), [(0.78, "PU_CEILING"), (0.67, "")])
def test_picks_that_are_off_show_too_little_learned_and_no_ceiling(tight: float, code: str) -> None:
    """The closest cases measured: faint particles of which 60 % are hidden, and a network of 40 steps."""
    off, right = np.full(230, np.inf), np.arange(0, 230, 3)
    off[right] = np.where(np.arange(len(right)) * 0.618 % 1 < tight, 0.1, 0.2)  # evenly spread over the ranks
    made = Surest(off, np.linspace(0.9, 0.1, 230), 230)
    assert Pu()._ceiling(made, 0.2).code == code


def test_it_is_too_early_or_there_are_too_few_labels(trained: Path) -> None:
    assert ask(Pu(), trained).verdict == "skipped"
    label_all(trained, 0.1)
    assert ask(Pu(earliest=0), trained).verdict == "skipped"


@pytest.mark.parametrize(("prior", "verdict"), [(0.02, "ok"), (0.4, "warn")])
def test_the_prior_of_partial_labels_is_held_to_what_looks_like_them(trained: Path, prior: float, verdict: str) -> None:
    label_all(trained, 0.4)
    found = ask(Pu(), trained, *PARTIAL, NNPU, f"algorithm.options.prior={prior}")
    assert found.verdict == verdict
    assert (found.code == "PRIOR_DRIFT") == (verdict == "warn")


def test_a_default_prior_that_is_off_is_no_fault(trained: Path) -> None:
    label_all(trained, 0.4)
    found = ask(Pu(drift=1.1), trained, *PARTIAL, NNPU)
    assert (found.verdict, found.code) == ("info", "PRIOR_DRIFT")
    assert "algorithm.options.prior=" in found.remedy


def test_the_weighted_risk_has_no_prior_to_ask_about(trained: Path) -> None:
    assert ask(Pu(), trained, *PARTIAL).verdict == "skipped"


def test_of_a_network_without_skill_the_prior_is_not_asked(trained: Path) -> None:
    with patch("verglas.predict._forward", lambda model, data, precision: data[::2, ::2] * 0):
        assert ask(Pu(), trained, *PARTIAL, NNPU).verdict == "skipped"


def test_the_share_alike_is_that_of_a_mixture() -> None:
    generator = np.random.default_rng(0)
    particles, rest = generator.beta(5, 2, 5000), generator.beta(1, 20, 20000)
    rest[:3000] = generator.beta(5, 2, 3000)
    assert share_alike(particles, rest) == pytest.approx(0.15, abs=0.01)
    assert share_alike(particles**3, rest**3) == share_alike(particles, rest)
