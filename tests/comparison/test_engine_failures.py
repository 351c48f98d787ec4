"""What engines say of runs without an outcome, of runs that no machine has room for, and of fields that are none."""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from prefopt.comparison.engines import EngineError, RayEngine, SlurmEngine, load_engine
from prefopt.comparison.engines.slurm import JobsExecutor


class _Task:
    """A task of a Ray that carries it out at once, and wraps what it raises as Ray does."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def remote(self, *args: Any) -> SimpleNamespace:
        future: Future[Any] = Future()
        try:
            future.set_result(self._function(*args))
        except RuntimeError as error:
            wrapped = OSError("\x1b[36mray::_call()\x1b[39m (pid=1, ip=192.0.2.1)\nRuntimeError: no such folder")
            wrapped.cause = error  # type: ignore[attr-defined]
            future.set_exception(wrapped)
        return SimpleNamespace(future=lambda: future)


def _cluster(monkeypatch: pytest.MonkeyPatch, *machines: dict[str, float]) -> None:
    """A Ray whose machines have these resources; one more is dead."""
    nodes = [{"Alive": True, "Resources": machine} for machine in machines]
    ray = SimpleNamespace(
        is_initialized=lambda: True,
        cluster_resources=lambda: {"GPU": 2.0},
        nodes=lambda: [*nodes, {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}}],
        remote=lambda **options: _Task,
    )
    monkeypatch.setitem(sys.modules, "ray", ray)


def _raises() -> None:
    raise RuntimeError("no such folder")


def test_what_a_ray_task_raises_is_what_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    _cluster(monkeypatch, {"CPU": 4.0, "GPU": 2.0})
    executor = RayEngine().start([], Path())
    assert executor.submit(len, "abc").result() == 3
    error = executor.submit(_raises).exception()
    assert isinstance(error, RuntimeError)
    assert str(error) == "no such folder"
    (note,) = error.__notes__
    assert note.startswith("ray::_call() (pid=1")


@pytest.mark.parametrize(
    ("fields", "takes", "most"),
    [
        ({"cpus": 8, "accelerators": 0}, "8 CPUs and 0 GPUs", "4 and 2"),
        ({"cpus": 4, "accelerators": 1}, "4 CPUs and 1 GPUs", "4 and 2"),  # the two are on unlike machines
        ({"accelerators": 0.5}, "", ""),
    ],
)
def test_runs_that_no_machine_has_room_for_are_told(
    fields: dict[str, Any], takes: str, most: str, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    _cluster(monkeypatch, {"CPU": 4.0}, {"CPU": 2.0, "GPU": 2.0})
    RayEngine(**fields).start([], Path())
    told = [str(warning.message) for warning in recwarn]
    assert len(told) == bool(takes)
    if takes:
        assert told[0].startswith(f"engine ray: a run takes {takes} (`cpus`, `accelerators`), which no machine")
        assert f"the most on one are {most}. " in told[0]


def test_values_that_submitit_does_not_take_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("submitit", reason="submitit is not installed: pip install 'prefopt[slurm]'")
    with pytest.raises(EngineError, match=r"^engine slurm: .*mem_gb"):
        SlurmEngine(cluster="local", timeout_min=1, mem_gb="lots").start([], tmp_path)


@pytest.mark.parametrize(("name", "meant"), [("timeout_mins", "timeout_min"), ("clutser", "cluster"), ("job", "jobs")])
def test_misspelt_fields_of_slurm_are_no_parameters_of_submitit(name: str, meant: str, tmp_path: Path) -> None:
    file = tmp_path / "engine.yaml"
    file.write_text(f"name: slurm\n{name}: 1\n")
    with pytest.raises(EngineError, match=rf"{name}: no such field\. Did you mean '{meant}'\?$"):
        load_engine(str(file))


def test_parameters_of_submitit_are_not_taken_for_misspelt_ones() -> None:
    generic = ("mem_gb", "nodes", "cpus_per_task", "gpus_per_node", "tasks_per_node", "stderr_to_stdout")
    special = ("time", "job_name", "nodelist", "comment", "constraint", "partition", "account", "qos", "exclude")
    SlurmEngine(timeout_min=1, **dict.fromkeys((*generic, *(f"slurm_{name}" for name in special)), 1))


def test_a_job_without_an_outcome_says_why_in_its_first_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class FailedJobError(RuntimeError):
        pass

    monkeypatch.setitem(sys.modules, "submitit.core.utils", SimpleNamespace(FailedJobError=FailedJobError))
    rule = "-" * 22
    trace = f"Job (task=0) failed during processing with trace:\n{rule}\nTraceback\nOSError: no\n\n{rule}\nSee logs"
    uncompleted = "Job 7 (task: 0) with path 7_0_result.pkl\nhas not produced any output (state: TIMEOUT)"
    for error, first in (
        (FailedJobError(trace), "job 7 failed: OSError: no"),
        (FailedJobError("sbatch: error: no such partition"), "job 7 failed: sbatch: error: no such partition"),
        (RuntimeError(uncompleted), "job 7 ended without a result, in state TIMEOUT"),
    ):
        job = SimpleNamespace(job_id=7, state="TIMEOUT", done=lambda: True, result=partial(_raise, error))
        executor = JobsExecutor(SimpleNamespace(submit=partial(_given, job)), 1)
        with executor:
            raised = executor.submit(int).exception()
        assert str(raised).splitlines()[0] == first
        assert str(raised).endswith(str(error))


def _raise(error: Exception) -> None:
    raise error


def _given(job: Any, *_: Any) -> Any:
    return job
