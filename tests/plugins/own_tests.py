"""Says where prefopt is from and whose components there are, then runs the tests that are named. A file that an
environment of plugins' own runs; it imports nothing of ours but what is installed there."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import prefopt
from prefopt.registry import installed

if __name__ == "__main__":
    owners = sorted({owner.distribution for _, owner in installed()})
    Path(sys.argv[1]).write_text(json.dumps({"prefopt": prefopt.__file__, "owners": owners}))
    sys.exit(pytest.main(sys.argv[2:]))
