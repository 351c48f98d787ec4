"""Files and folders that are written beside their name, synced to the disk and renamed: what has its name is whole."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

UNFINISHED = ".unfinished"
"""The folder, within the one that is saved to, where files are until they are whole; one that a killed run left is
removed by the next save."""

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Numbers of the errors that say that no more can be written."""

_WEIGHTS = re.compile(r"(adapter_model|model|objective)(?:(?:-\d{5}-of-\d{5})?\.safetensors(?:\.index\.json)?|\.yaml)")


def publish_folder(folder: Path, target: Path) -> None:
    """Sync a folder with all that it holds, and rename it. A target that is there makes room first."""
    _sync_tree(folder)
    if target.exists():
        target.rename(folder.with_name(f"{target.name}.replaced"))
    folder.rename(target)
    sync(target.parent)


def publish_files(folder: Path, target: Path) -> None:
    """Sync a folder's files, and move each over the file of its name in the target, which keeps its other files but
    for weights of the same kind (model, adapter, objective) that an earlier save left there: an adapter that is saved
    beside its base leaves the base's."""
    _sync_tree(folder)
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    parents = sorted({(target / file).parent for file in files})
    for parent in parents:
        parent.mkdir(parents=True, exist_ok=True)
    for file in files:
        (folder / file).replace(target / file)
    for parent in parents:
        kinds = {_kind(file.name) for file in files if target / file.parent == parent} - {None}
        for path in parent.iterdir():
            if _kind(path.name) in kinds and path.relative_to(target) not in files:
                path.unlink()
        sync(parent)


def publish_text(text: str, target: Path) -> None:
    """`publish_bytes` of UTF-8."""
    publish_bytes(text.encode("utf-8", errors="backslashreplace"), target)


def publish_bytes(content: bytes, target: Path) -> None:
    """Write a file beside its name, sync it and rename it, whoever else writes it. Raises OSError, with path and bytes,
    where it cannot be written; what the target held stays then."""
    beside = unfinished_name(target)
    try:
        beside.write_bytes(content)
        publish_file(beside, target)
    except OSError as error:
        beside.unlink(missing_ok=True)
        problem = (
            f"{len(content):,} bytes cannot be written ({error.strerror}; {room(target.parent)}); make room, or name "
            "another folder"
        )
        raise OSError(error.errno, problem, str(target)) from error


def publish_file(beside: Path, target: Path) -> None:
    """Sync a file, and give it its name."""
    sync(beside)
    beside.replace(target)
    sync(target.parent)


def unfinished_name(target: Path) -> Path:
    """A new name beside a file or folder, at which it is until it is whole."""
    return target.with_name(f".{target.name}-{uuid.uuid4().hex}.unfinished")


@contextmanager
def naming_full_disk(target: Path) -> Iterator[None]:
    """Raise OSError, with the target's path and the bytes that are free, where a disk is full."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL or error.filename is not None:
            raise
        problem = f"cannot be written ({os.strerror(error.errno)}; {room(target)}); make room, or name another folder"
        raise OSError(error.errno, problem, str(target)) from error


def room(folder: Path) -> str:
    """In words, what limits the files that are written to the folder: the disk, or the size that a file may have."""
    free, limit = free_bytes(folder), file_size_limit()
    if limit is not None and limit < free:
        return f"a file may have {limit:,} bytes (ulimit -f)"
    return f"{free:,} bytes are free there"


def file_size_limit() -> int | None:
    """The bytes that a file of this process may have; None where only the disk limits them."""
    if sys.platform == "win32":
        return None
    import resource  # which only systems with such limits have

    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def require_writable(folder: Path) -> None:
    """Raise OSError where the folder, or the one in which it is to be made, is none that may be written to. Nothing is
    written."""
    path = next(path for path in (folder, *folder.absolute().parents) if path.is_symlink() or path.exists())
    for number, holds in ((errno.ENOTDIR, path.is_dir()), (errno.EACCES, os.access(path, os.W_OK | os.X_OK))):
        if not holds:
            raise OSError(number, os.strerror(number), str(path))


def free_bytes(folder: Path) -> int:
    """Of the disk that the folder is on, or will be."""
    folder = folder.absolute()
    return shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(file: Path) -> str:
    """The digest of a file, as `sha256sum` prints it."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def weight_digests(folder: Path) -> dict[str, str]:
    """The digests of a folder's weights, by name."""
    return {path.name: sha256(path) for path in sorted(folder.glob("*.safetensors"))}


def _kind(name: str) -> str | None:
    """Of what a file holds weights: model, adapter_model or objective, whose YAML stands for it too; else None."""
    match = _WEIGHTS.fullmatch(name)
    return match and match[1]


def remove(folder: Path) -> None:
    """Remove a folder, if it is there."""
    if folder.is_dir():
        shutil.rmtree(folder)


def retract(folder: Path, unfinished: Path) -> None:
    """Remove a folder that has its name; it loses that first."""
    unfinished.mkdir(exist_ok=True)
    folder.rename(unfinished / folder.name)
    remove(unfinished)


def _sync_tree(folder: Path) -> None:
    for path in (*folder.rglob("*"), folder):
        sync(path)
