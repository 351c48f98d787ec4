"""Runs the tests that are named, then writes where prefopt is from and who brings components and tasks. Environments of
plugins run this file; it imports nothing of ours but what is installed there."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

if __name__ == "__main__":
    exit_code = pytest.main(sys.argv[2:])  # first, as its plugins must be imported by it

    import prefopt
    from prefopt.registry import installed
    from prefopt.tasks.registry import TASKS

    owners = [owner for _, owner in [*installed(), *TASKS.installed.values()]]
    facts = {"prefopt": prefopt.__file__, "owners": sorted({owner.distribution for owner in owners})}
    Path(sys.argv[1]).write_text(json.dumps(facts))
    sys.exit(exit_code)
