"""A task that ends its own process at chosen settings, as a crash or the system would."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any, Literal

from prefopt.tasks import Evaluation, Metric, Task
from prefopt.tasks.base import Material
from prefopt.tasks.planted import PlantedTask

EXITS, KILLED, RAISES, SLOW, SLOWER, WAITS = 0.2, 0.3, 0.4, 0.5, 0.6, 0.7
"""Values of beta."""

WAITED = "waited"
"""The file, in the comparison's folder, that a run writes which then waits; another attempt at it goes on."""


class Hazard(Task):
    name: Literal["hazard"] = "hazard"
    planted: PlantedTask

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return self.planted.metrics

    def make(self, folder: Path, seed: int) -> str:
        return self.planted.make(folder, seed)

    def evaluate(self, model: Any, reference: Any, tokenizer: Any, material: Material) -> Evaluation:
        beta = model.objective.config.beta
        if beta == EXITS:
            print("some last words", flush=True)
            os._exit(3)
        if beta == KILLED:
            os.kill(os.getpid(), signal.SIGKILL)
        if beta == RAISES:
            raise RuntimeError("no")
        waited = material.folder.parents[1] / WAITED
        if beta in (SLOW, SLOWER) or (beta == WAITS and not waited.exists()):
            waited.write_text(str(os.getppid()))
            time.sleep(600)
        return self.planted.evaluate(model, reference, tokenizer, material)
