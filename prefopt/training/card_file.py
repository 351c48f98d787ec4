"""The file of a model card: the last line tells whether it is as prefopt wrote it, and one that was changed is kept."""

from __future__ import annotations

import hashlib
import logging
import re
from pathlib import Path

from prefopt.whole_files import publish_text

CARD = "README.md"

_LOG = logging.getLogger(__name__)

MARK = re.compile(r"\n<!-- prefopt wrote this card; one that is changed is kept as it is\. ([0-9a-f]{16}) -->\n\Z")
"""The last line of a card that prefopt wrote, with the digest of what is before it."""


def marked(text: str) -> str:
    """A card with the line that holds its digest."""
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return f"{text}\n<!-- prefopt wrote this card; one that is changed is kept as it is. {digest} -->\n"


def publish_card(text: str, folder: Path) -> None:
    """Write the card into a folder, unless that has one that was changed."""
    if not _is_changed(folder / CARD):
        publish_text(text, folder / CARD)


def keep_changed_card(beside: Path, folder: Path) -> None:
    """Remove the card of the files that are to replace a folder's, where that has one that was changed."""
    if _is_changed(folder / CARD):
        (beside / CARD).unlink(missing_ok=True)


def is_card(file: Path) -> bool:
    """Whether a file is a card as prefopt wrote it."""
    text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
    return (match := MARK.search(text)) is not None and text == marked(text[: match.start()])


def _is_changed(file: Path) -> bool:
    """Whether the file is another than prefopt wrote, which is logged."""
    if not file.is_file() or is_card(file):
        return False
    _LOG.warning("%s is kept: prefopt did not write it, or it was changed since; remove it to have a new one", file)
    return True
