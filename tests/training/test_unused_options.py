"""An option that no part of a run reads is an error, which names who could read it."""

from __future__ import annotations

import inspect
import sys

import pytest
from transformers import AutoModelForCausalLM

from prefopt import ObjectiveConfig, resolve, zoo
from prefopt.component import Component, PreferenceLoss
from prefopt.divergences import ForwardKL
from prefopt.objective_config import DivergenceTerm
from prefopt.registry import installed
from prefopt.regularizers import MaskL1
from prefopt.training import PreferenceConfig, PreferenceTrainer
from prefopt.training.run_file import DataSection

BUILT_IN = [cls for cls, owner in installed() if owner.distribution == "prefopt"]


@pytest.mark.parametrize("component", BUILT_IN, ids=lambda cls: cls.__name__)
def test_every_field_of_a_component_is_read(component: type[Component]) -> None:
    source = inspect.getsource(sys.modules[component.__module__])
    for name in component.model_fields.keys() - {"name"}:
        assert f"self.{name}" in source, name


def test_a_field_of_another_component() -> None:
    with pytest.raises(ValueError, match="no such field in HingeLoss") as error:
        resolve(PreferenceLoss, {"name": "hinge", "label_smoothing": 0.1})
    assert "read 'label_smoothing': preference loss aot, aot_paired, exo, logistic, robust." in str(error.value)


def test_a_parameter_of_another_row() -> None:
    with pytest.raises(ValueError, match="label_smoothing: dpo has no such parameter") as error:
        zoo.build({"zoo": "dpo", "label_smoothing": 0.1})
    assert "Rows that read 'label_smoothing': cdpo, robust, exo, aot, aot_paired." in str(error.value)
    with pytest.raises(ValueError, match="cap: dpo has no such") as error:
        zoo.build({"zoo": "dpo", "cap": 3.0})
    assert "read 'cap': divergence sampled_k3; reward shaping f_alpha, f_forward_kl." in str(error.value)


def test_a_charge_for_weights_of_a_divergence_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="regularizer 'mask_l1' reads the divergence, but `divergence` is not set"):
        ObjectiveConfig(regularizers=(MaskL1(divergence=0.1),))
    ObjectiveConfig(regularizers=(MaskL1(divergence=0.1),), divergence=DivergenceTerm(measure=ForwardKL()))
    ObjectiveConfig(regularizers=(MaskL1(reward=0.1),))


@pytest.mark.parametrize("settings", [{"ref_model_mixup_alpha": 0.5}, {"ref_model_sync_steps": 100}])
def test_settings_of_a_reference_that_follows(settings: dict[str, float], out: str) -> None:
    with pytest.raises(ValueError, match="is read only with sync_ref_model"):
        PreferenceConfig(out, report_to="none", use_cpu=True, **settings)
    PreferenceConfig(out, report_to="none", use_cpu=True, sync_ref_model=True, **settings)


@pytest.mark.parametrize("settings", [{"mask_learning_rate": 1e-3}, {"mask_weight_decay": 0.1}])
def test_settings_of_masks_where_nothing_is_learned(
    settings: dict[str, float], model_folder: str, rows: list[dict[str, str]], out: str
) -> None:
    args = PreferenceConfig(out, report_to="none", use_cpu=True, **settings)
    with pytest.raises(ValueError, match="is for what an objective learns, and this one learns nothing"):
        PreferenceTrainer(model_folder, objective=zoo.dpo(), args=args, train_dataset=rows)
    PreferenceTrainer(model_folder, objective=zoo.sparsepo(), args=args, train_dataset=rows)


def test_a_reference_that_would_never_be_run(model_folder: str, rows: list[dict[str, str]], out: str) -> None:
    args = PreferenceConfig(out, report_to="none", use_cpu=True)
    reference = AutoModelForCausalLM.from_pretrained(model_folder)
    with pytest.raises(ValueError, match="reference-free and would never run it"):
        PreferenceTrainer(model_folder, reference, objective=zoo.simpo(), args=args, train_dataset=rows)


def test_a_split_of_evaluation_data_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="eval_split is read only with eval"):
        DataSection(train="pairs.jsonl", eval_split="held_out")
    assert DataSection.model_validate(DataSection(train="pairs.jsonl").model_dump()).eval is None
    DataSection(train="pairs.jsonl", eval="pairs.jsonl", eval_split="test")
