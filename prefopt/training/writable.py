"""Folders that a run will write to: tried before anything is loaded. In a dry run they are looked at only."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from prefopt.training.config import PreferenceConfig
from prefopt.training.output_folder import OutputFolderError
from prefopt.whole_files import UNFINISHED, require_writable


def reject_unwritable(args: PreferenceConfig) -> None:
    """Raise OutputFolderError where this process cannot write to the output folder or the reference cache."""
    if args.should_save or args.dry_run:
        folder = Path(args.output_dir)
        with _named(folder, "output_dir"):
            require_writable(folder) if args.dry_run else _try(folder, is_kept=False)
        unfinished = folder / UNFINISHED
        if unfinished.is_symlink() or (unfinished.exists() and not unfinished.is_dir()):
            raise OutputFolderError(
                f"output_dir: {unfinished} is no folder, and checkpoints are written there until they are whole; "
                "remove it, or choose another output_dir"
            )
    if args.reference_cache is not None:
        cache = Path(args.reference_cache)
        with _named(cache, "reference_cache"):
            require_writable(cache) if args.dry_run else _try(cache, is_kept=True)


@contextmanager
def _named(folder: Path, field: str) -> Iterator[None]:
    """Raise OutputFolderError, with the field, for an error within, which names the path that is at fault."""
    try:
        yield
    except (OSError, ValueError) as error:
        path = Path(getattr(error, "filename", None) or folder)
        reason = getattr(error, "strerror", None) or str(error)
        if os.path.islink(path) and not os.path.exists(path):
            reason = f"{path} is a link to nothing"
        elif folder not in (path, path.parent):
            reason = f"{path}: {reason}"
        raise OutputFolderError(f"{field}: {folder} cannot be written to ({reason}); choose another folder") from error


def _try(folder: Path, *, is_kept: bool) -> None:
    """Make the folder and a file in it. The file is removed, and so are the folders unless they are kept, as where
    other runs may be about to write there."""
    made: list[Path] = []
    try:
        for path in (*reversed(folder.parents), folder):
            if not path.is_dir():
                path.mkdir(exist_ok=True)
                made.append(path)
        descriptor, file = tempfile.mkstemp(prefix=".trial-", dir=folder)
        os.close(descriptor)
        os.unlink(file)
    finally:
        for path in [] if is_kept else reversed(made):
            with suppress(OSError):
                path.rmdir()
