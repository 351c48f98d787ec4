"""The program in what a model wrote."""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["answer_in"]

_FENCE = re.compile(r"\s*```[\w+-]*\n")
_BEGINNING = re.compile(r"^(?:async def|def|class) ", re.MULTILINE)


def answer_in(text: str, stops: Sequence[str], *, within: bool) -> str:
    """The answer in a text: the text itself where nothing is left out, or else without space at its end.

    1. Of a text that begins with a code fence, it is what stands inside of it.
    2. It ends where the first of the stops begins. Where the prompt has not begun the function already (`within`), only
       those count that come after the first line that begins a function or class, if there is one: imports, comments
       and constants may stand before it.
    """
    fence = _FENCE.match(text)
    body = text[fence.end() :].partition("\n```")[0] if fence else text
    begun = None if within else _BEGINNING.search(body)
    ends = [end for stop in stops if (end := body.find(stop, begun.end() if begun else 0)) >= 0]
    return body[: min(ends)].rstrip() if ends else body.rstrip() if fence else text
