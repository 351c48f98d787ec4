"""Inputs that cannot be used, some three hundred: each a change of a room, by its kind."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from functools import partial
from pathlib import Path
from types import NoneType
from typing import Any, NamedTuple, get_args, get_type_hints

import torch
from safetensors.torch import load_file, save_file

from prefopt import zoo
from prefopt.comparison.suite import Suite
from prefopt.training import PreferenceConfig
from prefopt.training.ranges import _RANGES
from prefopt.training.run_file import DataSection, ModelSection
from tests.reliability.bad_data import data_inputs
from tests.reliability.damage import ANY, OF_JSON, cut, flipped
from tests.reliability.room import Room


class BadInput(NamedTuple):
    """What is changed in a room, the command that meets it, and the texts that its line has."""

    kind: str
    name: str
    make: Callable[[Room], list[str]]
    named: tuple[str, ...]


def bad_inputs() -> Iterator[BadInput]:
    """All of them."""
    yield from _arguments()
    yield from _sections()
    yield from _objectives()
    yield from _suites()
    yield from _models()
    yield from _checkpoints()
    yield from _folders()
    for name, make, named in data_inputs():
        yield BadInput("data", name, make, named)


def _train(changes: Mapping[str, Any], room: Room) -> list[str]:
    return room.train(changes)


def _compare(changes: Mapping[str, Any], room: Room) -> list[str]:
    return room.compare(changes)


_RUN_FILE_HAS_ELSEWHERE = ("max_length", "max_prompt_length")
"""Arguments whose numbers are under `data`."""


def _numbers() -> Iterator[str]:
    """The training arguments that are numbers, and nothing else."""
    hints = get_type_hints(PreferenceConfig)
    for field in fields(PreferenceConfig):
        types = set(get_args(hints[field.name])) or {hints[field.name]}
        if types <= {int, float, NoneType} and field.init and field.name not in _RUN_FILE_HAS_ELSEWHERE:
            yield field.name


def _arguments() -> Iterator[BadInput]:
    """Training arguments of a wrong type, out of range, and misspelt."""
    for name in _numbers():
        yield _argument(name, "many")
    for name in sorted(_RANGES):
        yield _argument(name, -7)
        yield _argument(name, True)
    for field in fields(PreferenceConfig)[::6]:
        yield _argument(f"{field.name[:2]}q{field.name[2:]}", 1)


def _argument(name: str, value: object) -> BadInput:
    changes: dict[str, Any] = {f"training.{name}": value}
    return BadInput("training arguments", f"{name}: {value}", partial(_train, changes), (name,))


def _sections() -> Iterator[BadInput]:
    """Sections of a run file, and their fields, of a wrong type, unknown or absent."""
    for section in ("model", "data", "objective", "training"):
        for value in (3, [1], True):
            named = ("run.yaml", section)
            yield BadInput("run file", f"{section}: {value}", partial(_train, {section: value}), named)
        unknown = {f"{section}.sense": 1}
        yield BadInput("run file", f"{section}.sense", partial(_train, unknown), ("run.yaml", section, "sense"))
    for section, cls in (("model", ModelSection), ("data", DataSection)):
        for name in cls.model_fields:
            changes = {f"{section}.{name}": {"a": [{"b": -1}]}} if name not in _FREE else {f"{section}.{name}": "none"}
            yield BadInput("run file", f"{section}.{name}: nested", partial(_train, changes), ("run.yaml", name))
    yield BadInput("run file", "a field of no section", partial(_train, {"modle": "x"}), ("run.yaml", "modle"))
    for change, damage in OF_JSON.items():
        yield BadInput("run file", change, partial(_spoilt_run_file, damage), ("run.yaml",))


_FREE = ("init", "chat_template_kwargs", "columns", "peft")
"""Fields that may be a mapping."""


def _spoilt_run_file(damage: Callable[[bytes], bytes], room: Room) -> list[str]:
    arguments = room.train({})
    file = room.folder / "run.yaml"
    file.write_bytes(damage(file.read_bytes()))
    return arguments


def _objectives() -> Iterator[BadInput]:
    """Numbers of the zoo's rows that are texts or not finite."""
    for row, build in zoo.ZOO.items():
        for name, parameter in inspect.signature(build).parameters.items():
            if type(parameter.default) is not float:
                continue
            for value in ("much", float("nan")):
                changes = {"objective": {"zoo": row, name: value}}
                yield BadInput("objective", f"{row}, {name}: {value}", partial(_train, changes), ("objective", name))


def _suites() -> Iterator[BadInput]:
    for name in Suite.model_fields:
        for value in (3, [{"a": 1}], {"a": {"b": [None]}}):
            yield BadInput("suite", f"{name}: {value}", partial(_compare, {name: value}), ("suite.yaml", name))
    for name in ("max_steps", "learning_rate", "per_device_train_batch_size", "weight_decay"):
        changes = {f"training.{name}": -7}
        yield BadInput("suite", f"training.{name}: -7", partial(_compare, changes), ("suite.yaml", name))
    for change, damage in OF_JSON.items():
        yield BadInput("suite", change, partial(_spoilt_suite, damage), ("suite.yaml",))


def _spoilt_suite(damage: Callable[[bytes], bytes], room: Room) -> list[str]:
    arguments = room.compare({})
    file = room.folder / "suite.yaml"
    file.write_bytes(damage(file.read_bytes()))
    return arguments


def _models() -> Iterator[BadInput]:
    """Files of a model that are damaged, missing, or of another model."""
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        for change, damage in OF_JSON.items():
            yield _model(f"{name}, {change}", partial(_spoil, name, damage))
    for change, damage in ANY.items():
        if "zeros" not in change:  # which weights may be
            yield _model(f"model.safetensors, {change}", partial(_spoil, "model.safetensors", damage))
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        yield _model(f"{name}, missing", partial(_remove, name))
    for key in ("hidden_size", "num_attention_heads", "vocab_size", "num_hidden_layers", "model_type"):
        for value in ("12", "-1", '"many"', "null"):
            yield _model(f"{key}: {value}", partial(_set, key, value))
    weights: dict[str, Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]] = {
        "a tensor missing": lambda state: dict(list(state.items())[1:]),
        "tensors transposed": lambda state: {name: value.t().contiguous() for name, value in state.items()},
        "no tensor": lambda _: {},
        "other names": lambda state: {f"roberta.{name}": value for name, value in state.items()},
        "whole numbers": lambda state: {name: value.to(torch.int8) for name, value in state.items()},
        "not a number": lambda state: {name: value * float("nan") for name, value in state.items()},
    }
    for change, spoil in weights.items():
        yield _model(f"weights, {change}", partial(_reweigh, spoil))


def _model(name: str, change: Callable[[Path], object]) -> BadInput:
    def make(room: Room) -> list[str]:
        change(room.folder / "model")
        return room.train({})

    return BadInput("model", name, make, ("model",))


def _spoil(name: str, damage: Callable[[bytes], bytes], folder: Path) -> None:
    (folder / name).write_bytes(damage((folder / name).read_bytes()))


def _remove(name: str, folder: Path) -> None:
    (folder / name).unlink()


def _set(key: str, value: str, folder: Path) -> None:
    file = folder / "config.json"
    lines = file.read_text().splitlines()
    changed = [f'  "{key}": {value},' if f'"{key}":' in line else line for line in lines]
    file.write_text("\n".join(changed).replace(",\n}", "\n}"))


def _reweigh(spoil: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]], folder: Path) -> None:
    file = folder / "model.safetensors"
    save_file(spoil(load_file(file)), file, metadata={"format": "pt"})


_OF_CHECKPOINTS = """config.json generation_config.json model.safetensors objective.safetensors objective.yaml
optimizer.pt rng_state.pth scheduler.pt tokenizer.json tokenizer_config.json trainer_state.json manifest.json""".split()


def _checkpoints() -> Iterator[BadInput]:
    """Files of a checkpoint that are cut, flipped or missing."""
    damages: dict[str, Callable[[bytes], bytes]] = {
        "cut": lambda content: cut(content, 0.7),
        "a bit flipped": lambda content: flipped(content, 0.3),
        "empty": lambda _: b"",
    }
    for name in _OF_CHECKPOINTS:
        for change, damage in damages.items():
            if (name, change) != ("manifest.json", "a bit flipped"):  # which may leave it a manifest
                yield _checkpoint(f"{name}, {change}", partial(_spoil, name, damage), name)
        if name != "manifest.json":
            yield _checkpoint(f"{name}, missing", partial(_remove, name), name)


def _checkpoint(name: str, change: Callable[[Path], object], file: str) -> BadInput:
    def make(room: Room) -> list[str]:
        change(room.checkpoint)
        return room.resume()

    return BadInput("checkpoint", name, make, (file,))


def _folders() -> Iterator[BadInput]:
    """Places that a run cannot write to, or that hold what it must not write over."""
    at: dict[str, Callable[[Path], Path]] = {
        "a file": lambda folder: folder / "pairs.jsonl",
        "under a file": lambda folder: folder / "pairs.jsonl" / "out",
        "the model": lambda folder: folder / "model",
        "another run": lambda folder: folder / "run",
        "a checkpoint": lambda folder: folder / "run" / "checkpoint-1",
        "under /proc": lambda _: Path("/proc/nowhere/out"),
        "too long a name": lambda folder: folder / ("o" * 300),
        "a null byte": lambda folder: folder / "o\0ut",
    }
    output, cache = "training.output_dir", "data.reference_cache"
    for field, names in (
        (output, ("a file",)),
        (cache, ("a file", "under a file")),
        (output, ("the model",)),
        (cache, ("under /proc", "too long a name")),
        (output, ("another run", "under a file", "under /proc", "a checkpoint", "too long a name", "a null byte")),
    ):
        for name in names:
            yield BadInput("folder", f"{field}: {name}", partial(_in_folder, field, at[name]), (field.split(".")[1],))


def _in_folder(field: str, target: Callable[[Path], Path], room: Room) -> list[str]:
    return room.train({field: str(target(room.folder))})
