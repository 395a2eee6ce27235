"""The public surface: what is exported, and that importing it is cheap."""

import subprocess
import sys
from pathlib import Path

import verglas
from verglas import api
from verglas.cli import app

ROOT = Path(__file__).parents[1]


def test_all_is_sorted_and_is_what_there_is() -> None:
    public = {name for name in vars(verglas) if not name.startswith("_")}
    assert sorted(verglas.__all__) == verglas.__all__
    modules = {path.stem for path in (ROOT / "src" / "verglas").iterdir()}
    assert public - modules - {"jaxtyping"} == set(verglas.__all__)


def test_every_command_is_a_verb_of_the_api() -> None:
    commands = {command.callback.__name__ for command in app.registered_commands if command.callback}
    commands |= {str(group.name) for group in app.registered_groups}
    assert commands == set(api.__all__)


def test_importing_the_package_loads_no_torch() -> None:
    code = "import sys, verglas; assert not {'torch', 'scipy', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_nothing_unpickles_evaluates_or_asks_a_shell() -> None:
    """Files from elsewhere must not run code."""
    for path in (ROOT / "src").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        for forbidden in ("import pickle", "allow_pickle=True", "weights_only=False", "eval(", "exec(", "shell=True"):
            assert forbidden not in text.replace(".eval(", ""), f"{path.name}: {forbidden}"
