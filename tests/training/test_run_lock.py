"""One run at a time in an output folder."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from transformers import TrainerCallback

from prefopt.training import RunFile, RunFileError, run_lock, start, train
from prefopt.training.output_folder import OutputFolderError
from prefopt.training.run_lock import LOCK
from tests.training.test_output_folder import contents, run_file

__all__ = ["run_file"]  # a fixture


class Watch(TrainerCallback):
    """Whether the folder is locked at the end of training."""

    held = False

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.held = (Path(args.output_dir) / LOCK).is_file()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_lock, "PATIENCE", 0)


def test_two_runs_never_train_in_one_folder(run_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    run = RunFile.load(run_file)
    with FileLock(folder / LOCK):
        for overwrite in (False, True):
            with pytest.raises(
                RunFileError, match=r"^output_dir: another run trains in .*run; wait until .*remove \.run\.lock there$"
            ):
                start(run, overwrite=overwrite)
    second = start(run)  # before the other has the folder
    with FileLock(folder / LOCK):
        before = contents(folder)
        with pytest.raises(OutputFolderError, match="another run trains in"):
            train(second)
        assert contents(folder) == before
    # What a run that was killed leaves is no lock.
    assert (folder / LOCK).is_file()
    watch = Watch()
    second.add_callback(watch)
    train(second)
    assert watch.held
    assert not (folder / LOCK).exists()


def test_a_lock_whose_file_the_other_run_removed_is_taken_anew(run_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It opened the file, the other removed it and ended, and a third run would make a new one to lock."""
    acquire, removed = FileLock.acquire, []

    def remove_first(lock: FileLock, *args: Any, **options: Any) -> Any:
        proxy = acquire(lock, *args, **options)
        if not removed:
            removed.append(lock.lock_file)
            Path(lock.lock_file).unlink()
        return proxy

    trainer, watch = start(RunFile.load(run_file)), Watch()
    trainer.add_callback(watch)
    monkeypatch.setattr(run_lock.FileLock, "acquire", remove_first)
    train(trainer)
    assert removed
    assert watch.held


def test_a_disk_without_locks_is_told(
    run_file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(run_lock.FileLock, "acquire", refuse)
    result = train(start(RunFile.load(run_file)))
    assert "cannot be locked ([Errno 37] No locks available): start no other run there" in caplog.text
    assert (result.folder / "checkpoint-2").is_dir()
    assert not (result.folder / LOCK).exists()


def test_the_lock_of_another_account_is_neither_passed_over_nor_removed(
    run_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = tmp_path / "run" / LOCK
    lock.parent.mkdir()
    lock.touch()

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(lock))

    monkeypatch.setattr(run_lock.FileLock, "acquire", refuse)
    with pytest.raises(RunFileError, match=r"^output_dir: another account's run trains in .*run, or was killed there"):
        start(RunFile.load(run_file))
    assert lock.is_file()
