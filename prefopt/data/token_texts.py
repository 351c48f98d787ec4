"""From token ids back to text, token by token."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

__all__ = ["decode", "token_texts"]

_WINDOW = 8
"""Tokens before a token that can change how it is decoded."""


def token_texts(prompt: Sequence[int], response: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The text that each response token adds to what stands before it, spaces included."""
    whole = [*prompt, *response]
    found = []
    for position in range(len(prompt), len(whole)):
        before = whole[max(0, position - _WINDOW) : position]
        found.append(decode([*before, whole[position]], tokenizer)[len(decode(before, tokenizer)) :])
    return found


def decode(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> str:
    """The text of the tokens, spaces as they are."""
    return str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))
