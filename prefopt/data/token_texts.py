"""Token ids as text, token by token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from prefopt.data.pairs import Side

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


def response_token_texts(row: Mapping[str, Any], side: Side, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The texts of the tokens of a prepared row's response that a TokenBatch holds."""
    masked = set(row.get(f"{side}_masked", ()))
    texts = token_texts(row["prompt_ids"], row[f"{side}_ids"], tokenizer)
    return [text for position, text in enumerate(texts) if position not in masked]


def response_ids(row: Mapping[str, Any], side: Side) -> list[int]:
    """The tokens of a prepared row's response that a TokenBatch holds."""
    masked = set(row.get(f"{side}_masked", ()))
    return [token for position, token in enumerate(row[f"{side}_ids"]) if position not in masked]


def decode(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> str:
    """The text of the tokens, without cleaning up spaces."""
    return str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))


def wordless_tokens(tokenizer: PreTrainedTokenizerBase, size: int) -> Tensor:
    """[size] bool: which token ids have no letter and no digit: special tokens, punctuation, white space. A part of a
    character, which another token completes, is none of them, nor is an id that the tokenizer lacks.
    """
    ids = range(min(size, len(tokenizer)))
    texts = tokenizer.batch_decode([[token] for token in ids], clean_up_tokenization_spaces=False)
    special = set(tokenizer.all_special_ids)
    flags = torch.zeros(size, dtype=torch.bool)
    flags[: len(ids)] = torch.tensor(
        [
            token in special or not ("\ufffd" in text or any(map(str.isalnum, text)))
            for token, text in zip(ids, texts, strict=True)
        ]
    )
    return flags
