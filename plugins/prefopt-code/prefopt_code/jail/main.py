"""Runs one program: reads a job from standard input and writes the answer to standard output."""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import sys
from collections.abc import Mapping
from typing import Any

from prefopt_code.jail import kernel, room

__all__ = ["main"]

_TAIL = 2000
"""Bytes that are kept of what the program wrote to standard error."""
_OWN = 2
"""Processes of ours that count against the limit of the program's."""
_HIGH = 10
_MOST_OPEN = 64
"""No file of ours has so high a number."""


def main() -> None:
    """The job: `program`, `token`, `interpreter` (the binary), `folders` (what it needs to see), `inside` (the text
    that runs the program), `isolated`, and the limits. The answer: `missing`, or `status` (as of wait, null where the
    time was up), `cpu_seconds`, `report` and `errors`.
    """
    job = json.load(sys.stdin)
    answers = os.dup(1)
    try:
        if job["isolated"]:
            room.enter(job["folders"], size=job["file_bytes"], files=job["files"])
        else:
            os.chdir(job["folder"])
            kernel.control(kernel.SUBREAPER, 1)
        keeper = os.fork()
    except (kernel.MissingError, OSError) as error:
        _answer(answers, {"missing": str(error)})
        return
    if keeper == 0:
        kernel.control(kernel.DIE_WITH_PARENT, signal.SIGKILL)
        kernel.control(kernel.DUMPABLE, 0)  # so that the program cannot trace us
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        _answer(answers, _watch(job))
        os._exit(0)
    os.waitpid(keeper, 0)
    if not job["isolated"]:
        _sweep()


def _answer(to: int, answer: Mapping[str, Any]) -> None:
    os.write(to, json.dumps(answer).encode())


def _watch(job: Mapping[str, Any]) -> dict[str, Any]:
    """Start the program and wait for it as long as it may take. In a process namespace this process is the first, so
    all others end with it."""
    source, errors = os.memfd_create("program"), os.memfd_create("errors")
    os.write(source, f"{job['token']}\n{job['program']}".encode("utf-8", "surrogatepass"))
    os.lseek(source, 0, os.SEEK_SET)
    heard, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            _become(job, source, errors, told)
        except BaseException as error:
            os.write(errors, f"{type(error).__name__}: {error}".encode())
        os._exit(1)
    os.close(told)
    ended = select.poll()
    ended.register(os.pidfd_open(pid), select.POLLIN)
    in_time = bool(ended.poll(job["seconds"] * 1000))
    if not in_time:
        os.kill(pid, signal.SIGKILL)
    _, status, used = os.wait4(pid, 0)
    os.set_blocking(heard, False)
    try:
        report = os.read(heard, 1000)
    except BlockingIOError:
        report = b""
    size = os.fstat(errors).st_size
    tail = os.pread(errors, _TAIL, max(0, size - _TAIL))
    return {
        "status": status if in_time else None,
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "report": report.decode(errors="replace"),
        "errors": tail.decode(errors="replace"),
    }


def _become(job: Mapping[str, Any], source: int, errors: int, report: int) -> None:
    """Turn into an interpreter that runs the program, within its limits."""
    os.setsid()  # or a signal to its group would reach us
    high = [os.dup2(file, _HIGH + number) for number, file in enumerate((source, errors, report))]
    nothing = os.open("/dev/null", os.O_RDWR)
    for number, file in enumerate((nothing, nothing, high[1], high[0], high[2])):
        os.dup2(file, number, inheritable=True)
    os.closerange(5, _MOST_OPEN)
    cpu = job["cpu_seconds"]
    limits = {
        resource.RLIMIT_CPU: (cpu, cpu + 1),
        resource.RLIMIT_AS: job["memory_bytes"],
        resource.RLIMIT_FSIZE: job["file_bytes"],
        resource.RLIMIT_NOFILE: 32,
        resource.RLIMIT_CORE: 0,
    }
    if job["isolated"]:
        limits[resource.RLIMIT_NPROC] = job["processes"] + _OWN
    for which, limit in limits.items():
        resource.setrlimit(which, limit if isinstance(limit, tuple) else (limit, limit))
    kernel.control(kernel.NO_NEW_PRIVILEGES, 1)
    if job["isolated"]:
        kernel.forbid()
    surroundings = {"PATH": "", "HOME": os.getcwd(), "TMPDIR": os.getcwd(), "PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8"}
    # -s, -S, -P, -B: without the user's packages, installed ones, the folder, and without writing bytecode.
    os.execve(job["interpreter"], [job["interpreter"], "-sSPB", "-c", job["inside"]], surroundings)


def _sweep() -> None:
    """End what the program left running; it became ours when its parent ended."""
    while True:
        with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:
            children = [int(pid) for pid in file.read().split()]
        if not children:
            return
        for pid in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
