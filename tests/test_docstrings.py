"""Docstrings hold runnable examples: every one runs, and a class that users build has one of at most three lines."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
from collections.abc import Iterator

import pytest

import prefopt
from prefopt import Objective, ObjectiveConfig
from prefopt.objective_config import DivergenceTerm
from prefopt.registry import installed
from prefopt.scoring import PreferenceModel
from prefopt.tasks import available_scorers, available_tasks
from prefopt.tokens import PreferenceBatch, TokenBatch

LONGEST = 3


def cases() -> Iterator[doctest.DocTest]:
    finder = doctest.DocTestFinder(exclude_empty=True)
    for module in pkgutil.walk_packages(prefopt.__path__, "prefopt."):
        if not module.name.endswith("__main__"):
            loaded = importlib.import_module(module.name)
            yield from (case for case in finder.find(loaded, module.name) if case.examples)


CASES = list(cases())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_examples_run(case: doctest.DocTest) -> None:
    lines: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    runner.run(case, out=lines.append)
    assert runner.failures == 0, "".join(lines)


BUILT = [
    *(component for component, owner in installed() if owner.distribution == "prefopt"),
    *available_tasks().values(),
    *available_scorers().values(),
    *(Objective, ObjectiveConfig, DivergenceTerm, PreferenceModel, PreferenceBatch, TokenBatch),
]


@pytest.mark.parametrize("cls", BUILT, ids=lambda cls: cls.__name__)
def test_a_class_that_users_build_has_a_short_example(cls: type) -> None:
    lines = [line.strip() for line in (inspect.getdoc(cls) or "").splitlines()]
    examples = [line for line in lines if line.startswith((">>>", "..."))]
    assert 1 <= len(examples) <= LONGEST, f"{cls.__module__}.{cls.__name__} has {len(examples)} lines of example"
