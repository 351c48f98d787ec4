"""Tasks of EleutherAI's evaluation harness, before and after training on preferences."""

from __future__ import annotations

from prefopt.tasks.lm_eval.task import LmEvalTask

__all__ = ["LmEvalTask"]
