"""True and false are no numbers, whatever has the field; nor is what the tensors of an objective do not have."""

from __future__ import annotations

import inspect
import re
from typing import Any

import numpy as np
import pytest
import torch

from prefopt import zoo
from prefopt.comparison.suite import Suite
from prefopt.registry import installed, resolve
from prefopt.tasks.registry import resolve_task
from prefopt.training.config import training_arguments
from prefopt.training.run_sections import SamplesSection
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


OF_FLOAT32 = "a number of float32 is needed, from 1.18e-38 to 3.4e+38 in size, got "
FLOATS = [(component, name) for component, name in NUMBERS if component.model_fields[name].annotation is float]
SEEDS = [(component, name) for component, name in NUMBERS if name == "seed"]


def test_components_take_numbers_of_float32_alone() -> None:
    assert len(FLOATS) > 20
    for component, name in FLOATS:
        kind = next(base for base in component.__mro__ if "hook" in vars(base))
        for value in (1e39, 1e-39):
            words = rf"{name}: ({re.escape(f'{OF_FLOAT32}{value}')}|(at most|less than) [\d.]+ is needed)"
            with pytest.raises(ValueError, match=words):
                resolve(kind, {"name": component.model_fields["name"].default, name: value})


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"zoo": "dpo", "beta": 1e39}, f"dpo: beta: {OF_FLOAT32}1e+39"),
        ({"zoo": "dpo", "beta": 1e-39}, f"dpo: beta: {OF_FLOAT32}1e-39"),
        ({"zoo": "ipo_sum", "beta": 1e-39}, f"ipo_sum at beta 1e-39: margin: {OF_FLOAT32}5.0000000000000005e+38"),
        ({"beta": 1e39}, f"beta: {OF_FLOAT32}1e+39"),
        ({"divergence": {"measure": "forward_kl", "alpha": 1e39}}, f"divergence.alpha: {OF_FLOAT32}1e+39"),
        ({"loss": {"name": "logistic", "margin": -1e39}}, f"loss: logistic: margin: {OF_FLOAT32}-1e+39"),
        ({"weighting": {"name": "position", "values": [1, 1e39]}}, f"weighting: position: values: {OF_FLOAT32}1e+39"),
        (
            {"weighting": {"name": "sparse", "architecture": "two_layer", "hidden_width": 2**63}},
            f"weighting: sparse: hidden_width: a whole number of 64 bits is needed, got {2**63}",
        ),
        ({"units": {"name": "numbered", "default": 2**25}}, "units: numbered: default: at most 16777216 is needed"),
        ({"zoo": "sparsepo_token", "floor": 1e9}, "sparsepo_token: floor: at most 100 is needed, got 1000000000.0"),
        ({"zoo": "mapo", "sites": ["mlp", "attn", "mlp"]}, "mapo: sites: each once, got mlp, attn, mlp"),
    ],
)
def test_what_tensors_do_not_have_is_refused_when_it_is_read(spec: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(words)}"):
        zoo.build(spec)


def test_numbers_at_the_ends_of_float32_are_taken() -> None:
    for name in ("max", "tiny"):
        assert zoo.dpo(beta=getattr(torch.finfo(torch.float32), name)).beta == getattr(torch.finfo(torch.float32), name)
    assert zoo.build({"zoo": "tdpo2", "alpha": 0}) == zoo.tdpo2(alpha=0.0)


def test_seeds_are_those_that_generators_tell_apart() -> None:
    assert len(SEEDS) >= 4
    for component, name in SEEDS:
        kind = next(base for base in component.__mro__ if "hook" in vars(base))
        fields = {"name": component.model_fields["name"].default, "weighting": "uniform"}
        fields = {key: value for key, value in fields.items() if key in component.model_fields}
        resolve(kind, fields | {name: 2**32 - 1})
        with pytest.raises(ValueError, match=f"{name}: at most 4294967295 is needed, got {2**32}$"):
            resolve(kind, fields | {name: 2**32})
    with pytest.raises(ValueError, match=f"sampo: seed: at most 4294967295 is needed, got {2**63}$"):
        zoo.sampo(seed=2**63)
    with pytest.raises(ValueError, match=r"seeds\.0\n.* 4294967295"):
        Suite.model_validate({"task": "planted", "objectives": {"dpo": "dpo"}, "seeds": [2**32]})
    with pytest.raises(ValueError, match=r"seed\n.* 4294967295"):
        SamplesSection(seed=2**32)
