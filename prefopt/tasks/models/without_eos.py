"""A copy of a model whose tokenizer ends no text of itself, for responses that may have been cut at a length."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, AutoTokenizer

from prefopt.tasks.quiet import quiet
from prefopt.training.trainer_inputs import ensure_pad_token

__all__ = ["save_unended"]


def save_unended(model: str, folder: Path, *, end_token: str | None = None) -> str:
    """Write the model into the folder with a tokenizer that has no end-of-text token; return what ends a text.

    A text response is given its tokenizer's end-of-text token, but one that was cut at a length must not learn to end
    there. With this copy only those end that have the returned text at their end; sampling stops at that token, which
    the generation settings name. `end_token` is what the model ends texts with, where that is not its tokenizer's
    end-of-text token.

    Raises ValueError where there is no such token.
    """
    with quiet():
        tokenizer = ensure_pad_token(AutoTokenizer.from_pretrained(model))
        copy = AutoModelForCausalLM.from_pretrained(model, dtype="auto")
    end = end_token or tokenizer.eos_token
    if end is None:
        raise ValueError(f"{model}: the tokenizer has no end-of-text token; name what ends a text with `end_token`")
    # Asked for with a word before it, as it stands at the end of a text.
    place: Any = tokenizer(f"x{end}", add_special_tokens=False)["input_ids"][-1]
    if tokenizer.convert_tokens_to_ids(end) != place or place == tokenizer.unk_token_id:
        raise ValueError(f"{model}: the tokenizer does not read {end!r} as one token, so that it cannot be `end_token`")
    copy.generation_config.eos_token_id = place
    tokenizer.eos_token = None
    with quiet():
        copy.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return str(end)
