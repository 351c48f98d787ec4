"""TRL's settings of adapters and quantised models, as `model` of a run file."""

from __future__ import annotations

from typing import Any

from prefopt.training.migration.notes import Notes, Settings

BNB = {
    "bnb_4bit_quant_type": "bnb_4bit_quant_type",
    "use_bnb_nested_quant": "bnb_4bit_use_double_quant",
    "bnb_4bit_quant_storage": "bnb_4bit_quant_storage",
    "bnb_4bit_compute_dtype": "bnb_4bit_compute_dtype",
}
"""TRL's settings of a model in 4 bits -> the fields of BitsAndBytesConfig."""

_TRL_LORA = {"r": 16, "lora_alpha": 32, "lora_dropout": 0.05}


def migrate_adapter(run: dict[str, Any], settings: Settings, notes: Notes) -> None:
    """`model.peft`, with TRL's defaults."""
    adapter = run["model"].pop("peft", {})
    if settings.get("use_peft"):
        run["model"]["peft"] = _TRL_LORA | adapter
        notes.carried_over("use_peft", "model.peft")
        if adapter.get("lora_dropout", _TRL_LORA["lora_dropout"]):
            notes.changed("lora_dropout", "dropout is always off here, in the adapter too")


def migrate_quantisation(run: dict[str, Any], settings: Settings, notes: Notes) -> None:
    """BitsAndBytesConfig's fields, which only a model in 4 bits has. Raises ValueError for both numbers of bits."""
    config = run["model"].get("init", {}).get("quantization_config")
    if config is None:
        return
    if config.get("load_in_4bit") and config.get("load_in_8bit"):
        raise ValueError("load_in_4bit and load_in_8bit: a model is loaded in one of them; leave the other out")
    if not (config.get("load_in_4bit") or config.get("load_in_8bit")):
        del run["model"]["init"]["quantization_config"]
    for name, field in BNB.items():
        if name not in settings:
            continue
        if config.get("load_in_4bit"):
            config[field] = settings[name]
            notes.carried_over(name, f"model.init.quantization_config.{field}")
        else:
            notes.no_counterpart(name, "read only with load_in_4bit")
    if config.get("load_in_4bit"):
        config.setdefault("bnb_4bit_quant_type", "nf4")  # TRL's default, which is not bitsandbytes'
