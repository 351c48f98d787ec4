"""The index of the zoo, and its cards with their equations typeset."""

from __future__ import annotations

import inspect
import re
import sys
from itertools import groupby

from docs_site import formulas
from prefopt import zoo
from prefopt.zoo.cards import equation_of, markdown

_SLOT = re.compile(r"^(\| [a-z -]+ \| `\w+` \| )(.*)( \|)$", flags=re.MULTILINE)


def cards() -> str:
    """A card for each row, with the equations of its slots typeset."""
    text = "\n".join(markdown(name) for name in zoo.ZOO)
    return _SLOT.sub(lambda match: match[1] + formulas.inline(match[2].replace("\\|", "|")) + match[3], text)


def index() -> str:
    """A table for each module of the zoo, under the first sentence of its docstring: row, what it is, equation."""
    lines: list[str] = []
    for module, names in groupby(zoo.ZOO, key=lambda name: zoo.ZOO[name].__module__):
        purpose = (inspect.getdoc(sys.modules[module]) or "").partition("\n\n")[0]
        lines += ["", f"**{' '.join(purpose.split()).rstrip('.')}**", "", "| row | loss |", "|---|---|"]
        lines += [f"| [`{name}`](#{name}) | {formulas.inline(equation_of(zoo.ZOO[name]))} |" for name in names]
    return "\n".join(lines)
