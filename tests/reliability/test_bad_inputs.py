"""Inputs that cannot be used end in exit code 2 and a line that says what and where, before training begins."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.cli.test_cli import RUNNER, app
from tests.reliability.bad_inputs import BadInput, bad_inputs
from tests.reliability.figures import record
from tests.reliability.room import Room, error_lines, models_loaded, trouble

pytestmark = pytest.mark.filterwarnings("default")  # as they are on a command line

LOADED = ("model",)
"""Kinds whose inputs are seen when a model is loaded."""

MOST = {"run file": 5, "suite": 5, "data": 12}
"""Lines of errors: of several fields, or of ten rows with what they are of and how many more."""


@pytest.fixture(scope="module")
def room(model_folder: str, tmp_path_factory: pytest.TempPathFactory) -> Room:
    return Room.furnished(model_folder, tmp_path_factory.mktemp("furnished") / "room")


def problem(given: BadInput, room: Room) -> str | None:
    """What is wrong with the way in which the command line refuses an input; None if nothing."""
    arguments = given.make(room)
    before = room.state()
    with models_loaded() as loaded:
        result = RUNNER.invoke(app, arguments)
    lines = " ".join(error_lines(result))
    wrong = trouble(result, most=MOST.get(given.kind, 1))
    absent = [text for text in given.named if text not in lines]
    if wrong is None and absent:
        wrong = f"nothing says {absent[0]!r}"
    elif wrong is None and room.state() != before:
        wrong = f"files have changed: {sorted(set(room.state().items()) ^ set(before.items()))[:3]}"
    elif wrong is None and loaded and given.kind not in LOADED:
        wrong = "a model was loaded before"
    return None if wrong is None else f"{given.kind}, {given.name}: {wrong}: {lines or result.output[-500:]}"


def problems(inputs: list[BadInput], room: Room, folder: Path) -> dict[str, list[str | None]]:
    """Kind -> what is wrong with each input of the kind."""
    results: dict[str, list[str | None]] = {}
    for number, given in enumerate(inputs):
        results.setdefault(given.kind, []).append(problem(given, room.copy(folder / str(number))))
    return results


@pytest.mark.slow
def test_thirty_bad_inputs(room: Room, tmp_path: Path) -> None:
    inputs = list(bad_inputs())
    kinds = Counter(given.kind for given in inputs)
    chosen = [given for kind in kinds for given in [one for one in inputs if one.kind == kind][:: kinds[kind] // 4][:4]]
    assert len(chosen) >= 30
    results = problems(chosen, room, tmp_path)
    assert not [line for lines in results.values() for line in lines if line]


@pytest.mark.reliability
def test_all_bad_inputs(room: Room, tmp_path: Path) -> None:
    results = problems(list(bad_inputs()), room, tmp_path)
    for kind, lines in results.items():
        record("bad inputs", kind, tried=len(lines), clean=lines.count(None))
    assert sum(map(len, results.values())) >= 300
    failures = [line for lines in results.values() for line in lines if line]
    assert not failures, "\n".join(failures)
