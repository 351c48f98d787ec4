"""Programs that are wrong and want to pass: none of them does, as their tests run where they have no part."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from prefopt_code.problems import Problems
from prefopt_code.sandbox import Limits, Outcome, Program, Sandbox, Verdict

TESTS = "assert add(1, 2) == 3\nassert add(2, 2) == 4 and isinstance(add(0, 0), int)\nassert len(str(add(1, 1))) == 1"
"""Tests that compare, look at a type and call functions of Python's own."""

WRONG = "def add(a, b): return a * b - 7\n"

FORGERIES = {
    "every frame and what it holds": (
        "import sys, gc, os\n"
        "def add(a, b):\n"
        "  frame, seen = sys._getframe(), []\n"
        "  while frame:\n"
        "    seen += [*frame.f_locals.values(), *frame.f_globals.values()]\n"
        "    frame = frame.f_back\n"
        "  seen += gc.get_objects()\n"
        "  for text in {x for x in seen if isinstance(x, str) and len(x) in (4, 32)}:\n"
        "    for file in range(3, 32):\n"
        "      try: os.write(file, text.encode())\n"
        "      except OSError: pass\n"
        "  os._exit(0)"
    ),
    "an object that equals all": (
        "class All(int):\n  def __eq__(self, other): return True\n  def __hash__(self): return 0\n"
        "  def __len__(self): return 1\n  def __str__(self): return 'x'\n"
        "def add(a, b): return All(9)"
    ),
    "an object of no plain class that equals all": (
        "class All:\n  __class__ = int\n  def __eq__(self, other): return True\ndef add(a, b): return All()"
    ),
    "other functions of Python's own": (
        "import builtins\nbuiltins.len = lambda x: 1\nbuiltins.isinstance = lambda *a: True\n"
        "builtins.str = builtins.int = lambda x: '3'\nlen = isinstance = str = lambda *a: 1\n" + WRONG
    ),
    "functions of the module with names of Python's": (
        "def len(x): return 1\ndef str(x): return '1'\ndef isinstance(*a): return True\n" + WRONG
    ),
    "a quiet end when it is called": "import os\ndef add(a, b): os._exit(0)",
    "SystemExit when it is called": "def add(a, b): raise SystemExit(0)",
    "AssertionError caught": "import sys\nsys.excepthook = lambda *a: None\n" + WRONG,
    "an end of its own": "import atexit, os\natexit.register(lambda: os._exit(0))\n" + WRONG,
    "answers beforehand": (
        "import os\nfor value in (None, None, 3, 4, 0, 2): os.write(6, ('{\"value\": %s}\\n' % "
        "('null' if value is None else value)).encode())\nos.write(4, b'passed')\n" + WRONG
    ),
    "an end of the judge": "import os, signal\ndef add(a, b): os.kill(-1, signal.SIGKILL)",
    "a signal for each number": (
        "import os, signal\ndef add(a, b):\n  for pid in range(1, 99):\n    if pid != os.getpid():\n"
        "      try: os.kill(pid, signal.SIGTERM)\n      except OSError: pass\n  return 9"
    ),
    "a thread that answers": (
        "import threading, os, time\ndef loop():\n  for _ in range(50):\n    os.write(6, b'{\"value\": 3}\\n')\n"
        "    time.sleep(0.001)\nthreading.Thread(target=loop, daemon=True).start()\n" + WRONG
    ),
    "a child that answers": (
        "import os\nif os.fork() == 0:\n  os.write(6, b'{\"value\": null}\\n' * 9)\n  os._exit(0)\n" + WRONG
    ),
    "an end, and a child that holds its files": (
        "import os, time\ndef add(a, b):\n  if os.fork(): os._exit(0)\n  time.sleep(60)"
    ),
    "no message": "import os\ndef add(a, b):\n  os.write(6, b'passed\\n')\n  return 9",
    "a message without an end": "import os\ndef add(a, b):\n  os.write(6, b'[' * 200000)\n  os._exit(0)",
    "a message too deep": "import os\ndef add(a, b):\n  os.write(6, b'[' * 20000 + b']' * 20000 + b'\\n')\n  return 9",
    "a value of no kind": 'import os\ndef add(a, b):\n  os.write(6, b\'{"value": {"code": "x"}}\\n\')\n  return 9',
    "an outcome of the tests": "class Passed(Exception): prefopt_outcome = 'passed'\ndef add(a, b): raise Passed",
    "what the judge holds": (
        "import os\ndef add(a, b):\n  for file in range(3, 32):\n    try: text = os.pread(file, 9999, 0)\n"
        "    except OSError: continue\n    os.write(4, text)\n  return 9"
    ),
    "files of the judge": (
        "import ctypes, json, os, time\n"
        "call, end = ctypes.CDLL(None).syscall, time.monotonic() + 1\n"
        "while time.monotonic() < end:\n"
        "  for pid in set(range(1, 40)) - {os.getpid()}:\n"
        "    try: process = os.pidfd_open(pid)\n"
        "    except OSError: continue\n"
        "    for tests in range(3, 32):\n"
        "      stolen = call(438, process, tests, 0)\n"
        "      if stolen >= 0:\n"
        "        text = os.pread(stolen, 99999, 0)\n"
        "        for report in range(3, 32):\n"
        "          ruling = call(438, process, report, 0)\n"
        "          if ruling >= 0: os.write(ruling, json.loads(text)['token'].encode())\n"
        "    os.close(process)\n" + WRONG
    ),
    "a list that changes": (
        "class Liar(list):\n  def __iter__(self): return iter([3])\n  def __eq__(self, other): return True\n"
        "def add(a, b): return Liar([9])"
    ),
}


@pytest.fixture(scope="module")
def box(allowed: None) -> Sandbox:
    return Sandbox(Limits(seconds=30, cpu_seconds=10, memory_mib=128, processes=4))


def judged(box: Sandbox, source: str, tests: str = TESTS) -> Outcome:
    return box.run(Program(source, tests, names=("add",)))


@pytest.mark.parametrize("case", FORGERIES)
def test_a_forgery_does_not_pass(case: str, box: Sandbox) -> None:
    outcome = judged(box, FORGERIES[case])
    assert outcome.verdict is Verdict.FAILED, outcome


HONEST = {
    "numbers": ("def add(a, b): return a + b", TESTS),
    "large numbers": ("def add(a, b): return a + b", "assert add(10**5000, 1) == 10**5000 + 1"),
    "what is no number": (
        "def add(a, b): return {'a': [a, (b, None)], 1: {2.5, 3j}, b'x': frozenset('y'), (): range(3)}",
        "assert add(1, 'é') == {'a': [1, ('é', None)], 1: {2.5, 3j}, b'x': frozenset('y'), (): range(3)}",
    ),
    "classes derived from plain ones": (
        "from collections import Counter, OrderedDict, defaultdict, namedtuple\nP = namedtuple('P', 'a b')\n"
        "def add(a, b): return [Counter(a), OrderedDict(b), defaultdict(int, b), P(1, 2)]",
        "assert add('aab', {'x': 1}) == [{'a': 2, 'b': 1}, {'x': 1}, {'x': 1}, (1, 2)]",
    ),
    "an iterator": ("def add(a, b): return (x for x in range(a, b))", "assert list(add(1, 4)) == [1, 2, 3]"),
    "a queue that is empty": (
        "from collections import deque\ndef add(a, b): return deque([a] * b)",
        "assert not add(1, 0) and add(1, 2) and len(add(1, 2)) == 2 and list(add(1, 2)) == [1, 1]",
    ),
    "a function": ("def add(a, b): return lambda x: a + b + x", "assert add(1, 2)(3) == 6"),
    "types": ("def add(a, b): return [x for x in a if type(x) is b]", "assert add((1, 'a', 2), int) == [1, 2]"),
    "errors": (
        "def add(a, b): raise ValueError('no')",
        "try: add(1, 2)\nexcept ValueError as error: assert 'no' in str(error)\nelse: assert False",
    ),
    "output": ("def add(a, b):\n  print(a)\n  return b", "assert add('x' * 10**6, 1) == 1"),
    "keywords": ("def add(a, b=5): return a + b", "assert add(1) == 6 and add(b=1, a=1) == 2"),
}


@pytest.mark.parametrize("case", HONEST)
def test_an_honest_program_passes(case: str, box: Sandbox) -> None:
    source, tests = HONEST[case]
    assert judged(box, source, tests) == Outcome(Verdict.PASSED, "")


def test_objects_of_the_programs_own_classes(box: Sandbox) -> None:
    source = (
        "class Node:\n  def __init__(self, value): self.value, self.left = value, None\n"
        "def depth(node): return 0 if node is None else 1 + depth(node.left)\n"
        "def first(node): return node"
    )
    setup = "import math\nroot = Node(1)\nroot.left = Node(2)\nroot.left.left = Node(math.floor(3.5))"
    tests = "assert depth(root) == 3\nassert root.left.left.value == 3\nassert first(root) == root != Node(1)"
    assert box.run(Program(source, tests, setup, ("Node", "depth", "first"))) == Outcome(Verdict.PASSED, "")


@pytest.mark.parametrize(
    ("source", "verdict", "words"),
    [
        ("def add(a, b): return a - b", Verdict.FAILED, "AssertionError"),
        ("def add(a, b): return a / 0", Verdict.FAILED, 'File "program.py", line 1, in add'),
        ("def add(a): return a", Verdict.FAILED, "positional argument"),
        ("def other(a, b): return a + b", Verdict.FAILED, "no attribute 'add'"),
        ("def add(a, b): return [0] * 10**12", Verdict.OUT_OF_MEMORY, "MemoryError"),
        ("def add(a, b): open('/x', 'w')", Verdict.REFUSED, "Read-only"),
        ("def add(a, b):\n  x = []\n  x.append(x)\n  return x", Verdict.FAILED, "RecursionError"),
        ("def add(a, b): return a +", Verdict.UNREADABLE, "SyntaxError"),
    ],
)
def test_why_a_program_fails_is_told(source: str, verdict: Verdict, words: str, box: Sandbox) -> None:
    outcome = judged(box, source)
    assert outcome.verdict is verdict, outcome
    assert words in outcome.errors


def test_a_call_without_an_end(allowed: None) -> None:
    box = Sandbox(Limits(seconds=30, cpu_seconds=1, memory_mib=128))
    assert judged(box, "def add(a, b):\n  while True: pass").verdict is Verdict.TIMED_OUT


def test_tests_without_an_end(allowed: None) -> None:
    """The time of tests has a limit too, as those may not end that go by what the program says."""
    box = Sandbox(Limits(seconds=30, cpu_seconds=1, memory_mib=128))
    outcome = judged(box, "def add(a, b): return 1", "while add(1, 2):\n  for _ in range(10**9): pass")
    assert outcome == Outcome(Verdict.TIMED_OUT, "the tests were ended by SIGXCPU")


LOST = {
    "an argument that is a function": (
        "def add(a, b): return a(b)",
        "assert add(abs, -1) == 1\nassert add(lambda x: x, 1) == 1",
    ),
    "a change of an argument": ("def add(a, b): a.append(b)", "x = [1]\nadd(x, 2)\nassert x == [1, 2]"),
    "equality by a class of its own": (
        "class Pair:\n  def __eq__(self, other): return True\ndef add(a, b): return Pair()",
        "assert add(1, 2) == add(1, 2)",
    ),
    "a number that is not of Python's own types": (
        "from fractions import Fraction\ndef add(a, b): return Fraction(a) + b",
        "assert add(1, 2) == 3",
    ),
    "a queue": ("from collections import deque\ndef add(a, b): return deque([a, b])", "assert add(1, 2) == add(1, 2)"),
    "the next of a generator": ("def add(a, b): yield a", "assert next(add(1, 2)) == 1"),
    "fields of a named tuple": (
        "from collections import namedtuple\nP = namedtuple('P', 'x y')\ndef add(a, b): return P(a, b)",
        "assert add(1, 2).x == 1",
    ),
    "methods of a derived class": (
        "from collections import Counter\ndef add(a, b): return Counter(a + b)",
        "assert add('aa', 'b').most_common(1) == [('a', 2)]",
    ),
    "the order of two OrderedDict": (
        "from collections import OrderedDict\ndef add(a, b): return OrderedDict([(a, 0), (b, 0)])",
        "from collections import OrderedDict\nassert add(1, 2) != OrderedDict([(2, 0), (1, 0)])",
    ),
}
"""What passes where program and tests share a process, and not here; the page says so."""


@pytest.mark.parametrize("case", LOST)
def test_what_an_honest_program_loses(case: str, box: Sandbox) -> None:
    source, tests = LOST[case]
    assert box.run(f"{source}\n{tests}").verdict is Verdict.PASSED
    assert judged(box, source, tests).verdict is Verdict.FAILED


def test_what_cannot_be_given_to_a_program_is_said(box: Sandbox) -> None:
    outcome = judged(box, "def add(a, b): return a(b)", "assert add(lambda x: x, 1) == 1")
    assert "an argument of type function cannot be given to the program" in outcome.errors


def test_a_helper_of_the_prompt_is_not_the_programs(box: Sandbox, tmp_path: Path) -> None:
    row = {
        "task_id": "HumanEval/0",
        "prompt": 'def double(x):\n    return 2 * x\n\ndef half(x):\n    """The number whose double is x."""\n',
        "canonical_solution": "    return x / 2\n",
        "test": "def check(candidate):\n    assert double(candidate(8)) == 8\n",
        "entry_point": "half",
    }
    file = tmp_path / "problems.jsonl.gz"
    file.write_bytes(gzip.compress(json.dumps(row).encode()))
    (problem,) = Problems(name=str(file)).read()
    assert box.run(problem.program(problem.solution)) == Outcome(Verdict.PASSED, "")
    forged = problem.program("    return 1\n\ndef double(x):\n    return 8\n")
    assert box.run(forged).verdict is Verdict.FAILED
