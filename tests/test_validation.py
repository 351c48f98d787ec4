"""True and false are no numbers, whatever has the field."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
import torch

from prefopt import zoo
from prefopt.comparison.suite import Suite
from prefopt.registry import installed, resolve
from prefopt.tasks.registry import resolve_task
from prefopt.training.config import training_arguments
from prefopt.training.trainer_inputs import lora_config
from prefopt.validation import reject_bool

NEEDED = "a number is needed, not "


def takes_bool(annotation: object) -> bool:
    try:
        reject_bool(True, annotation)
    except ValueError:
        return False
    return True


NUMBERS = [
    (component, name)
    for component, _ in installed()
    for name, field in component.model_fields.items()
    if not takes_bool(field.annotation)
]
PARAMETERS = [
    (row, name)
    for row, function in zoo.ZOO.items()
    for name, parameter in inspect.signature(function, eval_str=True).parameters.items()
    if not takes_bool(parameter.annotation)
]


def test_components_take_no_bool_for_a_number() -> None:
    assert len(NUMBERS) > 20
    for component, name in NUMBERS:
        kind = next(base for base in component.__mro__ if "hook" in vars(base))
        with pytest.raises(ValueError, match=f"{name}: {NEEDED}true"):
            resolve(kind, {"name": component.model_fields["name"].default, name: True})


def test_objectives_take_no_bool_for_a_number() -> None:
    assert len(PARAMETERS) > 40
    for row, name in PARAMETERS:
        with pytest.raises(ValueError, match=f"^{row}: {name}: {NEEDED}false$"):
            zoo.build({"zoo": row, name: False})
        with pytest.raises(ValueError, match=f"^{row}: {name}: {NEEDED}false$"):
            zoo.ZOO[row](**{name: False})


def test_bools_of_numpy_and_torch_are_no_numbers() -> None:
    for value, word in ((np.bool_(True), "true"), (torch.tensor(False), r"tensor\(false\)")):
        with pytest.raises(ValueError, match=f"^dpo: beta: {NEEDED}{word}$"):
            zoo.dpo(beta=value)
    assert zoo.dpo(np.float32(0.5)) == zoo.dpo(torch.tensor(0.5)) == zoo.dpo(0.5)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"beta": True}, "beta: "),
        ({"zoo": "tdpo2", "divergence": {"alpha": True}}, r"divergence\.alpha: "),
        ({"zoo": "simpo", "loss": {"margin": True}}, "loss: logistic: margin: "),
    ],
)
def test_slots_take_no_bool_for_a_number(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words + NEEDED):
        zoo.build(fields)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"seeds": [True]}, "seeds"),
        ({"sweeps": {"objective.beta": [0.1, True]}}, r"objectives\.dpo at .*beta: "),
        ({"training": {"max_steps": True}}, "training: max_steps: "),
        ({"frontier": {"at": [True]}}, r"frontier\.at"),
        ({"peft": {"r": True}}, "peft: r: "),
        ({"task": {"name": "planted", "pairs": True}}, "planted: pairs: "),
    ],
)
def test_suites_take_no_bool_for_a_number(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=rf"(?s){words}.*{NEEDED}true"):
        Suite.model_validate({"task": "planted", "objectives": {"dpo": "dpo"}, "seeds": [0]} | fields)


def test_what_is_true_or_false_still_is() -> None:
    assert zoo.build({"zoo": "sparsepo", "shared": False}).divergence is not None
    assert training_arguments({"bf16": True, "max_steps": "3"}, {}) == {"bf16": True, "max_steps": 3}
    assert resolve_task({"name": "planted", "pairs": 3}).model_dump()["pairs"] == 3


def test_fields_of_peft_have_their_types() -> None:
    config = lora_config({"r": "4", "lora_alpha": 0.5, "use_rslora": True})
    assert config is not None
    assert (config.r, config.lora_alpha, config.use_rslora) == (4, 0.5, True)
    for fields, words in (
        ({"r": True}, f"r: {NEEDED}true"),
        ({"lora_dropout": "much"}, "lora_dropout: .*'much'"),
        ({"use_rslora": "maybe"}, "use_rslora: .*'maybe'"),
    ):
        with pytest.raises(ValueError, match=words):
            lora_config(fields)
