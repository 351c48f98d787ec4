"""A pair as token ids: the boundary between prompt and response, the end of a response, and truncation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

from jinja2 import TemplateError
from pydantic import Field
from transformers import PreTrainedTokenizerBase

from prefopt.data.column_values import ColumnValues, TokenizedResponse
from prefopt.data.pairs import Pair, TextPair, common_length
from prefopt.data.rows import BadRow, DataError, RowError
from prefopt.validation import Settings

_MARKER = "\ue000"
"""A private-use character, with which no response begins."""


class EncodingConfig(Settings):
    """Limits in tokens; None is no limit.

    max_length         prompt and the longer of the two responses
    max_prompt_length  the prompt
    """

    max_length: int | None = Field(default=1024, ge=2)
    max_prompt_length: int | None = Field(default=None, ge=1)


@dataclass(frozen=True)
class EncodedPair:
    """Token ids of a pair; none of the three is empty, and the two responses differ.

    boundary_moved  the tokenizer merges the end of the prompt with the beginning of a response, so that the responses
                    hold the last characters of the prompt
    columns         the extra columns, by the keys of PreferenceBatch.columns
    """

    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]
    prompt_truncated: bool
    chosen_truncated: bool
    rejected_truncated: bool
    boundary_moved: bool
    columns: Mapping[str, float | list[float]] = field(default_factory=dict)


def encode_pair(
    pair: Pair, tokenizer: PreTrainedTokenizerBase, config: EncodingConfig, extra: ColumnValues | None = None
) -> EncodedPair | BadRow | None:
    """The pair in tokens, or None where the tokens of its two responses are the same.

    Prompt, prompt + chosen and prompt + rejected are tokenized as a whole, as the model reads them; the prompt is what
    the three have in common. A response to a text prompt ends in EOS, a chat response as the chat template ends it.
    Truncation cuts the beginning of the prompt, then the end of the responses with the values of `extra` there.

    Raises DataError for messages without a chat template, and for spans with a slow tokenizer.
    """
    try:
        return _encode(pair, tokenizer, config, extra)
    except RowError as error:
        return pair.source.bad(*error.report)
    except TemplateError as error:
        problem = f"the tokenizer's chat template refuses the conversation ({error})"
        return pair.source.bad("", problem, "change the messages or the template")


def _encode(
    pair: Pair, tokenizer: PreTrainedTokenizerBase, config: EncodingConfig, extra: ColumnValues | None
) -> EncodedPair | None:
    needing_offsets = extra.needing_offsets if extra else []
    if needing_offsets and not tokenizer.is_fast:
        raise DataError(
            f"{pair.source.where}: field '{needing_offsets[0]}': found spans, but the tokenizer "
            f"'{tokenizer.name_or_path}' is a slow one, which has no offsets of tokens; take a fast tokenizer, or give "
            "a number for each token"
        )
    is_text = isinstance(pair, TextPair)
    texts = _texts(pair, tokenizer)
    begins = _response_begins(pair, tokenizer, texts) if needing_offsets else [0, 0]
    tokenized = tokenizer(
        texts,
        add_special_tokens=is_text,
        return_offsets_mapping=bool(needing_offsets),
        verbose=False,  # truncation happens here, so the tokenizer's warning about length does not apply
    )
    ids = cast("list[list[int]]", tokenized["input_ids"])
    bos, eos = cast("int | None", tokenizer.bos_token_id), cast("int | None", tokenizer.eos_token_id)

    boundary = common_length(*ids)
    # A tokenizer may end every text in EOS; after a prompt on its own, that token is not part of the prompt.
    moved = boundary < len(ids[0]) - (ids[0][-1:] == [eos])
    prompt, chosen, rejected = ids[0][:boundary], ids[1][boundary:], ids[2][boundary:]

    for side, response in (("chosen", chosen), ("rejected", rejected)):
        if response in ([], [eos]):
            problem = "found text of which the tokenizer makes no token"
            raise RowError(side, problem, "write a response, or remove the row")
        if is_text and eos is not None and response[-1] != eos:
            response.append(eos)
    if not prompt:
        prompt = [token for token in (bos, eos) if token is not None][:1]
    if not prompt:
        raise RowError(
            "prompt",
            "found no prompt, and the tokenizer has neither a BOS nor an EOS token to stand for it",
            "give the row a prompt, or the tokenizer a BOS token",
        )

    encoded = _truncate(prompt, chosen, rejected, moved, bos, config)
    if encoded is None or extra is None:
        return encoded
    optional = int(is_text and eos is not None)
    offsets = cast("list[list[tuple[int, int]]]", tokenized["offset_mapping"] if needing_offsets else [[], [], []])
    sizes = ((len(chosen), len(encoded.chosen_ids)), (len(rejected), len(encoded.rejected_ids)))
    responses = [
        TokenizedResponse(size, kept, optional, text, start, positions, boundary)
        for (size, kept), text, start, positions in zip(sizes, texts[1:], begins, offsets[1:], strict=True)
    ]
    return replace(encoded, columns=extra.align(*responses))


def encode_prompt(
    prompt: str | Sequence[Mapping[str, str]], tokenizer: PreTrainedTokenizerBase, config: EncodingConfig
) -> list[int]:
    """A prompt in tokens, for generation: text, or messages, which the chat template renders.

    Only `max_prompt_length` applies. Raises ValueError where there is no token.
    """
    text = prompt if isinstance(prompt, str) else _render(tokenizer, prompt, add_generation_prompt=True)
    ids = cast("list[int]", tokenizer(text, add_special_tokens=isinstance(prompt, str), verbose=False)["input_ids"])
    bos, eos = cast("int | None", tokenizer.bos_token_id), cast("int | None", tokenizer.eos_token_id)
    if len(ids) > 1 and ids[-1] == eos:  # some tokenizers end every text in EOS
        ids = ids[:-1]
    ids = ids or [token for token in (bos, eos) if token is not None][:1]
    if not ids:
        raise ValueError(f"the tokenizer makes no token of the prompt {text!r}, and has neither BOS nor EOS")
    return ids if config.max_prompt_length is None else _cut_left(ids, config.max_prompt_length, bos)


def _texts(pair: Pair, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Prompt, prompt + chosen and prompt + rejected."""
    if isinstance(pair, TextPair):
        return [pair.prompt, pair.prompt + pair.chosen, pair.prompt + pair.rejected]
    if tokenizer.chat_template is None:
        raise DataError(
            f"{pair.source.where}: found messages, but the tokenizer '{tokenizer.name_or_path}' has no chat template; "
            "set tokenizer.chat_template, take a chat model's tokenizer, or give prompt and responses as text"
        )
    prompt = _render(tokenizer, pair.prompt, add_generation_prompt=True)
    return [prompt, *(_render(tokenizer, pair.prompt + response) for response in (pair.chosen, pair.rejected))]


def _render(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool = False
) -> str:
    conversation = [dict(message) for message in messages]
    options = {"tokenize": False, "add_generation_prompt": add_generation_prompt}
    return cast("str", tokenizer.apply_chat_template(conversation, **options))


def _response_begins(pair: Pair, tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[int]:
    """The response's first character in prompt + chosen and in prompt + rejected."""
    if isinstance(pair, TextPair):
        return [len(pair.prompt)] * 2
    # A conversation need not begin with the prompt rendered by add_generation_prompt, so another response is compared.
    others = [(*pair.prompt, response[0] | {"content": _MARKER}) for response in (pair.chosen, pair.rejected)]
    return [common_length(_render(tokenizer, other), text) for other, text in zip(others, texts[1:], strict=True)]


def _truncate(
    prompt: list[int], chosen: list[int], rejected: list[int], moved: bool, bos: int | None, config: EncodingConfig
) -> EncodedPair | None:
    prompt_size = len(prompt)
    limit = None
    if config.max_prompt_length is not None:
        prompt = _cut_left(prompt, config.max_prompt_length, bos)
    if config.max_length is not None:
        prompt = _cut_left(prompt, max(1, config.max_length - max(len(chosen), len(rejected))), bos)
        limit = config.max_length - len(prompt)
    kept_chosen, kept_rejected = chosen[:limit], rejected[:limit]
    if kept_chosen == kept_rejected:
        return None
    return EncodedPair(
        prompt_ids=prompt,
        chosen_ids=kept_chosen,
        rejected_ids=kept_rejected,
        prompt_truncated=len(prompt) < prompt_size,
        chosen_truncated=len(kept_chosen) < len(chosen),
        rejected_truncated=len(kept_rejected) < len(rejected),
        boundary_moved=moved,
    )


def _cut_left(prompt: list[int], limit: int, bos: int | None) -> list[int]:
    """The last `limit` tokens of the prompt; a BOS at its front is kept, since models rely on it."""
    if len(prompt) <= limit:
        return prompt
    if limit >= 2 and prompt[0] == bos:
        return [prompt[0], *prompt[1 - limit :]]
    return prompt[-limit:]
