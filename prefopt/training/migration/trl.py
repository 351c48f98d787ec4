"""TRL's settings as a run file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from prefopt.training.arguments import ARGUMENTS, objection
from prefopt.training.config import PreferenceConfig
from prefopt.training.migration import data, trl_objective
from prefopt.training.migration.kinds import typed
from prefopt.training.migration.notes import Notes, Settings
from prefopt.training.migration.trl_model import BNB, migrate_adapter, migrate_quantisation
from prefopt.validation import did_you_mean

_FORMER = {
    "evaluation_strategy": "eval_strategy",
    "torch_dtype": "dtype",
    "preprocessing_num_workers": "dataset_num_proc",
    "hub_model_revision": "hub_revision",
}
"""Earlier names of settings."""

_PATHS = {
    "model_name_or_path": ("model", "name"),
    "ref_model": ("model", "reference"),
    "tokenizer_name_or_path": ("model", "tokenizer"),
    "model_revision": ("model", "init", "revision"),
    "dtype": ("model", "init", "dtype"),
    "attn_implementation": ("model", "init", "attn_implementation"),
    "trust_remote_code": ("model", "init", "trust_remote_code"),
    "lora_r": ("model", "peft", "r"),
    "lora_alpha": ("model", "peft", "lora_alpha"),
    "lora_dropout": ("model", "peft", "lora_dropout"),
    "lora_target_modules": ("model", "peft", "target_modules"),
    "lora_target_parameters": ("model", "peft", "target_parameters"),
    "lora_modules_to_save": ("model", "peft", "modules_to_save"),
    "lora_task_type": ("model", "peft", "task_type"),
    "use_rslora": ("model", "peft", "use_rslora"),
    "use_dora": ("model", "peft", "use_dora"),
    "load_in_4bit": ("model", "init", "quantization_config", "load_in_4bit"),
    "load_in_8bit": ("model", "init", "quantization_config", "load_in_8bit"),
    "max_length": ("data", "max_length"),
    "max_prompt_length": ("data", "max_prompt_length"),
    "chat_template_kwargs": ("data", "chat_template_kwargs"),
    "columns": ("data", "columns"),
    "dataset_num_proc": ("data", "dataset_num_proc"),
    "model_init_kwargs": ("model", "init"),
    "gradient_checkpointing": ("training", "activation_checkpointing"),
    "gradient_checkpointing_kwargs": ("training", "activation_checkpointing_kwargs"),
    "warmup_ratio": ("training", "warmup_steps"),
}
"""TRL's setting -> its path in a run file, where that is not training.NAME."""

_DEFAULTS = {
    "gradient_checkpointing": "true, here it is off",
    "bf16": "true, here it is off",
    "dtype": "float32, here it is the checkpoint's",
}
"""Settings whose default is another one in TRL's trainers."""

_OFF = "off, as it is here"

_WITHOUT_COUNTERPART = {
    "disable_dropout": "dropout is always off here, in both models",
    "precompute_ref_batch_size": "the reference cache is filled by per_device_eval_batch_size",
    "padding_free": "batches are padded to their longest pair; data.reference_cache and shared_prefix save more",
    "use_liger_kernel": "the head is computed in chunks here in any case",
    "truncation_mode": "the prompt is cut from the left first, then the responses from the right; see data.on_too_long",
    "pad_to_multiple_of": "padding goes to the longest of the batch",
    "pad_token": "the tokenizer's own is used, or its end of text",
    "padding_value": "the tokenizer's own is used",
    "chat_template": "save a tokenizer with this template and name it as model.tokenizer",
    "chat_template_path": "save a tokenizer with this template and name it as model.tokenizer",
    "activation_offloading": "activation_checkpointing saves memory",
    "max_completion_length": "data.max_length is the limit of prompt and response together",
    "is_encoder_decoder": "policies are causal models",
    "ignore_bias_buffers": "no buffer has to be left out here",
    "truncation_side": "the prompt is cut from the left first, then the responses from the right",
    "bf16_full_eval": "",
    "push_to_hub_revision": "training.push_to_hub uploads to training.hub_revision",
    "accelerate_config": "`accelerate launch --config_file FILE -m prefopt train run.yaml` takes one",
    "env": "set the environment of the command",
    **dict.fromkeys(("wandb_project", "wandb_entity"), "set WANDB_PROJECT and WANDB_ENTITY in the environment"),
    **dict.fromkeys(("do_train", "do_eval", "do_predict"), "`prefopt train` trains; eval_strategy evaluates"),
}


PATHS = {field.name: ("training", field.name) for field in fields(PreferenceConfig)} | _PATHS
"""A setting -> its path in a run file."""

_ELSEWHERE = (
    data.SETTINGS
    | trl_objective.SETTINGS
    | BNB.keys()
    | {*("use_peft", "precompute_ref_log_probs", "generate_during_eval")}
)
"""Settings that more than a path is made of."""


def run_file(settings: Settings, notes: Notes, *, method: str | None, source: str) -> dict[str, Any]:
    """The run file as a mapping, not yet validated. Raises ValueError where a loss has no equivalent."""
    settings = _current_names(settings, notes)
    settings = typed(settings)
    if not settings.get("model_name_or_path"):
        raise ValueError("no model: give model_name_or_path")
    objective = trl_objective.migrate_objective(settings, notes, method=method, source=source)
    run: dict[str, Any] = {"model": {}, "data": {}, "objective": objective, "training": {}}
    evaluates = settings.get("eval_strategy", "no") not in ("no", False)
    run["data"] |= data.migrate_data(settings, notes, evaluates=evaluates)
    for name, value in settings.items():
        if name in _ELSEWHERE or (value is None and name != "max_length"):
            continue
        if (switch := _switch(name)) is not None and not settings.get(switch):
            notes.no_counterpart(name, f"read only with {switch}, which is not set")
            continue
        if name in _WITHOUT_COUNTERPART:
            if value:
                notes.no_counterpart(name, _WITHOUT_COUNTERPART[name] or _remark(name, value))
            else:
                notes.carried_over(name, _OFF)
        elif name in ARGUMENTS and objection(name, value):
            notes.no_counterpart(name, _remark(name, value))
        elif name == "hub_token" and not str(value).startswith("${"):
            notes.no_counterpart(name, "no token is written to a file; set training.hub_token: ${oc.env:HF_TOKEN}")
        elif name in PATHS:
            _place(run, PATHS[name], value)
            notes.carried_over(name, ".".join(PATHS[name]))
        else:
            options = PATHS.keys() | _ELSEWHERE | _WITHOUT_COUNTERPART.keys()
            notes.no_counterpart(name, f"no such setting is known here.{did_you_mean(name, options)}".removesuffix("."))
    migrate_adapter(run, settings, notes)
    migrate_quantisation(run, settings, notes)
    _migrate_reference_cache(run, settings, notes)
    _migrate_samples(run, settings, notes)
    return {section: content for section, content in run.items() if content}


def _current_names(settings: Settings, notes: Notes) -> Settings:
    """The settings by their present names."""
    current: Settings = {}
    for name, value in settings.items():
        if name == "use_flash_attention_2":
            if value:
                current["attn_implementation"] = "flash_attention_2"
                notes.names["attn_implementation"] = name
        elif name in _FORMER and _FORMER[name] not in settings:
            current[_FORMER[name]] = value
            notes.names.setdefault(_FORMER[name], notes.names.get(name, name))
        else:
            current[name] = value
    no = [name for name in ("eval_strategy", "save_strategy", "logging_strategy") if current.get(name) is False]
    return current | dict.fromkeys(no, "no")  # YAML's `no` is false


def note_defaults(settings: Settings, notes: Notes) -> None:
    """Notes on TRL's defaults that are others than ours, where the settings leave them out."""
    present = {_FORMER.get(name, name) for name in settings}
    for name, default in _DEFAULTS.items():
        if name not in present:
            notes.changed(name, f"TRL's default is {default}; set {'.'.join(PATHS[name])}")


def _place(run: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    section = run
    *parents, key = path
    for parent in parents:
        section = section.setdefault(parent, {})
    # Both model_init_kwargs and settings of their own, such as dtype, may be of model.init.
    section[key] = section.get(key, {}) | value if isinstance(value, Mapping) else value


def _remark(name: str, value: object) -> str:
    argument = objection(name, value)
    return (
        "has no effect" if argument is None else f"it {argument.treatment.value.partition(',')[0]}: {argument.remark}"
    )


def _switch(name: str) -> str | None:
    """The setting without which this one is read by nobody: TRL ignores it then, a run file rejects it."""
    if _PATHS.get(name, ())[:2] == ("model", "peft"):
        return "use_peft"
    if name in ("ref_model_mixup_alpha", "ref_model_sync_steps"):
        return "sync_ref_model"
    return "push_to_hub" if name.startswith("hub_") else None


def _migrate_samples(run: dict[str, Any], settings: Settings, notes: Notes) -> None:
    if not settings.get("generate_during_eval"):
        return
    if {"eval", "test_split_size"} & run["data"].keys():
        run["samples"] = {"num_prompts": 8}
        notes.changed("generate_during_eval", "samples: of 8 prompts, greedy, at every evaluation")
    else:
        notes.no_counterpart("generate_during_eval", "read only where there is an evaluation (eval_strategy)")


def _migrate_reference_cache(run: dict[str, Any], settings: Settings, notes: Notes) -> None:
    if not settings.get("precompute_ref_log_probs"):
        if settings.get("precompute_ref_log_probs") is not None:
            notes.carried_over("precompute_ref_log_probs", _OFF)
        return
    if settings.get("sync_ref_model"):
        notes.no_counterpart("precompute_ref_log_probs", "a reference that follows the policy cannot be kept")
        return
    folder = f"{run['training'].get('output_dir', 'runs/train')}-reference"
    run["data"]["reference_cache"] = folder
    notes.changed(
        "precompute_ref_log_probs",
        f"data.reference_cache: {folder}; what the objective reads of the reference is kept by token, and across runs",
    )
