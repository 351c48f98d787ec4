"""The evaluation harness: its tasks by name, and what it measures in them, before any data is read."""

from __future__ import annotations

import functools
import io
import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any, NamedTuple, final

from prefopt.tasks.base import Metric
from prefopt.tasks.optional import needed
from prefopt.tasks.quiet import quiet
from prefopt.validation import did_you_mean

__all__ = ["Figure", "figures", "hushed", "manager"]

_REFUSED = {
    "class": "is written in Python, which does not say what it measures before its data is read",
    "unsafe_code": "runs code that the model writes, without protection; the task `code` contains it",
    "doc_to_image": "shows pictures to the model",
    "doc_to_audio": "plays sound to the model",
}
"""Fields of harness tasks that are not supported -> why."""

_NO_FILTER = "none"
"""The harness's name for the filter of tasks that have none."""


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
def hushed() -> Iterator[None]:
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
    with hushed():
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
    with hushed():
        for entry in given:
            metric = str(entry["metric"]).rpartition(".")[2]  # a function is known by its name
            better = entry["higher_is_better"] if "higher_is_better" in entry else is_higher_better(metric)
            yield from (Figure(name, metric, applied, better) for applied in filters)
