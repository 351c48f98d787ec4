"""A folder with all that a run reads, all of it as it should be, for tests that then spoil one thing."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import yaml
from transformers import AutoModelForCausalLM
from typer.testing import Result

from tests.cli.test_cli import RUNNER, app

PAIR = {"prompt": "the film", "chosen": " was good", "rejected": " was bad"}
SUITE: dict[str, Any] = {
    "task": {"name": "planted", "pairs": 16, "held_out": 4, "prompts": 4},
    "objectives": {"dpo": "dpo", "sparsepo": "sparsepo"},
    "seeds": [0],
    "training": {"max_steps": 1, "use_cpu": True},
}
FALLBACK = "show the traceback"
"""In the line of an error that no command expects."""


@dataclass(frozen=True)
class Room:
    """model, pairs.jsonl, and run, where a run of one step has left its checkpoint; what is changed is a copy's."""

    folder: Path

    @classmethod
    def furnished(cls, model: str, folder: Path) -> Room:
        """One whose run has been carried out."""
        room = cls(folder)
        shutil.copytree(model, folder / "model")
        (folder / "pairs.jsonl").write_text(json.dumps(PAIR) + "\n", encoding="utf-8")
        result = RUNNER.invoke(app, room.train({"training.output_dir": str(folder / "run")}))
        assert result.exit_code == 0, result.output
        shutil.copytree(folder / "run", folder / "whole")
        return room

    def copy(self, folder: Path) -> Room:
        """The same in a folder of its own, for a change."""
        shutil.copytree(self.folder, folder)
        return Room(folder)

    def train(self, changes: Mapping[str, Any], *overrides: str) -> list[str]:
        """The command of a run whose file can be used, but for these changes."""
        training = {"max_steps": 1, "save_steps": 1, "report_to": "none", "use_cpu": True, "disable_tqdm": True}
        fields: dict[str, Any] = {
            "model": {"name": str(self.folder / "model")},
            "data": {"train": str(self.folder / "pairs.jsonl")},
            "objective": {"zoo": "sparsepo"},
            "training": {**training, "output_dir": str(self.folder / "out")},
        }
        self._write("run.yaml", fields, changes)
        return ["train", str(self.folder / "run.yaml"), *overrides]

    def compare(self, changes: Mapping[str, Any], *overrides: str) -> list[str]:
        """The command of a suite that can be used, but for these changes."""
        self._write("suite.yaml", {**SUITE, "objectives": dict(SUITE["objectives"])}, changes)
        return ["compare", str(self.folder / "suite.yaml"), *overrides, "--out", str(self.folder / "out")]

    def resume(self) -> list[str]:
        """The command that goes on with the run."""
        steps = {"training.output_dir": str(self.folder / "run"), "training.max_steps": 2}
        return self.train({**steps, "training.resume_from_checkpoint": str(self.checkpoint)})

    @property
    def checkpoint(self) -> Path:
        return self.folder / "run" / "checkpoint-1"

    def state(self) -> dict[str, str]:
        """Path -> digest of all files."""
        files = [path for path in self.folder.rglob("*") if path.is_file()]
        return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    def _write(self, name: str, fields: dict[str, Any], changes: Mapping[str, Any]) -> None:
        for path, value in changes.items():
            section, _, field = path.partition(".")
            if field:
                fields[section] = {**fields[section], field: value}
            else:
                fields[section] = value
        (self.folder / name).write_text(yaml.safe_dump(fields, sort_keys=False), encoding="utf-8")


@contextmanager
def models_loaded() -> Iterator[list[object]]:
    """The models that are loaded meanwhile."""
    names: list[object] = []
    load = AutoModelForCausalLM.from_pretrained

    def load_and_list(name: object, *arguments: Any, **options: Any) -> Any:
        names.append(name)
        return load(name, *arguments, **options)

    with patch.object(AutoModelForCausalLM, "from_pretrained", load_and_list):
        yield names


def error_lines(result: Result) -> list[str]:
    """What a command says that it cannot do."""
    return [line for line in result.output.splitlines() if line.startswith("error: ")]


def trouble(result: Result, *, most: int = 3) -> str | None:
    """What is wrong with the way in which a command refuses what it is given; None if nothing. At most so many lines,
    one for each problem."""
    lines = error_lines(result)
    if result.exit_code != 2:
        return f"exit code {result.exit_code}"
    if "Traceback" in result.output:
        return "a traceback"
    if any(FALLBACK in line for line in lines):
        return "an error that no command expects"
    return None if 1 <= len(lines) <= most else f"{len(lines)} lines of errors"
