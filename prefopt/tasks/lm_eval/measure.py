"""Evaluation of a policy by the harness, item by item."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prefopt.tasks.lm_eval.harness import Figure, hushed, manager

__all__ = ["evaluate_harness", "load"]

_FEWSHOT_SEED = 1234
"""The harness's default: examples before a document are the same in every run."""


def load(figures: Sequence[Figure], include_path: str | None) -> Mapping[str, Any]:
    """The harness's task objects by name, with their data, which is downloaded where the tasks say so."""
    names = list(dict.fromkeys(figure.task for figure in figures))
    included = include_path is not None and set(names) <= manager(include_path, False).task_index.keys()
    with hushed():
        tasks: Mapping[str, Any] = manager(include_path, not included).load(names)["tasks"]
    return tasks


def evaluate_harness(
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
    """The harness's figures: metric -> item -> figure.

    Items are the documents of a task where the harness takes the mean over them. A figure that is made of them in
    another way, such as a perplexity, is one item. Values that are not finite are left out.
    """
    from lm_eval import evaluate
    from lm_eval.models.huggingface import HFLM

    for task in tasks.values():
        configured = task.get_config("num_fewshot")  # 0 says that the task has none, as in the harness's own command
        task.set_config("num_fewshot", configured or 0 if num_fewshot is None or configured == 0 else num_fewshot)
        task.set_fewshot_seed(seed=_FEWSHOT_SEED)
    with hushed():
        results = evaluate(
            HFLM(pretrained=policy, tokenizer=tokenizer, batch_size=batch_size),
            {"tasks": dict(tasks)},
            limit=limit,
            log_samples=True,
            bootstrap_iters=0,
            apply_chat_template=chat_template,
            fewshot_as_multiturn=chat_template,
        )
    return {
        figure.described.name: {
            item: float(value)
            for item, value in _items(figure, tasks[figure.task], results).items()
            if isinstance(value, Real | np.bool_) and math.isfinite(value)
        }
        for figure in figures
    }


def _items(figure: Figure, task: Any, results: Mapping[str, Any]) -> dict[str, Any]:
    from lm_eval.api.metrics import mean

    if task.aggregation().get(figure.metric) is not mean:
        return {figure.task: results["results"][figure.task].get(f"{figure.metric},{figure.filter}")}
    documents = [document for document in results["samples"][figure.task] if document["filter"] == figure.filter]
    return {f"{figure.task} {document['doc_id']}": document.get(figure.metric) for document in documents}
