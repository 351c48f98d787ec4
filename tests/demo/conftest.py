from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from prefopt.demo import DemoConfig, DemoResults, run_demo

SMALL = {
    "reviews": 300,
    "reference_steps": 30,
    "train_prompts": 16,
    "held_out_prompts": 4,
    "samples_per_prompt": 4,
    "max_new_tokens": 16,
    "steps": 4,
    "batch_size": 4,
}


@pytest.fixture(scope="session")
def printed() -> io.StringIO:
    """What the run of `done` printed."""
    return io.StringIO()


@pytest.fixture(scope="session")
def done(tmp_path_factory: pytest.TempPathFactory, printed: io.StringIO) -> tuple[Path, DemoResults]:
    """The default job in small: its folder, and its results."""
    out = tmp_path_factory.mktemp("demo")
    return out, run_demo(DemoConfig(out=out, **SMALL), console=Console(file=printed, width=100))
