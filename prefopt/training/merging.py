"""Adapters merged into the weights of their base: a whole model, for who loads no adapters."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, final

import torch
from torch import Tensor, nn
from transformers import AutoConfig

from prefopt.training.card_file import CARD, is_card
from prefopt.training.checkpoints import saved_adapter
from prefopt.training.disk import explained
from prefopt.training.loading import adapter_base, load_model, load_tokenizer
from prefopt.training.model_card import merged_card
from prefopt.training.model_files import load_causal_lm
from prefopt.training.model_names import reject_absent
from prefopt.training.new_adapter import merged_model
from prefopt.training.output_folder import OutputFolderError, listing
from prefopt.training.saved_run import run_file_of
from prefopt.whole_files import publish_folder, publish_text, remove, unfinished_name

_TOLERANCES = MappingProxyType({torch.float64: 1e-8, torch.float32: 1e-3})
_HALF_TOLERANCE = 0.1
"""Largest difference of logits, relative to the largest of them, that rounding explains in a dtype."""

_TOKENS = 64


@final
class Merged(NamedTuple):
    """A merged model: its folder, the adapter's kind, and how far its logits are from the adapter's, of the largest."""

    folder: Path
    kind: str
    difference: float


def merge(run: str, out: str | Path) -> Merged:
    """Merge the adapter of a run, a checkpoint or an adapter's folder or name into its base, and save the whole model
    with its tokenizer, as `from_pretrained` reads it, and the run's model card.

    Raises OutputFolderError where `out` holds something, ValueError where there is no adapter, it cannot be merged, its
    base is quantised, or the model that was saved does not say what the adapter does.
    """
    out = Path(out)
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        holds = f"holds {listing(sorted(out.iterdir()))}" if out.is_dir() else "is a file"
        raise OutputFolderError(f"{out} {holds}; name a folder that is not there")
    reject_absent(run)
    adapter = str((saved_adapter(run) if Path(run).is_dir() else None) or run)
    base = adapter_base(adapter)
    if base is None:
        if not Path(run).is_dir():
            raise ValueError(f"{run}: there is no such folder, and no adapter of that name on the hub; mend the path")
        raise ValueError(f"{run}: it has no adapter, so that there is nothing to merge: its policy is a whole model")
    if getattr(AutoConfig.from_pretrained(base), "quantization_config", None) is not None:
        raise ValueError(
            f"{run}: the weights of its base {base} are quantised, and merging would round the adapter away; name the "
            "same model in full precision as base_model_name_or_path in adapter_config.json"
        )
    run_file = run_file_of(Path(run)) if Path(run).is_dir() else None
    options = {} if run_file is None else dict(run_file.model.init)
    options.pop("quantization_config", None)  # of training; what is merged is the base in full
    policy: Any = load_model(adapter, options).eval()
    tokenizer = load_tokenizer(adapter if (Path(adapter) / "tokenizer_config.json").is_file() else run)
    kind = policy.active_peft_config.peft_type.value
    expected = _logits(policy)
    remedy = f"; load it with PEFT, as PeftModel.from_pretrained({base!r}, {adapter!r})"
    model: Any = merged_model(policy, remedy)
    beside = unfinished_name(out)
    try:
        with explained("the merged model", out):
            out.parent.mkdir(parents=True, exist_ok=True)
            model.save_pretrained(beside)
            tokenizer.save_pretrained(beside)
            if is_card(card := Path(run) / CARD):
                publish_text(merged_card(card.read_text(encoding="utf-8"), out.name), beside / CARD)
        del policy, model
        difference = _require_equal(
            load_causal_lm(str(beside), {}).eval(), expected, f"{run}: its adapter ({kind})", remedy
        )
        if out.exists():
            out.rmdir()
        publish_folder(beside, out)
    finally:
        remove(beside)
    return Merged(out, kind, difference)


def _require_equal(model: nn.Module, expected: Tensor, what: str, remedy: str) -> float:
    """The difference of the model's logits from the expected ones, over the largest. Raises ValueError where it is more
    than rounding."""
    logits = _logits(model)
    largest = float(expected.abs().max())
    difference = float((logits - expected.to(logits)).abs().max()) / max(largest, torch.finfo(torch.float32).tiny)
    if not difference <= _TOLERANCES.get(logits.dtype, _HALF_TOLERANCE):
        raise ValueError(
            f"{what} does not say the same once it is merged: logits differ by {difference:.2g} of the largest, as "
            f"where embedding and head share weights that the adapter changes for one of them{remedy}"
        )
    return difference


@torch.no_grad()
def _logits(model: Any) -> Tensor:
    """At the first tokens of the vocabulary."""
    ids = torch.arange(min(_TOKENS, model.config.get_text_config().vocab_size))[None]
    logits: Tensor = model(input_ids=ids).logits
    return logits
