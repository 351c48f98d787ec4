"""Metrics of training: sums and counts, added over batches and processes before they are divided."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import final

import torch
from accelerate import Accelerator
from transformers import TrainerCallback
from transformers.integrations import TensorBoardCallback

from prefopt.objective import Mean, ObjectiveOutput
from prefopt.tokens import PreferenceBatch


@final
class MetricSums:
    """Accumulates the metrics of batches between two logs. `sums` holds sum and count by name."""

    def __init__(self) -> None:
        self.sums: dict[str, torch.Tensor] = {}

    def add(self, metrics: Mapping[str, Mean]) -> None:
        """Add the sums and counts of a batch."""
        for name, mean in metrics.items():
            pair = torch.stack([mean.total, mean.number]).double()
            self.sums[name] = self.sums[name] + pair if name in self.sums else pair

    def flush(self, accelerator: Accelerator) -> dict[str, float]:
        """The means over the batches of all processes since the last call; metrics with count 0 are left out.

        A collective: every process calls it, after batches that have the same metrics.
        """
        if not self.sums:
            return {}
        names = sorted(self.sums)
        sums = accelerator.reduce(torch.stack([self.sums[name] for name in names]), reduction="sum")
        self.sums.clear()
        return {name: total / number for name, (total, number) in zip(names, sums.tolist(), strict=True) if number}


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
