"""One run at a time in an output folder: a lock that ends with the process that has it."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from prefopt.training.config import PreferenceConfig
from prefopt.training.output_folder import OutputFolderError
from prefopt.training.writable import reject_unwritable

LOCK = ".run.lock"
"""The file that is locked: removed in the end, and without meaning where a run that was killed left it."""

PATIENCE = 10.0
"""Seconds for which a lock is waited for: workers that read data outlive a run that is killed by a few, and hold it.
Where the folder's run is to be removed there is no waiting, as that would be the other's which has just ended."""

_LOG = logging.getLogger(__name__)

_LOCKED: set[Path] = set()
"""The folders that this process has, by their lock or another's."""


@contextmanager
def locked(args: PreferenceConfig) -> Iterator[None]:
    """Keep other runs out of the output folder, on the process that saves. Raises OutputFolderError where another run
    has it, or it cannot be written to."""
    folder = Path(args.output_dir).resolve()
    if not args.should_save or folder in _LOCKED:
        yield
        return
    reject_unwritable(args)
    folder.mkdir(parents=True, exist_ok=True)
    lock = _acquired(folder, args)
    try:
        with guarded(folder):
            yield
    finally:
        if lock is not None:
            _remove(folder / LOCK)
            lock.release()


@contextmanager
def guarded(folder: Path) -> Iterator[None]:
    """Train in a folder that something else keeps other runs out of: nothing is locked there."""
    folder = folder.resolve()
    _LOCKED.add(folder)
    try:
        yield
    finally:
        _LOCKED.discard(folder)


def reject_locked(args: PreferenceConfig) -> None:
    """Raise OutputFolderError where another run has the output folder; on the process that saves."""
    folder = Path(args.output_dir).resolve()
    if args.should_save and folder not in _LOCKED and (folder / LOCK).is_file():
        lock = _acquired(folder, args)
        if lock is not None:
            lock.release()


def _acquired(folder: Path, args: PreferenceConfig) -> FileLock | None:
    """The lock of a folder; None where its disk has no locks, which is logged."""
    file = folder / LOCK
    lock, was_there = FileLock(file), file.exists()
    try:
        lock.acquire(timeout=0 if args.overwrite_output_dir else PATIENCE)
    except Timeout:
        raise OutputFolderError(
            f"output_dir: another run trains in {folder}; wait until it ends, end it, or choose another folder; where "
            f"none does, as after a machine has failed, remove {LOCK} there"
        ) from None
    except (OSError, NotImplementedError) as error:
        if was_there and getattr(error, "errno", None) == errno.EACCES:
            raise OutputFolderError(
                f"output_dir: another account's run trains in {folder}, or was killed there, as its {LOCK} cannot be "
                "opened; choose another folder, or have that file removed"
            ) from None
        _LOG.warning("%s cannot be locked (%s): start no other run there while this one trains", folder, error)
        if not was_there:
            _remove(file)
        return None
    if not file.exists():  # removed by a run that ended in between: the lock is of a file that no other run opens
        lock.release()
        return _acquired(folder, args)
    return lock


def _remove(file: Path) -> None:
    with suppress(OSError):  # a system may keep a file that is open
        file.unlink()
