"""Two processes that share a model by FSDP2 and keep what the reference says give what one without a cache gives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from prefopt.scoring.reference.tensor_store import TensorStore
from tests.forked import run_module
from tests.training.test_zero import same_figures

SCRIPT = "tests.training.cached_processes"


@pytest.mark.long
def test_a_cache_of_two_processes_is_as_none(model_folder: str, rows: list[dict[str, str]], tmp_path: Path) -> None:
    data = tmp_path / "rows.json"
    data.write_text(json.dumps(rows))
    for processes in (1, 2):
        run_module(SCRIPT, processes, model_folder, data, tmp_path / str(processes), processes)
    one, two = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("1", "2"))
    for by, results in two.items():
        same_figures(
            [*results["log"], results["seen"], results["mixed"]], [*one[by]["log"], one[by]["seen"], one[by]["mixed"]]
        )
        for file in ("model.safetensors", "objective.safetensors"):
            expected = load_file(tmp_path / "1" / by / file)
            for name, tensor in load_file(tmp_path / "2" / by / file).items():
                torch.testing.assert_close(tensor, expected[name], rtol=1e-4, atol=1e-5, msg=f"{by}, {file}: {name}")
        kept = TensorStore(next((tmp_path / "2" / by / "cache").iterdir()), ["final"])
        assert len(kept._locations) >= 2 * 24
