"""What is cited is what is installed."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import yaml


def test_the_citation_names_this_version() -> None:
    citation = yaml.safe_load((Path(__file__).parents[1] / "CITATION.cff").read_text(encoding="utf-8"))
    assert (citation["title"], citation["version"]) == ("prefopt", version("prefopt"))
