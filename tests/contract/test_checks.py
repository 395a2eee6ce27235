"""What every check of the doctor promises. A new one is covered by its entry in ``DATA_CHECKS`` or ``RUN_CHECKS``."""

import hashlib
import json
import re
from pathlib import Path

import pytest

from toy import configured, write_toy
from verglas import api
from verglas.config import RunConfig
from verglas.doctor import DATA_CHECKS, RUN_CHECKS, Check, DataCheck, examined, examined_run
from verglas.doctor.causes import CAUSES, CODES, diagnose
from verglas.records import Checked

CHECKS: tuple[type[Check], ...] = (*DATA_CHECKS, *RUN_CHECKS)
ROOT = Path(__file__).parents[2]


def answers(run: Path, name: str) -> list[Checked]:
    config = RunConfig.load(run / "config.toml")
    collection = api._collect(config).collection
    return [one for one in examined_run(run, collection, [name]) if isinstance(one, Checked)]


def contents(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module", params=CHECKS, ids=lambda kind: kind.name)
def asked(request: pytest.FixtureRequest, trained_once: Path) -> tuple[type[Check], Checked]:
    """Each check, and what it finds in a healthy run, whose folder must not change."""
    before = contents(trained_once)
    (found,) = answers(trained_once / "run", request.param.name)
    assert contents(trained_once) == before, "a check reads and never writes"
    return request.param, found


def test_a_healthy_run_is_not_called_ill(asked: tuple[type[Check], Checked]) -> None:
    _, found = asked
    assert found.verdict in ("ok", "info", "skipped"), found.sentence


def test_it_can_be_asked_of_the_toy_or_says_why_not(asked: tuple[type[Check], Checked]) -> None:
    _, found = asked
    assert "could not be measured" not in found.sentence, found.sentence
    assert found.sentence.endswith((".", ")", "?")), found.sentence


def test_its_evidence_survives_json(asked: tuple[type[Check], Checked]) -> None:
    _, found = asked
    read = json.loads(found.to_json())
    assert read["evidence"] == found.evidence
    assert None not in found.evidence.values() or found.verdict == "info"


def test_its_name_is_that_of_its_file_and_it_asks_a_question(asked: tuple[type[Check], Checked]) -> None:
    kind, found = asked
    assert kind.__module__ == f"verglas.doctor.{kind.name}"
    assert found.question == kind.question
    assert kind.question.endswith("?")


def test_its_figure_is_a_drawing_without_a_script(asked: tuple[type[Check], Checked]) -> None:
    _, found = asked
    assert found.figure == "" or (found.figure.startswith("<svg") and "<script" not in found.figure)


@pytest.mark.parametrize("kind", CHECKS, ids=lambda kind: kind.name)
def test_every_code_it_can_give_belongs_to_a_cause_or_a_symptom(kind: type[Check]) -> None:
    text = (ROOT / "src" / "verglas" / "doctor" / f"{kind.name}.py").read_text(encoding="utf-8")
    given = set(re.findall(r'"([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+|INVERTED|UNRELATED|MISCALIBRATED|IMPURE|DIVERGED)"', text))
    assert given <= CODES, given - CODES


@pytest.mark.parametrize("kind", CHECKS, ids=lambda kind: kind.name)
def test_the_same_question_has_the_same_answer(kind: type[Check], trained_once: Path) -> None:
    if kind.slow:
        pytest.skip("a slow check is asked once")
    first, second = (answers(trained_once / "run", kind.name)[0] for _ in range(2))
    assert first.evidence == second.evidence


@pytest.mark.parametrize("kind", DATA_CHECKS, ids=lambda kind: kind.name)
def test_checks_of_data_need_no_run(kind: type[DataCheck], tmp_path: Path) -> None:
    config = configured(write_toy(tmp_path))
    (found,) = (c for c in examined(api._collect(config).collection, config, [kind.name]) if isinstance(c, Checked))
    assert found.verdict in ("ok", "info", "skipped"), found.sentence


def test_every_cause_has_a_remedy_and_signs_that_exist() -> None:
    codes = [cause.code for cause in CAUSES]
    assert len(set(codes)) == len(codes)
    names = {kind.name for kind in CHECKS}
    for cause in CAUSES:
        assert cause.sentence.endswith(".")
        assert cause.remedy.endswith(".")
        assert max(cause.signs.values()) > 0
        assert {sign.removesuffix("=ok") for sign in cause.signs if "=" in sign} <= names, cause.code
        assert set(cause.leads_to) <= CODES, cause.code


def test_each_code_that_is_measured_directly_puts_its_cause_first() -> None:
    for cause in CAUSES:
        if cause.signs.get(cause.code, 0) >= 4:
            one = Checked("check", "?", "fail", cause.code, "Found.", {}, "Do.")
            two = Checked("outputs", "?", "fail", "NO_SKILL", "No skill.", {}, "Do.")
            assert next(diagnose([one, two])).cause == cause.code
