"""Token ids as text, token by token."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

_WINDOW = 8
"""Preceding tokens that can change how a token is decoded."""


def token_texts(prompt: Sequence[int], response: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The text that each response token adds to the text before it, spaces included."""
    ids = [*prompt, *response]
    texts = []
    for index in range(len(prompt), len(ids)):
        before = ids[max(0, index - _WINDOW) : index]
        texts.append(decode([*before, ids[index]], tokenizer)[len(decode(before, tokenizer)) :])
    return texts


def decode(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> str:
    """The text of the tokens, without cleaning up spaces."""
    return str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))
