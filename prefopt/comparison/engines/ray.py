"""The engine of a Ray cluster."""

from __future__ import annotations

import logging
import os
import re
import socket
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future
from functools import partial
from pathlib import Path
from typing import Any, Literal, final

from pydantic import Field

from prefopt.comparison.engines.base import Engine, EngineError, on_cpu
from prefopt.comparison.run import Run
from prefopt.tasks.optional import needed
from prefopt.validation import one_line

_SECONDS = 5.0
"""In which a cluster's machine takes a connection."""

_COLOUR = re.compile(r"\x1b\[\d*m")
"""What Ray colours the names of tasks by."""


@final
class RayEngine(Engine):
    """The accelerators of a Ray cluster, whose machines share the disk that the comparison's folder is on.

    address       of the cluster, as for `ray.init`; null: $RAY_ADDRESS, else this machine's cluster, else a new one
    accelerators  for each run; null: 1, unless the runs use the CPU or the cluster has none
    cpus          for each run, and its threads
    retries       how often a run begins anew whose process or machine died
    """

    name: Literal["ray"] = "ray"
    address: str | None = None
    accelerators: float | None = Field(default=None, ge=0)
    cpus: float = Field(default=1, gt=0)
    retries: int = Field(default=1, ge=0)

    def start(self, runs: Sequence[Run], folder: Path) -> Executor:
        """See `Engine`."""
        with needed("engine ray", "Ray", "ray"):
            import ray
        is_ours = not ray.is_initialized()
        if is_ours:
            address = self.address or os.environ.get("RAY_ADDRESS", "")
            try:
                _reach(address)
                ray.init(address=self.address, log_to_driver=False, logging_level=logging.WARNING)
            except (OSError, RuntimeError, ValueError) as error:  # what Ray raises of addresses
                raise EngineError(
                    f"engine ray: no cluster at {address or 'the default address'} ({one_line(error)}); give `address` "
                    "that of a running one, HOST:6379 or ray://HOST:10001, with RAY_AUTH_MODE=token where `ray start` "
                    "says that it is on, or leave it and $RAY_ADDRESS out"
                ) from error
        accelerators = self.accelerators
        if accelerators is None:
            accelerators = 0 if on_cpu(runs) else min(1, ray.cluster_resources().get("GPU", 0))
        _warn_of_no_room(ray.nodes(), {"CPU": self.cpus, "GPU": accelerators})
        options = {"num_cpus": self.cpus, "num_gpus": accelerators, "max_retries": self.retries}
        return RayExecutor(options, is_ours=is_ours)


@final
class RayExecutor(Executor):
    """Tasks of the Ray cluster that this process is connected to.

    options  as for `ray.remote`
    is_ours  whether the connection ends with the executor, and its tasks with that
    """

    def __init__(self, options: Mapping[str, Any], *, is_ours: bool) -> None:
        import ray

        self._task = ray.remote(**options)(_call)
        self._is_ours = is_ours

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Gives the task's future, which raises what the task raised. It is not cancelled: tasks end with the
        connection."""
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        self._task.remote(fn, args, kwargs).future().add_done_callback(partial(_hand_on, future))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the connection, where it is ours."""
        if self._is_ours:
            import ray

            ray.shutdown()


def _reach(address: str) -> None:
    """Raise OSError where nothing listens at HOST:PORT or ray://HOST:PORT: Ray itself would wait for minutes."""
    if match := re.fullmatch(r"(?:ray://)?\[?([^/\]]+?)\]?:(\d+)", address):
        socket.create_connection((match[1], int(match[2])), timeout=_SECONDS).close()


def _warn_of_no_room(machines: Sequence[Mapping[str, Any]], run: Mapping[str, float]) -> None:
    """Warn where no machine has what a run takes: Ray waits, without a word, for one that may join.

    machines  as `ray.nodes` gives them
    run       Ray's name of what a run takes -> how much of it
    """
    have = [machine["Resources"] for machine in machines if machine["Alive"]]
    if not any(all(machine.get(name, 0) >= number for name, number in run.items()) for machine in have):
        most = {name: max((machine.get(name, 0) for machine in have), default=0) for name in run}
        warnings.warn(
            f"engine ray: a run takes {run['CPU']:g} CPUs and {run['GPU']:g} GPUs (`cpus`, `accelerators`), which no "
            f"machine of the cluster has; the most on one are {most['CPU']:g} and {most['GPU']:g}. The runs wait for a "
            "machine that joins; where none will, interrupt, and give less in the engine's file",
            stacklevel=3,
        )


def _hand_on(ours: Future[Any], rays: Future[Any]) -> None:
    """Give a task's outcome: of what it raised the error itself, which Ray wraps in one that begins with the task's
    name, and Ray's text as a note."""
    error: Any = rays.exception()
    if error is None:
        ours.set_result(rays.result())
        return
    if isinstance(cause := getattr(error, "cause", None), Exception):
        cause.add_note(_COLOUR.sub("", str(error)))
        error = cause
    ours.set_exception(error)


def _call(function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    return function(*args, **kwargs)
