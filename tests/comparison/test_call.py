"""A call of `compare`: where its runs report, what they print, and that they end with it."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, final

import pytest

from prefopt.comparison import call as calls
from prefopt.comparison import runner
from prefopt.comparison.call import Call, execute_for
from prefopt.comparison.engines.local import InProcess
from prefopt.comparison.execute import failure
from prefopt.comparison.run import Run
from prefopt.comparison.run_log import RunLog
from prefopt.comparison.runner import compare
from prefopt.comparison.suite import Suite
from tests.comparison.test_suite import QUIET, SUITE

SUITE_OF_ONE = Suite.model_validate({**SUITE, "objectives": {"dpo": "dpo"}})
REFERENCE, DPO = SUITE_OF_ONE.runs()


def finished(run: Run, folder: Path) -> dict[str, Any]:
    return {**failure(run, "", ""), "error": None, "traceback": None}


@pytest.fixture
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without data and models."""
    monkeypatch.setattr(runner, "reject_unusable", lambda runs, folder: None)
    monkeypatch.setattr(calls, "execute", finished)


def test_a_run_reports_until_its_call_ends(tmp_path: Path) -> None:
    with Call.begin(tmp_path) as call:
        report = call.report(DPO)
        (file,) = call.progress.iterdir()
        report("training", 1, 4)
        report("training", 2, 4)  # within half a second
        assert file.read_text() == '["dpo, seed 0", "training", 1, 4]'
        with Call.begin(tmp_path), pytest.raises(FileNotFoundError):
            report("measuring", 0, None)
        call.end(DPO)
    with pytest.raises(RuntimeError, match=r"has ended, or .* does not see that folder"):
        execute_for(call, DPO)
    assert [path.name for path in tmp_path.iterdir()] == []


def test_what_a_run_prints_in_another_process_is_in_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def printing(run: Run, folder: Path) -> dict[str, Any]:
        print(run, os.getcwd())
        os.write(sys.stderr.fileno() if run == DPO else 2, b"of a library")
        return finished(run, folder)

    monkeypatch.setattr(calls, "execute", printing)
    (tmp_path / "workers").mkdir()
    with Call.begin(tmp_path) as here, capfd.disabled():
        call = replace(here, caller=("elsewhere", 1), directory=tmp_path)
        execute_for(call, REFERENCE)
        assert call.output(REFERENCE) == f"reference, seed 0 {tmp_path}\nof a library"
        monkeypatch.setattr(calls, "execute", finished)
        execute_for(call, REFERENCE)
        assert [*(tmp_path / "workers").iterdir()] == []


@pytest.mark.usefixtures("_at_once")
def test_any_executor_will_do_and_is_left_as_it_is(tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as executor:
        assert compare(SUITE_OF_ONE, tmp_path, console=QUIET, executor=executor) == []
        assert executor.submit(int).result() == 0
    assert RunLog(tmp_path / "runs.jsonl").records.keys() == {REFERENCE.key, DPO.key}
    with pytest.raises(ValueError, match="processes: are of this machine"):
        compare(SUITE_OF_ONE, tmp_path, console=QUIET, executor=executor, processes=2)


@final
class _Raising(Executor):
    """Has an error for the second call, and records what it is asked to cancel."""

    def __init__(self, error: BaseException | None) -> None:
        self._error = error
        self._calls = 0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self._calls += 1
        if self._calls != 2:
            return InProcess().submit(fn, *args, **kwargs)
        future: Future[Any] = Future()
        if self._error is None:
            future.cancel()
            future.set_running_or_notify_cancel()
        else:
            future.set_exception(self._error)
        return future


@pytest.mark.usefixtures("_at_once")
def test_an_error_of_the_executor_is_of_its_run_alone(tmp_path: Path) -> None:
    for error, line in {
        RuntimeError("a node\nhas died"): "RuntimeError: a node",
        KeyboardInterrupt(): "KeyboardInterrupt: ",
        None: "CancelledError: by the executor",
    }.items():
        assert compare(SUITE_OF_ONE, tmp_path, console=QUIET, executor=_Raising(error), overwrite=True) == [DPO]
        record = RunLog(tmp_path / "runs.jsonl").records[DPO.key]
        assert record["error"] == line
        assert record["traceback"].startswith("has died" if error and error.args else "")
    assert compare(SUITE_OF_ONE, tmp_path, console=QUIET, executor=_Raising(RuntimeError("no"))) == []


@pytest.mark.usefixtures("_at_once")
def test_a_broken_executor_and_a_full_disk_end_the_comparison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BrokenExecutor, match="no process"):
        compare(SUITE_OF_ONE, tmp_path, console=QUIET, executor=_Raising(BrokenExecutor("no process")))
    assert RunLog(tmp_path / "runs.jsonl").records.keys() == {REFERENCE.key}
    assert not (tmp_path / "running").exists()

    def full(run: Run, folder: Path) -> dict[str, Any]:
        raise OSError(errno.ENOSPC, "No space left on device", str(folder))

    monkeypatch.setattr(calls, "execute", full)
    with ThreadPoolExecutor(1) as executor, pytest.raises(OSError, match="No space left"):
        compare(SUITE_OF_ONE, tmp_path, console=QUIET, executor=executor)
    assert RunLog(tmp_path / "runs.jsonl").records.keys() == {REFERENCE.key}
