"""Transcripts in the manner of Anthropic's HH data, and what sequences have in common."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from prefopt.data.rows import RowError

_ASSISTANT, _HUMAN = "\n\nAssistant:", "\n\nHuman:"

_HUMAN_TURNS = re.compile(rf"{_HUMAN}.*?(?:{_ASSISTANT}|\Z)", re.DOTALL)


def common_length(first: Sequence[object], *others: Sequence[object]) -> int:
    """The length of the sequences' common prefix."""
    for position, (item, *rest) in enumerate(zip(first, *others, strict=False)):
        if rest.count(item) < len(rest):
            return position
    return min(map(len, (first, *others)))


def common_prompt(chosen_field: str, rejected_field: str, chosen: str, rejected: str) -> str:
    """What is the prompt of two whole texts: all up to the last common "Assistant:" turn, else the common words; ""
    where there are none. Raises RowError where two transcripts differ in a turn of the human's.
    """
    common = chosen[: common_length(chosen, rejected)]
    marker = common.rfind(_ASSISTANT)
    if _HUMAN in common[max(marker, 0) :] or (marker < 0 and _ASSISTANT in chosen and _ASSISTANT in rejected):
        problem = f"found another turn of the human's than in {chosen_field!r}"
        raise RowError(rejected_field, problem, "let both transcripts be the same up to a turn of the assistant's")
    if marker >= 0:
        return common[: marker + len(_ASSISTANT)]
    # The whitespace belongs to the response, as tokenizers join a space to the word after it.
    if common[-1:].isspace():
        return common.rstrip()
    words = common.rsplit(maxsplit=1)
    return words[0] if len(words) == 2 else ""


def human_turns(prompt: str, response: str) -> Iterator[tuple[int, int]]:
    """The characters [start, end) of a response that are turns of the human's, where the prompt is a transcript."""
    if prompt.rstrip().endswith(_ASSISTANT):
        yield from (match.span() for match in _HUMAN_TURNS.finditer(response))
