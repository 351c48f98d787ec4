"""Texts of data and models as a terminal may show them."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

__all__ = ["PrintableConsole", "printable"]

_CONTROLS = {"Cc", "Cf", "Cs"}
"""Unicode's categories of control characters, of marks that reorder others, and of halves of a character."""

_KEPT = "\n\t\u200c\u200d"
"""Those that a text needs: joiners spell words of some scripts and emoji."""


def printable(text: str) -> str:
    """The text with U+FFFD for every character that would control a terminal, or show the others in another order."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        "\ufffd" if unicodedata.category(letter) in _CONTROLS and letter not in _KEPT else letter for letter in text
    )


class PrintableConsole(Console):
    """A console on which texts of data and models control nothing: `printable` of all that is not rich's own, and
    no emoji in place of what stands between colons."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"emoji": False, **options})

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """rich's."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)
