"""Tasks of EleutherAI's evaluation harness, before and after training on preferences."""

from prefopt.tasks.lm_eval.task import LmEvalTask as LmEvalTask
