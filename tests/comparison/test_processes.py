"""Several processes at one comparison: the results of one, deaths that fail one run, no process left."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from prefopt.comparison.engines import EngineError, local
from prefopt.comparison.processes import ProcessesExecutor
from prefopt.comparison.run_log import RunLog
from prefopt.comparison.runner import compare
from prefopt.comparison.suite import Suite
from prefopt.tasks.planted import PlantedTask
from prefopt.training.output_folder import OutputFolderError
from tests.comparison.hazard import EXITS, KILLED, SLOW, SLOWER, WAITED, WAITS, Hazard
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
    resource_tracker.ensure_running()  # the standard library's, one for all that is spawned
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
    """As on two accelerators, which are not there. The run of each process that is left is interrupted."""
    monkeypatch.setattr(local, "device_environments", lambda runs: [{"ITS_DEVICE": "0"}, {"ITS_DEVICE": "1"}])
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
    assert compare(suite_of(0.1), tmp_path / "one", console=QUIET, processes=1) == []
    alone, together = measured(tmp_path / "one"), measured(two)
    assert len(alone) == 2
    assert {key: together[key] for key in alone} == alone


CALLER = """
from pathlib import Path
from prefopt.comparison.runner import compare
from tests.comparison.test_processes import QUIET, WAITS, suite_of
compare(suite_of(0.1, WAITS), Path({folder!r}), console=QUIET, processes=2)
"""


@pytest.mark.long
def test_processes_end_with_a_caller_that_is_killed_and_the_next_call_goes_on(tmp_path: Path) -> None:
    suite, log = suite_of(0.1, WAITS), tmp_path / "runs.jsonl"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    caller = psutil.Popen([sys.executable, "-c", CALLER.format(folder=str(tmp_path))], env=environment)
    while len(RunLog(log).records) < 2 or not (tmp_path / WAITED).exists():
        assert caller.poll() is None
        time.sleep(0.1)
    workers = children(caller)
    assert len(workers) >= 2
    try:
        with pytest.raises(OutputFolderError, match="another call carries out a comparison there"):
            compare(suite, tmp_path, console=QUIET)
    finally:
        caller.kill()
        caller.wait()
    assert psutil.wait_procs(workers, timeout=60)[1] == []
    whole = log.read_bytes()
    assert compare(suite, tmp_path, console=QUIET) == []
    assert log.read_bytes().startswith(whole)
    assert len(RunLog(log).records) == 3
    assert not (tmp_path / "running").exists()


def test_a_process_that_does_not_start_breaks_the_executor() -> None:
    """Without torch, which is imported after this fails."""
    with ProcessesExecutor([{"OMP_NUM_THREADS": "none"}], spoils=bool) as executor:
        error = executor.submit(os.getpid).exception()
        assert isinstance(error, BrokenExecutor)
        assert str(error).startswith("a process for runs does not start: it ended with exit code ")


def test_each_process_has_an_accelerator_and_its_share_of_the_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[dict[str, str]] = []
    monkeypatch.setattr(local, "ProcessesExecutor", lambda environments, **_: started.extend(environments))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    runs = suite_of(0.1, training={"max_steps": 2}).runs()
    local.LocalEngine(processes=3).start(runs, tmp_path)
    assert [environment["CUDA_VISIBLE_DEVICES"] for environment in started] == ["0", "1", "0"]
    assert {environment["OMP_NUM_THREADS"] for environment in started} == {"2"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5, GPU-b1")
    assert local.device_environments(runs)[1] == {"CUDA_VISIBLE_DEVICES": "GPU-b1"}
    assert local.device_environments(suite_of(0.1).runs()) == []  # all use the CPU
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("vulkan"))
    with pytest.raises(EngineError, match="cannot show a process one vulkan of 2; --processes 1 takes one"):
        local.device_environments(runs)


def test_a_comparison_under_a_launcher_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suite = suite_of(0.1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"^2 processes were started, .*; start one, without the launcher: it spreads"):
        compare(suite, tmp_path / "out", console=QUIET)
    assert not (tmp_path / "out").exists()
