"""What MkDocs calls while it builds: the zoo's cards come from the code, so that the page cannot be stale."""

from __future__ import annotations

from typing import Any

from prefopt import zoo
from prefopt.zoo.cards import markdown


def on_page_markdown(text: str, **_: Any) -> str:
    """Put the cards where a page asks for them."""
    return text.replace("<!-- cards -->", "\n".join(markdown(name) for name in zoo.ZOO))
