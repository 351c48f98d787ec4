"""From a configuration of TRL's DPO trainer to a run file with the same objective, and what does not carry over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, final

from prefopt.training.arguments import ARGUMENTS, objection
from prefopt.training.config import PreferenceConfig
from prefopt.training.migrate_objective import READ_BY_OBJECTIVE, migrate_objective
from prefopt.training.run_file import RunFile

Settings = Mapping[str, Any]

_PATHS = {
    "model_name_or_path": ("model", "name"),
    "model_revision": ("model", "init", "revision"),
    "dtype": ("model", "init", "dtype"),
    "torch_dtype": ("model", "init", "dtype"),
    "attn_implementation": ("model", "init", "attn_implementation"),
    "trust_remote_code": ("model", "init", "trust_remote_code"),
    "lora_r": ("model", "peft", "r"),
    "lora_alpha": ("model", "peft", "lora_alpha"),
    "lora_dropout": ("model", "peft", "lora_dropout"),
    "lora_target_modules": ("model", "peft", "target_modules"),
    "lora_modules_to_save": ("model", "peft", "modules_to_save"),
    "lora_task_type": ("model", "peft", "task_type"),
    "use_rslora": ("model", "peft", "use_rslora"),
    "use_dora": ("model", "peft", "use_dora"),
    "dataset_name": ("data", "train"),
    "dataset_train_split": ("data", "split"),
    "dataset_test_split": ("data", "eval_split"),
    "max_length": ("data", "max_length"),
    "max_prompt_length": ("data", "max_prompt_length"),
    "chat_template_kwargs": ("data", "chat_template_kwargs"),
    "model_init_kwargs": ("model", "init"),
    "gradient_checkpointing": ("training", "activation_checkpointing"),
    "gradient_checkpointing_kwargs": ("training", "activation_checkpointing_kwargs"),
}
"""TRL's setting -> its path in a run file, where that is not training.NAME."""

_TRL_LORA = {"r": 16, "lora_alpha": 32, "lora_dropout": 0.05}
_TRL_TRAINING = {"gradient_checkpointing": True, "bf16": True}

_WITHOUT_EQUIVALENT = {
    "use_peft": "",
    "disable_dropout": "dropout is always off here, in both models",
    "precompute_ref_log_probs": "set data.reference_cache, a folder: token-level objectives read more than sums",
    "precompute_ref_batch_size": "see precompute_ref_log_probs",
    "padding_free": "has no effect in TRL either",
    "use_liger_kernel": "the head is computed in chunks here in any case",
    "truncation_mode": "here the prompt is cut from the left first, then the responses from the right; or see "
    "data.on_too_long",
    "dataset_num_proc": "rows are prepared in one process here",
    "pad_to_multiple_of": "padding goes to the longest of the batch here",
    "pad_token": "the tokenizer's own is used here, or its end of text",
    "dataset_config": "no equivalent: give data.train a data set with one configuration, or a folder",
    "load_in_4bit": "no equivalent: give model.init a quantization_config",
    "load_in_8bit": "no equivalent: give model.init a quantization_config",
    "activation_offloading": "no equivalent",
}


@final
@dataclass(frozen=True)
class Migration:
    """The run file as a mapping, and a note on each setting that has no equivalent or another meaning."""

    run: dict[str, Any]
    notes: tuple[str, ...]


def migrate(settings: Settings) -> Migration:
    """TRL's settings (its script, model and DPO arguments in one mapping) as a run file.

    Raises ValueError where a loss has no equivalent, or the run file is invalid for another reason.
    """
    notes: list[str] = []
    run: dict[str, Any] = {"model": {}, "data": {}, "objective": migrate_objective(settings, notes), "training": {}}
    paths = {field.name: ("training", field.name) for field in fields(PreferenceConfig)} | _PATHS
    for name, value in settings.items():
        if argument := objection(name, value) if name in ARGUMENTS.keys() - _WITHOUT_EQUIVALENT.keys() else None:
            notes.append(f"{name} {argument.treatment.value.partition(',')[0]}: {argument.remark}; left out")
        elif name in paths:
            section = run
            *parents, key = paths[name]
            for parent in parents:
                section = section.setdefault(parent, {})
            # Both model_init_kwargs and settings of their own, such as dtype, may be of model.init.
            section[key] = section.get(key, {}) | value if isinstance(value, Mapping) else value
        elif name in _WITHOUT_EQUIVALENT:
            notes.extend([f"{name}: {_WITHOUT_EQUIVALENT[name]}"] if value and _WITHOUT_EQUIVALENT[name] else [])
        elif name not in READ_BY_OBJECTIVE:
            notes.append(f"{name}: no such setting is known here; left out")
    _migrate_adapter(run, settings, notes)
    if settings.get("eval_strategy", "no") != "no" and "dataset_name" in settings:
        run["data"]["eval"] = settings["dataset_name"]
    _drop_unused(run, notes)
    for name, value in _TRL_TRAINING.items():
        if name not in settings:
            path = ".".join(paths[name])
            notes.append(f"{name}: TRL's default is {value}, here it is transformers'; set {path}")
    run = {section: content for section, content in run.items() if content}
    RunFile.model_validate(run)
    return Migration(run, tuple(notes))


def _drop_unused(run: dict[str, Any], notes: list[str]) -> None:
    """Drop settings that nothing in the run reads: TRL ignores them, a run file rejects them."""
    if "eval" not in run["data"] and run["data"].pop("eval_split", None):
        notes.append("dataset_test_split: read only where there is an evaluation (eval_strategy); left out")
    if not run["training"].get("sync_ref_model"):
        for name in ("ref_model_mixup_alpha", "ref_model_sync_steps"):
            if run["training"].pop(name, None) is not None:
                notes.append(f"{name}: read only with sync_ref_model; left out")


def _migrate_adapter(run: dict[str, Any], settings: Settings, notes: list[str]) -> None:
    adapter = run["model"].pop("peft", {})
    if settings.get("use_peft"):
        run["model"]["peft"] = _TRL_LORA | adapter
        if adapter.get("lora_dropout", _TRL_LORA["lora_dropout"]):
            notes.append("lora_dropout: dropout is always off here, in the adapter too")
    elif adapter:
        notes.append("lora_*: read only with use_peft, which is not set; left out")
