"""Fixtures shared by all tests. One torch thread: faster for small work, and the same on every machine."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real micrographs, or a skip that says where they were sought."""
    folder = Path(os.environ.get("VERGLAS_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not (folder / "bgal_10017").is_dir():
        pytest.skip(f"real micrographs not found in {folder}; set VERGLAS_DATA")
    return folder
