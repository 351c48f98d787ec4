"""Computes a step that its numbers have stopped again, in the precision of training, in float32 and in float64."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

import torch
from torch.nn.utils import get_total_norm
from transformers import PreTrainedTokenizerBase

from prefopt.scoring import Location, PreferenceModel, trace_batch, trace_gradients
from prefopt.scoring.forward import causal_lm
from prefopt.scoring.router_loss import RouterLoss
from prefopt.training.checkpoints import saved_reference
from prefopt.training.failed_step import FailedStep, FailedStepError
from prefopt.training.finite_steps import token_text
from prefopt.training.random_states import drawing_from
from prefopt.training.saved_run import SavedRun

_SIDES = ("chosen", "rejected")


@final
@dataclass(frozen=True)
class ReplayedResponse:
    """A response of the step: where its pair was read from, its side, and by precision the first tensor of it that is
    not finite, with its token; empty where all are finite."""

    where: str
    side: str
    tensors: Mapping[str, str]


@final
@dataclass(frozen=True)
class Replay:
    """A step, computed again.

    precisions  of training first, such as "bfloat16 autocast", then float32 and float64
    norms       of the step's gradients, by precision
    responses   those of which a tensor is not finite in some precision
    number      of all responses
    weights     what is to be told of the weights: those that are not finite, or the largest
    """

    step: FailedStep
    precisions: list[str]
    norms: dict[str, float]
    number: int
    weights: str
    responses: list[ReplayedResponse] = field(default_factory=list)

    def is_finite(self, precision: str) -> bool:
        """Whether all tensors and the norm of the gradients are finite."""
        norm = self.norms[precision]
        return math.isfinite(norm) and not any(response.tensors[precision] for response in self.responses)

    @property
    def is_reproduced(self) -> bool:
        """Whether a number is not finite in the precision of training."""
        return not self.is_finite(self.precisions[0])

    @property
    def verdict(self) -> str:
        """What follows from it, in a sentence."""
        if not self.is_reproduced:
            others = [precision for precision in self.precisions if not self.is_finite(precision)]
            also = f", though not in {' and '.join(others)}" if others else ""
            return (
                f"Not reproduced: all is finite in {self.precisions[0]} here{also}. The run's device, kernels, rows "
                "that pairs shared, or a cache of the reference had a part in it."
            )
        if self.is_finite("float64"):
            narrow = [precision for precision in self.precisions if not self.is_finite(precision)]
            return (
                f"Reproduced. It is finite in float64, so that the precision of {' and '.join(narrow)} is the matter: "
                "train in a wider one, or keep the numbers smaller."
            )
        return "Reproduced. It is not finite in float64 either: it is the numbers, and no precision mends them."


def replay(run: str | Path, *, reference: str | None = None) -> Replay:
    """Compute the step that a run's folder keeps again, on one device.

    reference  the reference model, where the run does not say which it was
    Raises FailedStepError without a step or its weights, and what `SavedRun.load` raises.
    """
    step = FailedStep.load(run)
    model, tokenizer = _load(step, reference)
    broken = [name for name, weight in model.named_parameters() if not bool(weight.isfinite().all())]
    largest_values = {
        name: float(weight.detach().abs().max()) for name, weight in model.named_parameters() if weight.numel()
    }
    largest = max(largest_values, key=largest_values.__getitem__)
    weights = f"finite, {largest_values[largest]:.3g} at most, in {largest}"
    if broken:
        weights = f"{len(broken)} tensors not finite, first {broken[0]}"
    state = {name: value.clone() for name, value in model.objective.state_dict().items()}
    locations: dict[str, list[Location | None]] = {}
    norms: dict[str, float] = {}
    for precision, dtype in _precisions(model, step).items():
        if dtype is not None:
            model.to(dtype)
        model.objective.load_state_dict(state)
        autocast = step.record["autocast"] if "autocast" in precision else None
        locations[precision], norms[precision] = _compute(model, step, autocast)
    responses, begin = [], 0
    for _, batch, where in step.batches:
        for pair, side in itertools.product(range(batch.pairs), _SIDES):
            index = begin + pair + batch.pairs * _SIDES.index(side)
            tensors = {precision: _words(first[index], tokenizer) for precision, first in locations.items()}
            if any(tensors.values()):
                responses.append(ReplayedResponse(where[pair], side, tensors))
        begin += 2 * batch.pairs
    return Replay(step, list(norms), norms, begin, weights, responses)


def _load(step: FailedStep, reference: str | None) -> tuple[PreferenceModel, PreTrainedTokenizerBase]:
    """The models with the weights before the step, in training mode."""
    run, weights, record = step.folder.parent, step.weights, step.record
    if weights is None:
        raise FailedStepError(f"{step.folder}: its weights were not kept, as the disk had no room for them")
    if not weights.is_dir():
        raise FailedStepError(f"{step.folder}: its weights were those of {weights}, which is no longer there")
    if reference is None and not (run / "run.yaml").is_file() and saved_reference(weights) is None:
        reference = record["reference"]
    saved = SavedRun.load(weights, reference=reference)
    model = saved.model.train()
    model.logits_budget = record["logits_budget"]
    model.router_loss = RouterLoss.from_model(causal_lm(model.policy), record["router_aux_loss_coef"] or 0.0)
    return model, saved.tokenizer


def _precisions(model: PreferenceModel, step: FailedStep) -> dict[str, torch.dtype | None]:
    """Name -> what the model is converted to, None where it stays as it is: each wider than the one before."""
    dtype, autocast = next(model.policy.parameters()).dtype, step.record["autocast"]
    wider: dict[str, torch.dtype | None] = {"float32": torch.float32, "float64": torch.float64}
    if autocast is None and dtype == torch.float32:
        return wider
    return {f"{autocast} autocast" if autocast else str(dtype).removeprefix("torch."): None} | wider


def _compute(model: PreferenceModel, step: FailedStep, autocast: str | None) -> tuple[list[Location | None], float]:
    """The first tensor of each response that is not finite, in the order of the batches, chosen ones first; and the
    norm of the step's gradients."""
    device = next(model.parameters()).device
    context = nullcontext() if autocast is None else torch.autocast(device.type, getattr(torch, autocast))
    total = sum(batch.pairs for _, batch, _ in step.batches)
    plain_forward = step.record["plain_forward"]
    by_batch: list[list[Location | None]] = []
    model.zero_grad()
    with context, drawing_from(step.random[0]):
        process = 0
        for drawn_by, batch, _ in step.batches:
            if drawn_by != process:
                process = drawn_by
                step.random[process].put_back()
            share = batch.pairs / total
            by_batch.append(trace_batch(model, batch.to(device), plain_forward=plain_forward, share=share))
        gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
        norm = float(get_total_norm(gradients))
        if not math.isfinite(norm) and model.objective.takes_pairs_apart:
            for (_, batch, _), locations in zip(step.batches, by_batch, strict=True):
                pairs = trace_gradients(model, batch.to(device))
                locations[:] = [first or second for first, second in zip(locations, pairs * 2, strict=True)]
    model.zero_grad()
    return [location for locations in by_batch for location in locations], norm


def _words(location: Location | None, tokenizer: PreTrainedTokenizerBase) -> str:
    if location is None:
        return ""
    if location.token_id is None:
        return location.tensor
    text = token_text(tokenizer, location.token_id)
    return f"{location.tensor}, {location.part} token {location.position} {text}"
