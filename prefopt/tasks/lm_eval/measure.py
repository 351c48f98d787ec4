"""Has the evaluation harness measure a policy, and takes its figures item by item."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, TypeGuard

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prefopt.tasks.lm_eval.harness import Figure, hushed, manager

__all__ = ["load", "measured"]

_FEWSHOT_SEED = 1234
"""The harness's own: examples before a document are the same in every run."""


def load(figures: Sequence[Figure], include_path: str | None) -> Mapping[str, Any]:
    """The harness's task objects by name, with their data, which is downloaded where the tasks say so."""
    names = list(dict.fromkeys(figure.task for figure in figures))
    small = include_path is not None and set(names) <= manager(include_path, False).task_index.keys()
    with hushed():
        found: Mapping[str, Any] = manager(include_path, not small).load(names)["tasks"]
    return found


def measured(
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    figures: Sequence[Figure],
    tasks: Mapping[str, Any],
    *,
    limit: float | None,
    num_fewshot: int | None,
    batch_size: int,
    chat_template: bool,
) -> dict[str, dict[str, float]]:
    """What the harness finds: metric -> item -> figure.

    Items are the documents of a task where the harness takes the mean over them. A figure that is made of them in
    another way, such as a perplexity, is one item. What is not finite is left out.
    """
    from lm_eval import evaluate
    from lm_eval.models.huggingface import HFLM

    for task in tasks.values():
        of_task = task.get_config("num_fewshot")  # 0 says that the task has none, as in the harness's own command
        task.set_config("num_fewshot", of_task or 0 if num_fewshot is None or of_task == 0 else num_fewshot)
        task.set_fewshot_seed(seed=_FEWSHOT_SEED)
    with hushed():
        found = evaluate(
            HFLM(pretrained=policy, tokenizer=tokenizer, batch_size=batch_size),
            {"tasks": dict(tasks)},
            limit=limit,
            log_samples=True,
            bootstrap_iters=0,
            apply_chat_template=chat_template,
            fewshot_as_multiturn=chat_template,
        )
    of = {figure.described.name: _by_item(figure, tasks[figure.task], found) for figure in figures}
    return {
        name: {item: value for item, value in values.items() if math.isfinite(value)} for name, values in of.items()
    }


def _by_item(figure: Figure, task: Any, found: Mapping[str, Any]) -> dict[str, float]:
    from lm_eval.api.metrics import mean

    whole = found["results"][figure.task].get(f"{figure.metric},{figure.filter}")
    if task.aggregation().get(figure.metric) is not mean:
        return {figure.task: float(whole)} if _is_number(whole) else {}
    documents = [each for each in found["samples"][figure.task] if each["filter"] == figure.filter]
    return {
        f"{figure.task} {document['doc_id']}": float(document[figure.metric])
        for document in documents
        if _is_number(document.get(figure.metric))
    }


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, Real | np.bool_)
