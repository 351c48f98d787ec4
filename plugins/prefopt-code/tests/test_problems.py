from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from prefopt_code.problems import FUNCTION, Problems, with_examples
from prefopt_code.programs import answer_in
from prefopt_code.sandbox import Program

from prefopt.data import DataError

MBPP = {
    "task_id": 7,
    "text": "Write a function to double a number.",
    "code": "def double(x):\r\n  return 2 * x",
    "test_list": ["assert double(1) == 2", "assert double(BIG) == 2 * BIG"],
    "test_setup_code": "BIG = 10",
    "challenge_test_list": [],
}
SANITIZED = {
    "task_id": 8,
    "prompt": "Write a function to halve a number.",
    "code": "def halve(x):\n  return x / 2",
    "test_list": ["assert halve(2) == math.floor(1.5)"],
    "test_imports": ["import math"],
}
HUMAN_EVAL = {
    "task_id": "HumanEval/9",
    "prompt": 'def triple(x: int) -> int:\n    """Three times x."""\n',
    "canonical_solution": "    return 3 * x\n",
    "test": "def check(candidate):\n    assert candidate(2) == 6\n",
    "entry_point": "triple",
}


def problems_in(path: Path, *rows: dict[str, Any]) -> Problems:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Problems(name=str(path))


def test_both_forms_are_read(tmp_path: Path) -> None:
    double, halve, triple = problems_in(tmp_path / "rows.jsonl", MBPP, SANITIZED, HUMAN_EVAL).read()
    assert [problem.name for problem in (double, halve, triple)] == ["MBPP/7", "MBPP/8", "HumanEval/9"]
    assert double.prompt == (
        '"""\nWrite a function to double a number.\nassert double(1) == 2\nassert double(BIG) == 2 * BIG\n"""\n'
    )
    assert double.solution == "def double(x):\n  return 2 * x\n"
    tests = "assert double(1) == 2\nassert double(BIG) == 2 * BIG"
    assert double.program("answer") == Program("answer\n", tests, "BIG = 10", ("double",))
    halved = Program("answer\nimport math\n", "assert halve(2) == math.floor(1.5)", "import math", ("halve",))
    assert halve.program("answer") == halved
    assert triple.prompt == HUMAN_EVAL["prompt"]
    tripled = triple.program(triple.solution)
    assert tripled.source == HUMAN_EVAL["prompt"] + "    return 3 * x\n\n"
    assert tripled.tests.endswith("assert candidate(2) == 6\n\ncheck(triple)")
    assert (tripled.setup, tripled.names) == (HUMAN_EVAL["prompt"], ("triple",))
    assert (double.within, triple.within) == (False, True)


def test_what_the_tests_see_of_a_program_is_what_the_datas_solution_defines(tmp_path: Path) -> None:
    row = MBPP | {
        "code": "import math, re\nclass Pair:\n  pass\ndef helper(): pass\nx, y = 1, 2\ndef area(p): return math.pi",
        "test_list": ["assert math.isclose(area(Pair()), 3.14159, rel_tol=x) and len('1')"],
        "test_setup_code": "",
    }
    (problem,) = problems_in(tmp_path / "rows.jsonl", row).read()
    assert (problem.names, problem.setup) == (["Pair", "area", "x"], "import math, re")


def test_solved_examples_come_before_problems_of_their_form(tmp_path: Path) -> None:
    double, halve, triple = problems_in(tmp_path / "rows.jsonl", MBPP, SANITIZED, HUMAN_EVAL).read()
    shown = with_examples(halve, [double, triple])
    assert shown.prompt == f"{double.prompt}{double.solution}\n{halve.prompt}"
    assert shown.program("x") == halve.program("x")
    assert with_examples(triple, [double]) == triple


def test_other_rows_are_named(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"rows.jsonl:2: found code, task_id; a problem has code, task_id, test_list or"
    ):
        problems_in(tmp_path / "rows.jsonl", MBPP, {"task_id": 1, "code": ""}).read()
    (tmp_path / "rows.jsonl").write_text("no row\n")
    with pytest.raises(DataError, match=r"rows.jsonl:1: found a line that is not JSON"):
        Problems(name=str(tmp_path / "rows.jsonl")).read()
    with pytest.raises(DataError, match=r"rows.jsonl: found no problem"):
        problems_in(tmp_path / "rows.jsonl").read()


WHOLE = {
    "as it is": ("def f():\n    return 1\n", "def f():\n    return 1\n"),
    "another function": ("def f():\n    return 1\n\n\ndef g(): pass", "def f():\n    return 1"),
    "a class": ("def f():\n    return 1\nclass A: pass", "def f():\n    return 1"),
    "its own test": ("def f():\n    return 1\nassert f() == 1", "def f():\n    return 1"),
    "a print": ("def f():\n    return 1\n\nprint(f())\n", "def f():\n    return 1"),
    "a script": ('def f():\n    return 1\nif __name__ == "__main__":\n    f()', "def f():\n    return 1"),
    "the next problem": ('def f():\n    return 1\n\n"""\nWrite', "def f():\n    return 1"),
    "indented lines": (
        "def f():\n    def g(): pass\n    if 1:\n        print(1)\n    # so\n    return 1",
        "def f():\n    def g(): pass\n    if 1:\n        print(1)\n    # so\n    return 1",
    ),
    "lines before the function": (
        "import math\n# so\nif 1: pass\ndef f():\n    return 1\n# end",
        "import math\n# so\nif 1: pass\ndef f():\n    return 1",
    ),
    "no function": ("f = int\nprint(f)", "f = int"),
    "a fence": ("```python\ndef f():\n    return 1\n```\nThis function", "def f():\n    return 1"),
    "a fence that is not closed": ("\n```\ndef f():\n    return 1\n", "def f():\n    return 1"),
    "a fence at the end": ("def f():\n    return 1\n```\nThis", "def f():\n    return 1"),
    "nothing": ("", ""),
}
WITHIN = {
    "as it is": ("    return 1\n", "    return 1\n"),
    "another function": ("    return 1\n\ndef g():\n    return 2", "    return 1"),
    "a comment": ("    # so\n    return 1\n# end", "    # so\n    return 1"),
    "a decorator": ("    return 1\n@g\ndef h(): pass", "    return 1"),
}


@pytest.mark.parametrize("case", WHOLE)
def test_the_answer_is_the_first_function(case: str) -> None:
    text, answer = WHOLE[case]
    assert answer_in(text, FUNCTION, within=False) == answer


@pytest.mark.parametrize("case", WITHIN)
def test_the_answer_fills_the_function_that_was_begun(case: str) -> None:
    text, answer = WITHIN[case]
    assert answer_in(text, FUNCTION, within=True) == answer


def test_other_stops_keep_helpers() -> None:
    text = "def f():\n    return g()\n\ndef g():\n    return 1\n\nEND"
    assert answer_in(text, ["\nEND"], within=False) == text.removesuffix("\n\nEND")
