"""The report says which masks fail."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from prefopt.comparison.run_log import RUNS
from prefopt.mask_health import MaskHealth
from prefopt.report import report
from tests.comparison.made import made
from tests.report.parsed import Page


@pytest.mark.slow
def test_masks_that_fail_are_named_by_run_and_others_are_not(tmp_path: Path) -> None:
    few = {"seeds": [0], "sweeps": {"objective.beta": [0.3]}, "controls": False}
    made(tmp_path / "well", **few)
    report(tmp_path / "well")
    assert "mask-faults" not in Page((tmp_path / "well" / "report.html").read_text(encoding="utf-8")).sections
    made(tmp_path, **few)
    ((name, fault),) = MaskHealth(all_zero=0.0, mean=0.03).faults(beta=0.3).items()
    lines = [json.loads(line) for line in (tmp_path / RUNS).read_text(encoding="utf-8").splitlines()]
    failing = next(line for line in lines if line["name"] == "two masks")
    failing["mask_faults"] = {name: fault}
    (tmp_path / RUNS).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    report(tmp_path)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "mask-faults" in Page(text).sections
    assert text.count(fault) == 1
    assert f"two masks, beta 0.3, seed 0: {fault}" in text.replace("\xa0", " ")
