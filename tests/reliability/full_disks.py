"""A disk that is filled up to some bytes while a command writes to it, and what it holds then."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

PAGE = 4096
"""Bytes that a file system in memory gives at a time."""


class SmallDisk:
    """A file system in memory at a folder, which takes root to mount: `mounted` says whether it is. A context.

    folder  where it is
    size    in bytes
    """

    def __init__(self, folder: Path, size: int) -> None:
        self.folder = folder
        self._options = f"size={size}"
        self._filler = folder / "filler"
        self.mounted = False

    def __enter__(self) -> Self:
        self.folder.mkdir(exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", self._options, "tmpfs", str(self.folder)]
        self.mounted = subprocess.run(command, capture_output=True).returncode == 0 if shutil.which("mount") else False
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.mounted:
            subprocess.run(["umount", "-l", str(self.folder)], check=True)

    @contextmanager
    def filled(self, free: int) -> Iterator[None]:
        """With so many bytes left."""
        left = shutil.disk_usage(self.folder).free - free
        with self._filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(PAGE, left // PAGE * PAGE))
        try:
            yield
        finally:
            self._filler.unlink()


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file of this process grows beyond that many bytes, as `ulimit -f` has it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))  # Python ignores the signal
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of all files that are not empty, by path, without those that are being written."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")
    named = {str(path.relative_to(folder)): path.read_bytes() for path in files}
    return {name: content for name, content in named.items() if "unfinished" not in name}
