"""Programs that mean harm do none outside of the sandbox, and honest ones pass."""

from __future__ import annotations

import os
import re
import socket
import sys
import threading
import time
from pathlib import Path

import pytest
from prefopt_code import sandbox
from prefopt_code.jail import kernel
from prefopt_code.sandbox import Limits, Outcome, Sandbox, SandboxError, Verdict

LIMITS = Limits(seconds=60, cpu_seconds=10, memory_mib=128, processes=8, file_mib=2, files=20)
BRIEF = LIMITS.model_copy(update={"seconds": 1})
NAMED = "import ctypes, os, signal, sys, time\nctypes.CDLL(None).prctl(15, b'{name}', 0, 0, 0)\n"
"""The name that a program gives itself and its children, by which the tests search for them outside."""


@pytest.fixture(scope="module")
def isolated(allowed: None) -> Sandbox:
    return Sandbox(LIMITS)


@pytest.fixture
def name() -> str:
    return f"canary{os.getpid() % 10**6}"


def running(name: str) -> int:
    """How many processes of that name there are on the whole machine."""
    count = 0
    for path in Path("/proc").glob("[0-9]*/comm"):
        try:
            count += path.read_text().strip() == name
        except (FileNotFoundError, ProcessLookupError):
            continue
    return count


def last(outcome: Outcome) -> str:
    return outcome.errors.strip().splitlines()[-1]


HOSTILE = {
    "a fork bomb": ("while True: os.fork()", Verdict.REFUSED, "Resource temporarily unavailable"),
    "a memory eater": ("eaten = []\nwhile True: eaten.append(bytearray(2**20))", Verdict.OUT_OF_MEMORY, "MemoryError"),
    "a list too long": ("[0] * 10**12", Verdict.OUT_OF_MEMORY, "MemoryError"),
    "memory that belongs to no process": ("os.memfd_create('x')", Verdict.REFUSED, "not permitted"),
    "shared memory": (
        "if ctypes.CDLL(None, use_errno=True).shmget(0, 4096, 0o1600) < 0: raise OSError(ctypes.get_errno(), 'no')",
        Verdict.REFUSED,
        "no",
    ),
    "kill -1": (
        "if os.fork() == 0:\n  time.sleep(60)\nos.kill(-1, signal.SIGKILL)\nos.kill(1, signal.SIGKILL)\n"
        "os.kill(0, signal.SIGKILL)",
        Verdict.FAILED,
        "SIGKILL",
    ),
    "a daemon": (
        "if os.fork() == 0:\n  os.setsid()\n  if os.fork() == 0:\n    while True: time.sleep(60)\n  os._exit(0)",
        Verdict.PASSED,
        None,
    ),
    "a huge file": ("with open('x', 'w') as f:\n  while True: f.write('x' * 10**6)", Verdict.REFUSED, "File too large"),
    "a huge file with holes": (
        "os.truncate(os.open('x', os.O_CREAT | os.O_RDWR), 2**40)",
        Verdict.REFUSED,
        "too large",
    ),
    "several large files": (
        "for n in range(9):\n  with open(str(n), 'w') as f: f.write('x' * 10**6)",
        Verdict.REFUSED,
        "No space left",
    ),
    "many files": ("for n in range(10**6): open(str(n), 'w').close()", Verdict.REFUSED, "No space left"),
    "many folders": ("while True:\n  os.mkdir('x')\n  os.chdir('x')", Verdict.REFUSED, "No space left"),
    "many open files": ("kept = [open('/dev/null') for _ in range(10**6)]", Verdict.REFUSED, "Too many open files"),
    "a flood on standard error": ("while True: os.write(2, b'x' * 10**6)", Verdict.REFUSED, None),
    "a file in the root": ("open('/x', 'w')", Verdict.REFUSED, "Read-only file system"),
    "a change of the library": ("os.remove(os.__file__)", Verdict.REFUSED, "Read-only file system"),
    "a root of its own": ("os.chroot('.')", Verdict.REFUSED, "not permitted"),
    "a namespace of its own": (
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "if libc.unshare(0x10000000) < 0: raise OSError(ctypes.get_errno(), 'no')",
        Verdict.REFUSED,
        "no",
    ),
    "another user": ("os.setuid(0)", Verdict.FAILED, "Invalid argument"),
    "tracing its keeper": (
        "if ctypes.CDLL(None, use_errno=True).ptrace(16, 1, 0, 0) < 0: raise OSError(ctypes.get_errno(), 'no')",
        Verdict.REFUSED,
        "no",
    ),
    "a watch of files": (
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "if libc.inotify_init1(0) < 0: raise OSError(ctypes.get_errno(), 'no')",
        Verdict.REFUSED,
        "no",
    ),
    "a socket": ("import socket\nsocket.socket()", Verdict.REFUSED, "not permitted"),
    "exit": ("sys.exit(0)", Verdict.FAILED, "SystemExit: 0"),
    "a child's success": (
        "if os.fork(): os._exit(0)",
        Verdict.FAILED,
        "ended itself before its end",
    ),
    "a quiet exit": ("os._exit(0)", Verdict.FAILED, "ended itself before its end"),
    "an outcome of its own": ("os.write(4, b'passed')\nos._exit(0)", Verdict.FAILED, "ended itself"),
    "a crash": ("ctypes.string_at(0)", Verdict.FAILED, "SIGSEGV"),
    "a signal without a name": ("os.kill(os.getpid(), 40)", Verdict.FAILED, "ended by signal 40"),
    "no bottom": ("def f(): f()\nf()", Verdict.FAILED, "RecursionError"),
    "a parser's bottom": (f"{'(' * 5000}1{')' * 5000}", Verdict.UNREADABLE, "SyntaxError|MemoryError"),
    "no program": ("def f(:", Verdict.UNREADABLE, "SyntaxError"),
}


ENDLESS = {
    "a loop": "while True: pass",
    "a loop that ignores signals": (
        "for n in range(1, 32):\n  try: signal.signal(n, signal.SIG_IGN)\n  except OSError: pass\nwhile True: pass"
    ),
    "sleep": "time.sleep(60)",
    "a patient fork bomb": "while True:\n  try: os.fork()\n  except OSError: time.sleep(0.01)",
    "a flood on standard output": "while True: print('x' * 10**6)",
}


@pytest.mark.parametrize("case", HOSTILE)
def test_harm_stays_inside(case: str, isolated: Sandbox, name: str) -> None:
    program, verdict, errors = HOSTILE[case]
    outcome = isolated.run(NAMED.format(name=name) + program)
    assert outcome.verdict is verdict, outcome
    if errors is not None:
        assert re.search(errors, last(outcome)), outcome
    assert len(outcome.errors) <= 2100
    assert running(name) == 0


@pytest.mark.parametrize("case", ENDLESS)
def test_what_does_not_end_is_ended(case: str, allowed: None, name: str) -> None:
    outcome = Sandbox(BRIEF).run(NAMED.format(name=name) + ENDLESS[case])
    assert outcome.verdict is Verdict.TIMED_OUT, outcome
    assert running(name) == 0


def test_computing_has_a_limit_of_its_own(allowed: None) -> None:
    outcome = Sandbox(LIMITS.model_copy(update={"cpu_seconds": 1})).run("while True: pass")
    assert outcome == Outcome(Verdict.TIMED_OUT, "ended by SIGXCPU")


def test_what_runs_is_found_by_its_name(allowed: None, name: str) -> None:
    """So that finding none, above, means something; and no mount is left either."""
    seen: list[int] = []
    mounts = Path("/proc/self/mountinfo").read_text()
    program = NAMED.format(name=name) + "if os.fork() == 0: time.sleep(60)\ntime.sleep(60)"
    thread = threading.Thread(target=Sandbox(BRIEF).run, args=(program,))
    thread.start()
    while thread.is_alive():
        seen.append(running(name))
        time.sleep(0.05)
    assert max(seen) == 2
    assert running(name) == 0
    assert Path("/proc/self/mountinfo").read_text() == mounts


def test_files_outside_cannot_be_seen_or_deleted(isolated: Sandbox, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    canary.write_text("alive")
    program = """
import os, shutil
shutil.rmtree({folder!r}, ignore_errors=True)
for path in ({folder!r}, "/proc", "/sys", "/dev/shm", "/run", "/var", "/etc/passwd", "/old"):
    assert not os.path.exists(path), path
seen = [os.path.join(above, name) for above in ({home!r}, "/") if os.path.exists(above) for name in os.listdir(above)]
for path in seen:
    assert path in ("/dev", "/etc", "/lib", "/lib32", "/lib64", "/tmp", "/usr") or {prefix!r}.startswith(path), path
open({canary!r}, "w")
""".format(folder=str(tmp_path), home=str(Path.home()), canary=str(canary), prefix=sys.base_prefix)
    outcome = isolated.run(program)
    assert "FileNotFoundError" in last(outcome), outcome
    assert canary.read_text() == "alive"


def test_the_network_is_out_of_reach(isolated: Sandbox) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        address = server.getsockname()
        with socket.create_connection(address), server.accept()[0]:
            pass  # it can be reached from here
        outcome = isolated.run(f"import socket\nsocket.create_connection({address!r}, timeout=1)")
        assert outcome.verdict is Verdict.REFUSED, outcome
        with pytest.raises(TimeoutError):
            server.accept()


def test_secrets_of_the_environment_are_not_there(isolated: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_SECRET", "hidden")
    allowed = {"PATH", "HOME", "TMPDIR", "PYTHONHASHSEED", "LC_ALL"}
    program = f"import os, sys\nassert set(os.environ) == {allowed!r}, os.environ\nassert os.listdir('.') == []"
    assert isolated.run(program) == Outcome(Verdict.PASSED, "")
    program = "import sys\nassert not any('site-packages' in path for path in sys.path)\nimport torch"
    assert "ModuleNotFoundError" in last(isolated.run(program))


HONEST = {
    "tests": "def f(x):\n    return x + 1\nassert f(1) == 2",
    "the standard library": "import collections, dataclasses, heapq, itertools, json, math, random, re, string, typing",
    "files": "import os\nwith open('x', 'w') as f: f.write('y')\nassert open('x').read() == 'y'\nos.remove('x')",
    "temporary files": "import tempfile\nwith tempfile.TemporaryDirectory() as t: open(t + '/x', 'w').close()",
    "threads": "from concurrent.futures import ThreadPoolExecutor as Pool\nassert sum(Pool(2).map(int, '12')) == 3",
    "dataclasses": (
        "from dataclasses import dataclass\nimport typing\n@dataclass\nclass A:\n    x: 'int' = 1\n"
        "assert typing.get_type_hints(A) == {'x': int}"
    ),
    "output": "for n in range(10**5): print(n)",
    "its name": "assert __name__ == '__main__'",
    "asyncio": "import asyncio\nasync def f(): return 1\nassert asyncio.run(f()) == 1",
    "a pair of sockets": "import socket\na, b = socket.socketpair()\na.send(b'x')\nassert b.recv(1) == b'x'",
    "other letters": "assert 'Ł' + 'é' == 'Łé'",
    "the same order each time": "assert hash('prefopt') == hash('prefopt')",
}


@pytest.mark.parametrize("case", HONEST)
def test_honest_programs_pass(case: str, isolated: Sandbox) -> None:
    assert isolated.run(HONEST[case]) == Outcome(Verdict.PASSED, "")


def test_programs_run_side_by_side_in_their_order(isolated: Sandbox) -> None:
    outcomes = isolated.run_all(["pass", "assert False", "pass", "x x"])
    assert [outcome.verdict for outcome in outcomes] == ["passed", "failed", "passed", "unreadable"]
    texts = [isolated.run("print(end='')\nassert 0, list({'a', 'b', 'c', 'd', 'e'})").errors for _ in range(3)]
    assert len(set(texts)) == 1


def test_without_isolation_the_limits_hold(name: str) -> None:
    box, brief = (Sandbox(limits, isolation="rlimits") for limits in (LIMITS, BRIEF))
    for case in ("a memory eater", "a huge file", "a daemon", "exit", "no program"):
        program, verdict, _ = HOSTILE[case]
        assert box.run(NAMED.format(name=name) + program).verdict is verdict, case
        assert running(name) == 0, case
    assert brief.run(NAMED.format(name=name) + ENDLESS["sleep"]).verdict is Verdict.TIMED_OUT
    assert running(name) == 0
    folder = box.run("import os\nopen('x', 'w').close()\nassert False, os.getcwd()")
    assert not Path(last(folder).removeprefix("AssertionError: ")).exists()


def test_what_is_missing_is_named_and_nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "_START", 'print(\'{"missing": "a user namespace: Operation not permitted"}\')')
    box = Sandbox()
    for run in (box.check, lambda: box.run("pass"), lambda: box.run_all(["pass"])):
        with pytest.raises(SandboxError, match="refuses a user namespace: Operation not permitted") as raised:
            run()
        assert "isolation: rlimits" in str(raised.value)
    monkeypatch.setattr(sandbox, "_START", "raise RuntimeError('broken')")
    with pytest.raises(SandboxError, match="RuntimeError: broken"):
        box.check()
    monkeypatch.setattr(sandbox, "_START", "pass")
    with pytest.raises(SandboxError, match=r"does not run Python here: failed. the whole sandbox was ended by SIGKILL"):
        box.check()
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(SandboxError, match=r"on Linux only.*this is darwin"):
        box.check()


def test_a_sandbox_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "_START", "import time; time.sleep(60)")
    monkeypatch.setattr(sandbox, "_GRACE", 0.1)
    box = Sandbox(Limits(seconds=0.1))
    with pytest.raises(SandboxError, match="timed out"):
        box.check()


def test_the_kernels_refusals_say_of_what() -> None:
    with pytest.raises(kernel.MissingError, match="unmounting /nowhere: "):
        kernel.unmount("/nowhere")


def test_every_call_of_the_table_is_refused(isolated: Sandbox) -> None:
    _, calls, _ = kernel._CALLS[os.uname().machine]
    numbers = [*calls.values(), 0x40000000 + 39]  # the last is another ABI's, where the processor has one
    program = f"""
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
for number in {numbers}:
    assert libc.syscall(number, 0, 0, 0, 0, 0, 0) == -1, number
    assert ctypes.get_errno() == errno.EPERM, (number, ctypes.get_errno())
assert libc.getpid() > 1
"""
    assert isolated.run(program) == Outcome(Verdict.PASSED, "")


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_calls_that_the_page_names_are_in_the_table(machine: str) -> None:
    _, calls, _ = kernel._CALLS[machine]
    assert {"io_setup", "io_uring_setup", "inotify_init1", "fanotify_init", "pidfd_getfd", "socket"} < calls.keys()
    assert "socketpair" not in calls
    assert len(set(calls.values())) == len(calls)


def test_an_unknown_processor_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel.supported_machine()
    monkeypatch.setattr(kernel, "_CALLS", {"sparc": ()})
    with pytest.raises(kernel.MissingError, match="its system calls are not known; sparc are"):
        kernel.supported_machine()
