from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real texts and models that tests may use but the project does not hold; PREFOPT_SHARED names it."""
    folder = Path(os.environ.get("PREFOPT_SHARED") or Path(__file__).parents[1] / "../shared").resolve()
    if not (folder / "data").is_dir():
        pytest.skip(f"no folder of shared data at {folder}; set PREFOPT_SHARED to one")
    return folder
