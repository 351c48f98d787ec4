"""Spoilt inputs of all kinds, drawn by hypothesis: for minutes, or a few that are always the same."""

from __future__ import annotations

import os
import time
from collections import Counter

import hypothesis
import pytest
from transformers import PreTrainedTokenizerFast

from tests.comparison.made import made
from tests.reliability.figures import record
from tests.reliability.properties import FINDS, Property, properties
from tests.reliability.room import Room

pytestmark = pytest.mark.filterwarnings("default")

_MINUTES = float(os.environ.get("PREFOPT_FUZZ_MINUTES", "60"))
_QUIET = list(hypothesis.HealthCheck)
_FEW = 25
_AT_A_TIME = 200
"""Examples of a property before the next has its turn."""


@pytest.fixture(scope="module")
def all_properties(
    model_folder: str, tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory
) -> list[Property]:
    folder = tmp_path_factory.mktemp("fuzz")
    made(folder / "comparison", objectives={"dpo": "dpo"}, sweeps={}, seeds=[0, 1])
    room = Room.furnished(model_folder, folder / "room")
    return list(properties(room, folder / "comparison", type(tokenizer).from_pretrained(model_folder)))


def tried(one: Property, settings: hypothesis.settings, seed: int | None = None) -> int:
    """Try a property on inputs of its own, and count them."""
    name, inputs, holds = one
    count = 0

    @settings
    @hypothesis.given(inputs)
    def test(given: object) -> None:
        nonlocal count
        count += 1
        holds(given)

    for find in FINDS.get(name, []):
        test = hypothesis.example(find)(test)
    (test if seed is None else hypothesis.seed(seed)(test))()
    return count


def raise_all(failures: dict[str, Exception]) -> None:
    """One error that has them all."""
    if failures:
        raise ExceptionGroup(", ".join(failures), list(failures.values()))


@pytest.mark.slow
def test_a_few_examples_of_each_kind(all_properties: list[Property]) -> None:
    settings = hypothesis.settings(
        max_examples=_FEW, derandomize=True, deadline=None, database=None, suppress_health_check=_QUIET
    )
    failures: dict[str, Exception] = {}
    for one in all_properties:
        try:
            assert tried(one, settings) >= _FEW
        except Exception as error:
            failures[one[0]] = error
    raise_all(failures)


@pytest.mark.reliability
def test_examples_for_minutes(all_properties: list[Property]) -> None:
    settings = hypothesis.settings(max_examples=_AT_A_TIME, deadline=None, database=None, suppress_health_check=_QUIET)
    examples, seconds, failures = Counter[str](), dict[str, float](), dict[str, Exception]()
    end, turn = time.monotonic() + 60 * _MINUTES, 0
    while (began := time.monotonic()) < end:
        for one in all_properties:
            name = one[0]
            if name not in failures and began < end:
                try:
                    examples[name] += tried(one, settings, seed=turn)
                except Exception as error:
                    failures[name] = error
                ended = time.monotonic()
                seconds[name] = seconds.get(name, 0.0) + ended - began
                began = ended
        turn += 1
    for name, count in examples.items():
        minutes, failed = round(seconds[name] / 60, 1), int(name in failures)
        record("fuzz", name, examples=count, minutes=minutes, failed=failed)
    raise_all(failures)
