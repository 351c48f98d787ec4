"""Folders that a run will write to: tried before anything is loaded."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

from prefopt.training.config import PreferenceConfig
from prefopt.training.output_folder import OutputFolderError
from prefopt.whole_files import UNFINISHED


def reject_unwritable(args: PreferenceConfig) -> None:
    """Raise OutputFolderError where this process cannot write to the output folder or the reference cache."""
    if args.should_save:
        folder = Path(args.output_dir)
        _try(folder, "output_dir", is_kept=False)
        unfinished = folder / UNFINISHED
        if unfinished.is_symlink() or (unfinished.exists() and not unfinished.is_dir()):
            raise OutputFolderError(
                f"output_dir: {unfinished} is no folder, and checkpoints are written there until they are whole; "
                "remove it, or choose another output_dir"
            )
    if args.reference_cache is not None:
        _try(Path(args.reference_cache), "reference_cache", is_kept=True)


def _try(folder: Path, field: str, *, is_kept: bool) -> None:
    """Make the folder and a file in it. The file is removed, and so are the folders unless they are kept, as where
    other runs may be about to write there."""
    made: list[Path] = []
    path = folder
    try:
        for path in (*reversed(folder.parents), folder):
            if not path.is_dir():
                path.mkdir(exist_ok=True)
                made.append(path)
        descriptor, file = tempfile.mkstemp(prefix=".trial-", dir=folder)
        os.close(descriptor)
        os.unlink(file)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        if os.path.islink(path):
            reason = f"{path} is a link to nothing"
        elif path != folder:
            reason = f"{path}: {reason}"
        raise OutputFolderError(f"{field}: {folder} cannot be written to ({reason}); choose another folder") from error
    finally:
        for path in [] if is_kept else reversed(made):
            with suppress(OSError):
                path.rmdir()
