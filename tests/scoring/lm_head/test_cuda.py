"""token_statistics on a CUDA device, against the same on the CPU."""

from __future__ import annotations

import warnings

import pytest
import torch

from prefopt.divergences import ForwardKL, JensenShannon, ReverseKL
from prefopt.scoring import token_statistics
from prefopt.scoring.lm_head.head import Head
from prefopt.scoring.lm_head.precision import multiplies_into_float32
from tests.scoring.token_cases import name_of

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")
every_divergence = pytest.mark.parametrize("divergence", [None, ForwardKL(), ReverseKL(), JensenShannon()], ids=name_of)
TOKENS, HIDDEN, VOCABULARY = 200, 64, 5_003


def results(device, dtype, divergence, budget=None):
    """Statistics and gradients, from the same numbers on any device."""
    draw = torch.Generator().manual_seed(0)
    shapes = ((TOKENS, HIDDEN), (VOCABULARY, HIDDEN), (TOKENS, HIDDEN), (VOCABULARY, HIDDEN))
    tensors = [torch.randn(shape, generator=draw).bfloat16().to(device, dtype) for shape in shapes]
    hidden, weight = (tensor.requires_grad_() for tensor in tensors[:2])
    labels = torch.randint(VOCABULARY, (TOKENS,), generator=draw).to(device)
    weights = torch.randn(TOKENS, generator=draw).to(device)
    statistics = token_statistics(hidden, Head(weight), tensors[2], Head(tensors[3]), labels, divergence, budget=budget)
    loss = (weights * statistics.logps).sum()
    if statistics.divergence is not None:
        loss = loss + statistics.divergence.sum()
    gradients = torch.autograd.grad(loss, [hidden, weight])
    return [None if value is None else value.detach().cpu() for value in (*statistics, *gradients)]


@every_divergence
@pytest.mark.parametrize("budget", [0, None])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-3), (torch.bfloat16, 0.03)])
def test_the_numbers_of_the_cpu(divergence, budget, dtype, tolerance):
    for ours, theirs in zip(
        results("cuda", dtype, divergence, budget), results("cpu", torch.float32, divergence), strict=True
    ):
        if ours is not None:
            assert float((ours.float() - theirs).norm() / theirs.norm()) < tolerance


@every_divergence
@pytest.mark.parametrize("budget", [0, None])
def test_nothing_waits_for_the_device(divergence, budget):
    multiplies_into_float32(torch.device("cuda", torch.cuda.current_device()), torch.bfloat16)  # it waits, once
    draw = torch.Generator("cuda").manual_seed(0)
    shapes = ((TOKENS, HIDDEN), (VOCABULARY, HIDDEN), (TOKENS, HIDDEN), (VOCABULARY, HIDDEN))
    tensors = [torch.randn(shape, generator=draw, device="cuda", dtype=torch.bfloat16) for shape in shapes]
    hidden, weight = (tensor.requires_grad_() for tensor in tensors[:2])
    labels = torch.randint(VOCABULARY, (TOKENS,), generator=draw, device="cuda")

    def step():
        statistics = token_statistics(
            hidden, Head(weight), tensors[2], Head(tensors[3]), labels, divergence, budget=budget
        )
        (statistics.logps.sum() + (0 if divergence is None else statistics.divergence.sum())).backward()

    step()  # it compiles, which waits
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Synchronization debug mode")
        torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
