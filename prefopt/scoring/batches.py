"""Pairs scored batch by batch, for whatever measures or shows a trained model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, NamedTuple, final

import torch

from prefopt.data import PreferenceCollator
from prefopt.objective import ObjectiveOutput
from prefopt.scoring.model import PreferenceModel
from prefopt.tokens import PreferenceBatch


@final
class ScoredBatch(NamedTuple):
    """B rows of the data set, the batch that they make, and the objective's output on it."""

    rows: list[Mapping[str, Any]]
    batch: PreferenceBatch
    output: ObjectiveOutput


def scored_batches(
    model: PreferenceModel, pairs: Iterable[Mapping[str, Any]], *, pad_token_id: int, batch_size: int
) -> Iterator[ScoredBatch]:
    """Scores of the pairs of a data set of `prepare`, in its order and without gradient, `batch_size` pairs at a time.

    The model is set to evaluation mode, and batches are moved to its policy's device. Raises NonFiniteError.
    """
    model.eval()
    collator = PreferenceCollator(pad_token_id, model.objective.config.columns)
    device = next(model.policy.parameters()).device
    remaining = iter(pairs)
    while rows := list(islice(remaining, batch_size)):
        batch = PreferenceBatch.from_mapping(collator(rows)).to(device)
        with torch.no_grad():
            output = model(batch)
        yield ScoredBatch(rows, batch, output)
