"""Metrics as sums and counts, added up over batches and processes before they are divided."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import final

import torch
from accelerate import Accelerator
from transformers import TrainerCallback
from transformers.integrations import TensorBoardCallback

from prefopt.objective import Mean, ObjectiveOutput

__all__ = ["MetricSums", "log_histograms"]


@final
class MetricSums:
    """Adds up the metrics of batches until they are asked for."""

    def __init__(self) -> None:
        self._sums: dict[str, torch.Tensor] = {}

    def add(self, metrics: Mapping[str, Mean]) -> None:
        """Add the sums and counts of a batch."""
        for name, mean in metrics.items():
            pair = torch.stack([mean.total, mean.number]).double()
            self._sums[name] = self._sums[name] + pair if name in self._sums else pair

    def flush(self, accelerator: Accelerator) -> dict[str, float]:
        """The means over all batches of all processes since the last call, without those of nothing. Every process must
        call this, after batches that have the same metrics.
        """
        if not self._sums:
            return {}
        names = sorted(self._sums)
        sums = accelerator.reduce(torch.stack([self._sums[name] for name in names]), reduction="sum")
        self._sums.clear()
        return {name: total / number for name, (total, number) in zip(names, sums.tolist(), strict=True) if number}


def log_histograms(callbacks: Iterable[TrainerCallback], output: ObjectiveOutput, step: int) -> None:
    """The weights of a step's response tokens, to TensorBoard where that is on."""
    named = {"weights": output.weights, "divergence_weights": output.divergence_weights}
    for callback in callbacks:
        writer = callback.tb_writer if isinstance(callback, TensorBoardCallback) else None
        for name, weights in named.items():
            if writer is not None and weights is not None:
                writer.add_histogram(f"train/{name}", weights[output.tokens.mask].float(), step)
