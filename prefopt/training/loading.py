"""Models and tokenizers by name: whole models, and adapters with their base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peft import PeftConfig, PeftModel, load_peft_weights
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.peft_utils import find_adapter_config_file

from prefopt.training.model_files import load_causal_lm

MERGED_BASE = "base"
"""The folder, in the run's, of a model into which an adapter was merged: the new adapter is of use with it alone."""

_HUB_OPTIONS = ("cache_dir", "local_files_only", "revision", "token")

_WEIGHTS = ("model.", "model-", "pytorch_model")
"""Beginnings of the names of a whole model's files."""


def load_model(name: str, options: dict[str, Any] | None = None, *, trains: bool = False) -> nn.Module:
    """The causal LM of a name or folder; of an adapter's, its base with the adapter, as a PeftModel.

    options  keyword arguments of the model's `from_pretrained`
    trains   whether the adapter's weights require a gradient. Raises ValueError for a prompt, which PEFT only reads
    """
    options = dict(options or {})
    hub = {key: options[key] for key in _HUB_OPTIONS if key in options}
    base = adapter_base(name, **hub)
    if base is None:
        return load_causal_lm(name, options)
    if trains and (config := PeftConfig.from_pretrained(name, **hub)).is_prompt_learning:
        raise ValueError(
            f"{name}: PEFT loads a saved prompt ({config.peft_type.value}) to read it alone, not to train it on; set "
            "prompt_encoder['default'].embedding.requires_grad_(True) in the loaded PeftModel and give that as the "
            f"model, or train a new adapter (peft_config; model.peft in a run file) of {base}"
        )
    options.pop("revision", None)  # the adapter's
    lm = load_causal_lm(base, options)
    _resize_embedding(lm, name, **hub)
    adapted = PeftModel.from_pretrained(lm, name, is_trainable=trains, **hub)
    adapted.active_peft_config.base_model_name_or_path = base  # which may have moved with its run
    return adapted


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a name or folder; of an adapter's that has none, its base's."""
    try:
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError):
        if (base := adapter_base(name)) is None:
            raise
        return AutoTokenizer.from_pretrained(base)


def adapter_base(name: str, **hub: Any) -> str | None:
    """The base model's name of an adapter's name or folder; None of a whole model's. Raises ValueError where the
    adapter does not tell.

    hub  options of a download, such as revision
    """
    files = [file.name for file in Path(name).glob("*.*")]  # config.json may be beside an adapter too
    if any(file.startswith(_WEIGHTS) for file in files) or find_adapter_config_file(name, **hub) is None:
        return None
    base: str | None = PeftConfig.from_pretrained(name, **hub).base_model_name_or_path
    if base is None:
        raise ValueError(f"{name}: adapter_config.json does not name the base model; add base_model_name_or_path")
    if not Path(base).is_absolute() or Path(base).exists():
        return base
    if Path(base).name == MERGED_BASE:  # it is in the run's folder, and so is the adapter, or in one of its own there
        folder = Path(name).absolute()
        for merged in (folder / MERGED_BASE, *(parent / MERGED_BASE for parent in folder.parents[:2])):
            if (merged / "config.json").is_file():
                return str(merged)
    raise ValueError(
        f"{name}: its base model {base} is not there; put it there, or change base_model_name_or_path in "
        "adapter_config.json"
    )


def _resize_embedding(lm: PreTrainedModel, adapter: str, **hub: Any) -> None:
    """Give a base the token ids that it had when the adapter was saved, whose file then holds embedding and head."""
    weights = load_peft_weights(adapter, device="cpu", **hub)
    names = {module: name for name, module in lm.named_modules()}

    def saved(layer: nn.Module) -> Tensor | None:
        keys = (f"base_model.model.{names[layer]}{infix}.weight" for infix in ("", ".base_layer"))
        return next((weights[key] for key in keys if key in weights), None)

    embedding = saved(lm.get_input_embeddings())
    if embedding is None or len(embedding) == len(lm.get_input_embeddings().weight):
        return
    lm.resize_token_embeddings(len(embedding), mean_resizing=False)
    names.update((module, name) for name, module in lm.named_modules())
    head, layer = lm.get_output_embeddings(), lm.get_input_embeddings()
    if head.weight is not layer.weight and saved(head) is None:
        raise ValueError(
            f"{adapter}: its base had {len(embedding)} token ids, and PEFT has saved no head of that size beside an "
            "adapter on the embedding; save the base with its added tokens as a model, and adapt that"
        )
