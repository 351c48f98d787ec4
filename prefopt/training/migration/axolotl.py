"""Axolotl's settings in TRL's names."""

from __future__ import annotations

from prefopt.training.migration.kinds import typed_of_axolotl
from prefopt.training.migration.notes import Notes, Settings, with_defaults

_NAMES = {
    "base_model": "model_name_or_path",
    "revision_of_model": "model_revision",
    "rl_beta": "beta",
    "dpo_beta": "beta",
    "dpo_label_smoothing": "label_smoothing",
    "dpo_use_weighting": "use_weighting",
    "dpo_loss_type": "loss_type",
    "dpo_loss_weights": "loss_weights",
    "dpo_padding_free": "padding_free",
    "dpo_use_liger_kernel": "use_liger_kernel",
    "dpo_generate_during_eval": "generate_during_eval",
    "rpo_alpha": "rpo_alpha",
    "sequence_len": "max_length",
    "micro_batch_size": "per_device_train_batch_size",
    "eval_batch_size": "per_device_eval_batch_size",
    "num_epochs": "num_train_epochs",
    "optimizer": "optim",
    "lr_scheduler": "lr_scheduler_type",
    "val_set_size": "test_split_size",
    "peft_use_dora": "use_dora",
    "peft_use_rslora": "use_rslora",
    "wandb_name": "run_name",
}
"""Axolotl's setting -> TRL's, where the names differ."""

_LOSSES = {"dpo": "sigmoid", "ipo": "ipo"}
_METHODS = ("orpo", "simpo")
_ALL = (*_LOSSES, *_METHODS)

_DEFAULTS: Settings = {
    "max_length": 512,
    "per_device_train_batch_size": 1,
    "num_train_epochs": 1.0,
    "lr_scheduler_type": "cosine",
    "warmup_ratio": 0.03,
}
"""Axolotl's defaults that are others than those of a run file, by TRL's names."""

_COLUMNS = {
    "argilla": {"prompt": "instruction", "chosen": "chosen_response", "rejected": "rejected_response"},
    "icr": {"prompt": "input"},
    "intel": {"prompt": "question"},
}
"""The end of a type, such as chatml.intel -> the columns of its rows of text."""

_WITHOUT_COUNTERPART = {
    "model_type": "policies are loaded by AutoModelForCausalLM",
    "tokenizer_type": "tokenizers are loaded by AutoTokenizer",
    "chat_template": "the tokenizer's own is used; save one with another template and name it as model.tokenizer",
    "special_tokens": "the tokenizer's own are used; save one with these and name it as model.tokenizer",
    "dataset_prepared_path": "rows are prepared anew for each run",
    "sample_packing": "a pair's responses share their prompt instead",
    "pad_to_sequence_len": "padding goes to the longest of the batch",
    "strict": "unknown fields are always an error here",
    "remove_unused_columns": "columns that nobody reads are named in the report of the data",
    "train_on_inputs": "the prompt is never trained on",
    "group_by_length": "set training.train_sampling_strategy: group_by_length",
}


def translate(settings: Settings, notes: Notes) -> Settings:
    """The settings in TRL's names. Raises ValueError where they are not those of preference training."""
    settings = typed_of_axolotl(settings)
    method = settings.get("rl")
    if method is None:
        raise ValueError(f"rl is not set, so that this is no preference training; it is {', '.join(_ALL)}")
    if method not in _ALL:
        raise ValueError(f"rl: {method!r} has no counterpart here; those that have: {', '.join(_ALL)}")
    translated: Settings = {"loss_type": _LOSSES[method], "method": "dpo"} if method in _LOSSES else {}
    notes.names["loss_type"] = "rl"
    for name, value in settings.items():
        if name in ("rl", "orpo_alpha", "datasets", "test_datasets", *_READ_BELOW):
            continue
        if name in _WITHOUT_COUNTERPART:
            if value:
                notes.no_counterpart(name, _WITHOUT_COUNTERPART[name])
            continue
        target = _NAMES.get(name, name)
        translated[target] = value
        if target != name:
            notes.names[target] = name
    if method in _METHODS:  # which TRL tells apart by the trainer
        translated |= _reference_free(method, settings, notes)
    translated |= _data(settings, notes)
    translated |= _model(settings, notes)
    translated |= _schedule(settings, notes)
    defaults = {
        name: _DEFAULTS[name] for name in _DEFAULTS if name != "warmup_ratio" or "warmup_steps" not in translated
    }
    return with_defaults(translated, defaults, "axolotl's default", notes, _NAMES)


_READ_BELOW = """adapter lora_model_dir lora_target_linear flash_attention sdp_attention xformers_attention
evals_per_epoch saves_per_epoch wandb_project wandb_mode wandb_entity bf16 fp16""".split()


def _reference_free(method: str, settings: Settings, notes: Notes) -> Settings:
    if method == "orpo":
        notes.names["beta"] = "orpo_alpha"
        return {"method": "orpo"} | ({"beta": settings["orpo_alpha"]} if "orpo_alpha" in settings else {})
    return {"method": "simpo", "loss_type": "simpo", "cpo_alpha": settings.get("cpo_alpha", 0.0)}


def _data(settings: Settings, notes: Notes) -> Settings:
    sources = []
    for source in settings.get("datasets") or []:
        fields = {key: source[key] for key in ("path", "split", "data_files", "revision") if source.get(key)}
        if source.get("name"):
            fields["name"] = source["name"]
        columns = {
            role: source[f"field_{theirs}"]
            for role, theirs in {"prompt": "messages", "chosen": "chosen", "rejected": "rejected"}.items()
            if source.get(f"field_{theirs}", role) != role
        }
        kind = source.get("type")
        form, _, end = str(kind).rpartition(".")
        if columns := ({} if form == "chat_template" else _COLUMNS.get(end, {})) | columns:
            fields["columns"] = columns
        if kind is not None:
            notes.changed(
                f"type {kind!r} of {source.get('path')}",
                "the form of rows is recognised, and rows of text are read as they are, without a chat template; see "
                "`prefopt data check`",
            )
        if read := source.keys() - {*fields, "type", "ds_type", "field_messages", "field_chosen", "field_rejected"}:
            notes.no_counterpart(f"{', '.join(sorted(read))} of {source.get('path')}", "no such field of a source here")
        sources.append(fields)
    translated: Settings = {"datasets": sources}
    if settings.get("test_datasets"):
        notes.no_counterpart("test_datasets", "name them as data.eval")
    if settings.get("val_set_size"):
        translated["eval_strategy"] = settings.get("eval_strategy", "steps" if settings.get("eval_steps") else "epoch")
    return translated


def _model(settings: Settings, notes: Notes) -> Settings:
    translated: Settings = {}
    if settings.get("adapter"):
        translated["use_peft"] = True
        notes.names["use_peft"] = "adapter"
        if settings["adapter"] == "qlora" and "load_in_4bit" not in settings:
            translated["load_in_4bit"] = True
    if settings.get("lora_target_linear"):
        translated["lora_target_modules"] = "all-linear"
        notes.names["lora_target_modules"] = "lora_target_linear"
    if settings.get("lora_model_dir"):
        notes.no_counterpart("lora_model_dir", "name the adapter's folder as model.name")
    if settings.get("flash_attention"):
        translated["attn_implementation"] = "flash_attention_2"
        notes.names["attn_implementation"] = "flash_attention"
    elif settings.get("sdp_attention") or settings.get("xformers_attention"):
        notes.changed("sdp_attention", "transformers' default, sdpa")
    for name in ("bf16", "fp16"):
        if settings.get(name) == "auto":
            notes.changed(name, "set training.bf16 where the accelerator has it; auto is not known here")
        elif settings.get(name) is not None:
            translated[name] = settings[name]
    return translated


def _schedule(settings: Settings, notes: Notes) -> Settings:
    """Evaluations and checkpoints in an epoch as shares of all steps, which transformers takes in their place."""
    translated: Settings = {}
    epochs = settings.get("num_epochs", 1)
    for kind, steps in {"evals_per_epoch": "eval", "saves_per_epoch": "save"}.items():
        if not (number := settings.get(kind)):
            continue
        if number * epochs <= 1:  # a share of 1 would be every step
            translated[f"{steps}_strategy"] = "epoch"
            notes.changed(kind, f"training.{steps}_strategy: epoch")
        else:
            translated |= {f"{steps}_strategy": "steps", f"{steps}_steps": round(1 / (number * epochs), 6)}
            notes.changed(kind, f"training.{steps}_steps, a share of all steps")
    if not settings.get("val_set_size") and settings.get("evals_per_epoch"):
        translated = {name: value for name, value in translated.items() if not name.startswith("eval_")}
        notes.no_counterpart("evals_per_epoch", "read only where there is an evaluation (val_set_size)")
    if settings.get("wandb_project"):
        translated["report_to"] = "wandb"
        notes.changed("wandb_project", "training.report_to: wandb, which reads WANDB_PROJECT of the environment")
    return translated
