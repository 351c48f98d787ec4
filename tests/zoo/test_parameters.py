"""A row's parameter that a slot beside it hides is refused, whichever row and parameter it is."""

from __future__ import annotations

import inspect
import math
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from prefopt import zoo
from prefopt.comparison.suite import Suite
from prefopt.losses import HingeLoss
from prefopt.training import RunFile
from prefopt.training.run_file import RunFileError

PARAMETERS = [(row, name) for row, function in zoo.ZOO.items() for name in inspect.signature(function).parameters]
OTHERS: dict[str, Any] = {
    "sites": ("mlp",),
    "reduction": "abs_mean",
    "shared": False,
    "seed": 3,
    "label_smoothing": 0.3,
    "drop": 0.4,
    "tau": 0.3,
}
"""Values that are no row's default, of parameters that do not take every number; 0.7 is one for the others."""

SLOTS: dict[str, Any] = {
    "beta": 0.33,
    "weighting": "random",
    "divergence": {"measure": "reverse_kl", "alpha": 0.33, "weighting": "random"},
    "shaping": "mean",
    "units": "token",
    "loss": "nca",
    "regularizers": [{"name": "nll", "weight": 0.33}],
}
"""What replaces a slot, in part or in whole."""


def other_value(row: str, name: str) -> Any:
    value = OTHERS.get(name, 0.7)
    return value if inspect.signature(zoo.ZOO[row]).parameters[name].default != value else 0.6


@pytest.mark.parametrize(("row", "name"), PARAMETERS)
def test_a_parameter_is_refused_where_all_that_it_fills_is_replaced(row: str, name: str) -> None:
    default, other = inspect.signature(zoo.ZOO[row]).parameters[name].default, other_value(row, name)
    one, two = (zoo.build({"zoo": row, name: value}).model_dump() for value in (default, other))
    filled = [slot for slot in one if one[slot] != two[slot]]
    assert filled
    parameters = inspect.signature(zoo.ZOO[row]).parameters
    replaced = {slot: SLOTS[slot] for slot in filled if slot not in parameters}
    for value in (default, other):
        spec = {"zoo": row, name: value}
        for slot in replaced:
            partly = {key: part for key, part in replaced.items() if key != slot}
            zoo.build(spec | partly)
        if len(replaced) < len(filled):
            zoo.build(spec | replaced)
            continue
        words = " and ".join(f"`{slot}`" for slot in replaced)
        with pytest.raises(ValueError, match=rf"^{name}: nothing reads it: {row} fills {filled[0]}") as error:
            zoo.build(spec | replaced)
        assert f"; leave out {name}, or {words}." in str(error.value)
        assert "\n" not in str(error.value)
    zoo.build({"zoo": row, **replaced})


@pytest.mark.parametrize(
    "spec",
    [
        {"zoo": "tdpo2", "alpha": 2.0, "divergence": {"measure": "reverse_kl"}},
        {"zoo": "mpo", "generation": 0.5, "loss": "hinge"},
        {"zoo": "t_reg", "beta": 0.5, "loss": "hinge"},
        {"zoo": "sparsepo", "shared": False, "divergence": {"weighting": "random"}},
        {"zoo": "mapo", "sites": ["mlp"], "weighting": {"reduction": "sigmoid"}},
    ],
)
def test_a_parameter_that_still_counts_is_taken(spec: dict[str, Any]) -> None:
    without = {key: part for key, part in spec.items() if key in ("zoo", *SLOTS) and key != "beta"}
    assert zoo.build(spec) != zoo.build(without)


def test_it_is_refused_wherever_an_objective_is_read(tmp_path: Path) -> None:
    message = r"limit: nothing reads it: tbpo_q fills units\.limit with it, which is replaced by the `units` given"
    with pytest.raises(ValueError, match=rf"^{message}"):
        zoo.build({"zoo": "tbpo_q", "limit": 5, "units": "token"})
    with pytest.raises(ValueError, match=r"^beta: nothing reads it: ipo fills loss\.margin with it"):
        zoo.build({"zoo": "ipo", "beta": 0.5, "loss": HingeLoss()})
    file = tmp_path / "run.yaml"
    run = {"model": "gpt2", "data": "pairs.jsonl", "objective": {"zoo": "tbpo_q", "limit": 5}}
    file.write_text(yaml.safe_dump(run))
    assert RunFile.load(file).objective == zoo.tbpo_q(limit=5)
    with pytest.raises(RunFileError, match=rf"run\.yaml: objective: {message}"):
        RunFile.load(file, ["objective.units=token"])
    suite = {"task": "planted", "objectives": {"q": run["objective"], "dpo": "dpo"}}
    with pytest.raises(ValueError, match=rf"objectives\.q at \{{'objective\.units': 'token'\}}: {message}"):
        Suite.model_validate(suite | {"sweeps": {"objective.units": ["token"]}})


def test_a_row_without_a_value_is_told() -> None:
    for row in ("ipo", "ipo_sum", "sppo"):
        with pytest.raises(ValueError, match=rf"^{row}: float division by zero at beta 0; give other values$"):
            zoo.build({"zoo": row, "beta": 0})


@pytest.mark.parametrize(
    ("row", "arguments", "message"),
    [
        ("ipo", {"beta": 0}, "float division by zero at beta 0; give other values"),
        ("dpo", {"beta": -1}, "beta: more than 0 is needed, got -1.0"),
        ("dpo", {"beta": "much"}, "beta: a number is needed, got 'much'"),
        ("dpo", {"beta": math.inf}, "beta: a finite number is needed, got inf"),
        ("sparsepo", {"shared": "maybe"}, "shared: true or false is needed, got 'maybe'"),
        ("mapo", {"sites": "mlp"}, "sites: a list is needed, got 'mlp'"),
        ("sampo", {"seed": 1.5}, "seed: a whole number is needed, got 1.5"),
    ],
)
def test_a_call_is_checked_as_a_run_file_is(row: str, arguments: dict[str, Any], message: str) -> None:
    for call in (partial(getattr(zoo, row), **arguments), partial(zoo.build, {"zoo": row, **arguments})):
        with pytest.raises(ValueError, match=f"^{re.escape(f'{row}: {message}')}$"):
            call()


def test_arguments_by_position_are_checked() -> None:
    with pytest.raises(ValueError, match=r"^cdpo: label_smoothing: less than 0\.5 is needed, got 0\.7$"):
        zoo.cdpo(0.1, 0.7)
    assert zoo.cdpo(0.1, 0.2) == zoo.build({"zoo": "cdpo", "label_smoothing": 0.2})


@pytest.mark.parametrize(("row", "name"), PARAMETERS)
def test_every_row_reads_texts_as_a_run_file_does(row: str, name: str) -> None:
    value = other_value(row, name)
    given = list(value) if isinstance(value, tuple) else str(value)
    assert zoo.ZOO[row](**{name: given}) == zoo.ZOO[row](**{name: value}) == zoo.build({"zoo": row, name: given})


def test_what_a_row_computes_is_told_with_its_arguments() -> None:
    for row, arguments, message in (
        ("sparsepo", {"l1_reward": -1}, "sparsepo at l1_reward -1: reward: at least 0 is needed, got -0.5"),
        ("rso", {"gamma": 0}, "rso at gamma 0: beta: more than 0 is needed, got 0.0"),
    ):
        with pytest.raises(ValueError, match=f"^{message}$"):
            zoo.ZOO[row](**arguments)


def test_arguments_that_a_row_does_not_have_are_named_with_those_that_it_has() -> None:
    with pytest.raises(TypeError, match=r"^cdpo: .*'bta'\. Did you mean 'beta'\? Parameters: beta, label_smoothing\.$"):
        zoo.cdpo(bta=0.5)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"^dpo: too many positional arguments\. Parameters: beta\.$"):
        zoo.dpo(0.1, 0.2)  # type: ignore[call-arg]
