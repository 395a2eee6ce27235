"""A pick file in the making: the same bytes as one written at once, however it was interrupted."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from verglas.errors import InputError
from verglas.io.pickfile import PickFile
from verglas.io.picks import read_picks, write_picks
from verglas.types import Picks, PickSet

MEANING = PickSet((), threshold=0.4, threshold_how="chosen by lot", diameter_px=30.0, pixel_size_angstrom=1.5)


def some(name: str, count: int) -> Picks:
    generator = np.random.default_rng(count)
    return Picks(name, generator.uniform(0, 100, (count, 2)).round(3), generator.uniform(0, 1, count).round(6))


PICKS = (some("a", 3), some("b", 0), some("c", 2))


def test_it_equals_the_file_written_at_once(tmp_path: Path) -> None:
    with PickFile(tmp_path / "slow.star", "key") as file:
        for picks in PICKS:
            file.add(picks, (100, 100))
        file.finish(MEANING)
    whole = replace(MEANING, picks=PICKS, shapes=dict.fromkeys("abc", (100, 100)))
    write_picks(tmp_path / "fast.star", whole, counted_only=False)
    assert (tmp_path / "slow.star").read_bytes() == (tmp_path / "fast.star").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fast.star", "slow.star"]


@pytest.mark.parametrize("torn", [0, 1, 30])
def test_it_goes_on_after_an_interruption(tmp_path: Path, torn: int) -> None:
    """Whatever was written after the last whole micrograph is cut off."""
    with PickFile(tmp_path / "p.star", "key") as file:
        file.add(PICKS[0], (100, 100))
        file.add(PICKS[1], (100, 100))
    with (tmp_path / "p.star.part").open("ab") as rows, (tmp_path / "p.star.done").open("a") as done:
        rows.write(b"   12.000  half a row of a micrograph that was never"[:torn])
        done.write('{"name": "c", "sha'[:torn])
    assert not (tmp_path / "p.star").exists()
    with PickFile(tmp_path / "p.star", "key") as file:
        assert [row["name"] for row in file.done] == ["a", "b"]
        file.add(PICKS[2], (100, 100))
        file.finish(MEANING)
    found = read_picks(tmp_path / "p.star")
    assert [(p.micrograph, len(p)) for p in found] == [("a", 3), ("b", 0), ("c", 2)]
    assert found.threshold == 0.4
    np.testing.assert_array_equal(found.by_name()["c"].xy, PICKS[2].xy)


def test_scores_are_those_in_the_file_and_names_may_hold_spaces(tmp_path: Path) -> None:
    with PickFile(tmp_path / "p.star", "key") as file:
        assert file.scores().tolist() == []
        file.add(some("a name 0.5", 3), (100, 100))
    with PickFile(tmp_path / "p.star", "key") as file:
        file.add(PICKS[1], (100, 100))
        file.add(PICKS[2], (100, 100))
        assert file.scores().tolist() == [*some("a name 0.5", 3).score, *PICKS[2].score]


def test_what_another_key_left_is_begun_anew(tmp_path: Path) -> None:
    with PickFile(tmp_path / "p.star", "one model") as file:
        file.add(PICKS[0], (100, 100))
    with PickFile(tmp_path / "p.star", "another model") as file:
        assert file.done == []
        file.finish(MEANING)
    assert len(read_picks(tmp_path / "p.star")) == 0


def test_another_suffix_is_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="verglas export"):
        PickFile(tmp_path / "p.csv", "key")
