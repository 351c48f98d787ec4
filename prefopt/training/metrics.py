"""Metrics of training, over batches and processes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from accelerate import Accelerator
from transformers import TrainerCallback
from transformers.integrations import TensorBoardCallback

from prefopt.metrics import Mean, MetricSums, means
from prefopt.objective import ObjectiveOutput
from prefopt.tokens import PreferenceBatch


def flush(metrics: MetricSums, accelerator: Accelerator) -> dict[str, float]:
    """The means over the batches of all processes since the last call; metrics with count 0 are left out.

    A collective: every process calls it, after batches that have the same metrics.
    """
    if not metrics.sums:
        return {}
    names = sorted(metrics.sums)
    sums = accelerator.reduce(torch.stack([metrics.sums[name] for name in names]), reduction="sum")
    metrics.sums.clear()
    return means(names, sums)


def batch_metrics(batch: PreferenceBatch) -> dict[str, Mean]:
    """The shares of truncated responses, and of padding where pairs are padded to the longest."""
    truncated = torch.cat([batch.chosen_truncated, batch.rejected_truncated])
    positions = batch.lengths.max() * batch.pairs
    padding = Mean(positions - batch.lengths.sum(), positions)
    return {"truncated/share": Mean.from_values(truncated), "padding/share": padding}


def log_histograms(callbacks: Iterable[TrainerCallback], output: ObjectiveOutput, step: int) -> None:
    """Write histograms of a step's response-token weights to TensorBoard, where a callback reports to it."""
    histograms = {"weights": output.weights, "divergence_weights": output.divergence_weights}
    for callback in callbacks:
        writer = callback.tb_writer if isinstance(callback, TensorBoardCallback) else None
        for name, weights in histograms.items():
            if writer is not None and weights is not None:
                writer.add_histogram(f"train/{name}", weights[output.tokens.mask].float(), step)


def token_count(inputs: Mapping[str, torch.Tensor], *, padding: bool) -> int:
    """The tokens of a batch of pairs, its padding counted or not."""
    masks = [inputs[f"{part}_mask"] for part in ("prompt", "chosen", "rejected")]
    return sum(mask.numel() if padding else int(mask.sum()) for mask in masks)
