"""Numbers of training that are not finite: the step is not taken, and such weights are not saved."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import final

import datasets
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import Trainer
from transformers.trainer_utils import get_last_checkpoint

from prefopt.scoring import NonFiniteError

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
        # A data set may have been selected from, shuffled, or put together of several.
        places = [dataset[index]["where"] for index, row in enumerate(dataset["row"]) if row == error.row]
        error.args = (f"{when}, {' or '.join(places) or 'a pair of another data set'}: {error}",)
        raise


def require_finite_norm(norm: Tensor | float | None, accelerator: Accelerator, step: int) -> None:
    """Raise NonFiniteGradientError where the norm of a step's gradients, over all processes, is NaN or infinite.

    float16's loss scaler leaves such a step out and lowers its scale; it is an error once the scale is below 1. None,
    where DeepSpeed has no norm, is not judged. Reads one number from the device.
    """
    if isinstance(norm, DTensor):
        norm = norm.full_tensor()
    value = 0.0 if norm is None else float(norm)
    scaler = accelerator.scaler
    if math.isfinite(value) or (scaler is not None and scaler.is_enabled() and scaler.get_scale() >= 1):
        return
    raise NonFiniteGradientError(
        f"step {step}: the norm of the gradients is {value}, and the step was not taken: the weights are those of step "
        f"{step - 1}; {_CAUSES}"
    )


def require_finite_weights(trainer: Trainer, what: str) -> None:
    """Raise NonFiniteWeightsError, which `what` begins, where a weight that trains is NaN or infinite, on any process
    of a sharded model."""
    model, accelerator = trainer.accelerator.unwrap_model(trainer.model), trainer.accelerator
    weights = {name: _local(weight) for name, weight in model.named_parameters() if weight.requires_grad}
    broken = {name: bad for name, weight in weights.items() if (bad := int((~torch.isfinite(weight)).sum()))}
    count = torch.tensor(len(broken), device=accelerator.device)
    if accelerator.distributed_type in ("FSDP", "DEEPSPEED"):
        count = accelerator.reduce(count)
    if not count:
        return
    name = next(iter(broken), None)
    values = f"first {name}, {broken[name]} values of {weights[name].numel()}" if name else "all on other processes"
    folder = trainer.args.output_dir
    last = get_last_checkpoint(folder) if Path(folder).is_dir() else None
    raise NonFiniteWeightsError(
        f"{what}: {int(count)} of the {len(weights)} tensors that train hold NaN or infinity ({values}); "
        f"{f'the last checkpoint, {last}, is as it was' if last else 'there is no checkpoint'}; {_CAUSES}"
    )


def _local(weight: Tensor) -> Tensor:
    """This process's part of a tensor."""
    part = weight.detach()
    return part.to_local() if isinstance(part, DTensor) else part
