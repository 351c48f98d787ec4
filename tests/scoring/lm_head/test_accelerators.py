"""What the head does on an accelerator, as far as it shows without one: on the meta device, which has shapes and no
numbers, and with a device's properties set by hand. Numbers are in `test_cuda`."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from prefopt.divergences import ForwardKL, JensenShannon, ReverseKL
from prefopt.scoring import token_statistics
from prefopt.scoring.lm_head import chunk_sizes, precision
from prefopt.scoring.lm_head import token_statistics as statistics_module
from prefopt.scoring.lm_head.head import Head
from prefopt.scoring.lm_head.precision import LogNormaliser, add_product, multiply, normaliser_dtype
from prefopt.scoring.lm_head.whole_vocabulary import WholeVocabularyKernel
from tests.scoring.token_cases import assert_same, fused, gradients, loss_of, name_of, setting

CUDA = torch.device("cuda")
GIB = 2**30


def meta(dtype: torch.dtype, vocabulary: int = 97) -> tuple[torch.Tensor, Head]:
    """Hidden states and a head without storage."""
    return (
        torch.empty(300, 8, dtype=dtype, device="meta", requires_grad=True),
        Head(torch.empty(vocabulary, 8, dtype=dtype, device="meta", requires_grad=True)),
    )


@pytest.mark.parametrize("wide_products", [False, True])
@pytest.mark.parametrize("budget", [0, 2**30])
@pytest.mark.parametrize("divergence", [None, ForwardKL(), ReverseKL(), JensenShannon()], ids=name_of)
def test_nothing_waits_for_the_device(divergence, budget, wide_products, monkeypatch):
    """A number that the host reads, as `.tolist()` does, raises on the meta device."""
    monkeypatch.setattr(precision, "multiplies_into_float32", lambda *_: wide_products)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: False)  # the meta device has no autocast
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    (hidden, head), (ref_hidden, ref_head) = meta(torch.bfloat16), meta(torch.bfloat16)
    labels = torch.empty(300, dtype=torch.long, device="meta")
    statistics = token_statistics(hidden, head, ref_hidden, ref_head, labels, divergence, budget=budget)
    loss = statistics.logps.sum()
    if statistics.divergence is not None:
        loss = loss + statistics.divergence.sum()
    loss.backward()
    assert statistics.logps.dtype == torch.float32
    assert hidden.grad is not None
    assert head.weight.grad is not None
    assert (hidden.grad.shape, head.weight.grad.shape) == (hidden.shape, head.weight.shape)
    with pytest.raises((NotImplementedError, RuntimeError)):
        labels.tolist()


def capability_of(monkeypatch, capability, hip=None):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    monkeypatch.setattr(torch.version, "hip", hip)


@pytest.mark.parametrize(
    ("capability", "hip", "dtype"),
    [
        ((9, 0), None, torch.float64),  # H100
        ((8, 0), None, torch.float64),  # A100
        ((8, 9), None, torch.float32),  # RTX 4090
        ((8, 6), None, torch.float32),  # RTX 3090, A10
        ((7, 5), None, torch.float32),  # T4
        ((12, 0), None, torch.float32),  # RTX 5090
        ((10, 3), None, torch.float32),  # B300
        ((9, 4), "7.0", torch.float64),  # MI300
        ((11, 0), "7.0", torch.float32),  # RX 7900
    ],
)
def test_float64_is_for_cards_that_are_made_for_it(capability, hip, dtype, monkeypatch):
    capability_of(monkeypatch, capability, hip)
    assert normaliser_dtype(CUDA, torch.float32) == dtype
    assert normaliser_dtype(CUDA, torch.float64) == torch.float64
    assert normaliser_dtype(torch.device("mps"), torch.float32) == torch.float32
    assert normaliser_dtype(torch.device("cpu"), torch.float32) == torch.float64


@pytest.mark.parametrize("step", [1e-5, 1e-3, 1e-1])
def test_normalisers_in_float32_keep_small_divergences(step, monkeypatch):
    """Their parts kept apart, they give divergences as exact as float64 does; added up, hundreds of times worse."""
    monkeypatch.setattr(statistics_module, "OnlineSoftmaxKernel", WholeVocabularyKernel)
    draw = torch.Generator().manual_seed(0)
    weight, hidden, noise = (torch.randn(size, 32, generator=draw) for size in (20_000, 16, 16))
    weight *= 0.3
    labels, other = torch.arange(16), hidden + step * noise
    wide = [tensor.double() for tensor in (hidden, weight, other)]
    exact = token_statistics(wide[0], Head(wide[1]), wide[2], Head(wide[1]), labels, ForwardKL()).divergence

    def error() -> float:
        actual = token_statistics(hidden, Head(weight), other, Head(weight), labels, ForwardKL()).divergence
        return float((actual - exact).abs().mean())

    in_float64 = error()
    monkeypatch.setattr(precision, "normaliser_dtype", lambda device, dtype: dtype)
    in_float32 = error()
    assert in_float32 < 2e-7
    assert in_float32 < 2 * in_float64 + 1e-8

    def added_up(one: LogNormaliser, two: LogNormaliser) -> torch.Tensor:
        return (one.maximum + one.total.log()) - (two.maximum + two.total.log())

    monkeypatch.setattr(LogNormaliser, "ratio", added_up)
    assert error() > in_float32


def test_a_normaliser_of_blocks_is_that_of_the_whole():
    logits = 30 * torch.randn(12, 5, generator=torch.Generator().manual_seed(0))
    blocks = logits.view(3, 4, 5)
    block_max = blocks.amax(1)
    normaliser = LogNormaliser.from_blocks(block_max, (blocks - block_max[:, None]).exp().sum(1))
    expected = logits.double().logsumexp(0)
    torch.testing.assert_close(-normaliser.subtracted_from(torch.zeros(5)), expected, rtol=1e-6, atol=1e-6)
    assert normaliser.ratio(normaliser).tolist() == [0] * 5


def emulated(original):
    """A product of torch that knows `out_dtype`, as on a card."""

    def product(*operands, out_dtype=None, **options):
        if out_dtype is not None:
            operands = [operand.to(out_dtype) for operand in operands]
        return original(*operands, **options)

    return product


def test_products_stay_in_float32_where_torch_has_it(monkeypatch):
    one, two = (torch.randn(shape, generator=torch.Generator().manual_seed(0)) for shape in ((40, 64), (64, 8)))
    narrow, other = one.bfloat16(), two.bfloat16()
    exact = narrow.float() @ other.float()
    cpu = torch.device("cpu")
    assert not precision.multiplies_into_float32(cpu, torch.bfloat16)  # none on a CPU, of no version yet
    rounded = multiply(torch.empty(40, 8), narrow, other)
    assert not torch.equal(rounded, exact)
    precision.multiplies_into_float32.cache_clear()
    try:
        for name in ("mm", "addmm"):
            monkeypatch.setattr(torch, name, emulated(getattr(torch, name)))
        assert precision.multiplies_into_float32(cpu, torch.bfloat16)
        assert not precision.multiplies_into_float32(cpu, torch.float32)
        assert torch.equal(multiply(torch.empty(8, 40).T, narrow, other), exact)
        torch.testing.assert_close(add_product(torch.ones(40, 8), narrow, other), exact + 1, rtol=1e-6, atol=1e-6)
        at = setting(dtype=torch.bfloat16, bias=True)
        actual = fused(at, ForwardKL(), chunk_size=4, budget=0)
        wide = replace(at.head, weight=at.head.weight.detach().float(), bias=at.head.bias.detach().float())
        expected = token_statistics(at.hidden.detach().float(), wide, None, None, at.labels).logps
        assert_same([actual.logps], [expected], rtol=1e-6, atol=1e-6)
        assert {gradient.dtype for gradient in gradients(at, loss_of(at, actual))} == {torch.bfloat16}
    finally:
        precision.multiplies_into_float32.cache_clear()


@pytest.mark.parametrize(
    ("memory", "vocabulary", "at_least", "at_most"),
    [
        (80 * GIB, 128_256, 4096, 4096),  # as many as read the head in an eighth of the products' time
        (80 * GIB, 49_152, 4096, 4096),
        (24 * GIB, 128_256, 1024, 4095),  # fewer, where a sixteenth of the memory holds no more
        (24 * GIB, 151_936, 1024, 4095),
        (8 * GIB, 128_256, 512, 1023),
    ],
)
def test_chunks_are_as_large_as_memory_allows(memory, vocabulary, at_least, at_most, monkeypatch):
    monkeypatch.setattr(chunk_sizes, "accelerator_memory", lambda device: memory if device.type == "meta" else None)
    weight = torch.empty(vocabulary, 8, dtype=torch.bfloat16, device="meta")
    saved = chunk_sizes.max_saved_tokens(None, weight, ForwardKL())
    chunk = chunk_sizes.max_chunk_tokens(None, weight, ForwardKL())
    assert at_least <= saved <= at_most
    assert saved - 32 < chunk <= saved
    assert 2 * chunk * vocabulary * 4 <= memory / 16
    assert chunk_sizes.max_chunk_tokens(2**20, weight, None) == 64 * 2**20 // (4 * vocabulary) // 32 * 32
    on_cpu = torch.empty(vocabulary, 8)
    assert chunk_sizes.default_budget(on_cpu) == chunk_sizes.CPU_BUDGET
    assert chunk_sizes.max_chunk_tokens(2**40, on_cpu, None) == 64 * 2**20 // (4 * vocabulary) // 32 * 32


def test_memory_is_that_of_the_whole_device(monkeypatch):
    properties = SimpleNamespace(total_memory=24 * GIB)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 16 * GIB)
    memories = [chunk_sizes.accelerator_memory(torch.device(device)) for device in ("cuda", "mps", "cpu", "meta")]
    assert memories == [24 * GIB, 16 * GIB, None, None]
