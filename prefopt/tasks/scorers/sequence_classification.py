"""Logits of Hugging Face models of sequence classification."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from prefopt.tasks.quiet import quiet
from prefopt.training.trainer_inputs import ensure_pad_token

__all__ = ["load", "logits"]


@functools.lru_cache(maxsize=2)
def load(name: str, truncation_side: Literal["left", "right"]) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model, on a GPU where there is one, and its tokenizer.

    Raises ValueError where the checkpoint has no classifier, whose weights would then be drawn at random.
    """
    with quiet():
        loaded: Any = AutoModelForSequenceClassification.from_pretrained(name, dtype="auto", output_loading_info=True)
        model, info = loaded
        tokenizer = ensure_pad_token(AutoTokenizer.from_pretrained(name, truncation_side=truncation_side))
    if absent := sorted(info["missing_keys"]):
        raise ValueError(
            f"{name}: the checkpoint is no model of sequence classification, as it has no weights for "
            f"{', '.join(absent[:3])}; name one that was trained to classify"
        )
    if model.config.pad_token_id is None:  # by which a causal model finds the last token of a row
        model.config.pad_token_id = tokenizer.pad_token_id
    return model.eval().to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer


@torch.inference_mode()
def logits(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    batch_size: int,
    max_length: int,
    special_tokens: bool = True,
) -> Tensor:
    """[M, labels], float32, on the CPU. A text is cut at `max_length` tokens, at the tokenizer's truncation side."""
    batches = [torch.empty(0, model.config.num_labels)]
    for start in range(0, len(texts), batch_size):
        batch = tokenizer(
            list(texts[start : start + batch_size]),
            padding=True,
            truncation=True,
            max_length=max_length,
            add_special_tokens=special_tokens,
            return_tensors="pt",
        )
        batches.append(model(**batch.to(model.device)).logits.float().cpu())
    return torch.cat(batches)
