"""Runs untrusted programs in isolation."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, final

from pydantic import Field

from prefopt.progress import tracked
from prefopt.validation import Settings
from prefopt_code import jail

__all__ = ["Isolation", "Limits", "Outcome", "Program", "Sandbox", "SandboxError", "Verdict"]

Isolation = Literal["namespaces", "rlimits"]

_JAIL = Path(jail.__file__).parent
# A bare package in the place of prefopt_code/__init__.py, which imports prefopt and torch and takes seconds.
_START = f"""
import sys, types
package = sys.modules["prefopt_code"] = types.ModuleType("prefopt_code")
package.__path__ = [{str(_JAIL.parent)!r}]
from prefopt_code.jail.main import main
main()
"""
_ROLE = """
import sys, types
for name in ("prefopt_code", "prefopt_code.jail"):
    sys.modules[name] = types.ModuleType(name)
wire = sys.modules["prefopt_code.jail.wire"] = types.ModuleType("prefopt_code.jail.wire")
exec({wire!r}, wire.__dict__)
exec({text!r}, {{"__name__": "__main__"}})
"""
"""Runs a module of the jail in an interpreter that has no file of it."""
_GRACE = 10.0
"""Seconds beyond its own time after which a sandbox is given up."""
_NOTHING = {"judge_in_time": True, "cpu_seconds": 0, "report": "", "judgement": ""}
_ENDED = json.dumps(_NOTHING | {"status": signal.SIGKILL, "errors": "the whole sandbox was "})
"""The answer of a sandbox that was ended from outside, as by a system that had no memory left."""
_READY = "assert sum(range(10)) == 45"


@final
class SandboxError(RuntimeError):
    """Programs cannot be run here as they should be; the message says what is missing and how to go on."""


class Verdict(StrEnum):
    """What became of a program."""

    PASSED = "passed"
    FAILED = "failed"
    UNREADABLE = "unreadable"
    TIMED_OUT = "timed out"
    OUT_OF_MEMORY = "out of memory"
    REFUSED = "refused"


@final
class Outcome(NamedTuple):
    """A program's verdict, and the end of what it wrote to standard error."""

    verdict: Verdict
    errors: str


@final
class Program(NamedTuple):
    """A program, and tests that see of it nothing but plain data and numbers for its other objects.

    source  what is run in the program's process
    tests   what is run in the judge's: the program passes if they come to their end
    setup   what is run there before: imports, helpers and data of the tests
    names   of the program, that setup and tests call
    """

    source: str
    tests: str = ""
    setup: str = ""
    names: tuple[str, ...] = ()


@final
class Limits(Settings):
    """What one program may use.

    seconds      on the clock, with the start of the interpreter
    cpu_seconds  of computing, of each process
    memory_mib   of address space, of each process
    processes    and threads, at a time; not counted where `isolation` is "rlimits"
    file_mib     of all files together, and of each
    files        files and folders at a time; not counted where `isolation` is "rlimits"
    """

    seconds: float = Field(default=10.0, gt=0)
    cpu_seconds: int = Field(default=3, ge=1)
    memory_mib: int = Field(default=512, ge=64)
    processes: int = Field(default=1, ge=1)
    file_mib: int = Field(default=16, ge=1)
    files: int = Field(default=64, ge=1)


@final
class Sandbox:
    """Runs Python programs of the standard library, each in an interpreter of its own.

    isolation  "namespaces": no network, no file but the interpreter's and one folder that is gone afterwards, no other
               process in sight, no rights; of Linux 5.14 or newer. "rlimits": the limits alone, under the caller's own
               user, with his files and his network, for programs that are trusted, or where all of this runs in a
               container that can be lost

    Raises SandboxError, at the first program, where the system does not give what that takes.
    """

    def __init__(self, limits: Limits | None = None, *, isolation: Isolation = "namespaces") -> None:
        self.limits = limits or Limits()
        self.isolation = isolation
        self._checked = False

    def run(self, program: Program | str) -> Outcome:
        """Run a program, which passes if it and its tests come to their end. Without tests it alone says whether it
        did."""
        self.check()
        return self._run(program)

    def run_all(self, programs: Sequence[Program | str]) -> list[Outcome]:
        """The outcomes of programs, in their order; as many run at a time as there are cores for this process."""
        self.check()
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            return list(tracked(pool.map(self._run, programs), "running programs", len(programs)))

    def check(self) -> None:
        """Run a program that has to pass, the first time. Raises SandboxError where programs cannot be run."""
        if self._checked:
            return
        if sys.platform != "linux":
            raise SandboxError(
                f"programs of a model are run on Linux only, in namespaces of its kernel; this is {sys.platform}. "
                "Run this in a Linux container or virtual machine."
            )
        outcome = self._run(_READY)
        if outcome.verdict is not Verdict.PASSED:
            raise SandboxError(f"the sandbox does not run Python here: {outcome.verdict}. {outcome.errors}")
        self._checked = True

    def _run(self, program: Program | str) -> Outcome:
        program = Program(program) if isinstance(program, str) else program
        token = secrets.token_hex(16)
        with tempfile.TemporaryDirectory(prefix="prefopt-program-") as folder:
            answer = self._answer(self._job(program, token, folder))
        if "missing" in answer:
            raise SandboxError(
                f"programs of a model cannot be run here in isolation: the system refuses {answer['missing']}. Run "
                "this where user, mount, process and network namespaces are allowed (outside of a container, or in one "
                "of its own with `--privileged`), or set `isolation: rlimits`, which guards neither files nor network, "
                "if what the programs could reach may be lost."
            )
        return _judged(answer, token, self.limits)

    def _job(self, program: Program, token: str, folder: str) -> dict[str, Any]:
        tests = {"tests": program.tests, "setup": program.setup, "names": program.names, "token": token}
        return {
            "program": program.source,
            "tests": json.dumps(tests),
            "inside": _role("inside"),
            "judge": _role("judge"),
            "interpreter": _interpreter(),
            "folders": sorted({sys.base_prefix, sys.base_exec_prefix}),
            "folder": folder,
            "isolated": self.isolation == "namespaces",
            "seconds": self.limits.seconds,
            "cpu_seconds": self.limits.cpu_seconds,
            "memory_bytes": self.limits.memory_mib * 2**20,
            "processes": self.limits.processes,
            "file_bytes": self.limits.file_mib * 2**20,
            "files": self.limits.files,
        }

    def _answer(self, job: dict[str, Any]) -> dict[str, Any]:
        with subprocess.Popen(
            [_interpreter(), "-I", "-S", "-B", "-c", _START],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={},
            start_new_session=True,
        ) as process:
            try:
                answer, errors = process.communicate(json.dumps(job).encode(), timeout=self.limits.seconds + _GRACE)
            except BaseException as error:
                os.killpg(process.pid, signal.SIGKILL)
                if isinstance(error, subprocess.TimeoutExpired):
                    return _NOTHING | {"status": None, "errors": ""}
                raise
        if errors:
            raise SandboxError(f"the sandbox failed: {errors.decode(errors='replace')}")
        content: dict[str, Any] = json.loads(answer or _ENDED)
        return content


@cache
def _role(name: str) -> str:
    text, wire = ((_JAIL / f"{module}.py").read_text(encoding="utf-8") for module in (name, "wire"))
    return _ROLE.format(text=text, wire=wire)


def _interpreter() -> str:
    return os.path.realpath(getattr(sys, "_base_executable", sys.executable))


def _judged(answer: dict[str, Any], token: str, limits: Limits) -> Outcome:
    status, report, errors = answer["status"], answer["report"], answer["errors"]
    if status is None:
        return Outcome(Verdict.TIMED_OUT, errors)
    if answer["judgement"] == token:
        return Outcome(Verdict.PASSED, errors)
    told = {"memory": Verdict.OUT_OF_MEMORY, "refused": Verdict.REFUSED, "unreadable": Verdict.UNREADABLE}
    if answer["judgement"]:
        return Outcome(told.get(answer["judgement"], Verdict.FAILED), errors)
    if not answer["judge_in_time"]:
        return Outcome(Verdict.TIMED_OUT, f"{errors}the tests were ended by SIGXCPU")
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        in_time = number != signal.SIGXCPU and answer["cpu_seconds"] < limits.cpu_seconds
        verdict = Verdict.FAILED if in_time else Verdict.TIMED_OUT
        names = {item.value: item.name for item in signal.Signals}  # not every signal has one
        return Outcome(verdict, f"{errors}ended by {names.get(number, f'signal {number}')}")
    return Outcome(told.get(report, Verdict.FAILED), errors or "it ended itself before its end")
