"""Several processes at one comparison: the results of one, deaths that fail one run, no process left."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from prefopt.comparison import executors, runner
from prefopt.comparison.run_log import RunLog, RunQueue
from prefopt.comparison.runner import compare
from prefopt.comparison.suite import Suite
from prefopt.comparison.worker import WorkerError
from prefopt.tasks.planted import PlantedTask
from tests.comparison.hazard import EXITS, KILLED, SLOW, SLOWER, Hazard
from tests.comparison.test_suite import QUIET, SUITE, TASK, measured

pytestmark = pytest.mark.outside


def suite_of(*betas: float, **changes: Any) -> Suite:
    task = Hazard(planted=PlantedTask(**TASK))
    sweeps = {"objective.beta": list(betas)}
    return Suite.model_validate({**SUITE, "task": task, "sweeps": sweeps, "objectives": {"dpo": "dpo"}, **changes})


def children(process: psutil.Process) -> set[psutil.Process]:
    return set(process.children(recursive=True))


@pytest.fixture(autouse=True)
def _no_process_is_left() -> Iterator[None]:
    before = children(psutil.Process())
    yield
    assert children(psutil.Process()) <= before


@pytest.fixture
def _one_thread() -> Iterator[None]:
    """What a worker of two has, so that sums are added in the same order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def _interruptible() -> Iterator[None]:
    """As in the foreground: what a shell starts in the background ignores interrupts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_one_thread", "_interruptible")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a file that was just being opened
def test_two_processes_measure_what_one_does_a_death_fails_its_run_alone_and_an_interrupt_ends_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on two accelerators: through accelerate's launcher, which does not mind that they are not there. The run of
    each process that is left is interrupted."""
    monkeypatch.setattr(runner, "accelerators", lambda runs: 2)
    suite, two = suite_of(EXITS, KILLED, 0.1, SLOW, SLOWER), tmp_path / "two"
    before = children(psutil.Process())
    workers: set[psutil.Process] = set()

    def interrupt() -> None:
        while len(workers) < 2 or len(RunLog(two / "runs.jsonl").records) < 4:
            time.sleep(0.1)
            workers.clear()
            workers.update(children(psutil.Process()) - before)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        compare(suite, two, console=QUIET)
    assert len(workers) == 2
    assert not any(worker.is_running() for worker in workers)
    log = RunLog(two / "runs.jsonl")
    deaths = {record["setting"].get("objective.beta"): record for record in log.records.values() if record["error"]}
    assert deaths.keys() == {EXITS, KILLED}
    assert deaths[EXITS]["error"] == "WorkerDied: the run's process ended with exit code 3"
    assert "some last words" in deaths[EXITS]["traceback"]
    assert deaths[KILLED]["error"].startswith("WorkerDied: the run's process was ended by SIGKILL")
    with RunQueue(log, two, suite.runs) as queue:  # the claims are released
        claimed = [run.setting["objective.beta"] for _ in range(4) if (run := queue.claim()) is not None]
        assert set(claimed) == {EXITS, KILLED, SLOW, SLOWER}
    assert compare(suite_of(0.1), tmp_path / "one", console=QUIET, processes=1) == []
    alone, together = measured(tmp_path / "one"), measured(two)
    assert len(alone) == 2
    assert {key: together[key] for key in alone} == alone


def test_a_process_that_does_not_start_ends_the_comparison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ([sys.executable, "-c", "raise SystemExit('nothing here')"], {**os.environ})
    monkeypatch.setattr(executors, "worker_command", lambda *args: command)
    with pytest.raises(WorkerError, match=r"does not start \(exit code 1\):\nnothing here"):
        compare(suite_of(0.1), tmp_path, console=QUIET, processes=2)
    assert RunLog(tmp_path / "runs.jsonl").records == {}


def test_a_task_of_the_script_itself_is_for_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suite = suite_of(0.1)
    monkeypatch.setattr(Hazard, "__module__", "__main__")
    with pytest.raises(WorkerError, match=r"Hazard is defined in the script .* processes=1"):
        compare(suite, tmp_path, console=QUIET, processes=2)


def test_each_process_has_an_accelerator_and_its_share_of_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    environments = [executors.worker_command(number, 3, 2)[1] for number in range(3)]
    assert [env["CUDA_VISIBLE_DEVICES"] for env in environments] == ["0", "1", "0"]
    assert {env["OMP_NUM_THREADS"] for env in environments} == {"2"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5, GPU-b1")
    assert executors.worker_command(1, 2, 2)[1]["CUDA_VISIBLE_DEVICES"] == "GPU-b1"
    arguments, env = executors.worker_command(0, 2, 0)
    assert arguments == executors.worker_command(0, 2, 2)[0]
    assert env["CUDA_VISIBLE_DEVICES"] == "5, GPU-b1"
    assert env["OMP_NUM_THREADS"] == "4"


def test_runs_on_the_cpu_have_no_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    assert executors.accelerators(suite_of(0.1).runs()) == 0
    assert executors.accelerators(suite_of(0.1, training={"max_steps": 2}).runs()) == 2
