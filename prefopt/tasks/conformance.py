"""Checks that a task keeps to the interface, by running it in small: for the tests of a task."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from prefopt.data import BadRow, read_rows, to_pair
from prefopt.data.quiet import quiet
from prefopt.objective_config import ObjectiveConfig
from prefopt.scoring import PreferenceModel
from prefopt.tasks.base import Evaluation, Material, Task
from prefopt.tasks.held_out import COMMON
from prefopt.testing.check import ConformanceError
from prefopt.training.trainer_inputs import ensure_pad_token

_STEP = 0.02
"""The change of the weights that makes another policy, in standard deviations of each weight tensor."""


def check_task(task: Task, folder: Path, *, seed: int = 0) -> Evaluation:
    """Make the task's material twice, and evaluate the reference and a policy that differs from it.

    Give a task so small that this takes seconds. Returns the evaluation of the other policy. Raises ConformanceError
    where

    - the fields of the task change when they are dumped to JSON and validated again;
    - the material differs between two runs with one seed, has a row that is no pair, or trains on a held-out prompt;
    - a figure has no Metric, or is not finite; the headline is no metric;
    - a second evaluation gives other figures, or an evaluation changes the weights of the policy;
    - held-out items have other names for another policy, so that the two cannot be compared item by item.
    """
    if type(task).model_validate(task.model_dump(mode="json")) != task:
        raise ConformanceError("the task is another one after model_dump(mode='json') and model_validate")
    material = task.prepare(folder / "first", seed)
    _check_same(material, task.prepare(folder / "second", seed))
    _check_rows(material)
    names = {metric.name for metric in (*task.metrics, *COMMON)}
    if task.headline not in names:
        raise ConformanceError(f"the headline {task.headline!r} is not among the metrics: {sorted(names)}")
    reference = _evaluate(task, material, step=0.0)
    other = _evaluate(task, material, step=_STEP)
    for name, values in other.values.items():
        if name not in names:
            raise ConformanceError(f"evaluate gives {name!r}, which is not in `metrics`")
        if wrong := {item: value for item, value in values.items() if not math.isfinite(value)}:
            raise ConformanceError(f"{name}: not finite: {wrong}", why="leave items without a figure out")
        if not set(values) & set(reference.values.get(name, {})):
            raise ConformanceError(
                f"{name}: no held-out item has the name that it has for the reference",
                why="objectives are compared item by item; name items by the material, not by a policy's texts",
            )
    if other != _evaluate(task, material, step=_STEP):
        raise ConformanceError(
            "the same policy has other figures when it is measured again",
            why="runs with the same seed give the same table; draw from a generator that Material.seed seeds",
        )
    return other


def _check_same(one: Material, other: Material) -> None:
    for first, second in ((one.train, other.train), (one.held_out, other.held_out), (one.prompts, other.prompts)):
        if not first.exists() or not first.read_bytes():
            raise ConformanceError(f"make wrote no {first.name}, or left it empty")
        if first.read_bytes() != second.read_bytes():
            raise ConformanceError(f"{first.name} is another one when it is made again with the same seed")


def _check_rows(material: Material) -> None:
    """Every row is a pair, and no held-out prompt is trained on."""
    prompts: dict[str, set[str]] = {}
    for name in ("train", "held_out"):
        for row in read_rows(getattr(material, name)):
            pair = row if isinstance(row, BadRow) else to_pair(row, {})
            if isinstance(pair, BadRow):
                raise ConformanceError(f"{name}: not a preference pair: {pair}")
            prompts.setdefault(name, set()).add(str(pair.prompt))
    fields = [{} if isinstance(row, BadRow) else row.fields for row in read_rows(material.prompts)]
    if any(row.get("prompt") is None for row in fields):
        raise ConformanceError(f"{material.prompts.name} has a row without a `prompt`")
    answered = {str(row["prompt"]) for row in fields}
    if shared := prompts["train"] & (prompts["held_out"] | answered):
        raise ConformanceError(f"{len(shared)} prompts are trained on and held out, such as {min(shared)!r}")


def _evaluate(task: Task, material: Material, *, step: float) -> Evaluation:
    """The evaluation of a policy whose weights are a random step away from the reference's."""
    with quiet():
        tokenizer = ensure_pad_token(AutoTokenizer.from_pretrained(material.model))
        models = [AutoModelForCausalLM.from_pretrained(material.model).eval() for _ in range(3)]
    policy, policy_reference, reference = models
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in policy.parameters():
            weight += step * weight.std(correction=0) * torch.randn(weight.shape, generator=generator)
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    model = PreferenceModel(policy, policy_reference, ObjectiveConfig()).eval()
    evaluation = task.evaluate(model, reference, tokenizer, material)
    if any(not torch.equal(before[name], value) for name, value in policy.state_dict().items()):
        raise ConformanceError("evaluate changes the weights of the policy")
    return evaluation
