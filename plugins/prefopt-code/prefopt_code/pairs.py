"""Preference pairs of programs: one that passes its tests against one that does not."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, final

from prefopt_code.problems import Problem
from prefopt_code.programs import answer_in
from prefopt_code.sandbox import Outcome, Sandbox, Verdict

__all__ = ["Tried", "counts", "outcomes", "pairs", "tried"]


@final
class Tried(NamedTuple):
    """An answer as a response, with what ends the text where it was ended, and its verdict."""

    response: str
    verdict: Verdict


def outcomes(
    problems: Sequence[Problem], texts: Sequence[Sequence[str]], stops: Sequence[str], sandbox: Sandbox
) -> list[list[Outcome]]:
    """What became of the program in each text that was written on each problem."""
    programs = [
        problem.program(answer_in(text, stops, within=problem.within))
        for problem, of in zip(problems, texts, strict=True)
        for text in of
    ]
    found = iter(sandbox.run_all(programs))
    return [[next(found) for _ in of] for of in texts]


def tried(
    problems: Sequence[Problem], texts: Sequence[Sequence[str]], stops: Sequence[str], sandbox: Sandbox, *, end: str
) -> list[list[Tried]]:
    """The answers in texts, run; `end` is at the end of those that were ended. An answer that is less than its text was
    not ended there."""
    plain = [[text.removesuffix(end) for text in of] for of in texts]
    found = []
    for problem, whole, of, judged in zip(
        problems, texts, plain, outcomes(problems, plain, stops, sandbox), strict=True
    ):
        answers = [answer_in(text, stops, within=problem.within) for text in of]
        responses = [w if a == text else a for w, text, a in zip(whole, of, answers, strict=True)]
        found.append([Tried(response, each.verdict) for response, each in zip(responses, judged, strict=True)])
    return found


def pairs(
    problems: Sequence[Problem],
    answers: Sequence[Sequence[Tried]],
    sandbox: Sandbox | None,
    *,
    most: int,
    end: str,
    seed: int,
) -> list[dict[str, Any]]:
    """Rows of at most `most` pairs of each problem, no response in two: answers that pass against others, at random.

    Where none passes, the data's own solution does, ended, if it passes its tests in the sandbox; without a sandbox,
    the problem has no pair then.
    """
    rows: list[dict[str, Any]] = []
    lacking = [
        problem
        for problem, of in zip(problems, answers, strict=True)
        if sandbox is not None and not any(each.verdict is Verdict.PASSED for each in of)
    ]
    ran = [] if sandbox is None else sandbox.run_all([problem.program(problem.solution) for problem in lacking])
    right = {problem.name for problem, each in zip(lacking, ran, strict=True) if each.verdict is Verdict.PASSED}
    for problem, of in zip(problems, answers, strict=True):
        own = [problem.solution + end] if problem.name in right else []
        rows += _of_problem(problem, of, own, most, random.Random(f"code pairs {seed} {problem.name}"))
    return rows


def _of_problem(
    problem: Problem, answers: Sequence[Tried], own: Sequence[str], most: int, draw: random.Random
) -> Iterator[dict[str, Any]]:
    different = {each.response: each.verdict for each in answers if each.response.strip()}
    passing = [response for response, verdict in different.items() if verdict is Verdict.PASSED]
    failing = [response for response, verdict in different.items() if verdict is not Verdict.PASSED]
    draw.shuffle(passing)
    draw.shuffle(failing)
    for chosen, rejected in zip([*passing, *own][:most], failing, strict=False):
        yield {
            "prompt": problem.prompt,
            "chosen": chosen,
            "rejected": rejected,
            "problem": problem.name,
            "own_solution": chosen in own,
        }


def counts(answers: Sequence[Sequence[Tried]], rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """How many problems, answers by verdict, pairs, and pairs with the data's own solution there are."""
    verdicts = Counter(each.verdict.value for of in answers for each in of)
    return {
        "problems": len(answers),
        "answers": {verdict.value: verdicts[verdict.value] for verdict in Verdict},
        "pairs": len(rows),
        "pairs_with_own_solution": sum(row["own_solution"] for row in rows),
        "problems_with_pairs": len({row["problem"] for row in rows}),
    }
