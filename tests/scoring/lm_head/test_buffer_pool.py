"""What token_statistics keeps for backward, and the buffers that outlive a step."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from prefopt.divergences import ForwardKL, JensenShannon, ReverseKL
from prefopt.scoring import BufferPool
from prefopt.scoring.lm_head import vocabulary_blocks
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
    takes, original = [], BufferPool.take

    def take(pool, rows, columns, like):
        takes.append((rows, columns))
        return original(pool, rows, columns, like).fill_(torch.nan)

    monkeypatch.setattr(BufferPool, "take", take)
    return takes


def step(at, pool, divergence=None, budget=EVERYTHING):
    """The gradients of one step."""
    return gradients(at, loss_of(at, fused(at, divergence, chunk_size=CHUNK, budget=budget, buffers=pool)))


def chunks_in_each_pass(taken, at, pool, divergence, budget):
    """For how many chunks, of one model, memory for the whole vocabulary is taken in forward and in backward."""
    loss = loss_of(at, fused(at, divergence, chunk_size=CHUNK, budget=budget, buffers=pool))
    forward = len(taken)
    gradients(at, loss)
    whole = [columns // VOCABULARY for _, columns in taken]  # both models may be in one
    return sum(whole[:forward]), sum(whole[forward:])


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of the vocabulary that are smaller than it."""
    monkeypatch.setattr(vocabulary_blocks, "_BLOCK_MULTIPLE", 4)
    monkeypatch.setattr(vocabulary_blocks, "_BLOCK_BYTES", 1)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("kept", range(CHUNKS + 1))
@pytest.mark.parametrize(("divergence", "models"), [(ForwardKL(), 2), (ReverseKL(), 2), (None, 1)])
def test_as_many_chunks_are_kept_as_the_budget_allows(taken, kept, divergence, models):
    """What is not kept never exists whole: neither in forward nor, computed again, in backward."""
    at, pool = setting(bias=True), BufferPool()
    budget = models * min(CHUNK * kept, TOKENS) * ENTRY_BYTES
    assert chunks_in_each_pass(taken, at, pool, divergence, budget) == (models * kept, 0)
    expected = gradients(at, loss_of(at, dense(at, divergence)))
    assert_same(step(at, pool, divergence, budget), expected)


@pytest.mark.parametrize("kept", range(CHUNKS + 1))
def test_a_divergence_of_whole_distributions_has_them_whole(taken, kept):
    at, pool = setting(), BufferPool()
    budget = 2 * min(CHUNK * kept, TOKENS) * ENTRY_BYTES
    actual = chunks_in_each_pass(taken, at, pool, JensenShannon(), budget)
    assert actual == (2 * CHUNKS, 2 * (CHUNKS - kept))
    expected = gradients(at, loss_of(at, dense(at, JensenShannon())))
    assert_same(step(at, pool, JensenShannon(), budget), expected)


@pytest.mark.usefixtures("small_blocks")
def test_nothing_is_kept_where_no_gradient_is_wanted():
    at, pool = setting(), BufferPool()
    with torch.no_grad():
        fused(at, ForwardKL(), chunk_size=CHUNK, budget=EVERYTHING, buffers=pool)
    assert sorted(buffer.numel() for buffer in pool.free) == [CHUNK * 4, CHUNK * 4 * 2]  # log-ratios, both models


@pytest.mark.parametrize("budget", [0, 2 * PAIR_OF_BUFFERS, EVERYTHING])
def test_a_second_step_allocates_nothing(budget):
    at, pool = setting(), BufferPool()

    def places():
        return sorted(buffer.data_ptr() for buffer in pool.free)

    first = step(at, pool, ForwardKL(), budget)
    before = places()
    second = step(at, pool, ForwardKL(), budget)
    assert places() == before
    assert_same(second, first, rtol=0, atol=0)


def test_a_step_of_another_dtype_takes_buffers_of_its_own():
    pool = BufferPool()
    for dtype in (torch.float64, torch.float32, torch.float64):
        at = setting(dtype=dtype)
        assert_same(step(at, pool, ForwardKL()), gradients(at, loss_of(at, dense(at, ForwardKL()))), 1e-4, 1e-5)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize("budget", [0, 2 * PAIR_OF_BUFFERS, EVERYTHING])
def test_two_forwards_before_two_backwards(budget, order):
    pool = BufferPool()
    settings = [setting(seed=seed, bias=True) for seed in (1, 2)]
    losses = [loss_of(at, fused(at, ForwardKL(), chunk_size=CHUNK, budget=budget, buffers=pool)) for at in settings]
    for index in order:
        at = settings[index]
        expected = gradients(at, loss_of(at, dense(at, ForwardKL())))
        assert_same(gradients(at, losses[index]), expected)


def test_a_forward_that_is_thrown_away_corrupts_nothing():
    at, pool = setting(), BufferPool()
    for _ in range(2):
        fused(at, ForwardKL(), chunk_size=CHUNK, buffers=pool)
        assert_same(step(at, pool, ForwardKL()), gradients(at, loss_of(at, dense(at, ForwardKL()))))


def test_a_step_after_evaluation_in_inference_mode():
    """Buffers made in inference mode may not be written to outside of it."""
    at, pool = setting(), BufferPool()
    with torch.inference_mode():
        actual = fused(at, ForwardKL(), chunk_size=CHUNK, buffers=pool)
    assert_same(actual, dense(at, ForwardKL()))
    assert_same(step(at, pool, ForwardKL()), gradients(at, loss_of(at, dense(at, ForwardKL()))))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_a_copy_does_not_carry_the_buffers(duplicate):
    pool = BufferPool()
    fused(setting(), ForwardKL(), buffers=pool)
    assert pool.free
    assert duplicate(pool).free == []


def test_small_steps_share_the_buffers_of_a_large_one():
    pool = BufferPool()
    pool.give(pool.take(TOKENS, VOCABULARY, torch.empty(0)))
    (large,) = pool.free
    small = pool.take(2, VOCABULARY, torch.empty(0))
    assert small.shape == (2, VOCABULARY)
    assert small.data_ptr() == large.data_ptr()
    pool.give(small, None)
    assert [buffer.numel() for buffer in pool.free] == [TOKENS * VOCABULARY]


def test_a_buffer_that_was_outgrown_is_dropped():
    pool = BufferPool()
    pool.give(pool.take(6, 10, torch.empty(0)), pool.take(1, 10, torch.empty(0)))
    pool.give(pool.take(8, 10, torch.empty(0)))
    assert sorted(buffer.numel() for buffer in pool.free) == [10, 80]
