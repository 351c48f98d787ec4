"""Models and tokenizers by name: whole models, and adapters with their base."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peft import PeftConfig, PeftModel, load_peft_weights
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.peft_utils import find_adapter_config_file

from prefopt.training.model_errors import ModelFileError
from prefopt.training.model_files import load_causal_lm
from prefopt.training.model_names import reject_absent, reject_no_causal_lm, shortened
from prefopt.training.weight_checks import reject_non_finite
from prefopt.validation import one_line

MERGED_BASE = "base"
"""The folder, in the run's, of a model into which an adapter was merged: the new adapter is of use with it alone."""

_HUB_OPTIONS = ("cache_dir", "local_files_only", "revision", "token")

_WEIGHTS = ("model.", "model-", "pytorch_model")
"""Beginnings of the names of a whole model's files."""


def load_model(
    name: str, options: dict[str, Any] | None = None, *, trains: bool = False, finite: bool = True
) -> nn.Module:
    """The causal LM of a name or folder; of an adapter's, its base with the adapter, as a PeftModel.

    options  keyword arguments of the model's `from_pretrained`
    trains   whether the adapter's weights require a gradient. Raises ValueError for a prompt, which PEFT only reads
    finite   whether weights that are NaN or infinite are refused
    """
    options = dict(options or {})
    reject_unloadable(name, options)
    hub = {key: options[key] for key in _HUB_OPTIONS if key in options}
    base = adapter_base(name, **hub)
    if base is None:
        return load_causal_lm(name, options, finite=finite)
    if trains and (config := PeftConfig.from_pretrained(name, **hub)).is_prompt_learning:
        raise ValueError(
            f"{name}: PEFT loads a saved prompt ({config.peft_type.value}) to read it alone, not to train it on; set "
            "prompt_encoder['default'].embedding.requires_grad_(True) in the loaded PeftModel and give that as the "
            f"model, or train a new adapter (peft_config; model.peft in a run file) of {base}"
        )
    options.pop("revision", None)  # the adapter's
    lm = load_causal_lm(base, options, finite=finite)
    _resize_embedding(lm, name, **hub)
    whole = {id(parameter) for parameter in lm.parameters()}
    adapted = PeftModel.from_pretrained(lm, name, is_trainable=trains, **hub)
    if finite:
        reject_non_finite(name, {key: p for key, p in adapted.named_parameters() if id(p) not in whole}, {})
    adapted.active_peft_config.base_model_name_or_path = base  # which may have moved with its run
    return adapted


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a name or folder; of an adapter's that has none, its base's. Raises ModelFileError where there
    is none that can be used."""
    reject_absent(name)
    try:
        try:
            return AutoTokenizer.from_pretrained(name)
        except (OSError, ValueError):
            if (base := adapter_base(name)) is None:
                raise
            return AutoTokenizer.from_pretrained(base)
    except Exception as error:  # what tokenizers raises has no class of its own
        kind = "" if isinstance(error, OSError) else f"{type(error).__name__}: "
        raise ModelFileError(
            f"{name}: the tokenizer cannot be used ({kind}{shortened(one_line(error))}); get its files anew, or name "
            "another one (processing_class; model.tokenizer in a run file)"
        ) from error


def reject_unloadable(name: str, options: Mapping[str, Any]) -> None:
    """Raise ModelFileError where `load_model` would find no causal LM, before anything but config.json is read."""
    reject_absent(name)
    base = adapter_base(name, **{key: options[key] for key in _HUB_OPTIONS if key in options})
    reject_no_causal_lm(base or name, dict(options) if base is None else {**options, "revision": None})


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
