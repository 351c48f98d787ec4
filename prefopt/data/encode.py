"""A pair as token ids: the boundary between prompt and response, the end of a response, and its extra columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, cast

from pydantic import Field, field_validator
from transformers import PreTrainedTokenizerBase

from prefopt.data.chat import ChatRenderer, apply_template
from prefopt.data.column_values import ColumnValues, TokenizedResponse
from prefopt.data.fields import RESERVED
from prefopt.data.messages import content_text
from prefopt.data.pairs import SIDES, Pair, Side, TextPair
from prefopt.data.rows import BadRow, DataError, RowError
from prefopt.data.transcripts import common_length, human_turns
from prefopt.data.truncation import EncodedPair, TooLong, cut_left, truncated
from prefopt.validation import Settings

OnTooLong = Literal["truncate", "drop", "stop"]
"""What becomes of pairs beyond the limits: cut, left out and counted, or an error."""


class EncodingConfig(Settings):
    """How pairs become token ids. Limits are in tokens; None is no limit.

    max_length            prompt and the longer of the two responses
    max_prompt_length     the prompt
    on_too_long           truncate; drop, which leaves the pair out and counts it; or stop
    chat_template_kwargs  further arguments of the chat template, such as {"enable_thinking": False}; a row's own
                          `chat_template_kwargs` are laid over them

    Raises ValidationError for arguments that are set here, such as add_generation_prompt.
    """

    max_length: int | None = Field(default=1024, ge=2)
    max_prompt_length: int | None = Field(default=None, ge=1)
    on_too_long: OnTooLong = "truncate"
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)

    @field_validator("chat_template_kwargs")
    @classmethod
    def _not_reserved(cls, kwargs: dict[str, Any]) -> dict[str, Any]:
        if reserved := sorted(RESERVED & kwargs.keys()):
            raise ValueError(f"'{reserved[0]}' is set by prefopt; leave it out")
        return kwargs


def encode_pair(
    pair: Pair, tokenizer: PreTrainedTokenizerBase, config: EncodingConfig, extra: ColumnValues | None = None
) -> EncodedPair | BadRow | None:
    """The pair in tokens, or None where the tokens of its two responses are the same.

    Prompt, prompt + chosen and prompt + rejected are tokenized as a whole, as the model reads them; the prompt is what
    the three have in common. A response to a text prompt ends in EOS, a chat response as the chat template ends it.
    Turns of others within a response are marked. Truncation cuts the beginning of the prompt, then the end of the
    responses with the values of `extra` there; where `on_too_long` does not allow it, the result is a `TooLong`.

    Raises DataError for messages without a chat template, and for spans with a slow tokenizer.
    """
    try:
        return _Encoder(pair, tokenizer, config).encode(extra)
    except RowError as error:
        return pair.source.bad(*error.report)


class _Encoder:
    def __init__(self, pair: Pair, tokenizer: PreTrainedTokenizerBase, config: EncodingConfig) -> None:
        self.pair, self.tokenizer, self.config = pair, tokenizer, config
        self.is_text = isinstance(pair, TextPair)
        self.chat = None if isinstance(pair, TextPair) else ChatRenderer(tokenizer, pair, config.chat_template_kwargs)
        self.bos, self.eos = cast("int | None", tokenizer.bos_token_id), cast("int | None", tokenizer.eos_token_id)
        self.guessed, self.left_out = set(pair.usage.guessed), set[str]()

    def encode(self, extra: ColumnValues | None) -> EncodedPair | BadRow | None:
        needing_offsets = extra.needing_offsets if extra else []
        if needing_offsets and not self.tokenizer.is_fast:
            raise DataError(
                f"{self.pair.source.where}: field '{needing_offsets[0]}': found spans, but the tokenizer "
                f"{self.tokenizer.name_or_path!r} is a slow one, which has no offsets of tokens; take a fast "
                "tokenizer, or give a number for each token"
            )
        texts = self._texts()
        ids, offsets = self._tokenize(texts, with_offsets=bool(needing_offsets))
        unk, unk_text = self.tokenizer.unk_token_id, str(self.tokenizer.unk_token)
        unknown = (unk in tokens and unk_text not in text for text, tokens in zip(texts, ids, strict=True))
        if unk not in (None, self.bos, self.eos) and any(unknown):
            self.left_out.add("characters that the tokenizer has no token for")
        boundary = common_length(*ids)
        # A tokenizer may end every text in EOS; after a prompt on its own, that token is not part of the prompt.
        moved = boundary < len(ids[0]) - (ids[0][-1:] == [self.eos])
        prompt, chosen, rejected = ids[0][:boundary], ids[1][boundary:], ids[2][boundary:]
        for side, response in (("chosen", chosen), ("rejected", rejected)):
            if response in ([], [self.eos]):
                problem = "found text of which the tokenizer makes no token"
                raise RowError(side, problem, "write a response, or remove the row")
            if not self.is_text and not self._ends(response):
                self.guessed.add("chat responses that end without EOS or another special token, which would stop them")
            if self.is_text and {self.bos, self.eos} & set(response[:-1]):
                self.guessed.add("BOS or EOS inside of the text of a response, before its end, read as such")
            if self.is_text and self.eos is not None and response[-1] != self.eos:
                response.append(self.eos)
        whole = EncodedPair(
            prompt_ids=prompt or self._stand_in(),
            chosen_ids=chosen,
            rejected_ids=rejected,
            boundary_moved=moved,
            chosen_masked=self._masked("chosen", texts[1], ids[1], boundary, len(chosen)),
            rejected_masked=self._masked("rejected", texts[2], ids[2], boundary, len(rejected)),
            left_out=self.left_out,
            guessed=self.guessed,
        )
        if whole.is_identical and self.left_out:
            raise RowError(
                "rejected",
                f"found the same tokens as in 'chosen', without {' and '.join(sorted(self.left_out))}",
                "take a chat template that reads it, or remove the row",
            )
        encoded = truncated(whole, self.bos, self.config.max_length, self.config.max_prompt_length)
        if encoded is None:
            return None
        if self.config.on_too_long != "truncate" and encoded.is_truncated:
            return TooLong.from_sizes(self.pair.source, whole, self.config.max_length, self.config.max_prompt_length)
        if extra is None:
            return encoded
        optional = int(self.is_text and self.eos is not None)
        begins = self._response_begins(texts) if needing_offsets else [0, 0]
        sizes = ((len(chosen), len(encoded.chosen_ids)), (len(rejected), len(encoded.rejected_ids)))
        responses = [
            TokenizedResponse(size, kept, optional, text, start, positions, boundary)
            for (size, kept), text, start, positions in zip(sizes, texts[1:], begins, offsets[1:], strict=True)
        ]
        return replace(encoded, columns=extra.align(*responses))

    def _texts(self) -> list[str]:
        """Prompt, prompt + chosen and prompt + rejected."""
        pair = self.pair
        if isinstance(pair, TextPair):
            if self.tokenizer.chat_template and not any(
                token in pair.prompt for token in self.tokenizer.all_special_tokens
            ):
                self.guessed.add(
                    "text read as it is, without the tokenizer's chat template; to have that, give prompt and "
                    "responses as messages"
                )
            self.left_out.update(
                f"{name!r} of chat_template_kwargs, as the row is text" for name in self.config.chat_template_kwargs
            )
            return [pair.prompt, pair.prompt + pair.chosen, pair.prompt + pair.rejected]
        assert self.chat is not None
        prompt = self.chat.render(pair.prompt, add_generation_prompt=True)
        responses = [self.chat.render(pair.prompt + response) for response in (pair.chosen, pair.rejected)]
        for side, text in zip(SIDES, responses, strict=True):
            self.left_out.update(self.chat.left_out(side, text))
        self.guessed.update(self.chat.guesses(prompt, dict(zip(SIDES, responses, strict=True))))
        contents = [content_text(message) for message in (*pair.prompt, *pair.chosen, *pair.rejected)]
        if self._has_special_tokens(*contents):
            self.guessed.add("special tokens in the text of messages read as such, beside those of the chat template")
        return [prompt, *responses]

    def _ends(self, response: Sequence[int]) -> bool:
        """Whether the last token of a response, but for whitespace, is EOS or another special or added token."""
        if response[-1] == self.eos:
            return True
        added = {*self.tokenizer.all_special_ids, *self.tokenizer.get_added_vocab().values()}
        for token in reversed(response):
            if token in added or str(self.tokenizer.decode([token])).strip():
                return token in added
        return False

    def _has_special_tokens(self, *texts: str) -> bool:
        tokens = [token for token in self.tokenizer.all_special_tokens if token.strip()]
        return any(token in text for text in texts for token in tokens)

    def _tokenize(
        self, texts: Sequence[str], *, with_offsets: bool = False
    ) -> tuple[list[list[int]], list[list[tuple[int, int]]]]:
        """The token ids of each text, and their offsets; with one BOS where both text and tokenizer begin with it."""
        tokenized = self.tokenizer(
            list(texts),
            add_special_tokens=self.is_text,
            return_offsets_mapping=with_offsets,
            verbose=False,  # truncation happens here, so the tokenizer's warning about length does not apply
        )
        ids = cast("list[list[int]]", tokenized["input_ids"])
        offsets = cast(
            "list[list[tuple[int, int]]]", tokenized["offset_mapping"] if with_offsets else [[] for _ in ids]
        )
        if self.bos is not None and all(tokens[:2] == [self.bos] * 2 for tokens in ids):
            self.guessed.add("a BOS token in the text of the prompt merged with the one that the tokenizer adds")
            return [tokens[1:] for tokens in ids], [positions[1:] for positions in offsets]
        return ids, offsets

    def _stand_in(self) -> list[int]:
        """BOS or EOS, as the prompt of a pair without one. Raises RowError where the tokenizer has neither."""
        if self.bos is None and self.eos is None:
            raise RowError(
                "prompt",
                "found no prompt, and the tokenizer has neither a BOS nor an EOS token to stand for it",
                "give the row a prompt, or the tokenizer a BOS token",
            )
        self.guessed.add("no prompt: a BOS or EOS token stands for it")
        return [token for token in (self.bos, self.eos) if token is not None][:1]

    def _masked(self, side: Side, text: str, ids: Sequence[int], boundary: int, size: int) -> list[int]:
        """The tokens of a response, by their positions in it, that are turns of others."""
        spans: Iterable[tuple[int, int]]
        if self.chat is not None:
            spans = self.chat.other_turns(side, text)
        else:
            shift, prompt = len(self.pair.prompt), cast("str", self.pair.prompt)
            spans = ((shift + start, shift + end) for start, end in human_turns(prompt, text[shift:]))
        positions: list[int] = []
        for start, end in spans:
            (before, after), _ = self._tokenize([text[:start], text[:end]])
            last = size if end == len(text) else common_length(after, ids) - boundary
            positions += range(max(common_length(before, ids) - boundary, 0), last)
        if len(positions) == size:
            raise RowError(side, "found turns of others alone", "write a response, or remove the row")
        return positions

    def _response_begins(self, texts: Sequence[str]) -> list[int]:
        """The response's first character in prompt + chosen and in prompt + rejected."""
        if self.chat is None:
            return [len(self.pair.prompt)] * 2
        return [self.chat.content_begins(side, text) for side, text in zip(SIDES, texts[1:], strict=True)]


def encode_prompt(
    prompt: str | Sequence[Mapping[str, Any]], tokenizer: PreTrainedTokenizerBase, config: EncodingConfig
) -> list[int]:
    """A prompt in tokens, for generation: text, or messages, which the chat template renders.

    Only `max_prompt_length` and `chat_template_kwargs` apply. Raises ValueError where there is no token.
    """
    is_text = isinstance(prompt, str)
    text = str(prompt)
    if not isinstance(prompt, str):
        text = apply_template(tokenizer, prompt, config.chat_template_kwargs, add_generation_prompt=True)
    ids = cast("list[int]", tokenizer(text, add_special_tokens=is_text, verbose=False)["input_ids"])
    bos, eos = cast("int | None", tokenizer.bos_token_id), cast("int | None", tokenizer.eos_token_id)
    if bos is not None and ids[:2] == [bos, bos]:  # one of the text, one of the tokenizer
        ids = ids[1:]
    if len(ids) > 1 and ids[-1] == eos:  # some tokenizers end every text in EOS
        ids = ids[:-1]
    ids = ids or [token for token in (bos, eos) if token is not None][:1]
    if not ids:
        raise ValueError(f"the tokenizer makes no token of the prompt {text!r}, and has neither BOS nor EOS")
    return ids if config.max_prompt_length is None else cut_left(ids, config.max_prompt_length, bos)
