"""Digests of what a run is made of: its training pairs, and the weights that it leaves as they are."""

from __future__ import annotations

import hashlib

import datasets
import torch
from accelerate import DistributedType
from transformers import Trainer

from prefopt.data import PairStream
from prefopt.scoring import PreferenceModel
from prefopt.training.updates import checksum

_ROWS_AT_A_TIME = 1000


def data_fingerprint(dataset: datasets.Dataset | PairStream) -> str:
    """The number of pairs, and the beginning of a SHA-256 of all columns, in their order, but for where a pair was read
    from. A stream's pairs are compared as they are read again."""
    if isinstance(dataset, PairStream):
        return "a stream"
    digest = hashlib.sha256()
    columns = sorted(set(dataset.column_names) - {"where"})
    for table in dataset.select_columns(columns).with_format("arrow").iter(_ROWS_AT_A_TIME):
        rows = table.select(columns).take(list(range(len(table))))  # a copy, whose buffers hold these rows and no more
        for batch in rows.combine_chunks().to_batches():
            digest.update(batch.serialize())
    return f"{len(dataset)} pairs, {digest.hexdigest()[:16]}"


def frozen_checksum(trainer: Trainer) -> str | None:
    """Of the weights that training reads and leaves: those of the policy that do not train, and the reference's. None
    where they are spread over processes, or the reference follows the policy."""
    if trainer.accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED):
        return None
    if trainer.args.sync_ref_model:
        return None
    model: PreferenceModel = trainer.accelerator.unwrap_model(trainer.model)
    parameters = [parameter for parameter in model.policy.parameters() if not parameter.requires_grad]
    if isinstance(model.reference, torch.nn.Module):
        parameters += model.reference.parameters()
    total = sum(checksum(parameter) * (index + 1) for index, parameter in enumerate(parameters))
    return f"{total % 2**64:016x}"
