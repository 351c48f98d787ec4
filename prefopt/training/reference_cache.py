"""Fills the reference cache before training: one pass of the reference over the responses that it lacks."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import datasets
import torch
from accelerate import Accelerator
from filelock import FileLock
from torch import Tensor

from prefopt.progress import tracked
from prefopt.scoring import PreferenceModel, ReferenceCache, response_key
from prefopt.tokens import PreferenceBatch
from prefopt.whole_files import free_bytes

Row = Mapping[str, Any]

_LOG = logging.getLogger(__name__)

_CHECKED = 4
"""Pairs, drawn at random, that are recomputed when a cache is opened."""


def fill_reference_cache(
    model: PreferenceModel,
    data: Sequence[datasets.Dataset],
    collator: Callable[[Sequence[Row]], dict[str, Tensor]],
    accelerator: Accelerator,
    *,
    batch_size: int,
) -> None:
    """Compute and store the reference's outputs for every response of the data sets that the model's cache lacks.

    First a few random pairs are recomputed: the cache must hold what the reference gives now, and they determine the
    size of the rest. Each process takes its share. A run that is killed loses at most one shard. Raises StoreError
    where the cache disagrees with the reference, OSError where the disk is too small.
    """

    def precompute(batch_pairs: datasets.Dataset) -> None:
        batch = PreferenceBatch.from_mapping(collator(list(batch_pairs))).to(accelerator.device)
        with torch.no_grad(), accelerator.autocast():
            model.precompute_reference(batch)

    # A data set that the user prepared may have extra columns that the other data sets lack.
    common = sorted(set.intersection(*(set(dataset.column_names) for dataset in data)))
    pairs = datasets.concatenate_datasets([dataset.select_columns(common) for dataset in data])
    precompute(pairs.select(random.Random(0).sample(range(len(pairs)), min(_CHECKED, len(pairs)))))
    cache = model.cache
    assert cache is not None
    with _exclusive_access(cache, accelerator):
        cache.store.refresh()
        missing = {number for number, row in enumerate(pairs) if not all(key in cache for key in _keys(row))}
        _announce(cache, len(pairs), pairs.select(sorted(missing)))
        # The longest first, so that a batch that does not fit into memory fails at once. A share is of all pairs: what
        # is missing differs between processes where one has written before another looks.
        lengths = pairs["length"][:]
        order = sorted(range(len(pairs)), key=lengths.__getitem__, reverse=True)
        order = order[accelerator.process_index :: accelerator.num_processes]
        share = [number for number in order if number in missing]
        starts = range(0, len(share), batch_size)
        for start in tracked(starts, "running the reference", hidden=not accelerator.is_main_process):
            precompute(pairs.select(share[start : start + batch_size]))
        cache.store.flush()
    accelerator.wait_for_everyone()
    cache.store.refresh()


def _exclusive_access(cache: ReferenceCache, accelerator: Accelerator) -> AbstractContextManager[Any]:
    """Wait for another run that fills the same cache, whose entries this run then reads.

    A run of several processes does not wait, since its barriers might time out; two such runs may store entries twice.
    """
    if accelerator.num_processes > 1:
        return nullcontext()
    return FileLock(cache.folder / f"{'-'.join(cache.store.fields)}.lock")


def _announce(cache: ReferenceCache, pairs: int, missing: datasets.Dataset) -> None:
    """Log how large the cache will be. Raises OSError where the disk is too small."""
    tokens = sum(len(row["chosen_ids"]) + len(row["rejected_ids"]) for row in missing)
    size = tokens * cache.store.bytes_per_row
    _LOG.info(
        "reference cache %s: %d of %d pairs are there, the others will take %.1f MiB",
        *(cache.folder, pairs - len(missing), pairs, size / 2**20),
    )
    free = free_bytes(cache.folder)
    if size > free:
        raise OSError(
            f"the reference cache in {cache.folder} would take {size:,.0f} bytes more, and {free:,} bytes are free; "
            "name a folder on another disk, or leave reference_cache out"
        )


def _keys(row: Row) -> list[str]:
    return [
        response_key(row["prompt_ids"], row[f"{side}_ids"], row.get(f"{side}_masked", ()))
        for side in ("chosen", "rejected")
    ]
