"""The code task: programs that a model writes, run against their tests."""

from __future__ import annotations

from prefopt import hookimpl
from prefopt.tasks import Task
from prefopt_code.measures import pass_at_k
from prefopt_code.sandbox import Limits, Outcome, Program, Sandbox, SandboxError, Verdict
from prefopt_code.task import CodeTask

__all__ = ["CodeTask", "Limits", "Outcome", "Program", "Sandbox", "SandboxError", "Verdict", "pass_at_k"]


@hookimpl
def prefopt_tasks() -> list[type[Task]]:
    return [CodeTask]
