"""TensorBoard logs of a comparison: the scalars of the report, and the hyper-parameters of each run."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any
from urllib.parse import quote

from filelock import FileLock
from torch.utils.tensorboard import SummaryWriter

from prefopt.comparison.run import Run
from prefopt.comparison.run_log import Record
from prefopt.whole_files import naming_full_disk

FOLDER = "tensorboard"

_KEPT = " ,.=+-_()[]{}"
_LONGEST = 200
"""Characters of a file's name; the systems' own limits are a little beyond."""


def run_folder(run: Run) -> str:
    """A readable folder name, unique to the run."""
    text = ", ".join([run.name, *(f"{field} {value}" for field, value in run.setting_text), f"seed {run.seed}"])
    name = quote(text, safe=_KEPT)
    return name if len(name) <= _LONGEST else f"{name[:_LONGEST]} {hashlib.sha256(text.encode()).hexdigest()[:8]}"


def write_runs(runs: Iterable[Run], records: Mapping[str, Record], folder: Path) -> None:
    """Write FOLDER/tensorboard anew, with all finished runs. Raises OSError where a disk is full."""
    with _lock(folder), naming_full_disk(folder / FOLDER):
        shutil.rmtree(folder / FOLDER, ignore_errors=True)
        for run in runs:
            record = records.get(run.key)
            if record is not None and record["error"] is None:
                _write(run, record, folder)


def write_run(run: Run, record: Record, folder: Path) -> None:
    """Write FOLDER/tensorboard/NAME of a finished run. Raises OSError where a disk is full."""
    with _lock(folder), naming_full_disk(folder / FOLDER):
        shutil.rmtree(folder / FOLDER / run_folder(run), ignore_errors=True)
        _write(run, record, folder)


def _lock(folder: Path) -> FileLock:
    return FileLock(folder / f".{FOLDER}.lock")


def _write(run: Run, record: Record, folder: Path) -> None:
    """Learning curves by step; the means over items of each metric as final/METRIC, with the run's hyper-parameters."""
    curves = record["curves"]
    last = max((step for curve in curves.values() for step, _ in curve), default=0)
    final = {f"final/{name}": fmean(items.values()) for name, items in record["values"].items() if items}
    hyperparameters = {"objective": run.name, "seed": run.seed} | {
        name: _plain(value) for name, value in run.setting.items()
    }
    with SummaryWriter(folder / FOLDER / run_folder(run)) as writer:
        for name, curve in curves.items():
            for step, value in curve:
                writer.add_scalar(name, value, step)
        writer.add_hparams(
            hyperparameters, final, run_name=".", global_step=last
        )  # of this run, and not a run of its own


def _plain(value: Any) -> bool | int | float | str:
    return value if isinstance(value, bool | int | float | str) else json.dumps(value)
