"""The code plugin on the real data sets, and prefopt without it."""

from __future__ import annotations

from pathlib import Path

import pytest

from prefopt.tasks import TaskError, resolve_task
from prefopt.tasks.registry import TASKS


@pytest.mark.slow
def test_the_data_sets_solutions_pass(shared: Path, code_plugin: None) -> None:
    """A few of each, so that prompts, answers and tests fit together."""
    from prefopt_code import Sandbox, SandboxError, Verdict
    from prefopt_code.problems import Problems

    sandbox = Sandbox()
    try:
        sandbox.check()
    except SandboxError as error:
        if "the system refuses" not in str(error):
            raise
        pytest.skip(str(error))
    for name, count in (("mbpp.jsonl", 974), ("HumanEval.jsonl.gz", 164)):
        problems = Problems(name=str(shared / "data" / name)).read()
        assert len(problems) == count == len({problem.name for problem in problems})
        some = problems[::80]
        solved = sandbox.run_all([problem.program(problem.solution) for problem in some])
        wrong = sandbox.run_all([problem.program("    pass\n" if problem.within else "") for problem in some])
        assert {outcome.verdict for outcome in solved} == {Verdict.PASSED}
        assert {outcome.verdict for outcome in wrong} == {Verdict.FAILED}


def test_the_task_is_there_with_its_plugin(code_plugin: None) -> None:
    assert resolve_task({"name": "code", "model": "m", "data": "d", "held_out": 3}).name == "code"
    assert TASKS.installed["code"][1].distribution == "prefopt-code"


@pytest.mark.parametrize("value", ["code", {"name": "code", "model": "m"}])
def test_without_the_plugin_the_error_names_it(value: object) -> None:
    with pytest.raises(TaskError, match=r"^the task 'code' is brought by prefopt-code: pip install prefopt-code$"):
        resolve_task(value)
