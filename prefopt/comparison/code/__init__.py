"""The code task: programs that a model writes, run against their tests."""

from __future__ import annotations

from prefopt.comparison.code.measures import pass_at_k
from prefopt.comparison.code.sandbox import Limits, Outcome, Sandbox, SandboxError, Verdict
from prefopt.comparison.code.task import CodeTask

__all__ = ["CodeTask", "Limits", "Outcome", "Sandbox", "SandboxError", "Verdict", "pass_at_k"]
