"""Where tests of reliability leave their figures, for `benchmarks/reliability.py`."""

from __future__ import annotations

import json
import os
from pathlib import Path


def record(section: str, name: str, **figures: object) -> None:
    """Add a line to SECTION.jsonl in the folder that PREFOPT_RELIABILITY_OUT names, if it does."""
    if folder := os.environ.get("PREFOPT_RELIABILITY_OUT"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        with (Path(folder) / f"{section}.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"section": section, "name": name, **figures}) + "\n")
