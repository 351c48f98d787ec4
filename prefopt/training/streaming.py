"""Training data that is a stream: what cannot be done with it, and its pairs from rows."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from prefopt.columns import Column
from prefopt.data import BadRow, DataReport, PairStream, RowEncoder, SourceRow, rows_of
from prefopt.data.fields import check_columns
from prefopt.training.config import PreferenceConfig
from prefopt.training.trainer_inputs import log_report

_LOG = logging.getLogger(__name__)

_AHEAD = 4
"""Steps whose pairs may be read before they are trained on."""

_REFUSED: Mapping[str, str] = {
    "reference_cache": "the cache is filled before training, by all pairs; leave it out, or give the rows as they are",
    "dataset_num_proc": "its rows are encoded one by one, as they come; leave it out, or give the rows as they are",
    "dataloader_num_workers": "workers would read it several times; set it to 0",
    "train_sampling_strategy": "sorting pairs by length needs all of them; leave it out, or give the rows as they are",
}
"""Argument -> why it has to be at its default, and what to do instead."""


def reject_unstreamable(args: PreferenceConfig) -> None:
    """Raise ValueError for arguments that need the end of the training data, or all of it; log what has no effect."""
    if args.max_steps <= 0:
        raise ValueError("the training data are a stream, whose length nobody knows; set max_steps")
    for name, why in _REFUSED.items():
        if args.differs(name):
            raise ValueError(f"{name}: the training data are a stream; {why}")
    if args.dataloader_drop_last:
        _LOG.warning("dataloader_drop_last has no effect: the training data are a stream, whose batches are all whole")
    accelerator = args.accelerator_config
    if accelerator.dispatch_batches or accelerator.split_batches:
        raise ValueError(
            "accelerator_config: batches of pairs have their own lengths, and those of a stream cannot be dispatched "
            "or split; leave dispatch_batches and split_batches out, and each process reads the stream for itself"
        )
    accelerator.dispatch_batches = False  # accelerate's default for streams is to dispatch them


def prepare_stream(
    rows: Any,
    tokenizer: PreTrainedTokenizerBase,
    extra: Sequence[Column],
    args: PreferenceConfig,
    name: str,
    *,
    columns: Mapping[str, str] | None = None,
    description: str | None = None,
) -> PairStream:
    """The pairs of a stream: an IterableDataset of rows, or a function from the number of a pass to its rows.

    extra                 the columns that the objective reads
    columns, description  as for `prepare_dataset`
    """
    columns = (args.columns if columns is None else columns) or {}
    check_columns(columns, extra)
    steps = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    return PairStream(
        rows if callable(rows) else _passes(rows, name),
        RowEncoder(tokenizer, args.encoding, columns, extra),
        description=description or name,
        quarantine=Path(args.output_dir, f"quarantine-{name}.jsonl") if args.on_bad_rows == "quarantine" else None,
        overwrite=args.overwrite_output_dir,
        is_main=args.should_save,
        recent=_AHEAD * steps,
    )


def report_stream(data: object, reports: dict[str, DataReport]) -> None:
    """Log the report of training data that are a stream, and add it to the others."""
    if isinstance(data, PairStream) and (report := data.report()) is not None:
        reports["train"] = report
        log_report(report, "train")


def _passes(data: Any, name: str) -> Callable[[int], Iterable[SourceRow | BadRow]]:
    """The rows of an IterableDataset, which is told the number of the pass, so that it shuffles anew."""

    def rows(number: int) -> Iterable[SourceRow | BadRow]:
        if hasattr(data, "set_epoch"):
            data.set_epoch(number)
        return rows_of(data, name=name)

    return rows
