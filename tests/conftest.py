"""Fixtures shared by all tests. One torch thread: faster for small work, and the same on every machine."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from toy import configured, write_toy

if TYPE_CHECKING:
    from verglas.doctor.subject import Data


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real micrographs, or a skip that says where they were sought."""
    folder = Path(os.environ.get("VERGLAS_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not (folder / "bgal_10017").is_dir():
        pytest.skip(f"real micrographs not found in {folder}; set VERGLAS_DATA")
    return folder


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Keep to one torch thread."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def trained_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy data set with a run that has learned it; do not write there."""
    from verglas import api

    folder = write_toy(tmp_path_factory.mktemp("toy"), micrographs=5)
    settings = "train.steps=120", "train.validate_every=40", "model.width=8", "train.batch=4", "train.rate=0.01"
    list(api.train(configured(folder, *settings), folder / "run"))
    return folder


@pytest.fixture
def trained(trained_once: Path, tmp_path: Path) -> Path:
    """A copy of the trained toy that a test may spoil."""
    shutil.copytree(trained_once, tmp_path / "toy")
    return tmp_path / "toy"


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Callable[..., Data]]":
    """Data of the toy with these settings, prepared once."""
    from verglas import api
    from verglas.doctor.subject import opened

    folder = write_toy(tmp_path_factory.mktemp("toy"), micrographs=4)
    with ExitStack() as stack:

        @cache
        def make(*settings: str, labels_are: str = "complete") -> "Data":
            config = configured(folder, f"data.labels_are='{labels_are}'", *settings)
            return stack.enter_context(opened(None, api._collect(config).collection, config))[0]

        yield make
