"""Metrics of a step: detached views of what the loss used, each as a sum and a count."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple, final

import torch
from torch import Tensor

from prefopt.tokens import TokenBatch, masked_sum

__all__ = ["Mean", "MetricSums", "objective_metrics"]


class Mean(NamedTuple):
    """A metric as a sum and a count, so that it can be added up over batches and processes before it is divided."""

    total: Tensor
    number: Tensor

    @property
    def value(self) -> float:
        """The mean; nan where nothing was counted."""
        return float(self.total / self.number)

    @classmethod
    def from_values(cls, values: Tensor) -> Mean:
        """The mean of all entries."""
        values = values.detach().float()
        return cls(values.sum(), values.new_full((), values.numel()))

    @classmethod
    def where(cls, values: Tensor, kept: Tensor) -> Mean:
        """The mean of the entries that are kept, a bool of the same shape."""
        kept = kept.detach()
        return cls(torch.where(kept, values.detach().float(), 0).sum(), kept.sum().float())


@final
class MetricSums:
    """Metrics added over batches: `sums` holds sum and count [2] by name."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}

    def add(self, metrics: Mapping[str, Mean], names: Iterable[str] | None = None) -> None:
        """Add the sums and counts of a batch, of those of the names that it has, or of all."""
        for name in metrics if names is None else names:
            if (mean := metrics.get(name)) is not None:
                pair = torch.stack([mean.total, mean.number])
                pair = pair.to(dtype_of_sums(pair.device))
                self.sums[name] = self.sums[name] + pair if name in self.sums else pair

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """A context in which what is added counts nothing: its names alone are kept, with sum and count 0."""
        before = dict(self.sums)
        yield
        self.sums = {name: before.get(name, torch.zeros_like(pair)) for name, pair in self.sums.items()}

    def means(self) -> dict[str, float]:
        """The means by name: one read from the device. Metrics with count 0 are left out."""
        return means(self.sums, torch.stack(list(self.sums.values()))) if self.sums else {}


def dtype_of_sums(device: torch.device) -> torch.dtype:
    """float64, but float32 on accelerators that have no other: Apple's, and some of Intel's."""
    if device.type == "mps" or (device.type == "xpu" and not torch.xpu.get_device_properties(device).has_fp64):
        return torch.float32
    return torch.float64


def means(names: Iterable[str], sums: Tensor) -> dict[str, float]:
    """The means by name, of sums and counts [M, 2]; metrics with count 0 are left out."""
    return {name: total / number for name, (total, number) in zip(names, sums.tolist(), strict=True) if number}


@torch.no_grad()
def objective_metrics(
    beta: float, tokens: TokenBatch, rewards: Tensor, alone: Tensor | None, w: Tensor, v: Tensor | None
) -> dict[str, Mean]:
    """The metrics by name, of rewards [N] and weights w, v [N, T].

    alone [N] are the rewards without the divergence's term; v and they are None where there is no such term.
    """
    chosen, rejected = rewards.chunk(2)
    metrics = {
        "rewards/chosen": Mean.from_values(chosen),
        "rewards/rejected": Mean.from_values(rejected),
        "rewards/margins": Mean.from_values(chosen - rejected),
        "rewards/accuracies": Mean.from_values(chosen > rejected),
        "beta/effective": Mean.where(beta * w, tokens.mask),
        **_weights("weights", w, tokens.mask),
    }
    if v is not None:
        metrics |= _weights("divergence_weights", v, tokens.mask)
    if alone is not None:
        chosen_log_ratio, rejected_log_ratio = alone.chunk(2)
        metrics["rewards/margins_log_ratio"] = Mean.from_values(chosen_log_ratio - rejected_log_ratio)
        metrics["rewards/margins_divergence"] = Mean.from_values(
            (chosen - rejected) - (chosen_log_ratio - rejected_log_ratio)
        )
    per_response = {"logps": masked_sum(tokens.logps, tokens.mask), "lengths": tokens.mask.sum(-1)}
    if tokens.divergence is not None:
        per_response["divergence"] = masked_sum(tokens.divergence, tokens.mask)
    for name, values in per_response.items():
        for side, part in zip(("chosen", "rejected"), values.chunk(2), strict=True):
            metrics[f"{name}/{side}"] = Mean.from_values(part)
    return metrics


def _weights(name: str, w: Tensor, mask: Tensor) -> dict[str, Mean]:
    total, lengths = masked_sum(w, mask), mask.sum(-1)
    shares = torch.where(mask, w, 0) / torch.where(total > 0, total, 1)[:, None]
    entropies = -torch.special.xlogy(shares, shares).sum(-1) / lengths.clamp(min=2).log()
    return {
        f"{name}/mean": Mean.where(w, mask),
        f"{name}/sparsity": Mean.where(w == 0, mask),
        f"{name}/all_zero": Mean.where(total == 0, lengths > 0),
        f"{name}/entropy": Mean.where(entropies, (total > 0) & (lengths > 1)),
        f"{name}/negative": Mean.where(w < 0, mask),
    }
