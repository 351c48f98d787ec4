"""Models that are spread over two processes give the loss and the gradients of one that is not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.scoring.sharded_processes import WAYS

pytestmark = pytest.mark.outside


@pytest.fixture(scope="module")
def gaps(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, object]]:
    out = tmp_path_factory.mktemp("sharded") / "found.json"
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]
    done = subprocess.run(
        [sys.executable, "-m", *launcher, "tests.scoring.sharded_processes", str(out)],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(out.read_text())


@pytest.mark.parametrize("way", WAYS)
def test_spread_models_are_as_whole_ones(way: str, gaps: dict[str, dict[str, object]]) -> None:
    comparison = gaps[way]
    assert not comparison["plain"]
    assert comparison["shares"]
    assert comparison["loss"] < 1e-12
    assert comparison["gradients"] > 0
    assert comparison["gradient"] < 1e-10
