"""What is written down of a run, whatever became of it."""

from __future__ import annotations

import importlib.metadata
import platform
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import Trainer

from prefopt.comparison.execute import carry_out
from prefopt.comparison.run import Run
from prefopt.registry import brought_by

__all__ = ["attempt", "lost"]

_LIBRARIES = ("prefopt", "torch", "transformers", "accelerate", "datasets", "tokenizers")


def attempt(run: Run, folder: Path, *, show: Callable[[Trainer], None]) -> dict[str, Any]:
    """The record of the run, carried out; where it raised, with its error and traceback."""
    record = _begun(run)
    try:
        return record | carry_out(run, folder, show=show)
    except Exception as error:  # written down, said to the user and in the exit code; it may be this run's alone
        return record | {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}


def lost(run: Run, error: str, said: str) -> dict[str, Any]:
    """The record of a run whose process died, and what that said last."""
    return _begun(run) | {"error": error, "traceback": said}


def _begun(run: Run) -> dict[str, Any]:
    """What is known of a run before it begins."""
    return {
        "key": run.key,
        "name": run.name,
        "setting": dict(run.setting),
        "seed": run.seed,
        "configuration": run.configuration,
        "versions": {"python": platform.python_version()} | {n: importlib.metadata.version(n) for n in _LIBRARIES},
        "components": brought_by(() if run.objective is None else run.objective.components),
        "values": {},
        "samples": {},
        "profiles": {},
        "heat_maps": [],
        "curves": {},
        "seconds": {},
        "peak_memory_mib": None,
        "error": None,
        "traceback": None,
    }
