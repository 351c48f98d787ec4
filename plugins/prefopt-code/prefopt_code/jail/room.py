"""The place that a program is run in: a root with the interpreter, read-only, and one small folder to write to."""

from __future__ import annotations

import os
from collections.abc import Sequence

from prefopt_code.jail import kernel

__all__ = ["WORK", "enter"]

WORK = "/tmp"
_NOBODY = 65534
_INSIDE = 1000
"""The user's number inside."""
_OLD, _ROOT = "/old", "/root"
_LIBRARIES = ("/usr/lib", "/usr/lib32", "/usr/lib64", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")
_APART = kernel.NEW_MOUNTS | kernel.NEW_PIDS | kernel.NEW_NETWORK | kernel.NEW_IPC | kernel.NEW_UTS


def enter(interpreter: Sequence[str], *, size: int, files: int) -> None:
    """Leave the system behind: the processes that this one starts from now on see no others, no network and no file but
    the interpreter's folders and the system's libraries, read-only, and WORK, which holds `size` bytes and `files`
    files and is gone when they are.

    Root becomes a user without rights first, since limits do not bind root. Raises kernel.MissingError for what the
    system does not give.
    """
    kernel.supported_machine()
    processes = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
    if os.geteuid() == 0:
        _room(interpreter, size, files)
        _become_nobody()
        _own_user(processes)
    else:
        _own_user(processes)
        _room(interpreter, size, files)
    os.close(processes)
    # Whoever has another root than that of his mounts is given no user namespace, in which he would have rights again.
    os.chroot(_ROOT)
    os.chdir(WORK)


def _own_user(processes: int) -> None:
    user, group = os.geteuid(), os.getegid()
    kernel.unshare(kernel.NEW_USER, "user")
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{_INSIDE} {user} 1"),
        ("gid_map", f"{_INSIDE} {group} 1"),
    ):
        try:
            file = os.open(f"self/{name}", os.O_WRONLY, dir_fd=processes)
            os.write(file, text.encode())
            os.close(file)
        except OSError as error:
            raise kernel.MissingError(f"writing /proc/self/{name}: {error.strerror}") from error


def _become_nobody() -> None:
    try:
        os.setgroups([])
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    except OSError as error:
        raise kernel.MissingError(f"becoming user {_NOBODY}: {error.strerror}") from error
    kernel.control(kernel.DUMPABLE, 1)  # or its own files in /proc would be root's


def _room(interpreter: Sequence[str], size: int, files: int) -> None:
    kernel.unshare(_APART, "mount, process, network, IPC or host name")
    kernel.mount("none", "/", "", kernel.MS_REC | kernel.MS_PRIVATE)
    plain = kernel.MS_NOSUID | kernel.MS_NODEV
    kernel.mount("tmpfs", "/tmp", "tmpfs", plain, "size=1m,nr_inodes=200,mode=755")
    os.mkdir(f"/tmp{_OLD}")
    kernel.pivot_root("/tmp", f"/tmp{_OLD}")
    os.chdir("/")
    os.mkdir(_ROOT)
    bound: list[str] = []
    for path in (*interpreter, *_LIBRARIES):
        if not any(path == other or path.startswith(f"{other}/") for other in bound) and os.path.lexists(_OLD + path):
            _give(path)
            bound.append(path)
    for path in _DEVICES:
        _bind(path)
    os.mkdir(_ROOT + WORK)
    kernel.mount(
        "tmpfs", _ROOT + WORK, "tmpfs", plain | kernel.MS_NOEXEC, f"size={size},nr_inodes={files + 1},mode=1777"
    )
    kernel.unmount(_OLD)
    kernel.read_only("/", recursive=False)


def _give(path: str) -> None:
    """The same path as outside, read-only."""
    if os.path.islink(_OLD + path):
        os.makedirs(os.path.dirname(_ROOT + path), exist_ok=True)
        os.symlink(os.readlink(_OLD + path), _ROOT + path)
    else:
        _bind(path)
        kernel.read_only(_ROOT + path, recursive=True)


def _bind(path: str) -> None:
    if os.path.isdir(_OLD + path):
        os.makedirs(_ROOT + path, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(_ROOT + path), exist_ok=True)
        os.close(os.open(_ROOT + path, os.O_CREAT, 0o644))
    kernel.mount(_OLD + path, _ROOT + path, "", kernel.MS_BIND | kernel.MS_REC)
