"""Numbers of training that are not finite: which they are, and of which pair; such weights are not saved."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import final

import datasets
import torch
from accelerate import DistributedType
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import PreTrainedTokenizerBase, Trainer
from transformers.trainer_utils import get_last_checkpoint

from prefopt.data import PairStream
from prefopt.scoring import NonFiniteError, PreferenceModel, raise_non_finite
from prefopt.tokens import PreferenceBatch

CAUSES = "a learning rate that is too high, or half precision without headroom, are the usual causes"

_SHARDED = (DistributedType.FSDP, DistributedType.DEEPSPEED)


@final
class NonFiniteGradientError(FloatingPointError):
    """A gradient that is NaN or infinite. `row` is the number of the first pair whose own is, None where none is."""

    row: int | None = None


@final
class NonFiniteWeightsError(FloatingPointError):
    """A weight that trains and is NaN or infinite."""


@contextmanager
def locate_errors(
    dataset: datasets.Dataset | PairStream, when: str, tokenizer: PreTrainedTokenizerBase
) -> Iterator[None]:
    """Put in front of a NonFiniteError when it happened, and the file and line that its pair was read from; and behind
    a token's id its text."""
    try:
        yield
    except NonFiniteError as error:
        text = str(error)
        if error.token_id is not None:
            identity = f"(id {error.token_id}"
            text = text.replace(identity, f"{identity}, {token_text(tokenizer, error.token_id)}", 1)
        where = "" if error.row is None else f", {source(dataset, error.row)}"
        error.args = (f"{when}{where}: {text}",)
        raise


def token_text(tokenizer: PreTrainedTokenizerBase, token_id: int) -> str:
    """A token in quotes: its text, or its name where it has none by itself."""
    return repr(tokenizer.decode([token_id]) or tokenizer.convert_ids_to_tokens(token_id))


def source(dataset: datasets.Dataset | PairStream, row: int) -> str:
    """The file and line of a row."""
    return sources(dataset, [row])[0]


def sources(dataset: datasets.Dataset | PairStream, rows: Sequence[int]) -> list[str]:
    """The file and line of each row; a data set may have been selected from, shuffled, or put together of several."""
    if isinstance(dataset, PairStream):
        return dataset.sources(rows)
    wanted = set(rows)
    lines: dict[int, list[str]] = {}
    for index, number in enumerate(dataset["row"]):
        if number in wanted:
            lines.setdefault(number, []).append(dataset[index]["where"])
    return [" or ".join(lines.get(row, ["a pair of another data set"])) for row in rows]


def non_finite_error(
    trainer: Trainer, batches: Sequence[PreferenceBatch], norm: float, unchanged_since: int
) -> NonFiniteError | NonFiniteGradientError:
    """The error of a step whose numbers or whose gradients, of this norm, are not finite. It names the first number of
    this process's batches, computed again with the weights as they are; else, where the model is not sharded, the
    first pair whose gradient alone is not finite. Drops the gradients.

    unchanged_since  the last step that was taken
    """
    step = trainer.state.global_step + 1
    error: NonFiniteError | NonFiniteGradientError | None = None
    with _in_rows_apart(trainer.accelerator.unwrap_model(trainer.model)), torch.no_grad():
        for batch in batches:  # all of them: the processes of a sharded model wait for each other in every pass
            with trainer.compute_loss_context_manager():
                output = trainer.model_wrapped(batch)
            try:
                with locate_errors(trainer.train_dataset, f"step {step}", trainer.processing_class):
                    raise_non_finite(output, batch)
            except NonFiniteError as first:
                error = error or first
    if error is not None:
        return error
    row, culprit = None, ""
    if trainer.accelerator.distributed_type not in _SHARDED:
        row, culprit = _culprit(trainer, batches)
    error = NonFiniteGradientError(
        f"step {step}: the norm of the gradients is {norm}{culprit}, and the step was not taken: the weights are "
        f"those of step {unchanged_since}; {CAUSES}"
    )
    error.row = row
    return error


@contextmanager
def _in_rows_apart(model: PreferenceModel) -> Iterator[None]:
    """A context in which the model gives each response a row of its own, out of which NaN does not get, and leaves the
    numbers to the caller."""
    shares, raises = model.shared_prefix, model.raises_non_finite
    model.shared_prefix = model.raises_non_finite = False
    try:
        yield
    finally:
        model.shared_prefix, model.raises_non_finite = shares, raises


def _culprit(trainer: Trainer, batches: Sequence[PreferenceBatch]) -> tuple[int | None, str]:
    """The first pair whose own gradient is not finite, and where, in words; else the largest gradient."""
    accelerator = trainer.accelerator
    model = accelerator.unwrap_model(trainer.model)
    largest, largest_name, largest_row = 0.0, "", 0
    is_alone = accelerator.num_processes == 1
    with nullcontext() if is_alone else accelerator.no_sync(trainer.model_wrapped):
        for batch in batches:
            for pair in range(batch.pairs):
                fields = {name: value[pair : pair + 1] for name, value in batch.as_mapping().items()}
                row, broken = int(batch.rows[pair]), []
                model.zero_grad()
                with trainer.compute_loss_context_manager():
                    loss = model(PreferenceBatch.from_mapping(fields)).loss
                loss.backward()
                for name, weight in model.named_parameters():
                    peak = 0.0 if weight.grad is None or not weight.numel() else float(weight.grad.abs().max())
                    if not math.isfinite(peak):
                        broken.append(name)
                    elif peak > largest:
                        largest, largest_name, largest_row = peak, name, row
                if broken:
                    model.zero_grad()
                    tensors = broken[0] if len(broken) == 1 else f"{len(broken)} tensors, {broken[0]} to {broken[-1]}"
                    where = source(trainer.train_dataset, row)
                    return row, f" (of pair {row}, {where}, alone: not finite in {tensors})"
    model.zero_grad()
    if not largest:
        return None, ""
    where = f"{largest_name}, pair {largest_row}, {source(trainer.train_dataset, largest_row)}"
    return None, f" (each pair's own is finite: {largest:.3g} at most, in {where})"


def require_finite_weights(trainer: Trainer, what: str) -> None:
    """Raise NonFiniteWeightsError, which `what` begins, where a weight that trains is NaN or infinite, on any process
    of a sharded model."""
    model, accelerator = trainer.accelerator.unwrap_model(trainer.model), trainer.accelerator
    weights = {name: _local(weight) for name, weight in model.named_parameters() if weight.requires_grad}
    broken = {name: bad for name, weight in weights.items() if (bad := int((~torch.isfinite(weight)).sum()))}
    count = torch.tensor(len(broken), device=accelerator.device)
    if accelerator.distributed_type in _SHARDED:
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
        f"{f'the last checkpoint, {last}, is as it was' if last else 'there is no checkpoint'}; {CAUSES}"
    )


def _local(weight: Tensor) -> Tensor:
    """This process's part of a tensor."""
    part = weight.detach()
    return part.to_local() if isinstance(part, DTensor) else part
