"""Inputs that cannot be used: exit code 2 and a line that names what and where, before a model is loaded."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from tests.cli.test_cli import RUNNER, app

PAIR = {"prompt": "the", "chosen": " good film", "rejected": " bad film"}
CHANGES: dict[str, tuple[Mapping[str, Any], str]] = {
    "a mask's rate without a mask": ({"training.mask_learning_rate": 0.1}, "mask_learning_rate"),
    "a step that is split": (
        {"objective": "aot", "training.gradient_accumulation_steps": 2},
        "gradient_accumulation_steps to 1",
    ),
    "a rank of 0": ({"model.peft": {"r": 0}}, "model.peft: r: 0 is no rank"),
    "an unknown field of peft": ({"model.peft": {"rang": 2}}, "model.peft: .*rang"),
    "a seed below 0": ({"training.seed": -1}, "seed: -1 is out of range"),
    "a batch of 0": ({"training.per_device_train_batch_size": 0}, "per_device_train_batch_size: 0"),
    "no rate": ({"training.learning_rate": float("nan")}, "learning_rate: nan"),
    "a report to nobody": ({"training.report_to": "nowhere"}, "report_to"),
    "evaluation without data": ({"training.eval_strategy": "steps"}, "data.eval"),
    "an infinite beta": ({"objective": {"zoo": "dpo", "beta": float("inf")}}, "beta"),
    "a budget below 0": ({"training.logits_budget_mb": -1}, "logits_budget_mb"),
    "no step": ({"training.max_steps": 0}, "max_steps: 0 trains nothing"),
    "an unknown dtype": ({"model.init": {"dtype": "bfloat17"}}, "dtype .*'bfloat17' is none of"),
    "an unknown attention": (
        {"model.init": {"attn_implementation": "psychic"}},
        "attn_implementation .*'psychic' is none of .*sdpa",
    ),
    "a model as a number": ({"model": 3}, "model"),
    "data as a list": ({"data": ["a", "b"]}, "data"),
    "no such data": ({"data": "absent.jsonl"}, "absent.jsonl"),
    "an unset variable": ({"data": "${oc.env:PREFOPT_TEST_ABSENT}"}, "PREFOPT_TEST_ABSENT"),
    "true as a number": ({"objective": {"zoo": "dpo", "beta": True}}, "dpo: beta: a number is needed, not true"),
    "true as steps": ({"training.max_steps": True}, "training: max_steps: a number is needed, not true"),
    "a rank of true": ({"model.peft": {"r": True}}, "model.peft: r: a number is needed, not true"),
    "a dtype of whole numbers": ({"model.init": {"dtype": "int8"}}, "dtype .*'int8'"),
    "a reference to nothing": ({"data": "${training.nothing}"}, "nothing"),
}


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The models that were loaded."""
    models: list[object] = []
    load = AutoModelForCausalLM.from_pretrained

    def load_and_list(name: object, *arguments: Any, **options: Any) -> Any:
        models.append(name)
        return load(name, *arguments, **options)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", load_and_list)
    return models


def document(model: str, folder: Path, changes: Mapping[str, Any]) -> Path:
    """A run file that can be used, but for these changes."""
    data = folder / "pairs.jsonl"
    data.write_text(json.dumps(PAIR) + "\n")
    training = {"max_steps": 1, "report_to": "none", "use_cpu": True, "output_dir": str(folder / "out")}
    fields: dict[str, Any] = {
        "model": {"name": model},
        "data": {"train": str(data)},
        "objective": "dpo",
        "training": training,
    }
    for path, value in changes.items():
        section, _, name = path.partition(".")
        if name:
            fields[section][name] = value
        else:
            fields[section] = value
    file = folder / "run.yaml"
    file.write_text(yaml.safe_dump(fields))
    return file


def refused(file: Path, words: str = "", *, problems: int = 1, overrides: Sequence[str] = ()) -> str:
    """What a run file is refused with, which has these words: at most a line for each problem."""
    result = RUNNER.invoke(app, ["train", str(file), *overrides])
    lines = [line for line in result.output.splitlines() if line.startswith("error: ")]
    assert result.exit_code == 2, result.output
    assert 1 <= len(lines) <= problems, result.output
    assert "Traceback" not in result.output
    assert not (file.parent / "out" / "run.yaml").exists()
    assert re.search(words, " ".join(lines)), result.output
    return " ".join(lines)


@pytest.mark.parametrize("case", CHANGES)
def test_a_run_that_cannot_start(case: str, model_folder: str, tmp_path: Path, loaded: list[object]) -> None:
    changes, words = CHANGES[case]
    refused(document(model_folder, tmp_path, changes), words)
    assert not loaded


TEXTS: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda _: b"",
    "half": lambda content: content[: len(content) // 2],
    "bytes": lambda _: b"\xff\x00\xfe",
    "a list": lambda _: b"[1, 2]",
    "deep": lambda _: b'{"a": ' * 10_000 + b"1" + b"}" * 10_000,
}


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"])
@pytest.mark.parametrize("text", TEXTS)
def test_files_of_a_model_that_are_damaged(name: str, text: str, model_folder: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(model_folder, tmp_path / "model"))
    file = folder / name
    file.write_bytes(TEXTS[text](file.read_bytes()))
    assert str(folder) in refused(document(str(folder), tmp_path, {}))


@pytest.mark.parametrize("text", TEXTS)
def test_rows_and_run_files_that_are_damaged(text: str, model_folder: str, tmp_path: Path) -> None:
    file = document(model_folder, tmp_path, {})
    whole = file.read_bytes()
    file.write_bytes(TEXTS[text](whole))
    assert "run.yaml" in refused(file, problems=3)
    file.write_bytes(whole)
    data = tmp_path / "pairs.jsonl"
    data.write_bytes(TEXTS[text](data.read_bytes()))
    assert "pairs.jsonl" in refused(file, problems=3) or text == "nothing"


class Malicious:
    """An object whose pickle makes a folder when it is read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return Path.mkdir, (self.folder,)  # type: ignore[return-value]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"])
def test_a_checkpoint_runs_no_code(name: str, model_folder: str, tmp_path: Path) -> None:
    file = document(model_folder, tmp_path, {"training.save_steps": 1, "training.max_steps": 1})
    assert RUNNER.invoke(app, ["train", str(file)]).exit_code == 0
    ran = tmp_path / "ran"
    torch.save({"state": Malicious(ran)}, tmp_path / "out" / "checkpoint-1" / name)
    overrides = ["training.resume_from_checkpoint=true", "training.max_steps=2"]
    result = RUNNER.invoke(app, ["train", str(file), *overrides])
    assert not ran.exists()
    if name != "training_args.bin":  # which nothing reads
        assert result.exit_code == 2, result.output
        assert len([line for line in result.output.splitlines() if "error: " in line]) == 1
