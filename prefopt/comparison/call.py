"""A call of `compare` as the processes see it that execute its runs: where they report, and whether it goes on."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self, final

from prefopt.comparison.execute import execute
from prefopt.comparison.run import Run
from prefopt.comparison.run_log import Record
from prefopt.progress import Report, reporting_to

RUNNING = "running"
"""The name of the folder, in that of a comparison, that is there while runs are under way."""

OUTPUT = "workers"
"""The name of the folder, in that of a comparison, of what runs print in other processes than the caller's."""

_SECONDS = 0.5
"""Between reports of a run, which are files."""

_TAIL = 4000
"""Characters of a run's output that go into the record of its failure."""


@final
@dataclass(frozen=True)
class Call:
    """A call of `compare`. Processes see it by the disk that its folder is on, those of other machines too.

    folder     of the comparison
    progress   a folder that is there until the call ends, with a file for each run under way (see `Board`)
    directory  that paths are relative to
    caller     machine and number of the process that calls
    """

    folder: Path
    progress: Path
    directory: Path
    caller: tuple[str, int]

    @classmethod
    @contextmanager
    def begin(cls, folder: Path) -> Iterator[Self]:
        """Gives the call. Runs of earlier calls end at their next report; its own do when the block is left."""
        folder = folder.absolute()
        call = cls(folder, folder / RUNNING / uuid.uuid4().hex, Path.cwd(), _this_process())
        _remove(folder / RUNNING)
        call.progress.mkdir(parents=True)
        try:
            yield call
        finally:
            _remove(folder / RUNNING)

    def report(self, run: Run) -> Report:
        """What is called with the progress of a run. Raises FileNotFoundError where the call is over."""
        path, under_way, last = self._progress_of(run), "", 0.0

        def write(what: str, done: int, total: int | None) -> None:
            nonlocal under_way, last
            if what != under_way or time.monotonic() - last >= _SECONDS:
                under_way, last = what, time.monotonic()
                path.write_text(json.dumps([str(run), what, done, total]), encoding="utf-8")

        write("begins", 0, None)
        return write

    def end(self, run: Run) -> None:
        """Say that the run is over, wherever its process is."""
        self._progress_of(run).unlink(missing_ok=True)

    def output(self, run: Run) -> str:
        """The end of what the run printed in another process."""
        path = self._output_of(run)
        return path.read_bytes().decode(errors="replace")[-_TAIL:] if path.exists() else ""

    def _progress_of(self, run: Run) -> Path:
        return self.progress / f"{run.key}.json"

    def _output_of(self, run: Run) -> Path:
        return self.folder / OUTPUT / f"{run.key}.log"

    @contextmanager
    def taken(self, run: Run) -> Iterator[None]:
        """In another process than the caller's, have standard output and error go to the run's file. Raises
        RuntimeError where the folder or the call is not there."""
        if not self.progress.is_dir():
            raise RuntimeError(
                f"the comparison in {self.folder} has ended, or {platform.node()} does not see that folder: it has to "
                "be on a disk that all machines of a comparison share"
            )
        if self.caller == _this_process():
            yield
            return
        with chdir(self.directory), self._output_of(run).open("wb") as file:
            kept = os.dup(1), os.dup(2)
            _direct(file.fileno(), file.fileno())
            try:
                yield
            finally:
                _direct(*kept)
                for number in kept:
                    os.close(number)
        if not self.output(run):
            self._output_of(run).unlink()


def execute_for(call: Call, run: Run) -> Record | OSError:
    """The record of a run, carried out in whatever process this is; or the error of a full disk, which other runs would
    find as well. Raises RuntimeError where the call is not there."""
    with call.taken(run):
        try:
            with reporting_to(call.report(run)):
                return execute(run, call.folder)
        except OSError as error:
            return error


def _remove(running: Path) -> None:
    """Remove the folder at once, whoever writes there."""
    ended = running.with_name(f".{RUNNING}.ended")
    shutil.rmtree(ended, ignore_errors=True)
    if running.exists():
        shutil.rmtree(running.rename(ended))


def _direct(output: int, errors: int) -> None:
    """Have standard output and error go to these files."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(output, 1)
    os.dup2(errors, 2)


def _this_process() -> tuple[str, int]:
    return platform.node(), os.getpid()
