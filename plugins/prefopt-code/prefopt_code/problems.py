"""Problems with tests: rows of MBPP and of HumanEval, from files or the hub."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, final

from pydantic import BeforeValidator

from prefopt.data import BadRow, DataError, read_rows
from prefopt.validation import Settings
from prefopt_code.sandbox import Program

__all__ = ["FUNCTION", "Problem", "Problems", "SomeProblems", "from_name", "with_examples"]

FUNCTION = ("\ndef ", "\nclass ", "\nif ", "\nprint", "\nassert", '\n"""', "\n#", "\n@", "\n```")
"""What begins after a function, at the beginning of a line, and is no part of the answer."""


@final
@dataclass(frozen=True)
class Problem:
    """A text to go on with, and how the program is made of what goes on.

    name      of the item, such as "MBPP/11" or "HumanEval/3"
    form      the data set whose form the rows have; examples are put before problems of their own form
    prompt    what the model is given
    solution  the data's own answer to it
    start     of the program, before the answer
    tests     of the program, which run apart from it
    within    whether the prompt has begun the function that the answer is to fill
    setup     imports, helpers and data of the tests
    names     of the program, that the tests call
    """

    name: str
    form: str
    prompt: str
    solution: str
    start: str
    tests: str
    within: bool
    setup: str = ""
    names: Sequence[str] = ()

    def program(self, answer: str) -> Program:
        """The program that passes if the answer is right. Imports of the tests are the program's too, unless its start
        has them."""
        imports = [] if self.within else [ast.unparse(statement) for statement in _imports(self.setup)]
        return Program(_lines(f"{self.start}{answer}", *imports, ""), self.tests, self.setup, tuple(self.names))


def _mbpp(row: Mapping[str, Any]) -> Problem:
    description = row.get("text", row.get("prompt"))
    tests = [str(test) for test in row["test_list"]]
    setup = row.get("test_setup_code") or "\n".join(row.get("test_imports", ()))
    setup = setup.replace("\r\n", "\n")
    solution = _lines(*str(row["code"]).replace("\r\n", "\n").rstrip().split("\n"), "")
    used = _used(_lines(setup, *tests))
    imports = [ast.unparse(statement) for statement in _imports(solution) if used & _bound(statement)]
    return Problem(
        name=f"MBPP/{row['task_id']}",
        form="MBPP",
        prompt=_lines('"""', str(description).strip(), *tests, '"""', ""),
        solution=solution,
        start="",
        tests=_lines(*tests),
        within=False,
        setup=_lines(*imports, *([setup] if setup else ())),
        names=sorted(used & {name for statement in _defined(solution) for name in _bound(statement)}),
    )


def _human_eval(row: Mapping[str, Any]) -> Problem:
    return Problem(
        name=str(row["task_id"]),
        form="HumanEval",
        prompt=str(row["prompt"]),
        solution=str(row["canonical_solution"]),
        start=str(row["prompt"]),
        tests=_lines(str(row["test"]), f"check({row['entry_point']})"),
        within=True,
        setup=_helpers(str(row["prompt"])),
        names=(str(row["entry_point"]),),
    )


def _helpers(prompt: str) -> str:
    """The beginning of a program as a whole one: the function that it begins does nothing."""
    return prompt if _parsed(prompt) else f"{prompt}    pass\n"


def _parsed(text: str) -> list[ast.stmt]:
    """Its statements; none where Python cannot read it, which the sandbox tells when it runs."""
    try:
        return ast.parse(text).body
    except (SyntaxError, ValueError):
        return []


def _imports(text: str) -> list[ast.stmt]:
    return [statement for statement in _parsed(text) if isinstance(statement, ast.Import | ast.ImportFrom)]


def _defined(text: str) -> list[ast.stmt]:
    return [statement for statement in _parsed(text) if not isinstance(statement, ast.Import | ast.ImportFrom)]


def _bound(statement: ast.stmt) -> set[str]:
    """The names that a statement at the top of a module gives a value."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {statement.name}
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return {(alias.asname or alias.name).partition(".")[0] for alias in statement.names}
    return {node.id for node in ast.walk(statement) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}


def _used(text: str) -> set[str]:
    return {node.id for statement in _parsed(text) for node in ast.walk(statement) if isinstance(node, ast.Name)}


def _lines(*lines: str) -> str:
    return "\n".join(lines)


_FORMS: tuple[tuple[frozenset[str], Callable[[Mapping[str, Any]], Problem]], ...] = (
    (frozenset({"task_id", "code", "test_list"}), _mbpp),
    (frozenset({"task_id", "prompt", "canonical_solution", "test", "entry_point"}), _human_eval),
)
"""The fields that tell a form, and how it is read."""


@final
class Problems(Settings):
    """Where problems are read.

    name   a file or folder that `prefopt.data.read_rows` takes, or a name of the hub
    split  of a folder or of the hub; a file is read whole
    """

    name: str
    split: str = "train"

    def read(self) -> list[Problem]:
        """The problems, in their order. Raises DataError for a row that is none, and where there are no rows."""
        problems = list(self._read())
        if not problems:
            raise DataError(f"{self.name}: found no problem")
        return problems

    def _read(self) -> Iterator[Problem]:
        for row in read_rows(self.name, split=self.split):
            if isinstance(row, BadRow):
                raise DataError(str(row))
            made = next((make for fields, make in _FORMS if fields <= row.fields.keys()), None)
            if made is None:
                wanted = " or ".join(", ".join(sorted(fields)) for fields, _ in _FORMS)
                raise DataError(f"{row.where}: found {', '.join(sorted(row.fields))}; a problem has {wanted}")
            yield made(row.fields)


def from_name(value: object) -> object:
    """A name stands for the problems there."""
    return {"name": value} if isinstance(value, str) else value


SomeProblems = Annotated[Problems, BeforeValidator(from_name, json_schema_input_type=str | Problems)]
"""A field for problems, which may be given by the name of their source alone."""


def with_examples(problem: Problem, examples: Sequence[Problem]) -> Problem:
    """The problem after those examples with their solutions that are of its form; what is run is the same."""
    before = "".join(f"{example.prompt}{example.solution}\n" for example in examples if example.form == problem.form)
    return dataclasses.replace(problem, prompt=before + problem.prompt)
