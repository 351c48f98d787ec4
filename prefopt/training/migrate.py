"""From a configuration of TRL's DPO trainer to a run file with the same objective, and what does not carry over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any, final

from prefopt.training.config import PreferenceConfig
from prefopt.training.migrate_objective import READ_BY_OBJECTIVE, migrate_objective
from prefopt.training.run_file import RunFile

__all__ = ["Migration", "migrate"]

Settings = Mapping[str, Any]

_MODEL = MappingProxyType(
    {
        "model_name_or_path": ("name",),
        "model_revision": ("init", "revision"),
        "dtype": ("init", "dtype"),
        "torch_dtype": ("init", "dtype"),
        "attn_implementation": ("init", "attn_implementation"),
        "trust_remote_code": ("init", "trust_remote_code"),
        "lora_r": ("peft", "r"),
        "lora_alpha": ("peft", "lora_alpha"),
        "lora_dropout": ("peft", "lora_dropout"),
        "lora_target_modules": ("peft", "target_modules"),
        "lora_modules_to_save": ("peft", "modules_to_save"),
        "lora_task_type": ("peft", "task_type"),
        "use_rslora": ("peft", "use_rslora"),
        "use_dora": ("peft", "use_dora"),
    }
)
_DATA = MappingProxyType(
    {
        "dataset_name": "train",
        "dataset_train_split": "split",
        "dataset_test_split": "eval_split",
        "max_length": "max_length",
    }
)
_TRL_LORA = MappingProxyType({"r": 16, "lora_alpha": 32, "lora_dropout": 0.05})
_TRL_TRAINING = MappingProxyType({"gradient_checkpointing": True, "bf16": True})
_RENAMED = MappingProxyType(
    {
        "gradient_checkpointing": "activation_checkpointing",
        "gradient_checkpointing_kwargs": "activation_checkpointing_kwargs",
    }
)

_WITHOUT_EQUIVALENT = MappingProxyType(
    {
        "use_peft": "",
        "disable_dropout": "dropout is always off here, in both models",
        "precompute_ref_log_probs": "the reference runs in every step here: token-level objectives need more of it "
        "than sums",
        "precompute_ref_batch_size": "see precompute_ref_log_probs",
        "padding_free": "has no effect in TRL either",
        "use_liger_kernel": "the head is computed in chunks here in any case",
        "truncation_mode": "here the prompt is cut from the left first, then the responses from the right",
        "dataset_num_proc": "rows are prepared in one process here",
        "pad_to_multiple_of": "padding goes to the longest of the batch here",
        "pad_token": "the tokenizer's own is used here, or its end of text",
        "dataset_config": "no equivalent: give data.train a data set with one configuration, or a folder",
        "router_aux_loss_coef": "no equivalent: the auxiliary loss of mixtures of experts is not added",
        "load_in_4bit": "no equivalent: give model.init a quantization_config",
        "load_in_8bit": "no equivalent: give model.init a quantization_config",
        "activation_offloading": "no equivalent",
    }
)


@final
@dataclass(frozen=True)
class Migration:
    """The run file as a mapping, and a line for each setting that has no equivalent or means something else."""

    run: dict[str, Any]
    notes: tuple[str, ...]


def migrate(settings: Settings) -> Migration:
    """TRL's settings (of its script, model and DPO arguments, in one mapping) as a run file.

    Raises ValueError where there is no row for a loss, or the run file would not be valid for another reason.
    """
    notes: list[str] = []
    run: dict[str, Any] = {"model": {}, "data": {}, "objective": migrate_objective(settings, notes), "training": {}}
    known = {field.name for field in fields(PreferenceConfig)}
    for name, value in settings.items():
        if name in _MODEL:
            section = run["model"]
            *path, last = _MODEL[name]
            for part in path:
                section = section.setdefault(part, {})
            section[last] = value
        elif name in _DATA:
            run["data"][_DATA[name]] = value
        elif name in known:
            run["training"][_RENAMED.get(name, name)] = value
        elif name in _WITHOUT_EQUIVALENT:
            notes.extend([f"{name}: {_WITHOUT_EQUIVALENT[name]}"] if value and _WITHOUT_EQUIVALENT[name] else [])
        elif name not in READ_BY_OBJECTIVE:
            notes.append(f"{name}: not a setting that is known here; left out")
    _settle_model(run, settings, notes)
    if settings.get("eval_strategy", "no") != "no" and "dataset_name" in settings:
        run["data"]["eval"] = settings["dataset_name"]
    _leave_out_what_is_unread(run, notes)
    differing = {name: value for name, value in _TRL_TRAINING.items() if name not in settings}
    for name, value in differing.items():
        notes.append(
            f"{name}: TRL's default is {value}, here it is transformers'; set training.{_RENAMED.get(name, name)}"
        )
    run = {section: content for section, content in run.items() if content}
    RunFile.model_validate(run)
    return Migration(run, tuple(notes))


def _leave_out_what_is_unread(run: dict[str, Any], notes: list[str]) -> None:
    """TRL takes settings in silence that nothing of the run reads; here they would be errors."""
    if "eval" not in run["data"] and run["data"].pop("eval_split", None):
        notes.append("dataset_test_split: read only where there is an evaluation (eval_strategy); left out")
    if not run["training"].get("sync_ref_model"):
        for name in ("ref_model_mixup_alpha", "ref_model_sync_steps"):
            if run["training"].pop(name, None) is not None:
                notes.append(f"{name}: read only with sync_ref_model; left out")


def _settle_model(run: dict[str, Any], settings: Settings, notes: list[str]) -> None:
    adapter = run["model"].pop("peft", {})
    if settings.get("use_peft"):
        run["model"]["peft"] = dict(_TRL_LORA) | adapter
        if adapter.get("lora_dropout", _TRL_LORA["lora_dropout"]):
            notes.append("lora_dropout: dropout is always off here, in the adapter too")
    elif adapter:
        notes.append("lora_*: read only with use_peft, which is not set; left out")
