"""Calls of the Linux kernel that Python 3.11 has no functions for."""

from __future__ import annotations

import ctypes
import os

__all__ = [
    "DIE_WITH_PARENT",
    "DUMPABLE",
    "MS_BIND",
    "MS_NODEV",
    "MS_NOEXEC",
    "MS_NOSUID",
    "MS_PRIVATE",
    "MS_REC",
    "NEW_IPC",
    "NEW_MOUNTS",
    "NEW_NETWORK",
    "NEW_PIDS",
    "NEW_USER",
    "NEW_UTS",
    "NO_NEW_PRIVILEGES",
    "SUBREAPER",
    "MissingError",
    "control",
    "forbid",
    "mount",
    "pivot_root",
    "read_only",
    "supported_machine",
    "unmount",
    "unshare",
]

NEW_MOUNTS, NEW_UTS, NEW_IPC, NEW_USER, NEW_PIDS, NEW_NETWORK = (
    0x20000,
    0x4000000,
    0x8000000,
    0x10000000,
    0x20000000,
    0x40000000,
)
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 8, 0x1000, 0x4000, 0x40000
_MNT_DETACH = 2
_MOUNT_SETATTR, _AT_FDCWD, _AT_RECURSIVE = 442, -100, 0x8000
_READ_ONLY, _NO_SETUID, _NO_DEVICES = 1, 2, 4
DIE_WITH_PARENT, DUMPABLE, SUBREAPER, NO_NEW_PRIVILEGES = 1, 4, 36, 38
"""Options of `control`."""
_SET_SECCOMP, _FILTER = 22, 2

# What a program has no honest use for and could get round its limits by: memory and messages that no limit counts,
# sockets that no namespace holds, other processes' memory and files, and large parts of the kernel.
_CALLS = {
    "x86_64": (
        {"pivot_root": 155},
        {
            **{"socket": 41, "shmget": 29, "msgget": 68, "semget": 64, "mq_open": 240, "memfd_create": 319},
            **{"memfd_secret": 447, "ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311, "unshare": 272},
            **{"setns": 308, "mount": 165, "keyctl": 250, "add_key": 248, "request_key": 249, "bpf": 321},
            **{"userfaultfd": 323, "io_uring_setup": 425, "perf_event_open": 298, "io_setup": 206, "pidfd_getfd": 438},
            **{"inotify_init": 253, "inotify_init1": 294, "fanotify_init": 300},
        },
        0xC000003E,
    ),
    "aarch64": (
        {"pivot_root": 41},
        {
            **{"socket": 198, "shmget": 194, "msgget": 186, "semget": 190, "mq_open": 180, "memfd_create": 279},
            **{"memfd_secret": 447, "ptrace": 117, "process_vm_readv": 270, "process_vm_writev": 271, "unshare": 97},
            **{"setns": 268, "mount": 40, "keyctl": 219, "add_key": 217, "request_key": 218, "bpf": 280},
            **{"userfaultfd": 282, "io_uring_setup": 425, "perf_event_open": 241, "io_setup": 0, "pidfd_getfd": 438},
            **{"inotify_init1": 26, "fanotify_init": 262},
        },
        0xC00000B7,
    ),
}
_X32 = 0x40000000
"""Calls from here on are those of another ABI of x86_64, under other numbers."""

_libc = ctypes.CDLL(None, use_errno=True)


class MissingError(Exception):
    """What the system refuses, with its error."""


class _Attributes(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "user_namespace")]


class _Instruction(ctypes.Structure):
    _fields_ = [("code", ctypes.c_ushort), ("yes", ctypes.c_ubyte), ("no", ctypes.c_ubyte), ("value", ctypes.c_uint)]


class _Program(ctypes.Structure):
    _fields_ = [("count", ctypes.c_ushort), ("instructions", ctypes.POINTER(_Instruction))]


def _done(what: str, result: int) -> None:
    if result != 0:
        raise MissingError(f"{what}: {os.strerror(ctypes.get_errno())}")


def supported_machine() -> None:
    """Raises MissingError for a processor that is not in the table of calls."""
    if os.uname().machine not in _CALLS:
        raise MissingError(f"a {os.uname().machine} processor: its system calls are not known; {', '.join(_CALLS)} are")


def unshare(flags: int, what: str) -> None:
    _done(f"a {what} namespace", _libc.unshare(ctypes.c_int(flags)))


def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    result = _libc.mount(
        source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode() if options else None
    )
    _done(f"mounting {source} on {target}", result)


def read_only(target: str, *, recursive: bool) -> None:
    """Without writing, devices and programs of another user, from Linux 5.12 on."""
    attributes = _Attributes(set=_READ_ONLY | _NO_SETUID | _NO_DEVICES)
    result = _libc.syscall(
        ctypes.c_long(_MOUNT_SETATTR),
        ctypes.c_int(_AT_FDCWD),
        target.encode(),
        ctypes.c_uint(_AT_RECURSIVE if recursive else 0),
        ctypes.byref(attributes),
        ctypes.c_size_t(ctypes.sizeof(attributes)),
    )
    _done(f"making {target} read-only", result)


def pivot_root(root: str, old: str) -> None:
    number = _CALLS[os.uname().machine][0]["pivot_root"]
    _done("a root of its own", _libc.syscall(ctypes.c_long(number), root.encode(), old.encode()))


def unmount(target: str) -> None:
    _done(f"unmounting {target}", _libc.umount2(target.encode(), ctypes.c_int(_MNT_DETACH)))


def control(option: int, value: int) -> None:
    """prctl."""
    zero = ctypes.c_ulong(0)
    _done(f"prctl {option}", _libc.prctl(ctypes.c_int(option), ctypes.c_ulong(value), zero, zero, zero))


def forbid() -> None:
    """Let the calls of the table fail with EPERM from now on, in this process and all it starts."""
    _, calls, architecture = _CALLS[os.uname().machine]
    load, equal, at_least, answer = 0x20, 0x15, 0x35, 0x06
    allow, refuse = 0x7FFF0000, 0x00050001
    numbers = sorted(set(calls.values()))
    rest = len(numbers)
    steps = [
        (load, 0, 0, 4),  # the architecture of the call
        (equal, 0, rest + 3, architecture),  # if another: refuse
        (load, 0, 0, 0),  # the number of the call
        (at_least, rest + 1, 0, _X32),
        *((equal, rest - index, 0, number) for index, number in enumerate(numbers)),
        (answer, 0, 0, allow),
        (answer, 0, 0, refuse),
    ]
    instructions = (_Instruction * len(steps))(*(_Instruction(*step) for step in steps))
    program = _Program(len(steps), instructions)
    zero = ctypes.c_ulong(0)
    result = _libc.prctl(ctypes.c_int(_SET_SECCOMP), ctypes.c_ulong(_FILTER), ctypes.byref(program), zero, zero)
    _done("a filter of system calls (seccomp)", result)
