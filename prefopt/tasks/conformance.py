"""What every task has to keep to, checked by carrying it out: for the tests of those who write one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from prefopt.data import BadRow, read_rows, to_pair
from prefopt.objective import ObjectiveConfig
from prefopt.scoring import PreferenceModel
from prefopt.tasks.base import Evaluation, Material, Task
from prefopt.tasks.held_out import COMMON
from prefopt.tasks.quiet import quiet
from prefopt.testing.check import ConformanceError
from prefopt.training.trainer_inputs import ensure_pad_token

__all__ = ["check_task"]

_STEP = 0.02
"""How far the weights of a policy are moved, in standard deviations of one weight."""


def check_task(task: Task, folder: Path, *, seed: int = 0) -> Evaluation:
    """Make the task's material twice, and measure the reference and a policy that differs from it.

    Give a task so small that this takes seconds. Returns what was measured of the other policy. Raises
    ConformanceError where

    - the fields of the task do not survive being written down and read again;
    - the material is not the same each time for a seed, has a row that is no pair, or trains on a prompt that is held
      out or asked;
    - a figure has no Metric, or is not finite; the headline is no metric;
    - measuring again gives other figures, or changes the weights of the policy;
    - held-out items have other names for another policy, so that the two cannot be compared item by item.
    """
    if type(task).model_validate(task.model_dump(mode="json")) != task:
        raise ConformanceError("the task is another one after model_dump(mode='json') and model_validate")
    material = task.prepare(folder / "first", seed)
    _same(material, task.prepare(folder / "second", seed))
    _apart(material)
    names = {metric.name for metric in (*task.metrics, *COMMON)}
    if task.headline not in names:
        raise ConformanceError(f"the headline {task.headline!r} is not among the metrics: {sorted(names)}")
    reference = _measured(task, material, moved=0.0)
    other = _measured(task, material, moved=_STEP)
    for name, values in other.values.items():
        if name not in names:
            raise ConformanceError(f"evaluate gives {name!r}, which is not in `metrics`")
        if wrong := {item: value for item, value in values.items() if not math.isfinite(value)}:
            raise ConformanceError(
                f"{name}: not finite: {wrong}", why="where a figure is undefined, leave the item out"
            )
        if not set(values) & set(reference.values.get(name, {})):
            raise ConformanceError(
                f"{name}: no held-out item has the name that it has for the reference",
                why="objectives are compared item by item; name items by the material, not by what a policy writes",
            )
    if other != _measured(task, material, moved=_STEP):
        raise ConformanceError(
            "the same policy has other figures when it is measured again",
            why="runs with the same seed give the same table; draw from a generator that Material.seed seeds",
        )
    return other


def _same(one: Material, other: Material) -> None:
    for name in ("train", "held_out", "prompts"):
        first, second = (getattr(material, name) for material in (one, other))
        if not first.exists() or not first.read_bytes():
            raise ConformanceError(f"make wrote no {first.name}, or left it empty")
        if first.read_bytes() != second.read_bytes():
            raise ConformanceError(f"{first.name} is another one when it is made again with the same seed")


def _apart(material: Material) -> None:
    """The rows can be used, and nothing is trained on that is held out."""
    prompts: dict[str, set[str]] = {}
    for name in ("train", "held_out"):
        for row in read_rows(getattr(material, name)):
            pair = row if isinstance(row, BadRow) else to_pair(row, {})
            if isinstance(pair, BadRow):
                raise ConformanceError(f"{name}: not a preference pair: {pair}")
            prompts.setdefault(name, set()).add(str(pair.prompt))
    asked: set[str] = {str(row.get("prompt")) for row in material.asked()}
    if "None" in asked:
        raise ConformanceError(f"{material.prompts.name} has a row without a `prompt`")
    if shared := prompts["train"] & (prompts["held_out"] | asked):
        raise ConformanceError(f"{len(shared)} prompts are trained on and held out, such as {min(shared)!r}")


def _measured(task: Task, material: Material, *, moved: float) -> Evaluation:
    with quiet():
        tokenizer = ensure_pad_token(AutoTokenizer.from_pretrained(material.model))
        policy, own, reference = (AutoModelForCausalLM.from_pretrained(material.model).eval() for _ in range(3))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in policy.parameters():
            weight += moved * weight.std(correction=0) * torch.randn(weight.shape, generator=generator)
    before = _copied(policy.state_dict())
    found = task.evaluate(PreferenceModel(policy, own, ObjectiveConfig()).eval(), reference, tokenizer, material)
    if any(not torch.equal(before[name], value) for name, value in policy.state_dict().items()):
        raise ConformanceError("evaluate changes the weights of the policy")
    return found


def _copied(state: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value.clone() for name, value in state.items()}
