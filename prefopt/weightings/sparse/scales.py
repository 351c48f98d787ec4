"""Scales: what the weights of a response are divided by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from prefopt.tokens import masked_mean


def _free(weights: Tensor, mask: Tensor) -> Tensor:
    return weights


def _mean_one(weights: Tensor, mask: Tensor) -> Tensor:
    mean = masked_mean(weights, mask)  # [N]; zero where all weights of the response are, and these stay so
    return weights / torch.where(mean > 0, mean, 1)[:, None]


SCALES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = MappingProxyType({"free": _free, "mean_one": _mean_one})
"""(weights [N, T], 0 off the response, mask [N, T]) -> [N, T], by name."""
