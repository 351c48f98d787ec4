"""Contenders in turn: rounds, in each of which every contender takes one step, so that a busy moment of the machine
meets them all."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from benchmarks.speed.contender import Entry, UnavailableError
from benchmarks.speed.setting import BATCHES, Setting
from benchmarks.speed.workers import Worker

__all__ = ["agreement", "compare", "hire"]

TOLERANCES = {"float32": 1e-4, "bfloat16": 0.05}
"""Relative differences of losses and gradients that rounding explains: of sums of thousands of nats, where a contender
adds up the policy's log-probabilities before it subtracts those of the reference."""


def hire(stack: ExitStack, names: Iterable[str]) -> dict[str, Worker]:
    """A process for each contender, which ends with the stack."""
    return {name: stack.enter_context(Worker(name)) for name in names}


def compare(
    workers: Mapping[str, Worker],
    entries: Mapping[str, Entry],
    setting: Setting,
    *,
    rounds: int,
    same: Sequence[tuple[str, str]] = (),
    memory_limit: float = float("inf"),
) -> dict[str, Any]:
    """What `rounds` rounds took, after one step of each that does not count; and whether pairs in `same` agree.

    Contenders that cannot run, or would need more than `memory_limit` GiB, are left out with the reason.
    """
    left_out: dict[str, str] = {}
    ready: dict[str, float] = {}
    for name, worker in workers.items():
        need = entries[name].whole_logits * setting.whole_logits / 2**30
        if need > memory_limit:
            left_out[name] = f"would need about {need:.0f} GiB"
            continue
        try:
            ready[name] = worker.prepare(setting)
        except UnavailableError as reason:
            left_out[name] = str(reason)
    pairs = [pair for pair in same if set(pair) <= ready.keys()]
    with TemporaryDirectory() as folder:
        files = {name: Path(folder, f"{index}.safetensors") for index, name in enumerate(sorted(set(sum(pairs, ()))))}
        first = {name: asdict(workers[name].step(0, files.get(name))) for name in ready}
        agreements = [
            {"one": one, "other": other}
            | agreement(
                first[one]["loss"],
                first[other]["loss"],
                load_file(files[one], device=setting.device),
                load_file(files[other], device=setting.device),
                tolerance=TOLERANCES[setting.dtype],
            )
            for one, other in pairs
        ]
    steps: dict[str, list[dict[str, float]]] = {name: [] for name in ready}
    order = list(ready)
    for number in range(rounds):
        for name in order:
            steps[name].append(asdict(workers[name].step(number % BATCHES)))
        order.append(order.pop(0))  # nobody always comes after the same
    for name in ready:
        workers[name].release()
    return {
        "setting": asdict(setting),
        "runs": {name: {"ready_mib": ready[name], "first": first[name], "steps": steps[name]} for name in ready},
        "left_out": left_out,
        "agreements": agreements,
    }


def agreement(
    loss: float,
    other_loss: float,
    gradients: Mapping[str, Tensor],
    others: Mapping[str, Tensor],
    *,
    tolerance: float = TOLERANCES["float32"],
) -> dict[str, Any]:
    """Relative differences of a loss and its gradients from the other: the norm of the difference of all gradients, and
    the worst of a single parameter's, each over the norm itself."""
    if gradients.keys() != others.keys():
        raise ValueError(f"gradients of different parameters: {sorted(gradients.keys() ^ others.keys())}")
    norms = {name: float(gradient.float().norm()) for name, gradient in others.items()}
    apart = {name: float((gradients[name].float() - others[name].float()).norm()) for name in norms}
    loss_difference = abs(loss - other_loss) / abs(other_loss)
    gradient_difference = math.hypot(*apart.values()) / math.hypot(*norms.values())
    return {
        "losses": [loss, other_loss],
        "gradient_norm": math.hypot(*norms.values()),
        "loss_difference": loss_difference,
        "gradient_difference": gradient_difference,
        "worst_gradient_difference": max(apart[name] / norm for name, norm in norms.items() if norm),
        "agree": max(loss_difference, gradient_difference) <= tolerance,
    }
