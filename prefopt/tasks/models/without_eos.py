"""A copy of a model whose tokenizer adds no end-of-text token, for responses that may be truncated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, AutoTokenizer

from prefopt.data.quiet import quiet
from prefopt.training.trainer_inputs import ensure_pad_token


def save_without_eos(model: str, folder: Path, *, end_token: str | None = None) -> str:
    """Write the model into the folder with a tokenizer that has no end-of-text token; return the text of that token.

    Encoding a response appends the tokenizer's end-of-text token, but a truncated response must not be trained to end.
    Under this tokenizer a response ends only if its text ends with the returned one; sampling still stops there, as the
    generation settings name the token. `end_token` replaces the tokenizer's own end-of-text token.

    Raises ValueError without an end-of-text token, or if the tokenizer reads it as several tokens.
    """
    with quiet():
        tokenizer = ensure_pad_token(AutoTokenizer.from_pretrained(model))
        copy = AutoModelForCausalLM.from_pretrained(model, dtype="auto")
    end = end_token or tokenizer.eos_token
    if end is None:
        raise ValueError(f"{model}: the tokenizer has no end-of-text token; name what ends a text with `end_token`")
    # Encoded behind a word, as at the end of a text.
    end_id: Any = tokenizer(f"x{end}", add_special_tokens=False)["input_ids"][-1]
    if tokenizer.convert_tokens_to_ids(end) != end_id or end_id == tokenizer.unk_token_id:
        raise ValueError(f"{model}: the tokenizer does not read {end!r} as one token, so that it cannot be `end_token`")
    copy.generation_config.eos_token_id = end_id
    tokenizer.eos_token = None
    with quiet():
        copy.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return str(end)
