"""What README and docs say is run, or compared with what they say it of."""

import importlib.util
import os
import re
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path

import numpy as np
import pytest

from toy import SETTINGS, blobs
from verglas.io.micrographs import write_mrc
from verglas.io.picks import FORMATS

ROOT = Path(__file__).parents[1]
PIXEL_SIZE = 180 / 16


def blocks(path: Path, language: str) -> list[str]:
    """Return the fenced blocks of a document."""
    return re.findall(rf"```{language}\n(.*?)```", path.read_text(encoding="utf-8"), re.S)


@pytest.fixture
def own_data(tmp_path: Path) -> Path:
    """A user's folder as the README has it: particles of 180 Å."""
    generator = np.random.default_rng(0)
    for number in range(4):
        xy = generator.uniform(10, 150, (16, 2))
        write_mrc(tmp_path / "mics" / f"m{number}.mrc", blobs(generator, xy), PIXEL_SIZE)
        folder = tmp_path / ("labels" if number < 2 else "test-labels")
        folder.mkdir(exist_ok=True)
        np.savetxt(folder / f"m{number}.csv", xy, "%.3f", ",", header="x,y", comments="")
    return tmp_path


def shell(command: str, cwd: Path) -> None:
    """Run a line as a user would, with the installed command first on the path."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        ["bash", "-c", command], cwd=cwd, env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, f"{command}\n{done.stderr}"


def test_the_readme_commands_run_in_order(own_data: Path) -> None:
    commands = blocks(ROOT / "README.md", "sh")[2].strip().splitlines()
    assert [line.split()[1] for line in commands] == ["inspect", "train", "pick", "evaluate", "export"]
    for command in commands:
        short = "".join(f" --set {setting!r}" for setting in SETTINGS) if " train " in command else ""
        shell(command + short, own_data)
    assert (own_data / "relion" / "autopick.star").is_file()
    assert (own_data / "runs" / "a" / "report.html").is_file()


def test_the_readme_code_runs(own_data: Path) -> None:
    (code,) = blocks(ROOT / "README.md", "python")
    short = f"    )\nconfig = config.with_settings({list(SETTINGS)!r})\nfor record"
    assert ")\nfor record" in code
    code = code.replace(")\nfor record", short.removeprefix("    "))
    subprocess.run([sys.executable, "-c", code], cwd=own_data, check=True, stdout=subprocess.DEVNULL, timeout=240)


def test_the_readme_begins_with_the_demo_and_the_tests() -> None:
    demo, tests = (block.strip() for block in blocks(ROOT / "README.md", "sh")[:2])
    assert demo == "python3 -m venv .venv && . .venv/bin/activate && pip install . && verglas demo"
    assert tests == ". .venv/bin/activate && pip install '.[test]' && pytest"


def anchors(page: Path) -> set[str]:
    """Return the anchors of the headings of a page, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def test_every_link_leads_somewhere() -> None:
    for path in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        for target, _, part in (link.partition("#") for link in re.findall(r"\]\(([^)]+)\)", path.read_text("utf-8"))):
            page = path.parent / target if target else path
            assert target.startswith("https://") or page.exists(), f"{path.name}: {target}"
            assert not part or part in anchors(page), f"{path.name}: {target}#{part}"


def test_the_manual_names_every_format() -> None:
    text = (ROOT / "docs" / "manual.md").read_text(encoding="utf-8")
    for form in FORMATS:
        assert any(f"`{word}`" in text for word in (form.name, *form.suffixes)), form.name


def test_the_tables_of_the_docs_are_those_of_the_results() -> None:
    path = str(ROOT / "scripts" / "docs")
    spec = importlib.util.spec_from_loader("docs", SourceFileLoader("docs", path))
    assert spec is not None
    assert spec.loader is not None
    docs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(docs)
    for page in docs.PAGES:
        text = page.read_text(encoding="utf-8")
        assert "<!-- end -->" in text
        assert docs.renewed(text) == text, f"{page.name}: run scripts/docs"
