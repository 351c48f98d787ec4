"""What is asked of the two models about a row: its pair in the tokens of training, behind each of two prompts."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace

from transformers import PreTrainedTokenizerBase

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

__all__ = ["PLAIN", "Encoder", "Question", "templated"]

PLAIN = "{prompt}"
"""What a template has for the prompt; alone, it is the template that leaves the prompt as it is."""

_WHOLE = EncodingConfig(max_length=None)


@dataclass(frozen=True)
class Question:
    """A pair behind a positive and a negative prompt; `chosen` and `rejected` are what training keeps of the responses.

    chosen_size and rejected_size are the tokens of the whole responses, of which the row has to give each a number.
    """

    prompts: tuple[list[int], list[int]]
    chosen: list[int]
    rejected: list[int]
    chosen_size: int
    rejected_size: int


@dataclass(frozen=True)
class Encoder:
    """Rows -> questions, in the tokens that training with that tokenizer and that `encoding` sees.

    A prompt in a template is not cut, or the template would be. `limit` is how many tokens the models take.
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
        positive, negative = (self._prompt(pair, template, whole, kept) for template in self.templates)
        if isinstance(positive, BadRow):
            return positive
        if isinstance(negative, BadRow):
            return negative
        longest = max(len(kept.chosen_ids), len(kept.rejected_ids)) + max(len(positive), len(negative))
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

    def _prompt(self, pair: Pair, template: str, whole: EncodedPair, kept: EncodedPair) -> list[int] | BadRow:
        if template == PLAIN:
            return kept.prompt_ids
        other = encode_pair(templated(pair, template), self.tokenizer, _WHOLE)
        if isinstance(other, BadRow):
            return other
        if other is None or (other.chosen_ids, other.rejected_ids) != (whole.chosen_ids, whole.rejected_ids):
            return pair.source.bad(
                "prompt",
                f"found that behind the template {template!r} the responses are other tokens than in training",
                f"let the template end as prompts do, such as with {PLAIN}",
            )
        return other.prompt_ids


def templated(pair: Pair, template: str) -> Pair:
    """The pair with its prompt, or the content of the last message of it, in the template."""
    if isinstance(pair, TextPair):
        return replace(pair, prompt=template.replace(PLAIN, pair.prompt))
    *before, last = pair.prompt
    return replace(pair, prompt=(*before, last | {"content": template.replace(PLAIN, content_text(last))}))
