"""From a pair to token ids: the boundary between prompt and response, the end of a response, and truncation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

from jinja2 import TemplateError
from pydantic import BaseModel, ConfigDict, Field
from transformers import PreTrainedTokenizerBase

from prefopt.data.column_values import Extra, TokenisedResponse
from prefopt.data.pairs import ChatPair, Pair, TextPair, common_length
from prefopt.data.rows import BadRow, DataError, RowError

__all__ = ["EncodedPair", "EncodingConfig", "encode_pair", "encode_prompt"]


MARKER = "\ue000"
"""A private character, with which no response begins."""


class EncodingConfig(BaseModel):
    """How long a pair may be, in tokens; None is without limit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_length: int | None = Field(default=1024, ge=2)
    """Prompt and response together, for the longer of the two responses."""

    max_prompt_length: int | None = Field(default=None, ge=1)
    """The prompt alone."""


@dataclass(frozen=True)
class EncodedPair:
    """Token ids of a pair; none of the three is empty, and the two responses differ.

    boundary_moved says that the tokenizer joins the end of the prompt to the beginning of a response, so that the
    responses hold the last characters of the prompt. columns are the extra ones, under the keys of
    PreferenceBatch.columns.
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
    pair: Pair, tokenizer: PreTrainedTokenizerBase, config: EncodingConfig, extra: Extra | None = None
) -> EncodedPair | BadRow | None:
    """The pair in tokens, or None where its two responses come out as the same tokens.

    Prompt, prompt + chosen and prompt + rejected are tokenised each as a whole, as the model will read them; the prompt
    ends where the three part. A response to a text prompt ends in the tokenizer's EOS, a chat response as the chat
    template ends it. Too long a prompt loses its beginning, then too long a response its end, and with it the values
    that `extra` has for its tokens.

    Raises DataError for messages where the tokenizer has no chat template, and for spans where it is a slow one.
    """
    located = extra.needing_offsets if extra else []
    if located and not tokenizer.is_fast:
        raise DataError(
            f"{pair.source.where}: field '{located[0]}': found spans, but the tokenizer '{tokenizer.name_or_path}' is "
            "a slow one, which does not say where its tokens stand; take a fast tokenizer, or give a number for each "
            "token"
        )
    try:
        texts = _text(pair) if isinstance(pair, TextPair) else _rendered(pair, tokenizer)
        begins = _begins(pair, tokenizer, texts) if located else [0, 0]
    except TemplateError as error:
        return pair.source.bad(
            "",
            f"the tokenizer's chat template refuses the conversation ({error})",
            "change the messages or the template",
        )
    tokenised = tokenizer(
        texts,
        add_special_tokens=isinstance(pair, TextPair),
        return_offsets_mapping=bool(located),
        verbose=False,  # this is where length is dealt with, so a warning about it would be noise
    )
    ids = cast("list[list[int]]", tokenised["input_ids"])
    bos, eos = cast("int | None", tokenizer.bos_token_id), cast("int | None", tokenizer.eos_token_id)

    boundary = common_length(*ids)
    # A tokenizer may end every text in EOS; after a prompt on its own, that token is not part of the prompt.
    moved = boundary < len(ids[0]) - (ids[0][-1:] == [eos])
    prompt, chosen, rejected = ids[0][:boundary], ids[1][boundary:], ids[2][boundary:]

    for side, response in (("chosen", chosen), ("rejected", rejected)):
        if response in ([], [eos]):
            return pair.source.bad(
                side, "found text of which the tokenizer makes no token", "write a response, or remove the row"
            )
        if isinstance(pair, TextPair) and eos is not None and response[-1] != eos:
            response.append(eos)
    if not prompt:
        start = bos if bos is not None else eos
        if start is None:
            return pair.source.bad(
                "prompt",
                "found no prompt, and the tokenizer has neither a BOS nor an EOS token to stand for it",
                "give the row a prompt, or the tokenizer a BOS token",
            )
        prompt = [start]

    encoded = _truncated(prompt, chosen, rejected, moved, bos, config)
    if encoded is None or extra is None:
        return encoded
    optional = int(isinstance(pair, TextPair) and eos is not None)
    offsets = cast("list[list[tuple[int, int]]]", tokenised["offset_mapping"] if located else [[], [], []])
    sizes = ((len(chosen), len(encoded.chosen_ids)), (len(rejected), len(encoded.rejected_ids)))
    responses = [
        TokenisedResponse(whole, kept, optional, text, start, places, boundary)
        for (whole, kept), text, start, places in zip(sizes, texts[1:], begins, offsets[1:], strict=True)
    ]
    try:
        return replace(encoded, columns=extra.on(*responses))
    except RowError as problem:
        return pair.source.bad(*problem.report)


def encode_prompt(
    prompt: str | Sequence[Mapping[str, str]], tokenizer: PreTrainedTokenizerBase, config: EncodingConfig
) -> list[int]:
    """A prompt in tokens, as a model is to go on from it: text, or messages, which the chat template renders.

    Only `max_prompt_length` of the configuration counts. Raises ValueError where there is no token.
    """
    text = prompt if isinstance(prompt, str) else _render(tokenizer, prompt, add_generation_prompt=True)
    ids = cast("list[int]", tokenizer(text, add_special_tokens=isinstance(prompt, str), verbose=False)["input_ids"])
    bos, eos = cast("int | None", tokenizer.bos_token_id), cast("int | None", tokenizer.eos_token_id)
    if len(ids) > 1 and ids[-1] == eos:  # which some tokenizers add to every text
        ids = ids[:-1]
    ids = ids or [token for token in (bos, eos) if token is not None][:1]
    if not ids:
        raise ValueError(f"the tokenizer makes no token of the prompt {text!r}, and has neither BOS nor EOS")
    return ids if config.max_prompt_length is None else _cut_left(ids, config.max_prompt_length, bos)


def _text(pair: TextPair) -> list[str]:
    return [pair.prompt, pair.prompt + pair.chosen, pair.prompt + pair.rejected]


def _rendered(pair: ChatPair, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    if tokenizer.chat_template is None:
        raise DataError(
            f"{pair.source.where}: found messages, but the tokenizer '{tokenizer.name_or_path}' has no chat template; "
            "set tokenizer.chat_template, take a chat model's tokenizer, or give prompt and responses as text"
        )

    return [
        _render(tokenizer, pair.prompt, add_generation_prompt=True),
        _render(tokenizer, pair.prompt + pair.chosen),
        _render(tokenizer, pair.prompt + pair.rejected),
    ]


def _render(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool = False
) -> str:
    conversation = [dict(message) for message in messages]
    return cast(
        "str",
        tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=add_generation_prompt),
    )


def _begins(pair: Pair, tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[int]:
    """Where in prompt + chosen and in prompt + rejected the text of the response begins."""
    if isinstance(pair, TextPair):
        return [len(pair.prompt)] * 2
    # A prompt with add_generation_prompt need not be what a whole conversation begins with, so another response tells.
    others = [(*pair.prompt, response[0] | {"content": MARKER}) for response in (pair.chosen, pair.rejected)]
    return [common_length(_render(tokenizer, other), text) for other, text in zip(others, texts[1:], strict=True)]


def _truncated(
    prompt: list[int],
    chosen: list[int],
    rejected: list[int],
    moved: bool,
    bos: int | None,
    config: EncodingConfig,
) -> EncodedPair | None:
    whole = len(prompt)
    response_room = None
    if config.max_prompt_length is not None:
        prompt = _cut_left(prompt, config.max_prompt_length, bos)
    if config.max_length is not None:
        longest = max(len(chosen), len(rejected))
        prompt = _cut_left(prompt, max(1, config.max_length - longest), bos)
        response_room = config.max_length - len(prompt)
    kept_chosen, kept_rejected = chosen[:response_room], rejected[:response_room]
    if kept_chosen == kept_rejected:
        return None
    return EncodedPair(
        prompt_ids=prompt,
        chosen_ids=kept_chosen,
        rejected_ids=kept_rejected,
        prompt_truncated=len(prompt) < whole,
        chosen_truncated=len(kept_chosen) < len(chosen),
        rejected_truncated=len(kept_rejected) < len(rejected),
        boundary_moved=moved,
    )


def _cut_left(prompt: list[int], room: int, bos: int | None) -> list[int]:
    """The last `room` tokens of the prompt; a BOS at its front stays there, as models lean on it."""
    if len(prompt) <= room:
        return prompt
    if room >= 2 and prompt[0] == bos:
        return [prompt[0], *prompt[1 - room :]]
    return prompt[-room:]
