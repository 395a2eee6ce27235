"""Records become one line of JSON each, whatever is in them."""

import json
from dataclasses import FrozenInstanceError, dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
import torch

from verglas import records
from verglas.records import Failed, Note, Progress, Record, Ruled, Summary, Validated, plain

KINDS = [kind for kind in vars(records).values() if isinstance(kind, type) and issubclass(kind, Record)]


def test_what_is_not_finite_becomes_null() -> None:
    line = Validated(5, float("nan"), 0.5, float("inf"), False).to_json()
    assert json.loads(line) == {
        "kind": "validated", "step": 5, "ap": None, "best_f1": 0.5, "threshold": None, "best": False, "watch": {},
    }  # fmt: skip
    watched = Validated(5, 0.5, 0.5, 0.5, True, {"purity": float("nan"), "skill": np.float32(0.25)})
    assert json.loads(watched.to_json())["watch"] == {"purity": None, "skill": 0.25}


def test_what_the_guard_found_is_told_with_what_was_done_and_why() -> None:
    assert json.loads(Ruled(300, "R7", "SSL_HARM", "go back", "AP fell.").to_json()) == {
        "kind": "ruled", "step": 300, "code": "R7", "verdict": "SSL_HARM", "action": "go back", "sentence": "AP fell.",
    }  # fmt: skip


def test_a_record_is_one_line() -> None:
    assert "\n" not in Failed("mic\n1.mrc", "two\nlines").to_json()
    assert json.loads(Failed("mic\n1.mrc", "two\nlines").to_json())["path"] == "mic\n1.mrc"


def test_each_sort_of_record_has_its_own_name() -> None:
    assert len({kind.kind for kind in KINDS}) == len(KINDS) > 5
    for kind in KINDS:
        assert kind is Record or kind.kind == kind.__name__.lower()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (np.array([1.0, np.nan]), [1.0, None]),
        (torch.tensor(2.0), 2.0),
        (Path("a") / "b", str(Path("a/b"))),
        ((1, (2, -np.inf)), [1, [2, None]]),
        ({1: {"a": np.nan}}, {"1": {"a": None}}),
        (MappingProxyType({"a": 1}), {"a": 1}),
        (True, True),
        (None, None),
        ("nan", "nan"),
    ],
    ids=repr,
)
def test_plain_gives_types_that_json_knows(value: object, expected: object) -> None:
    assert plain(value) == expected
    assert json.dumps(plain(value), allow_nan=False) == json.dumps(expected)


def test_a_mapping_that_cannot_be_written_to_is_no_hindrance() -> None:
    facts = MappingProxyType({"threshold": np.nan, "picks": np.int64(7)})
    assert json.loads(Summary(facts).to_json())["facts"] == {"threshold": None, "picks": 7}
    assert json.loads(Progress(1, 2, 0.5, 0.25, 1e-3, MappingProxyType({"a": 1.0})).to_json())["watch"] == {"a": 1.0}


def test_records_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        Note("a").text = "b"  # type: ignore[misc]


def test_what_json_cannot_say_is_an_error_and_not_a_guess() -> None:
    @dataclass(frozen=True)
    class Odd(Record):
        value: object

    with pytest.raises(TypeError):
        Odd(object()).to_json()
