"""Text of tokens, made visible."""

from __future__ import annotations

__all__ = ["visible"]


def visible(text: str, *, line_break: str = "") -> str:
    """The text with signs for line breaks (followed by `line_break`) and tabs, escapes for other characters that do not
    print, and a sign for no text at all, which is what a token adds that is half a character."""
    shown = text.replace("\r", "").replace("\n", f"⏎{line_break}").replace("\t", "⇥")
    return "".join(char if char.isprintable() or char == "\n" else ascii(char)[1:-1] for char in shown) or "▫"
