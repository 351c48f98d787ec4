"""A task that ends its own process at chosen settings, as a crash or the system would."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any, Literal

from prefopt.tasks import Evaluation, Metric, Task
from prefopt.tasks.planted import PlantedTask

EXITS, KILLED, RAISES, SLOW, SLOWER = 0.2, 0.3, 0.4, 0.5, 0.6
"""Values of beta."""


class Hazard(Task):
    name: Literal["hazard"] = "hazard"
    planted: PlantedTask

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return self.planted.metrics

    def make(self, folder: Path, seed: int) -> str:
        return self.planted.make(folder, seed)

    def evaluate(self, model: Any, *args: Any) -> Evaluation:
        beta = model.objective.config.beta
        if beta == EXITS:
            print("some last words", flush=True)
            os._exit(3)
        if beta == KILLED:
            os.kill(os.getpid(), signal.SIGKILL)
        if beta == RAISES:
            raise RuntimeError("no")
        if beta in (SLOW, SLOWER):
            time.sleep(600)
        return self.planted.evaluate(model, *args)
