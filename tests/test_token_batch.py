"""The values of response tokens, whose positions may be known, and metrics, for which the host does not wait."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import torch

from prefopt import TokenBatch
from prefopt.metrics import dtype_of_sums, objective_metrics
from prefopt.tokens import TokenPositions

MASK = torch.tensor([[True, True, False], [True, False, False]])


def tokens(mask, **fields):
    return TokenBatch(*torch.zeros(2, *mask.shape, device=mask.device), mask, mask.long(), **fields)


def test_positions_are_of_the_mask_however_it_is_replaced():
    values = torch.arange(12).view(2, 2, 3)
    placed = tokens(MASK, positions=TokenPositions(MASK, torch.tensor([0, 1, 3])))
    for batch in (placed, tokens(MASK), placed.replace(logps=placed.logps)):
        assert batch.at_tokens(values, axis=1).tolist() == [[0, 1, 3], [6, 7, 9]]
    for batch in (placed.replace(mask=~MASK), dataclasses.replace(placed, mask=~MASK)):
        assert batch.at_tokens(values[0]).tolist() == [2, 4, 5]


def test_metrics_are_not_waited_for():
    """What the host has to read raises on the meta device, which has no numbers."""
    mask, rewards = torch.ones(4, 3, dtype=torch.bool, device="meta"), torch.zeros(4, device="meta")
    weights = torch.zeros(4, 3, device="meta")
    metrics = objective_metrics(0.1, tokens(mask), rewards, rewards, weights, weights)
    assert {"weights/negative", "divergence_weights/mean", "rewards/margins_divergence"} <= metrics.keys()


def test_sums_have_a_dtype_that_the_device_has(monkeypatch):
    assert dtype_of_sums(torch.device("cpu")) == torch.float64
    assert dtype_of_sums(torch.device("mps")) == torch.float32
    for has_fp64, dtype in ((True, torch.float64), (False, torch.float32)):
        properties = SimpleNamespace(has_fp64=has_fp64)
        monkeypatch.setattr(torch.xpu, "get_device_properties", lambda device, properties=properties: properties)
        assert dtype_of_sums(torch.device("xpu")) == dtype
