"""Contenders in turn: rounds, in each of which every contender takes one step, so that a busy moment of the machine
meets them all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from safetensors.torch import load_file

from benchmarks.speed.contender import Entry, UnavailableError
from benchmarks.speed.setting import BATCHES, Setting
from benchmarks.speed.workers import Worker

__all__ = ["agreement", "compare", "hire"]

LOSS_TOLERANCE = 1e-5
GRADIENT_TOLERANCE = 1e-4
"""Relative differences that float32 rounding explains."""


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
    first = {name: asdict(workers[name].step(0)) for name in ready}
    pairs = [pair for pair in same if set(pair) <= ready.keys()]
    agreements = [agreement(workers[one], workers[other]) for one, other in pairs]
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


def agreement(one: Worker, other: Worker) -> dict[str, Any]:
    """Relative differences of loss and gradients on the first batch: the norm of the difference of all gradients, and
    the worst of a single parameter's, each over the norm itself."""
    with TemporaryDirectory() as folder:
        paths = [Path(folder, name) for name in ("one", "other")]
        losses = [worker.save_gradients(0, path) for worker, path in zip((one, other), paths, strict=True)]
        ours, theirs = (load_file(path) for path in paths)
    if ours.keys() != theirs.keys():
        raise ValueError(f"{one.name} and {other.name} differ in which parameters have gradients")
    norms = {name: float(gradient.norm()) for name, gradient in theirs.items()}
    apart = {name: float((ours[name] - theirs[name]).norm()) for name in norms}
    total = sum(norm**2 for norm in norms.values()) ** 0.5
    loss = abs(losses[0] - losses[1]) / abs(losses[1])
    gradient = sum(each**2 for each in apart.values()) ** 0.5 / total
    return {
        "one": one.name,
        "other": other.name,
        "losses": losses,
        "gradient_norm": total,
        "loss_difference": loss,
        "gradient_difference": gradient,
        "worst_gradient_difference": max(apart[name] / norm for name, norm in norms.items() if norm),
        "agree": loss <= LOSS_TOLERANCE and gradient <= GRADIENT_TOLERANCE,
    }
