"""How prefopt is cited, from CITATION.cff."""

from __future__ import annotations

from pathlib import Path

import yaml


def page(file: Path) -> str:
    """The citation as a sentence and as BibTeX."""
    fields = yaml.safe_load(file.read_text(encoding="utf-8"))
    authors = " and ".join(f"{{{author['name']}}}" for author in fields["authors"])
    entry = [
        "@software{prefopt,",
        f"  author = {{{authors}}},",
        f"  title = {{{fields['title']}: {fields['abstract'].rstrip('.')}}},",
        f"  version = {{{fields['version']}}},",
        f"  license = {{{fields['license']}}},",
        "}",
    ]
    return "\n".join(["# Citation", "", fields["message"], "", "```bibtex", *entry, "```", ""])
