"""Models that are spread over two processes give the loss and the gradients of one that is not."""

from __future__ import annotations

import json

import pytest

from tests.forked import run_module
from tests.scoring.sharded_processes import WAYS

pytestmark = pytest.mark.outside


@pytest.fixture(scope="module")
def gaps(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, object]]:
    out = tmp_path_factory.mktemp("sharded") / "found.json"
    run_module("tests.scoring.sharded_processes", 2, out)
    return json.loads(out.read_text())


@pytest.mark.parametrize("way", WAYS)
def test_spread_models_are_as_whole_ones(way: str, gaps: dict[str, dict[str, object]]) -> None:
    comparison = gaps[way]
    assert not comparison["plain"]
    assert comparison["shares"]
    assert comparison["loss"] < 1e-12
    assert comparison["gradients"] > 0
    assert comparison["gradient"] < 1e-10
