"""The tasks that prefopt brings itself."""

from __future__ import annotations

from prefopt.comparison.planted import PlantedTask
from prefopt.comparison.task import Task
from prefopt.hookspecs import hookimpl


@hookimpl
def prefopt_tasks() -> list[type[Task]]:
    return [PlantedTask]
