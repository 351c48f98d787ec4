"""Preference pairs of programs: one that passes its tests against one that does not."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, final

from prefopt_code.problems import Problem
from prefopt_code.programs import answer_in
from prefopt_code.sandbox import Outcome, Sandbox, Verdict

__all__ = ["Answer", "count_answers", "make_pairs", "run_answers", "run_texts"]


@final
class Answer(NamedTuple):
    """An answer to a problem: the response, with the end of the text where the model ended it, and its verdict."""

    response: str
    verdict: Verdict


def run_texts(
    problems: Sequence[Problem], texts: Sequence[Sequence[str]], stops: Sequence[str], sandbox: Sandbox
) -> list[list[Outcome]]:
    """The outcomes of the programs in a model's texts on each problem."""
    programs = [
        problem.program(answer_in(text, stops, within=problem.within))
        for problem, group in zip(problems, texts, strict=True)
        for text in group
    ]
    outcomes = iter(sandbox.run_all(programs))
    return [[next(outcomes) for _ in group] for group in texts]


def run_answers(
    problems: Sequence[Problem], texts: Sequence[Sequence[str]], stops: Sequence[str], sandbox: Sandbox, *, end: str
) -> list[list[Answer]]:
    """The answers in a model's texts on each problem, with their verdicts.

    Texts that the model ended have `end` at their end, and so do answers that are all of such a text.
    """
    plain = [[text.removesuffix(end) for text in group] for group in texts]
    outcomes = run_texts(problems, plain, stops, sandbox)

    def answer(problem: Problem, whole: str, text: str, outcome: Outcome) -> Answer:
        program = answer_in(text, stops, within=problem.within)
        return Answer(whole if program == text else program, outcome.verdict)

    return [
        [answer(problem, *parts) for parts in zip(*columns, strict=True)]
        for problem, *columns in zip(problems, texts, plain, outcomes, strict=True)
    ]


def make_pairs(
    problems: Sequence[Problem],
    answers: Sequence[Sequence[Answer]],
    sandbox: Sandbox | None,
    *,
    most: int,
    end: str,
    seed: int,
) -> list[dict[str, Any]]:
    """Rows of at most `most` pairs of each problem, no response in two: answers that pass against others, at random.

    Where none passes, the data's own solution takes its place, ended, if it passes its tests in the sandbox; without a
    sandbox, the problem has no pair then.
    """
    rows: list[dict[str, Any]] = []
    unsolved = [
        problem
        for problem, group in zip(problems, answers, strict=True)
        if sandbox is not None and not any(answer.verdict is Verdict.PASSED for answer in group)
    ]
    outcomes = [] if sandbox is None else sandbox.run_all([problem.program(problem.solution) for problem in unsolved])
    right = {problem.name for problem, outcome in zip(unsolved, outcomes, strict=True) if outcome.verdict == "passed"}
    for problem, group in zip(problems, answers, strict=True):
        solutions = [problem.solution + end] if problem.name in right else []
        rows += _problem_pairs(problem, group, solutions, most, random.Random(f"code pairs {seed} {problem.name}"))
    return rows


def _problem_pairs(
    problem: Problem, answers: Sequence[Answer], solutions: Sequence[str], most: int, draw: random.Random
) -> Iterator[dict[str, Any]]:
    different = {answer.response: answer.verdict for answer in answers if answer.response.strip()}
    passing = [response for response, verdict in different.items() if verdict is Verdict.PASSED]
    failing = [response for response, verdict in different.items() if verdict is not Verdict.PASSED]
    draw.shuffle(passing)
    draw.shuffle(failing)
    for chosen, rejected in zip([*passing, *solutions][:most], failing, strict=False):
        yield {
            "prompt": problem.prompt,
            "chosen": chosen,
            "rejected": rejected,
            "problem": problem.name,
            "own_solution": chosen in solutions,
        }


def count_answers(answers: Sequence[Sequence[Answer]], rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The numbers of problems, answers by verdict, pairs, and pairs with the data's own solution."""
    verdicts = Counter(answer.verdict.value for group in answers for answer in group)
    return {
        "problems": len(answers),
        "answers": {verdict.value: verdicts[verdict.value] for verdict in Verdict},
        "pairs": len(rows),
        "pairs_with_own_solution": sum(row["own_solution"] for row in rows),
        "problems_with_pairs": len({row["problem"] for row in rows}),
    }
