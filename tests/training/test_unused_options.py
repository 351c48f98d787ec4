"""An option that no part of a run reads is an error, which names who could read it."""

from __future__ import annotations

import inspect
import logging
import re
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from peft import LoraConfig
from transformers import AutoModelForCausalLM

from prefopt import ObjectiveConfig, resolve, unit_pairs, zoo
from prefopt.component import Component, PreferenceLoss, Units
from prefopt.data import DataError
from prefopt.divergences import ForwardKL
from prefopt.objective_config import DivergenceTerm
from prefopt.registry import installed
from prefopt.regularizers import MaskL1
from prefopt.training import PreferenceConfig, PreferenceTrainer, RunFile
from prefopt.training.execute import start
from prefopt.training.run_sections import DataSection

BUILT_IN = [cls for cls, owner in installed() if owner.distribution == "prefopt"]


@pytest.mark.parametrize("component", BUILT_IN, ids=lambda cls: cls.__name__)
def test_every_field_of_a_component_is_read(component: type[Component]) -> None:
    modules = {cls.__module__ for cls in component.__mro__ if issubclass(cls, Component)}
    source = "".join(inspect.getsource(sys.modules[module]) for module in modules)
    if issubclass(component, Units):
        source += inspect.getsource(unit_pairs)
    for name in component.model_fields.keys() - {"name"}:
        assert any(f"{owner}.{name}" in source for owner in ("self", "config", "units")), name


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


def test_arguments_of_a_load_where_nothing_is_loaded(model_folder: str, rows: list[dict[str, str]], out: str) -> None:
    args = PreferenceConfig(out, report_to="none", use_cpu=True, model_init_kwargs={"dtype": "float32"})
    make = {"objective": zoo.dpo(), "args": args, "train_dataset": rows}
    model = AutoModelForCausalLM.from_pretrained(model_folder)
    with pytest.raises(ValueError, match="model_init_kwargs are for `from_pretrained`, and no model is given by its"):
        PreferenceTrainer(model, **make)
    PreferenceTrainer(model, model_folder, **make)


def test_arguments_of_rows_where_the_data_is_prepared(
    model_folder: str, rows: list[dict[str, str]], out: str, caplog: pytest.LogCaptureFixture
) -> None:
    make = {"model": model_folder, "objective": zoo.dpo()}
    scored = [row | {"score_chosen": 2.0, "score_rejected": 1.0} for row in rows]
    first = PreferenceTrainer(
        model_folder, objective=zoo.odpo(), args=PreferenceConfig(out, use_cpu=True), train_dataset=scored
    )
    prepared = first.train_dataset
    caplog.clear()
    with caplog.at_level(logging.WARNING, "prefopt"):
        args = PreferenceConfig(
            out, use_cpu=True, columns={"prompt": "q"}, on_too_long="drop", chat_template_kwargs={"a": 1}, max_length=4
        )
        PreferenceTrainer(**make, args=args, train_dataset=prepared)
    (message,) = caplog.messages
    assert re.fullmatch(
        r"train data: it holds token ids already, so that nothing reads columns, chat_template_kwargs, on_too_long, "
        r"max_length \(4, and pairs have up to \d+ tokens\), "
        r"column 'pair:score_chosen', column 'pair:score_rejected'",
        message,
    )
    caplog.clear()
    with caplog.at_level(logging.WARNING, "prefopt"):
        used = prepared.remove_columns(["pair:score_chosen", "pair:score_rejected"])
        PreferenceTrainer(**make, args=PreferenceConfig(out, use_cpu=True), train_dataset=used)
    assert not caplog.messages


def test_a_run_file_prepares_its_data_once_and_says_nothing_of_it(
    model_folder: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data, held_out = tmp_path / "pairs.jsonl", tmp_path / "held-out.jsonl"
    data.write_text('{"q": "good film", "chosen": " end", "rejected": " scene"}\n')
    held_out.write_text('{"q": "bad film", "chosen": " scene", "rejected": " end"}\n')
    section = {"train": str(data), "eval": str(held_out), "columns": {"prompt": "q"}, "on_too_long": "drop"}
    training = {"output_dir": str(tmp_path / "run"), "use_cpu": True, "eval_strategy": "epoch"}
    run = RunFile(model=model_folder, data=section, objective="dpo", training=training)
    with caplog.at_level(logging.WARNING, "prefopt"):
        assert start(run).data_reports.keys() == {"train", "eval"}
    assert not caplog.messages
    with pytest.raises(DataError, match=r"pairs.jsonl: it has no splits, so that nobody would read the split 'valid'"):
        start(RunFile(model=model_folder, data=section | {"split": "valid"}, objective="dpo", training=training))


def test_a_frame_of_pandas_is_rows(model_folder: str, rows: list[dict[str, str]], out: str) -> None:
    args = PreferenceConfig(out, use_cpu=True)
    make = {"objective": zoo.dpo(), "args": args}
    expected = PreferenceTrainer(model_folder, train_dataset=rows, **make).train_dataset
    assert PreferenceTrainer(model_folder, train_dataset=pd.DataFrame(rows), **make).train_dataset[:] == expected[:]


def test_a_value_that_an_argument_does_not_have(out: str) -> None:
    with pytest.raises(ValueError, match=r"train_sampling_strategy: 'group_by_len' is none of random, .* Did you mean"):
        PreferenceConfig(out, use_cpu=True, train_sampling_strategy="group_by_len")


def test_an_optimizer_that_does_not_hold_what_trains(
    model_folder: str, rows: list[dict[str, str]], out: str, caplog: pytest.LogCaptureFixture
) -> None:
    policy = AutoModelForCausalLM.from_pretrained(model_folder)
    optimizer = torch.optim.SGD(policy.parameters(), lr=1e-3)
    make = {"objective": zoo.sparsepo(), "train_dataset": rows, "optimizers": (optimizer, None)}
    args = PreferenceConfig(out, use_cpu=True, mask_learning_rate=0.1, optim="adafactor")
    with pytest.raises(ValueError, match="the optimizer holds no parameter of the policy that trains"):
        PreferenceTrainer(model_folder, args=args, **make)
    with caplog.at_level(logging.WARNING, "prefopt"):
        trainer = PreferenceTrainer(policy, model_folder, args=args, **make)
    masks = sum(1 for _ in trainer.model.objective.parameters())
    left_out, unread = caplog.messages
    assert left_out.startswith(f"optimizers: {masks} parameters that require a gradient are not in the optimizer")
    assert unread == "optimizers: an optimizer is given, which does not read optim, mask_learning_rate"


def test_values_of_other_types_are_one_line(model_folder: str, rows: list[dict[str, str]], out: str) -> None:
    make = {"args": PreferenceConfig(out, use_cpu=True), "train_dataset": rows, "objective": zoo.dpo()}
    wrong = {
        "objective": ("dpo", "objective: found str; give a configuration, such as prefopt.zoo.dpo"),
        "train_dataset": ("pairs.jsonl", "train_dataset: found the name 'pairs.jsonl'; give rows"),
        "eval_dataset": (Path("pairs.jsonl"), "eval_dataset: found the name 'pairs.jsonl'; give rows"),
        "peft_config": ({"r": 4}, "peft_config: found dict; give PEFT's object"),
    }
    for name, (value, message) in wrong.items():
        with pytest.raises(TypeError, match=message):
            PreferenceTrainer(model_folder, **make | {name: value})
    other = LoraConfig(target_modules=["q_proj"], task_type="SEQ_2_SEQ_LM")
    with pytest.raises(ValueError, match=r"its task_type is .*SEQ_2_SEQ_LM; a policy's is CAUSAL_LM"):
        PreferenceTrainer(model_folder, **make, peft_config=other)


@pytest.mark.parametrize("settings", [{"max_length": 1}, {"on_too_long": "cut"}, {"max_prompt_length": 0}])
def test_limits_without_sense_are_one_line(settings: dict[str, object], out: str) -> None:
    with pytest.raises(ValueError, match=rf"^{next(iter(settings))}: [^\n]+$"):
        PreferenceConfig(out, use_cpu=True, **settings)


def test_a_split_of_evaluation_data_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="eval_split is read only with eval"):
        DataSection(train="pairs.jsonl", eval_split="held_out")
    assert DataSection.model_validate(DataSection(train="pairs.jsonl").model_dump()).eval == {}
    DataSection(train="pairs.jsonl", eval="pairs.jsonl", eval_split="test")
