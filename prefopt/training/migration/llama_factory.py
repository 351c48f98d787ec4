"""LLaMA-Factory's settings in TRL's names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from prefopt.training.migration.kinds import typed_of_llama_factory
from prefopt.training.migration.notes import Notes, Settings, with_defaults

_NAMES = {
    "pref_beta": "beta",
    "dpo_label_smoothing": "label_smoothing",
    "pref_ftx": "rpo_alpha",
    "cutoff_len": "max_length",
    "lora_rank": "lora_r",
    "lora_target": "lora_target_modules",
    "additional_target": "lora_modules_to_save",
    "val_size": "test_split_size",
    "preprocessing_num_workers": "dataset_num_proc",
    "flash_attn": "attn_implementation",
    "double_quantization": "use_bnb_nested_quant",
}
"""LLaMA-Factory's setting -> TRL's, where the names differ."""

_LORA = {"lora_rank": "lora_r", "lora_alpha": "lora_alpha", "lora_dropout": "lora_dropout"}
_LOSSES = ("sigmoid", "hinge", "ipo", "orpo", "simpo")

_DEFAULTS: Settings = {"beta": 0.1, "learning_rate": 5e-5, "max_length": 2048, "gradient_checkpointing": True}
"""LLaMA-Factory's defaults that are others than those of a run file, by TRL's names."""
_WHOSE = "LLaMA-Factory's default"

_MIXTURES: dict[str, Settings] = {
    "concat": {},
    "interleave_under": {"mixture": "interleave"},
    "interleave_over": {"mixture": "interleave", "stopping_strategy": "all_exhausted"},
}
"""mix_strategy -> fields of `data`."""

_ATTENTION = {"fa2": "flash_attention_2", "sdpa": "sdpa", "disabled": "eager"}

_WITHOUT_COUNTERPART = {
    "template": "the tokenizer's chat template is used",
    "overwrite_cache": "rows are prepared anew for each run",
    "plot_loss": "report_to: tensorboard draws it",
    "pref_bco_weight": "a mixture of losses is objective.loss: {name: mixture}",
    "ray_run_name": "a run is one process, or what its launcher starts",
    "packing": "a pair's responses share their prompt instead",
    "mask_history": "turns before the response are the prompt",
}

_READ_BELOW = """stage do_train finetuning_type pref_loss simpo_gamma dataset dataset_dir eval_dataset max_samples
quantization_bit adapter_name_or_path ref_model lora_target mix_strategy interleave_probs
disable_gradient_checkpointing enable_thinking""".split()


def translate(settings: Settings, notes: Notes) -> Settings:
    """The settings in TRL's names. Raises ValueError where they are not those of preference training."""
    settings = typed_of_llama_factory(settings)
    if settings["stage"] != "dpo":
        raise ValueError(f"stage: {settings['stage']!r} is no preference training by pairs; dpo is")
    loss = settings.get("pref_loss", "sigmoid")
    if loss not in _LOSSES:
        raise ValueError(f"pref_loss: {loss!r} has no row here; those that have: {', '.join(_LOSSES)}")
    translated: Settings = {}
    notes.names["loss_type"] = "pref_loss"
    for name, value in settings.items():
        if name in _READ_BELOW or value is None:
            continue
        if name in _WITHOUT_COUNTERPART:
            if value:
                notes.no_counterpart(name, _WITHOUT_COUNTERPART[name])
            continue
        target = _NAMES.get(name, name)
        translated[target] = _ATTENTION.get(value, value) if name == "flash_attn" else value
        if target != name:
            notes.names[target] = name
    if translated.get("attn_implementation") == "auto":
        del translated["attn_implementation"]
    if settings.get("disable_gradient_checkpointing"):
        translated["gradient_checkpointing"] = False
        notes.names["gradient_checkpointing"] = "disable_gradient_checkpointing"
    if "enable_thinking" in settings:
        translated["chat_template_kwargs"] = {"enable_thinking": settings["enable_thinking"]}
        notes.names["chat_template_kwargs"] = "enable_thinking"
    if loss == "orpo":
        translated["method"] = "orpo"
    elif loss == "simpo":
        translated |= {"method": "simpo", "loss_type": "simpo", "simpo_gamma": settings.get("simpo_gamma", 0.5)}
        translated["cpo_alpha"] = translated.pop("rpo_alpha", 0.0)
        notes.names["cpo_alpha"] = "pref_ftx"
    else:
        translated |= {"method": "dpo", "loss_type": loss}
    translated |= _data(settings, notes)
    defaults = _DEFAULTS | ({"use_bnb_nested_quant": True} if settings.get("quantization_bit") == 4 else {})
    return with_defaults(translated | _model(settings, notes), defaults, _WHOSE, notes, _NAMES)


def _model(settings: Settings, notes: Notes) -> Settings:
    translated: Settings = {}
    kind = settings.get("finetuning_type", "lora")
    if kind not in ("lora", "full"):
        raise ValueError(f"finetuning_type: {kind!r} has no counterpart here; lora and full have one")
    if kind == "lora":
        target = settings.get("lora_target", "all")
        notes.names |= {"use_peft": "finetuning_type", "lora_target_modules": "lora_target"}
        names = [name.strip() for name in target.split(",")] if isinstance(target, str) else list(target)
        rank = settings.get("lora_rank", 8)
        translated |= {"use_peft": True, "lora_target_modules": "all-linear" if names == ["all"] else names}
        given = {theirs: settings[name] for name, theirs in _LORA.items() if name in settings}
        translated |= with_defaults(
            given, {"lora_r": 8, "lora_alpha": 2 * rank, "lora_dropout": 0.0}, _WHOSE, notes, _NAMES
        )
    if (bits := settings.get("quantization_bit")) is not None:
        if bits not in (4, 8):
            raise ValueError(f"quantization_bit: {bits!r} has no counterpart here; 4 and 8 have one")
        translated[f"load_in_{bits}bit"] = True
        notes.names[f"load_in_{bits}bit"] = "quantization_bit"
    if folder := settings.get("adapter_name_or_path"):
        notes.no_counterpart("adapter_name_or_path", f"name the adapter's folder as model.name: {folder}")
    if settings.get("ref_model"):
        translated["ref_model"] = settings["ref_model"]
    return translated


def _data(settings: Settings, notes: Notes) -> Settings:
    folder = Path(settings.get("dataset_dir", "data"))
    file = folder / "dataset_info.json"
    described: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    names = settings.get("dataset") or ""
    names = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)
    sources = []
    for name in filter(None, names):
        source = _source(described[name], folder) if name in described else {"path": name}
        if name not in described:
            notes.changed(
                "dataset", f"{name}: {file} does not describe it; give its file or name on the hub as data.train"
            )
        if settings.get("max_samples"):
            source["rows"] = settings["max_samples"]
        sources.append(source)
    if settings.get("max_samples"):
        notes.carried_over("max_samples", "rows of each source of data.train")
    if settings.get("eval_dataset"):
        notes.no_counterpart("eval_dataset", f"name it as data.eval: {settings['eval_dataset']}")
    notes.names["datasets"] = "dataset"
    return {"datasets": sources} | _mixture(settings, sources, notes)


def _mixture(settings: Settings, sources: list[dict[str, Any]], notes: Notes) -> Settings:
    """How the sources are put together; their weights, which are probabilities there."""
    strategy = settings.get("mix_strategy", "concat")
    if strategy not in _MIXTURES:
        raise ValueError(f"mix_strategy: {strategy!r} has no counterpart here; those that have: {', '.join(_MIXTURES)}")
    if strategy == "concat" or len(sources) == 1:
        for name in ("mix_strategy", "interleave_probs"):
            if settings.get(name):
                notes.carried_over(name, "the sources of data.train, one after the other")
        return {}
    weights = settings.get("interleave_probs")
    if weights is not None:
        if len(weights) != len(sources):
            raise ValueError(f"interleave_probs: {len(weights)} are not as many as the data sets, {len(sources)}")
        notes.carried_over("interleave_probs", "weight of each source of data.train")
    notes.carried_over("mix_strategy", "data.mixture")
    notes.names["interleaved"] = "mix_strategy"
    return {"interleaved": {"weights": weights, **_MIXTURES[strategy]}}


def _source(description: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A source of dataset_info.json."""
    source: dict[str, Any] = {}
    if description.get("hf_hub_url"):
        source["path"] = description["hf_hub_url"]
        if description.get("subset"):
            source["name"] = description["subset"]
    else:
        source["path"] = str(folder / description["file_name"])
    if description.get("split"):
        source["split"] = description["split"]
    columns = description.get("columns") or {}
    roles = {"prompt": "prompt", "messages": "prompt", "chosen": "chosen", "rejected": "rejected", "system": "system"}
    if renamed := {roles[key]: name for key, name in columns.items() if key in roles and roles[key] != name}:
        source["columns"] = renamed
    return source
