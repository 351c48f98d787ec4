"""The grid: which runs there are, and the file of those that are done."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

__all__ = ["BETAS", "REFERENCE", "Run", "Runs", "grid"]

REFERENCE = "reference"
"""The row of the untrained model, which has no objective."""

BETAS = (0.1, 0.3, 1.0, 3.0)
"""Of an objective that names none of its own."""


@dataclass(frozen=True)
class Run:
    """One run of the grid. `row` is None for the reference, and so is `beta`."""

    setting: str
    task: dict[str, Any]
    epochs: int
    seed: int
    objective: str
    row: dict[str, Any] | None
    beta: float | None
    learning_rate: float
    batch_size: int

    @property
    def key(self) -> str:
        """Of all that the run depends on."""
        fields = json.dumps(
            {name: value for name, value in asdict(self).items() if name not in _LABELS}, sort_keys=True
        )
        return hashlib.sha256(fields.encode()).hexdigest()[:16]

    def __str__(self) -> str:
        return f"{self.setting}, seed {self.seed}, {self.objective}" + (f", beta {self.beta:g}" if self.beta else "")


_LABELS = ("setting", "objective")


def grid(
    objectives: Path,
    settings: Path,
    *,
    only_objectives: Sequence[str],
    only_settings: Sequence[str],
    betas: Sequence[float],
    seeds: Sequence[int],
    learning_rate: float,
    batch_size: int,
) -> list[Run]:
    """Every run, those of one setting and seed together, the reference first; of the betas given, or, where there are
    none, of each objective's own, in this setting or in all. Raises ValueError for unknown names.
    """
    rows = _chosen(objectives, only_objectives)
    in_all = {name: row.pop("betas", BETAS) for name, row in rows.items()}
    runs = []
    for setting, fields in _chosen(settings, only_settings).items():
        own = in_all | fields.get("betas", {})
        for seed in seeds:
            of_all = (setting, fields["task"], fields["epochs"], seed)
            runs.append(Run(*of_all, REFERENCE, None, None, learning_rate, batch_size))
            runs += [
                Run(*of_all, name, row, beta, learning_rate, batch_size)
                for name, row in rows.items()
                for beta in betas or own[name]
            ]
    return runs


def _chosen(path: Path, names: Sequence[str]) -> dict[str, Any]:
    known: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"{path}: there is no {unknown[0]!r}; it has {', '.join(map(repr, known))}")
    return {name: fields for name, fields in known.items() if not names or name in names}


class Runs:
    """The file of finished runs, a line of JSON each; a line that was cut short is not taken for one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.done: dict[str, dict[str, Any]] = {}
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
                if line.endswith("\n"):
                    record = json.loads(line)
                    self.done[record["key"]] = record

    def add(self, run: Run, figures: dict[str, Any]) -> None:
        """Write down that a run is finished, and what it gave."""
        record = {"key": run.key, "setting": run.setting, "seed": run.seed, "objective": run.objective}
        record |= {"beta": run.beta} | figures
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lines = "".join(json.dumps(each) + "\n" for each in (*self.done.values(), record))
        # Whole, under another name, then in place: a run that is stopped leaves the file as it was.
        draft = self.path.with_suffix(".part")
        draft.write_text(lines, encoding="utf-8")
        draft.replace(self.path)
        self.done[run.key] = record

    def of(self, runs: Sequence[Run]) -> list[dict[str, Any]]:
        """The records of those runs that are finished, under the names that they have now."""
        return [
            self.done[run.key] | {"setting": run.setting, "objective": run.objective}
            for run in runs
            if run.key in self.done
        ]
