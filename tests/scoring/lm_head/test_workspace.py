"""What token_statistics keeps for backward, and the buffers that outlive a step."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from prefopt.divergences import ForwardKL, JensenShannon, ReverseKL
from prefopt.scoring import Workspace
from prefopt.scoring.lm_head import online_softmax as streaming
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


def chunks_in_each_pass(taken, at, workspace, divergence, budget):
    """For how many chunks, of one model, a buffer for the whole vocabulary is taken in forward and in backward."""
    loss = loss_of(at, fused(at, divergence, chunk_size=CHUNK, budget=budget, workspace=workspace))
    forward = len(taken)
    gradients(at, loss)
    whole = [columns == VOCABULARY for _, columns in taken]
    return sum(whole[:forward]), sum(whole[forward:])


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of the vocabulary that are smaller than it."""
    monkeypatch.setattr(streaming, "_ROWS", 4)
    monkeypatch.setattr(streaming, "BLOCK_BYTES", 1)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("kept", range(CHUNKS + 1))
@pytest.mark.parametrize(("divergence", "models"), [(ForwardKL(), 2), (ReverseKL(), 2), (None, 1)])
def test_as_many_chunks_are_kept_as_the_budget_allows(taken, kept, divergence, models):
    """What is not kept never exists whole: neither in forward nor, computed again, in backward."""
    at, workspace = setting(bias=True), Workspace()
    budget = models * min(CHUNK * kept, TOKENS) * ENTRY_BYTES
    assert chunks_in_each_pass(taken, at, workspace, divergence, budget) == (models * kept, 0)
    expected = gradients(at, loss_of(at, dense(at, divergence)))
    assert_same(step(at, workspace, divergence, budget), expected)


@pytest.mark.parametrize("kept", range(CHUNKS + 1))
def test_a_divergence_of_whole_distributions_has_them_whole(taken, kept):
    at, workspace = setting(), Workspace()
    budget = 2 * min(CHUNK * kept, TOKENS) * ENTRY_BYTES
    found = chunks_in_each_pass(taken, at, workspace, JensenShannon(), budget)
    assert found == (2 * CHUNKS, 2 * (CHUNKS - kept))
    expected = gradients(at, loss_of(at, dense(at, JensenShannon())))
    assert_same(step(at, workspace, JensenShannon(), budget), expected)


@pytest.mark.usefixtures("small_blocks")
def test_nothing_is_kept_where_no_gradient_is_wanted():
    at, workspace = setting(), Workspace()
    with torch.no_grad():
        fused(at, ForwardKL(), chunk_size=CHUNK, budget=EVERYTHING, workspace=workspace)
    assert [buffer.numel() for buffer in workspace.free] == [CHUNK * 4] * 3


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


def test_a_buffer_that_was_outgrown_is_dropped():
    workspace = Workspace()
    workspace.give(workspace.take(6, 10, torch.empty(0)), workspace.take(1, 10, torch.empty(0)))
    workspace.give(workspace.take(8, 10, torch.empty(0)))
    assert sorted(buffer.numel() for buffer in workspace.free) == [10, 80]
