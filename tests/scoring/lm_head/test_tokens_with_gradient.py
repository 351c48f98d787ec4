"""Tokens without a gradient, as sparse masks leave them: backward through the head leaves them out, to the digit."""

from __future__ import annotations

import pytest
import torch

from prefopt.divergences import ForwardKL, ReverseKL
from prefopt.scoring.lm_head import online_softmax
from prefopt.scoring.lm_head.head import HeadGradient
from prefopt.scoring.lm_head.tokens_with_gradient import TokensWithGradient
from tests.scoring.token_cases import HEADS, TOKENS, assert_same, dense, fused, gradients, loss_of, name_of, setting

EVERY_OTHER = torch.arange(TOKENS) % 2 == 0
FIRST_CHUNK_ALONE = torch.arange(TOKENS) < 4
LAST_CHUNK_ALONE = torch.arange(TOKENS) >= 8
NONE = torch.zeros(TOKENS, dtype=torch.bool)
PATTERNS = {
    "every other": EVERY_OTHER,
    "first chunk": FIRST_CHUNK_ALONE,
    "last chunk": LAST_CHUNK_ALONE,
    "one": torch.arange(TOKENS) == 5,
    "none": NONE,
}


@pytest.fixture(autouse=True, params=[1, 2], ids="{} threads".format)
def several_blocks(request, monkeypatch):
    monkeypatch.setattr(online_softmax, "block_rows", lambda *_: 4)
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(1)


@pytest.fixture
def taken(monkeypatch):
    """The tokens in each product of a block's gradient."""
    counts, original = [], HeadGradient.add

    def add(total, block, d_product, hidden, d_logits):
        counts.append(len(hidden))
        original(total, block, d_product, hidden, d_logits)

    monkeypatch.setattr(HeadGradient, "add", add)
    return counts


@pytest.mark.parametrize("budget", [0, 2**30])
@pytest.mark.parametrize("chunk_size", [None, 4])
@pytest.mark.parametrize("divergence", [None, ForwardKL(), ReverseKL()], ids=name_of)
@pytest.mark.parametrize("head", HEADS, ids=name_of)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_gradients_are_those_of_all_tokens(pattern, head, divergence, chunk_size, budget, taken):
    at = setting(**head)
    at.upstream *= PATTERNS[pattern]
    expected = gradients(at, loss_of(at, dense(at, divergence)))
    actual = gradients(at, loss_of(at, fused(at, divergence, chunk_size=chunk_size, budget=budget)))
    assert_same(actual, expected)
    assert sum(taken) == 5 * int(PATTERNS[pattern].sum())  # blocks of 17 token ids
    assert not actual[0][~PATTERNS[pattern]].any()


def test_a_token_with_one_gradient_of_two_is_taken(taken):
    at = setting()
    at.upstream[0] *= EVERY_OTHER
    at.upstream[1] *= FIRST_CHUNK_ALONE
    expected = gradients(at, loss_of(at, dense(at, ForwardKL())))
    assert_same(gradients(at, loss_of(at, fused(at, ForwardKL()))), expected)
    assert set(taken) == {int((EVERY_OTHER | FIRST_CHUNK_ALONE).sum())}


def test_a_gradient_that_is_not_finite_is_taken():
    gradient = torch.tensor([0, torch.nan, 0, torch.inf, 0])
    indices = TokensWithGradient(gradient, torch.zeros(5)).indices
    assert indices is not None
    assert indices.tolist() == [1, 3]


def test_few_tokens_without_a_gradient_are_not_worth_selecting():
    assert TokensWithGradient(torch.arange(20.0), torch.zeros(20)).indices is None
