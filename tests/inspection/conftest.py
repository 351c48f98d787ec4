from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prefopt.training import RunFile, start, train


@pytest.fixture(scope="session")
def data(rows: list[dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The 32 pairs as a file."""
    file = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


Trained = Callable[..., Path]


@pytest.fixture(scope="session")
def trained(data: Path, model_folder: str, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """trained(objective, model={...}, **training): the folder of a run of two steps, as `prefopt train` leaves it; the
    same folder for the same arguments."""
    done: dict[str, Path] = {}

    def run(objective: Any, model: dict[str, Any] | None = None, **training: Any) -> Path:
        key = json.dumps([objective, model, training])
        if key not in done:
            folder = tmp_path_factory.mktemp("runs") / "run"
            quiet = {"report_to": "none", "disable_tqdm": True, "use_cpu": True, "save_strategy": "no"}
            fields = {
                "model": {"name": model_folder, **(model or {})},
                "data": {"train": str(data)},
                "objective": objective,
                "training": {**quiet, "max_steps": 2, "learning_rate": 1e-2, "output_dir": str(folder), **training},
            }
            train(start(RunFile.model_validate(fields)))
            done[key] = folder
        return done[key]

    return run


SPARSE = {
    "zoo": "sparsepo",
    "shared": False,
    "weighting": {"init": "near_one", "position": "token"},
    "divergence": {"weighting": {"init": "near_one", "position": "token"}},
}
"""SparsePO with two masks that learn within two steps."""
