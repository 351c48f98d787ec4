"""Executes the runs of a queue: in this process, or in worker processes that each have an accelerator or some cores."""

from __future__ import annotations

import os
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterable
from multiprocessing.connection import wait
from pathlib import Path
from types import TracebackType
from typing import Self, final

import torch
from accelerate.commands.launch import launch_command_parser
from accelerate.utils import prepare_simple_launcher_cmd_env

from prefopt.comparison.execute import execute
from prefopt.comparison.progress import Board
from prefopt.comparison.run import Run
from prefopt.comparison.run_log import Record, RunQueue
from prefopt.comparison.worker import Worker, WorkerError
from prefopt.progress import reporting_to

End = Callable[[Run, Record, int], None]
"""Called with a run that is over, its record and its slot on the board."""

_POLL_SECONDS = 1.0
"""How often the log is read for what other processes have finished."""

# -P: the folder that we stand in is not on the module path.
_WORKER = (sys.executable, "-P", "-m", "prefopt.comparison.worker")


def execute_here(queue: RunQueue, folder: Path, board: Board, end: End) -> None:
    """Execute the runs of the queue in this process, until none is pending."""
    while queue.pending():
        board.count(*queue.count())
        if (run := queue.claim()) is None:
            time.sleep(_POLL_SECONDS)  # other processes have the rest
            continue
        with reporting_to(board.begin(str(run))):
            record = execute(run, folder)
        end(run, record, 0)


@final
class WorkerPool:
    """Worker processes with a run each at a time; none is left when the block ends.

    A worker starts when there is a run for it. It is replaced when its run fails: its device may be in a bad state.
    A death fails the worker's run alone: the end of its output is in the record, all of it in FOLDER/workers.
    """

    def __init__(self, folder: Path, processes: int, devices: int) -> None:
        self._folder = folder.absolute()
        self._processes = processes
        self._devices = devices
        self._workers: dict[int, Worker] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            for worker in self._workers.values():
                worker.stop(at_once=kind is not None)
            for worker in self._workers.values():
                worker.join()
        finally:
            for worker in self._workers.values():
                worker.kill()

    def execute(self, queue: RunQueue, board: Board, end: End) -> None:
        """Execute the runs of the queue, until none is pending. Raises WorkerError where no worker starts."""
        while True:
            self._assign(queue, board)
            busy = {slot: worker for slot, worker in self._workers.items() if worker.run is not None}
            if not busy and not queue.pending():
                return
            board.count(*queue.count())
            ready = wait([worker.connection for worker in busy.values()], timeout=_POLL_SECONDS)
            for slot, worker in busy.items():
                if worker.connection in ready or worker.dead:
                    self._receive(slot, worker, end)

    def _assign(self, queue: RunQueue, board: Board) -> None:
        for slot in range(self._processes):
            if slot in self._workers and self._workers[slot].run is not None:
                continue
            if (run := queue.claim(self._has_material)) is None:
                return
            if slot not in self._workers:
                log = self._folder / "workers" / f"{slot}.log"
                log.parent.mkdir(exist_ok=True)
                self._workers[slot] = Worker(worker_command(slot, self._processes, self._devices), log)
            self._workers[slot].start(run, self._folder, board.begin(str(run), slot))

    def _has_material(self, run: Run) -> bool:
        """Whether the run need not wait for material that another run prepares."""
        material = run.material(self._folder)
        others = (worker.run for worker in self._workers.values() if worker.run is not None)
        return material.exists() or all(material != other.material(self._folder) for other in others)

    def _receive(self, slot: int, worker: Worker, end: End) -> None:
        run, record = worker.run, worker.receive()
        if run is None or record is None:
            return
        worker.run = None
        if record["error"] is not None:
            self._workers.pop(slot).kill()
        end(run, record, slot)


def require_importable(runs: Iterable[Run]) -> None:
    """Raise WorkerError where a task or component is of a class that worker processes cannot import."""
    for run in runs:
        for part in (run.task, *(() if run.objective is None else run.objective.components)):
            if type(part).__module__ == "__main__":
                raise WorkerError(
                    f"{type(part).__name__} is defined in the script that runs, which workers cannot import; move it "
                    "into a module, or compare with processes=1"
                )


def accelerators(runs: Iterable[Run]) -> int:
    """How many accelerators there are for the runs: this machine's, or none where all runs are to use the CPU."""
    if all(run.training.get("use_cpu", False) for run in runs):
        return 0
    return torch.accelerator.device_count()


def worker_command(number: int, processes: int, devices: int) -> tuple[list[str], dict[str, str]]:
    """Arguments and environment of worker `number` of `processes`, which share our accelerators and threads."""
    threads = max(1, torch.get_num_threads() // processes)
    arguments, env = list(_WORKER), {**os.environ}
    if devices:
        arguments, env = _launch_command(_device_name(number % devices), threads)
    path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
    return arguments, env | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": path}


def _launch_command(device: str, threads: int) -> tuple[list[str], dict[str, str]]:
    """As `accelerate launch` starts a process on one accelerator, whatever the user's own configuration of it says."""
    options = ("--num_processes=1", "--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no")
    pinning = (f"--gpu_ids={device}", f"--num_cpu_threads_per_process={threads}", "--no_python", *_WORKER)
    args = launch_command_parser().parse_args([*options, *pinning], Namespace(use_cpu=False))
    arguments, env = prepare_simple_launcher_cmd_env(args)
    return arguments, env


def _device_name(device: int) -> str:
    """The machine's name of an accelerator: where our environment shows only some, ours are numbered anew."""
    probe = "?"
    _, env = _launch_command(probe, 1)
    visible = next((os.environ[name] for name, value in env.items() if value == probe and name in os.environ), "")
    return visible.split(",")[device].strip() if visible else str(device)
