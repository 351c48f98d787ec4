"""Several processes at the runs of a comparison; this one hands them out, takes in what comes, and shows it."""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing.connection import wait
from pathlib import Path
from types import TracebackType
from typing import Self, final

from prefopt.comparison.launch import command
from prefopt.comparison.process import WorkerProcess
from prefopt.comparison.progress import Board
from prefopt.comparison.run import Run
from prefopt.comparison.run_log import Record
from prefopt.comparison.run_queue import Agenda

__all__ = ["LOOK", "Pool"]

LOOK = 1.0
"""Seconds after which it is looked again what others have left to do."""


@final
class Pool:
    """Workers with a run each at a time; none of them is left when the block ends.

    A worker starts when there is a run for it. One whose run failed is replaced, since what went wrong may have left
    its device in a bad state. One that dies fails its run alone: what it said last is in the record, and all of it,
    until a new one takes its place, in FOLDER/workers.
    """

    def __init__(self, folder: Path, processes: int, devices: int) -> None:
        self._folder = folder
        self._processes = processes
        self._devices = devices
        self._workers: dict[int, WorkerProcess] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            for worker in self._workers.values():
                worker.ask_to_end(at_once=kind is not None)
            for worker in self._workers.values():
                worker.end()
        finally:
            for worker in self._workers.values():
                worker.kill()

    def work(self, agenda: Agenda, board: Board, end: Callable[[Run, Record, int], None]) -> None:
        """Until nothing is left to do. `end` is given each run that is over, its record and its place on the board.

        Raises PoolError where no worker starts.
        """
        while True:
            self._hand_out(agenda, board)
            busy = {place: worker for place, worker in self._workers.items() if worker.run is not None}
            if not busy and not agenda.left():
                return
            board.count(*agenda.count())
            heard = wait([worker.channel for worker in busy.values()], timeout=LOOK)
            for place, worker in busy.items():
                if worker.channel in heard or worker.dead:
                    self._hear(place, worker, end)

    def _hand_out(self, agenda: Agenda, board: Board) -> None:
        for place in range(self._processes):
            if place in self._workers and self._workers[place].run is not None:
                continue
            run = agenda.take(self._has_material)
            if run is None:
                return
            if place not in self._workers:
                self._workers[place] = self._start(place)
            self._workers[place].begin(run, board.begin(str(run), place))

    def _start(self, place: int) -> WorkerProcess:
        said = self._folder / "workers" / f"{place}.log"
        said.parent.mkdir(exist_ok=True)
        return WorkerProcess(command(place, self._processes, self._devices), self._folder, said)

    def _has_material(self, run: Run) -> bool:
        """Whether it would begin at once, and not wait for the material that another run is making."""
        others = [worker.run for worker in self._workers.values() if worker.run is not None]
        return run.material(self._folder).exists() or all(
            run.material(self._folder) != other.material(self._folder) for other in others
        )

    def _hear(self, place: int, worker: WorkerProcess, end: Callable[[Run, Record, int], None]) -> None:
        run, record = worker.run, worker.hear()
        if run is None or record is None:
            return
        worker.run = None
        if record["error"] is not None:
            self._workers.pop(place).kill()
        end(run, record, place)
