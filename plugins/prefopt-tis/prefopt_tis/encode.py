"""What is asked of the two models about a row: its pair in the tokens of training, behind each of two templates."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Literal, Self

from transformers import AutoConfig, PreTrainedTokenizerBase

from prefopt.data import (
    BadRow,
    EncodedPair,
    EncodingConfig,
    Pair,
    SourceRow,
    TextPair,
    content_text,
    encode_pair,
    to_pair,
)

__all__ = ["PLAIN", "RESPONSE", "Encoder", "Prompts", "Question", "position_limit", "templated"]

PLAIN = "{prompt}"
"""What a template has for the prompt; alone, it is the template that leaves the prompt as it is."""

RESPONSE = "{response}"
"""What a template has for the response."""

Side = Literal["chosen", "rejected"]

_FIELDS = re.compile(f"{re.escape(PLAIN)}|{re.escape(RESPONSE)}")
_WHOLE = EncodingConfig(max_length=None)


@dataclass(frozen=True)
class Prompts:
    """The prompts of two responses: the tokens that both begin with, and those of each that follow."""

    shared: list[int]
    chosen: list[int]
    rejected: list[int]

    @classmethod
    def from_pair(cls, chosen: list[int], rejected: list[int]) -> Self:
        """From the whole prompts."""
        size = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(chosen, rejected, strict=False)))
        return cls(chosen[:size], chosen[size:], rejected[size:])


@dataclass(frozen=True)
class Question:
    """A pair behind positive and negative prompts; `chosen` and `rejected` are what training keeps of the responses.

    chosen_size and rejected_size are the tokens of the whole responses, of which the row has to give each a number.
    """

    prompts: tuple[Prompts, Prompts]
    chosen: list[int]
    rejected: list[int]
    chosen_size: int
    rejected_size: int


@dataclass(frozen=True)
class Encoder:
    """Rows -> questions, in the tokens that training with that tokenizer and that `encoding` sees.

    Prompt and response in a template are not cut, or the template would be. `limit` is how many tokens the models take.
    """

    tokenizer: PreTrainedTokenizerBase
    encoding: EncodingConfig
    templates: tuple[str, str] = (PLAIN, PLAIN)
    limit: float = math.inf

    def __call__(self, row: SourceRow, column: str) -> Question | BadRow | None:
        """The question about a row that gets the fields chosen_COLUMN and rejected_COLUMN; None where its two responses
        are the same tokens, so that training leaves it out."""
        pair = to_pair(row, {})
        if isinstance(pair, BadRow):
            return pair
        for field in (f"chosen_{column}", f"rejected_{column}"):
            if field in row.fields:
                return row.bad(field, "found the field already", "choose another --column, or remove the field")
        try:
            json.dumps(dict(row.fields))
        except TypeError as error:
            return row.bad("", f"found a value that JSON cannot hold ({error})", "write it as text or as a number")
        whole = encode_pair(pair, self.tokenizer, _WHOLE)
        kept = encode_pair(pair, self.tokenizer, self.encoding)
        if whole is None or isinstance(whole, BadRow):
            return whole
        if kept is None or isinstance(kept, BadRow):
            return kept
        positive, negative = (self._prompts(pair, template, whole, kept) for template in self.templates)
        if isinstance(positive, BadRow):
            return positive
        if isinstance(negative, BadRow):
            return negative
        longest = max(
            len(prompts.shared) + max(len(prompts.chosen + kept.chosen_ids), len(prompts.rejected + kept.rejected_ids))
            for prompts in (positive, negative)
        )
        if longest > self.limit:
            remedy = "give a lower --max-length, or shorter templates"
            return row.bad("", f"found {longest} tokens, and the models take {self.limit:g}", remedy)
        return Question(
            prompts=(positive, negative),
            chosen=kept.chosen_ids,
            rejected=kept.rejected_ids,
            chosen_size=len(whole.chosen_ids),
            rejected_size=len(whole.rejected_ids),
        )

    def _prompts(self, pair: Pair, template: str, whole: EncodedPair, kept: EncodedPair) -> Prompts | BadRow:
        if template == PLAIN:
            return Prompts.from_pair(kept.prompt_ids, kept.prompt_ids)
        chosen = self._prompt(pair, template, whole, "chosen")
        rejected = self._prompt(pair, template, whole, "rejected") if RESPONSE in template else chosen
        if isinstance(chosen, BadRow):
            return chosen
        if isinstance(rejected, BadRow):
            return rejected
        prompts = Prompts.from_pair(chosen, rejected)
        if not prompts.shared:
            problem = (
                f"found that in the template {template!r} the prompts of the two responses begin with other tokens"
            )
            return pair.source.bad("prompt", problem, f"let the template begin with words, or with {PLAIN}")
        return prompts

    def _prompt(self, pair: Pair, template: str, whole: EncodedPair, side: Side) -> list[int] | BadRow:
        asked = templated(pair, template, side)
        if isinstance(asked, BadRow):
            return asked
        other = encode_pair(asked, self.tokenizer, _WHOLE)
        if isinstance(other, BadRow):
            return other
        if other is None or (other.chosen_ids, other.rejected_ids) != (whole.chosen_ids, whole.rejected_ids):
            return pair.source.bad(
                "prompt",
                f"found that behind the template {template!r} the responses are other tokens than in training",
                f"let the template end as prompts do, such as with {PLAIN}",
            )
        return other.prompt_ids


def position_limit(name: str) -> float:
    """How many tokens the model of that name or folder takes, as its configuration says; infinity where it does not."""
    config = AutoConfig.from_pretrained(name).get_text_config()
    return getattr(config, "max_position_embeddings", None) or math.inf


def templated(pair: Pair, template: str, side: Side) -> Pair | BadRow:
    """The pair with its prompt, or the content of the last message of it, in the template, and that response where the
    template has {response}: its text, or the content of its one message. A BadRow where that is not all of it."""
    response = ""
    if RESPONSE in template:
        text = _text(pair, side)
        if isinstance(text, BadRow):
            return text
        response = text
    if isinstance(pair, TextPair):
        return replace(pair, prompt=_filled(template, pair.prompt, response))
    *before, last = pair.prompt
    return replace(pair, prompt=(*before, last | {"content": _filled(template, content_text(last), response)}))


def _filled(template: str, prompt: str, response: str) -> str:
    # In one pass, lest a brace of the data be taken for one of the template.
    return _FIELDS.sub(lambda match: prompt if match[0] == PLAIN else response, template)


def _text(pair: Pair, side: Side) -> str | BadRow:
    if isinstance(pair, TextPair):
        return pair.chosen if side == "chosen" else pair.rejected
    messages = pair.chosen if side == "chosen" else pair.rejected
    if len(messages) > 1:
        problem = f"found a response of {len(messages)} messages, and {RESPONSE} in a template is the text of one"
        return pair.source.bad(side, problem, f"remove the row, or leave {RESPONSE} out of the templates")
    message = messages[0]
    text = content_text(message)
    if more := [key for key, value in message.items() if key not in ("role", "content") and value]:
        problem = f"found {', '.join(more)} beside the content, which is all that {RESPONSE} in a template holds"
        return pair.source.bad(side, problem, f"remove the row, or leave {RESPONSE} out of the templates")
    return text
