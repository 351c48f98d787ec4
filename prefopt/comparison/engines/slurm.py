"""The engine of a SLURM cluster, by submitit."""

from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Executor, Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, final

from pydantic import ConfigDict, Field, model_validator

from prefopt.comparison.engines.base import Engine, EngineError
from prefopt.comparison.run import Run
from prefopt.tasks.optional import needed
from prefopt.validation import did_you_mean, one_line

_SECONDS = 1.0
"""Between looks at a job; submitit asks SLURM itself once a minute."""

_RULE = re.compile(r"^-{3,}$", re.MULTILINE)
"""What submitit draws around the traceback of a job."""


@final
class JobFailed(RuntimeError):  # noqa: N818
    """A job that gave no outcome of its run; so it is called in records. Its first line says why."""


@final
class SlurmEngine(Engine):
    """A job for each run, whose machine shares the disk that the comparison's folder is on. Further fields are
    parameters of submitit's AutoExecutor, such as gpus_per_node, cpus_per_task, mem_gb and slurm_partition.

    cluster      local: processes of this machine in the place of jobs, to try it
    jobs         at most so many at a time, queued ones included
    timeout_min  minutes after which a job is ended
    """

    model_config = ConfigDict(extra="allow")

    name: Literal["slurm"] = "slurm"
    cluster: Literal["slurm", "local"] = "slurm"
    jobs: int = Field(default=64, ge=1)
    timeout_min: int = Field(ge=1)

    @model_validator(mode="before")
    @classmethod
    def _reject_near_names(cls, value: Any) -> Any:
        """A name that is nearly a field's is not submitit's, though further fields are taken."""
        for name in value if isinstance(value, dict) else ():
            if name not in cls.model_fields and (near := did_you_mean(name, cls.model_fields)):
                raise ValueError(f"{name}: no such field.{near}")
        return value

    def start(self, runs: Sequence[Run], folder: Path) -> Executor:
        """See `Engine`."""
        with needed("engine slurm", "submitit", "slurm"):
            from submitit import AutoExecutor
        try:
            jobs = AutoExecutor(folder=folder.absolute() / "workers" / "submitit", cluster=self.cluster)
            jobs.update_parameters(timeout_min=self.timeout_min, **(self.model_extra or {}))
        except (AssertionError, NameError, RuntimeError, TypeError, ValueError) as error:  # submitit's, of parameters
            missing = self.cluster == "slurm" and shutil.which("srun") is None
            remedy = "; compare on a machine of the cluster, or try the file with `cluster: local`" if missing else ""
            raise EngineError(f"engine slurm: {one_line(error)}{remedy}") from error
        return JobsExecutor(jobs, self.jobs)


@final
class JobsExecutor(Executor):
    """Jobs of a submitit executor, so many at a time; with an error, they are cancelled."""

    def __init__(self, jobs: Any, most: int) -> None:
        self._jobs = jobs
        self._threads = ThreadPoolExecutor(most)
        self._submitting = threading.Lock()
        self._cancelled = threading.Event()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Gives a future that waits for the job."""
        return self._threads.submit(self._call, fn, args, kwargs)

    def _call(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        with self._submitting:
            job = self._jobs.submit(function, *args, **kwargs)
        while not job.done():
            if self._cancelled.wait(_SECONDS):
                job.cancel(check=False)
                raise CancelledError
        try:
            return job.result()
        except RuntimeError as error:  # submitit's, whatever it was in the job
            raise JobFailed(f"job {job.job_id} {_reason(job, error)}\n{error}") from None

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Wait for the jobs."""
        self._threads.shutdown(wait, cancel_futures=cancel_futures)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is not None:
            self._cancelled.set()
        self.shutdown(cancel_futures=kind is not None)


def _reason(job: Any, error: RuntimeError) -> str:
    """In words, why a job has no outcome: the last line of the traceback that submitit reports of it, or its state."""
    from submitit.core.utils import FailedJobError

    if isinstance(error, FailedJobError):
        trace = _RULE.split(str(error))[-2:][0].strip()
        return f"failed: {trace.splitlines()[-1]}"
    return f"ended without a result, in state {job.state}"
