"""The evaluation harness: its tasks by name, what it measures in them, and the evaluation of a policy."""

from __future__ import annotations

import functools
import io
import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple, final

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prefopt.data.quiet import quiet
from prefopt.tasks.base import Metric
from prefopt.tasks.optional import needed
from prefopt.validation import did_you_mean

_REFUSED = {
    "class": "is written in Python, which does not say what it measures before its data is read",
    "unsafe_code": "runs code that the model writes, without protection; the task `code` contains it",
    "doc_to_image": "shows pictures to the model",
    "doc_to_audio": "plays sound to the model",
}
"""Fields of harness tasks that are not supported -> why."""

_NO_FILTER = "none"
"""The harness's name for the filter of tasks that have none."""

_FEWSHOT_SEED = 1234
"""The harness's default: examples before a document are the same in every run."""


@final
class Figure(NamedTuple):
    """What the harness measures: a metric of a task, of the answers that a filter of the task leaves."""

    task: str
    metric: str
    filter: str
    higher_is_better: bool | None

    @property
    def described(self) -> Metric:
        better = {True: "higher", False: "lower", None: "neither"}[self.higher_is_better]
        name = f"{self.task}/{self.metric}" + ("" if self.filter == _NO_FILTER else f"/{self.filter}")
        return Metric(name, better, f"{self.metric} of the harness's task {self.task}")  # type: ignore[arg-type]


@contextmanager
def _hushed() -> Iterator[None]:
    """Without the harness's bars and remarks while the block runs; errors still come through."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with quiet(), redirect_stderr(io.StringIO()):  # its bars have no switch
            yield
    finally:
        logger.setLevel(level)


@functools.cache
def manager(include_path: str | None, defaults: bool) -> Any:
    """The harness's TaskManager of the tasks in a folder of YAML files and, with `defaults`, of those that it ships:
    some thousands of files, which takes seconds."""
    with needed("the task lm_eval", "lm-eval", "lm-eval"):
        from lm_eval.tasks import TaskManager
    with _hushed():
        return TaskManager(include_path=include_path, include_defaults=defaults)


@functools.cache
def figures(names: tuple[str, ...], include_path: str | None) -> tuple[Figure, ...]:
    """What the harness measures in these tasks; groups and tags stand for the tasks in them, however deep.

    Nothing is downloaded. Raises ImportError without the harness, ValueError for a task that is unknown or refused.
    """
    if include_path is not None and not Path(include_path).is_dir():
        raise ValueError(f"include_path: {include_path} is no folder")
    for defaults in (False, True) if include_path is not None else (True,):
        index = manager(include_path, defaults).task_index
        leaves = list(_leaves(names, index))
        unknown = [leaf for leaf in leaves if leaf not in index]
        if not unknown:
            return tuple(dict.fromkeys(figure for leaf in leaves for figure in _of_task(leaf, index[leaf].cfg)))
    where = "" if include_path is None else f" and {include_path} has no YAML file of one that can be read"
    near = did_you_mean(unknown[0], index)
    raise ValueError(f"tasks: the harness has none named {unknown[0]!r}{where}.{near} See `lm_eval ls tasks`.")


def _leaves(names: Iterable[Any], index: Mapping[str, Any]) -> Iterator[str]:
    """The tasks that the names stand for, and the names that the harness does not have.

    Raises ValueError where a group changes the tasks in it.
    """
    for name in names:
        config = index[name].cfg if name in index else {}
        if config is None:  # a tag
            yield from _leaves(sorted(index[name].tags), index)
        elif "group" not in config or "class" in config:
            yield name
        else:
            from lm_eval.config.group import GroupConfig

            tasks = config["task"] if isinstance(config.get("task"), list) else []
            if any(not isinstance(task, str) for task in tasks) or set(config) - set(GroupConfig.__dataclass_fields__):
                raise ValueError(f"tasks: the group {name!r} changes the tasks in it; name the tasks themselves")
            yield from _leaves(tasks, index)


def _of_task(name: str, config: Mapping[str, Any]) -> Iterator[Figure]:
    from lm_eval.api.registry import DEFAULT_METRIC_REGISTRY, is_higher_better
    from lm_eval.config.task import TaskConfig

    for field, why in _REFUSED.items():
        if config.get(field):
            raise ValueError(f"tasks: {name!r} {why}")
    kind = config.get("output_type", TaskConfig.output_type)
    given = config.get("metric_list") or [{"metric": metric} for metric in DEFAULT_METRIC_REGISTRY[kind]]
    filters = [entry["name"] for entry in config.get("filter_list") or ({"name": _NO_FILTER},)]
    with _hushed():
        for entry in given:
            metric = str(entry["metric"]).rpartition(".")[2]  # a function is known by its name
            better = entry["higher_is_better"] if "higher_is_better" in entry else is_higher_better(metric)
            yield from (Figure(name, metric, applied, better) for applied in filters)


def load(figures: Sequence[Figure], include_path: str | None) -> Mapping[str, Any]:
    """The harness's task objects by name, with their data, which is downloaded where the tasks say so."""
    names = list(dict.fromkeys(figure.task for figure in figures))
    included = include_path is not None and set(names) <= manager(include_path, False).task_index.keys()
    with _hushed():
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
    with _hushed():
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
