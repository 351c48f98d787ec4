"""Runs one program: reads a job from standard input and writes the answer to standard output."""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from prefopt_code.jail import kernel, room

__all__ = ["main"]

_TAIL = 2000
"""Bytes that are kept of what the program wrote to standard error."""
_OWN = 3
"""Processes of ours, the judge among them, that count against the limit of the program's."""
_LAST_WORDS = 1.0
"""Seconds for a program to end by itself once it is judged, and to say why it failed."""
_HIGH = 20
_MOST_OPEN = 64
"""No file of ours has so high a number."""


def main() -> None:
    """The job: `program`, `tests` (a JSON text for the judge), `interpreter` (the binary), `folders` (what it needs to
    see), `inside` and `judge` (the texts that run the two), `isolated`, and the limits. The answer: `missing`, or
    `status` (the program's, as of wait, null where the time was up), `judge_in_time`, `cpu_seconds`, `report`,
    `judgement` and `errors`.
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
    """Start the program and its judge and wait for them as long as they may take. In a process namespace this process
    is the first, so all others end with it."""
    errors, judge_errors = os.memfd_create("errors"), os.memfd_create("errors")
    heard, told = os.pipe()
    ruled, ruling = os.pipe()
    requested, request = os.pipe()
    answered, answer = os.pipe()
    program = _start(job, "inside", _text(job["program"]), errors, (told, requested, answer))
    judge = _start(job, "judge", _text(job["tests"]), judge_errors, (ruling, answered, request))
    for file in (told, ruling, requested, request, answered, answer):
        os.close(file)
    in_time = _wait(job["seconds"], judge, program)
    # A program that has failed ends by itself, one that is judged has nothing left to do, and without it there is
    # nothing left to judge.
    ended = in_time and _wait(_LAST_WORDS, judge) and _wait(_LAST_WORDS, program)
    if not ended:
        for pid in (program, judge):
            os.kill(pid, signal.SIGKILL)
    _, judged = os.waitpid(judge, 0)
    _, status, used = os.wait4(program, 0)
    return {
        "status": status if in_time else None,
        "judge_in_time": not (os.WIFSIGNALED(judged) and os.WTERMSIG(judged) == signal.SIGXCPU),
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "report": _heard(heard),
        "judgement": _heard(ruled),
        "errors": _end(errors) + _end(judge_errors),
    }


def _start(job: Mapping[str, Any], role: str, source: int, errors: int, files: Sequence[int]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            _become(job, role, (source, *files), errors)
        except BaseException as error:
            os.write(errors, f"{type(error).__name__}: {error}".encode())
        os._exit(1)
    os.close(source)
    return pid


def _text(text: str) -> int:
    file = os.memfd_create("text")
    content = text.encode("utf-8", "surrogatepass")
    while content:
        content = content[os.write(file, content) :]
    os.lseek(file, 0, os.SEEK_SET)
    return file


def _wait(seconds: float, *pids: int) -> bool:
    """Whether one of the processes ends in this time."""
    ended = select.poll()
    files = [os.pidfd_open(pid) for pid in pids]
    for file in files:
        ended.register(file, select.POLLIN)
    in_time = bool(ended.poll(seconds * 1000))
    for file in files:
        os.close(file)
    return in_time


def _heard(pipe: int) -> str:
    os.set_blocking(pipe, False)
    try:
        return os.read(pipe, 1000).decode(errors="replace")
    except BlockingIOError:
        return ""


def _end(errors: int) -> str:
    size = os.fstat(errors).st_size
    return os.pread(errors, _TAIL, max(0, size - _TAIL)).decode(errors="replace")


def _become(job: Mapping[str, Any], role: str, files: Sequence[int], errors: int) -> None:
    """Turn into an interpreter that runs the program or its tests, within the program's limits."""
    os.setsid()  # or a signal to its group would reach us
    high = [os.dup2(file, _HIGH + number) for number, file in enumerate((errors, *files))]
    nothing = os.open("/dev/null", os.O_RDWR)
    for number, file in enumerate((nothing, nothing, *high)):
        os.dup2(file, number, inheritable=True)
    os.closerange(2 + len(high), _MOST_OPEN)
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
    os.execve(job["interpreter"], [job["interpreter"], "-sSPB", "-c", job[role]], surroundings)


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
