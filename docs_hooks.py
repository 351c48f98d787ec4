"""What MkDocs calls while it builds: the zoo's cards and the list of checks come from the code, so that no page can be
stale.
"""

from __future__ import annotations

from typing import Any

from prefopt import testing, zoo
from prefopt.zoo.cards import markdown


def on_page_markdown(text: str, **_: Any) -> str:
    """Put the cards and the checks where a page asks for them."""
    text = text.replace("<!-- cards -->", "\n".join(markdown(name) for name in zoo.ZOO))
    return text.replace("<!-- checks -->", testing.markdown())
