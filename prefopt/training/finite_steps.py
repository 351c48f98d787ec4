"""Numbers of training that are not finite: the step is not taken, and such weights are not saved."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import final

import datasets
import torch
from accelerate import DistributedType
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import Trainer
from transformers.trainer_utils import get_last_checkpoint

from prefopt.scoring import NonFiniteError
from prefopt.tokens import PreferenceBatch

_CAUSES = "a learning rate that is too high, or half precision without headroom, are the usual causes"


@final
class NonFiniteGradientError(FloatingPointError):
    """A gradient that is NaN or infinite."""


@final
class NonFiniteWeightsError(FloatingPointError):
    """A weight that trains and is NaN or infinite."""


@contextmanager
def locate_errors(dataset: datasets.Dataset, when: str) -> Iterator[None]:
    """Put in front of a NonFiniteError when it happened, and the file and line that its pair was read from."""
    try:
        yield
    except NonFiniteError as error:
        error.args = (f"{when}, {_source(dataset, error.row)}: {error}",)
        raise


def _source(dataset: datasets.Dataset, row: int) -> str:
    """The file and line of a row; a data set may have been selected from, shuffled, or put together of several."""
    sources = [dataset[index]["where"] for index, number in enumerate(dataset["row"]) if number == row]
    return " or ".join(sources) or "a pair of another data set"


def require_finite_norm(norm: Tensor | float | None, trainer: Trainer, batches: Sequence[PreferenceBatch] = ()) -> None:
    """Raise NonFiniteGradientError where the norm of a step's gradients, over all processes, is NaN or infinite.

    float16's loss scaler leaves such a step out and lowers its scale; it is an error once the scale is below 1. None,
    where DeepSpeed has no norm, is not judged. Reads one number from the device. On one process, the error names the
    first pair of the step's batches whose gradient alone is not finite.
    """
    if isinstance(norm, DTensor):
        norm = norm.full_tensor()
    value = 0.0 if norm is None else float(norm)
    scaler = trainer.accelerator.scaler
    if math.isfinite(value) or (scaler is not None and scaler.is_enabled() and scaler.get_scale() >= 1):
        return
    step = trainer.state.global_step + 1
    culprit = _culprit(trainer, batches) if trainer.accelerator.num_processes == 1 else ""
    raise NonFiniteGradientError(
        f"step {step}: the norm of the gradients is {value}{culprit}, and the step was not taken: the weights are "
        f"those of step {step - 1}; {_CAUSES}"
    )


def _culprit(trainer: Trainer, batches: Sequence[PreferenceBatch]) -> str:
    """The first pair whose own gradient is not finite, and where; empty if there is none. Drops the gradients."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    for batch in batches:
        for pair in range(batch.pairs):
            fields = {name: value[pair : pair + 1] for name, value in batch.as_mapping().items()}
            model.zero_grad()
            try:
                with trainer.compute_loss_context_manager():
                    loss = model(PreferenceBatch.from_mapping(fields)).loss
                loss.backward()
            except NonFiniteError:
                broken = ["its loss"]
            else:
                gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
                broken = [name for name, gradient in gradients.items() if not torch.isfinite(gradient).all()]
            if broken:
                row = int(batch.rows[pair])
                tensors = broken[0] if len(broken) == 1 else f"{len(broken)} tensors, {broken[0]} to {broken[-1]}"
                return f" (of pair {row}, {_source(trainer.train_dataset, row)}, alone: not finite in {tensors})"
    return ""


def require_finite_weights(trainer: Trainer, what: str) -> None:
    """Raise NonFiniteWeightsError, which `what` begins, where a weight that trains is NaN or infinite, on any process
    of a sharded model."""
    model, accelerator = trainer.accelerator.unwrap_model(trainer.model), trainer.accelerator
    weights = {name: _local(weight) for name, weight in model.named_parameters() if weight.requires_grad}
    broken = {name: bad for name, weight in weights.items() if (bad := int((~torch.isfinite(weight)).sum()))}
    count = torch.tensor(len(broken), device=accelerator.device)
    if accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED):
        count = accelerator.reduce(count)
    if not count:
        return
    tensors = "weights on another process"
    if name := next(iter(broken), None):
        values = f"first {name}, {broken[name]} values of {weights[name].numel()}"
        tensors = f"{len(broken)} of the {len(weights)} tensors that train ({values})"
    folder = trainer.args.output_dir
    last = get_last_checkpoint(folder) if Path(folder).is_dir() else None
    raise NonFiniteWeightsError(
        f"{what}: NaN or infinity in {tensors}; "
        f"{f'the last checkpoint, {last}, is as it was' if last else 'there is no checkpoint'}; {_CAUSES}"
    )


def _local(weight: Tensor) -> Tensor:
    """This process's part of a tensor."""
    part = weight.detach()
    return part.to_local() if isinstance(part, DTensor) else part
