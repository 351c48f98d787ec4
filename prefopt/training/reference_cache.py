"""Fills the reference cache before training: one pass over what it does not hold yet."""

from __future__ import annotations

import logging
import random
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import datasets
import torch
from accelerate import Accelerator
from filelock import FileLock
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from prefopt.scoring import PreferenceModel, ReferenceCache, response_key
from prefopt.tokens import PreferenceBatch

__all__ = ["fill"]

Row = Mapping[str, Any]

_LOG = logging.getLogger(__name__)

_CHECKED = 4
"""Pairs, drawn at random, that are asked again when a cache is opened."""


def fill(
    model: PreferenceModel,
    data: Sequence[datasets.Dataset],
    collator: Callable[[Sequence[Row]], dict[str, Tensor]],
    accelerator: Accelerator,
    *,
    batch_size: int,
) -> None:
    """Ask the reference about every response of the data sets that the model's cache does not hold.

    A few random pairs come first: what the cache holds of them must be what the reference says now, and they tell how
    large the rest will be. Each process asks about its share. What was asked stays when the run is killed: at most a
    shard is lost. Raises StoreError where the cache says something else, OSError where the disk has no room.
    """

    def ask(pairs: datasets.Dataset) -> None:
        batch = PreferenceBatch.from_mapping(collator(list(pairs))).to(accelerator.device)
        with torch.no_grad(), accelerator.autocast():
            model.ask_reference(batch)

    # A data set that the user prepared may have columns that no component reads, and the others not.
    common = sorted(set.intersection(*(set(dataset.column_names) for dataset in data)))
    whole = datasets.concatenate_datasets([dataset.select_columns(common) for dataset in data])
    ask(whole.select(random.Random(0).sample(range(len(whole)), min(_CHECKED, len(whole)))))
    cache = model.cache
    assert cache is not None
    with _no_other_run(cache, accelerator):
        cache.store.refresh()
        missing = [number for number, row in enumerate(whole) if not all(key in cache for key in _keys(row))]
        _announce(cache, len(whole), whole.select(missing))
        # The longest first: a batch that does not fit into memory is found out at once.
        lengths = whole["length"][:]
        missing.sort(key=lengths.__getitem__, reverse=True)
        share = missing[accelerator.process_index :: accelerator.num_processes]
        console = Console(stderr=True)
        hidden = not (console.is_terminal and accelerator.is_main_process)
        with Progress(console=console, transient=True, disable=hidden) as progress:
            for start in progress.track(range(0, len(share), batch_size), description="asking the reference"):
                ask(whole.select(share[start : start + batch_size]))
        cache.store.flush()
    accelerator.wait_for_everyone()
    cache.store.refresh()


def _no_other_run(cache: ReferenceCache, accelerator: Accelerator) -> AbstractContextManager[Any]:
    """While another run asks the same, we wait, and then find it.

    A run of several processes does not wait, for its barriers might time out; what two runs ask at once is kept twice.
    """
    if accelerator.num_processes > 1:
        return nullcontext()
    return FileLock(cache.folder / f"{'-'.join(cache.store.fields)}.lock")


def _announce(cache: ReferenceCache, pairs: int, missing: datasets.Dataset) -> None:
    """Say how large the cache will grow, and refuse where the disk is too small."""
    tokens = sum(len(row["chosen_ids"]) + len(row["rejected_ids"]) for row in missing)
    size = tokens * cache.store.bytes_per_row
    _LOG.info(
        "reference cache %s: %d of %d pairs are there, the others will take %.1f MiB",
        *(cache.folder, pairs - len(missing), pairs, size / 2**20),
    )
    free = shutil.disk_usage(cache.folder).free
    if size > free:
        raise OSError(
            f"the reference cache in {cache.folder} would take {size / 2**30:.1f} GiB more, and the disk has "
            f"{free / 2**30:.1f}; name a folder on another disk, or leave reference_cache out"
        )


def _keys(row: Row) -> list[str]:
    return [response_key(row["prompt_ids"], row[f"{side}_ids"]) for side in ("chosen", "rejected")]
