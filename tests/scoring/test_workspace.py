"""What token_statistics keeps for backward, and the buffers that outlive a step."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from prefopt.divergences import ForwardKL
from prefopt.scoring import Workspace
from tests.scoring.token_cases import (
    ENTRY_BYTES,
    TOKENS,
    VOCABULARY,
    assert_same,
    dense,
    fused,
    gradients,
    loss_of,
    setting,
)

CHUNK = 3
CHUNKS = 4  # of 11 tokens, the last one of 2
PAIR_OF_BUFFERS = 2 * CHUNK * ENTRY_BYTES
EVERYTHING = 2**30


@pytest.fixture(autouse=True)
def taken(monkeypatch):
    """What has been taken so far. Each buffer comes full of nan, so that nobody can rely on what was in it before."""
    takes, original = [], Workspace.take

    def take(workspace, rows, columns, like):
        takes.append((rows, columns))
        return original(workspace, rows, columns, like).fill_(torch.nan)

    monkeypatch.setattr(Workspace, "take", take)
    return takes


def step(at, workspace, divergence=None, budget=EVERYTHING):
    """The gradients of one step."""
    return gradients(at, loss_of(at, fused(at, divergence, chunk_size=CHUNK, budget=budget, workspace=workspace)))


def taken_in_each_pass(taken, at, workspace, divergence, budget):
    """How many buffers are taken in forward and in backward."""
    loss = loss_of(at, fused(at, divergence, chunk_size=CHUNK, budget=budget, workspace=workspace))
    forward = len(taken)
    gradients(at, loss)
    return forward, len(taken) - forward


@pytest.mark.parametrize("kept", range(CHUNKS + 1))
def test_as_many_chunks_are_kept_as_the_budget_allows(taken, kept):
    at, workspace = setting(), Workspace()
    budget = kept * PAIR_OF_BUFFERS + PAIR_OF_BUFFERS - 1
    assert taken_in_each_pass(taken, at, workspace, ForwardKL(), budget) == (2 * CHUNKS, 2 * (CHUNKS - kept))
    assert len(workspace.free) == min(2 * kept + 2, 2 * CHUNKS)
    expected = gradients(at, loss_of(at, dense(at, ForwardKL())))
    assert_same(step(at, workspace, ForwardKL(), budget), expected)


@pytest.mark.parametrize("kept", range(CHUNKS + 1))
def test_without_a_divergence_the_reference_is_never_computed_again(taken, kept):
    at, workspace = setting(), Workspace()
    budget = kept * PAIR_OF_BUFFERS // 2
    assert taken_in_each_pass(taken, at, workspace, None, budget) == (2 * CHUNKS, CHUNKS - kept)
    assert len(workspace.free) <= kept + 2
    assert_same(step(at, workspace, None, budget), gradients(at, loss_of(at, dense(at, None))))


def test_nothing_is_kept_where_no_gradient_is_wanted():
    at, workspace = setting(), Workspace()
    with torch.no_grad():
        fused(at, ForwardKL(), chunk_size=CHUNK, budget=EVERYTHING, workspace=workspace)
    assert len(workspace.free) == 2
    assert sum(buffer.numel() for buffer in workspace.free) == 2 * CHUNK * VOCABULARY


@pytest.mark.parametrize("budget", [0, 2 * PAIR_OF_BUFFERS, EVERYTHING])
def test_a_second_step_allocates_nothing(budget):
    at, workspace = setting(), Workspace()

    def places():
        return sorted(buffer.data_ptr() for buffer in workspace.free)

    first = step(at, workspace, ForwardKL(), budget)
    before = places()
    second = step(at, workspace, ForwardKL(), budget)
    assert places() == before
    assert_same(second, first, rtol=0, atol=0)


def test_a_step_of_another_dtype_takes_buffers_of_its_own():
    workspace = Workspace()
    for dtype in (torch.float64, torch.float32, torch.float64):
        at = setting(dtype=dtype)
        assert_same(step(at, workspace, ForwardKL()), gradients(at, loss_of(at, dense(at, ForwardKL()))), 1e-4, 1e-5)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize("budget", [0, 2 * PAIR_OF_BUFFERS, EVERYTHING])
def test_two_forwards_before_two_backwards(budget, order):
    workspace = Workspace()
    settings = [setting(seed=seed, bias=True) for seed in (1, 2)]
    losses = [
        loss_of(at, fused(at, ForwardKL(), chunk_size=CHUNK, budget=budget, workspace=workspace)) for at in settings
    ]
    for index in order:
        at = settings[index]
        expected = gradients(at, loss_of(at, dense(at, ForwardKL())))
        assert_same(gradients(at, losses[index]), expected)


def test_a_forward_that_is_thrown_away_corrupts_nothing():
    at, workspace = setting(), Workspace()
    for _ in range(2):
        fused(at, ForwardKL(), chunk_size=CHUNK, workspace=workspace)
        assert_same(step(at, workspace, ForwardKL()), gradients(at, loss_of(at, dense(at, ForwardKL()))))


def test_a_step_after_evaluation_in_inference_mode():
    """Buffers made in inference mode may not be written to outside of it."""
    at, workspace = setting(), Workspace()
    with torch.inference_mode():
        found = fused(at, ForwardKL(), chunk_size=CHUNK, workspace=workspace)
    assert_same(found, dense(at, ForwardKL()))
    assert_same(step(at, workspace, ForwardKL()), gradients(at, loss_of(at, dense(at, ForwardKL()))))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_a_copy_does_not_carry_the_buffers(duplicate):
    workspace = Workspace()
    fused(setting(), ForwardKL(), workspace=workspace)
    fused(setting(), None, workspace=workspace)
    assert workspace.free
    assert duplicate(workspace).free == []


def test_small_steps_share_the_buffers_of_a_large_one():
    workspace = Workspace()
    workspace.give(workspace.take(TOKENS, VOCABULARY, torch.empty(0)))
    (large,) = workspace.free
    small = workspace.take(2, VOCABULARY, torch.empty(0))
    assert small.shape == (2, VOCABULARY)
    assert small.data_ptr() == large.data_ptr()
    workspace.give(small, None)
    assert [buffer.numel() for buffer in workspace.free] == [TOKENS * VOCABULARY]
