"""What runs are carried out on: an engine is the settings of an executor."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import final

from prefopt.comparison.run import Run
from prefopt.validation import Settings


@final
class EngineError(ValueError):
    """An engine that cannot be used: one line for each problem."""


class Engine(Settings):
    """The settings of an executor, which carries out runs."""

    @abstractmethod
    def start(self, runs: Sequence[Run], folder: Path) -> Executor:
        """An executor for the runs of a comparison in the folder. When its block ends with an error, it ends the runs
        under way. Raises EngineError or ImportError where there can be none."""


def on_cpu(runs: Iterable[Run]) -> bool:
    """Whether all runs are to use the CPU."""
    return all(run.training.get("use_cpu", False) for run in runs)
