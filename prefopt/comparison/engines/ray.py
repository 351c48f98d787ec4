"""The engine of a Ray cluster."""

from __future__ import annotations

import logging
import os
import re
import socket
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any, Literal, final

from pydantic import Field

from prefopt.comparison.engines.base import Engine, EngineError, on_cpu
from prefopt.comparison.run import Run
from prefopt.tasks.optional import needed
from prefopt.validation import one_line

_SECONDS = 5.0
"""In which a cluster's machine takes a connection."""


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
        """Gives the task's future."""
        future: Future[Any] = self._task.remote(fn, args, kwargs).future()
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


def _call(function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    return function(*args, **kwargs)
