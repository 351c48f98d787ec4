"""The roofline's tables: counted as by hand, and of the code as it is."""

from __future__ import annotations

from itertools import product

import pytest

from docs_hooks import on_page_markdown
from docs_site import roofline
from docs_site.roofline import CARDS, MODELS, Model, passes
from tests.blocks import ROOT

TOY = Model("toy", vocabulary=1000, hidden=64, layers=2, intermediate=128, key_values=32)
TOKENS = 96
LOGITS = TOKENS * TOY.vocabulary * 4


def of_products(*, wide: bool) -> tuple[float, int]:
    those = [one for one in passes(TOY, TOKENS, wide=wide) if one.operations]
    return sum(one.operations for one in those), sum(one.bytes for one in those)


def test_products_are_those_of_the_head() -> None:
    weights, states = TOY.vocabulary * TOY.hidden * 2, TOKENS * TOY.hidden * 2
    operations, count = of_products(wide=True)
    assert operations == 8 * TOKENS * TOY.vocabulary * TOY.hidden
    logits = 2 * (weights + states + LOGITS)
    to_states = LOGITS // 2 + weights + states
    to_weights = LOGITS // 2 + states + 2 * 2 * weights
    assert count == logits + to_states + to_weights
    rounded_operations, _ = of_products(wide=False)
    assert rounded_operations == operations


def test_passes_over_logits_are_those_of_the_kernel() -> None:
    """Forward reads both models' logits; backward reads them again and writes the gradient in bfloat16."""
    over = [one for one in passes(TOY, TOKENS, wide=True) if not one.operations and one.bytes > LOGITS // 2]
    assert sum(one.bytes for one in over) == pytest.approx((2 + 2 + 0.5) * LOGITS, rel=0.01)


def test_chunks_by_memory_are_nearer_to_the_limit() -> None:
    for model, card in product(MODELS, CARDS):
        after = roofline.chunk_after(model, card)
        assert after >= 1024 > roofline.chunk_before(model)
        before = roofline.least_seconds(model, card, roofline.chunk_before(model), wide=False)
        now = roofline.least_seconds(model, card, after, wide=True)
        assert roofline.limit_seconds(model, card) < now < before


def test_layers_have_their_published_sizes() -> None:
    """Parameters of the layers, norms and biases aside."""
    sizes = {model.name: model.weights for model in MODELS}
    assert sizes["Llama-3.1-8B"] == pytest.approx(8.03e9 - 2 * 128_256 * 4096, rel=0.01)
    assert sizes["Qwen2.5-0.5B"] == pytest.approx(0.36e9, rel=0.01)
    assert sizes["SmolLM2-135M"] == pytest.approx(134.5e6 - 49_152 * 576, rel=0.01)


def test_the_page_has_what_is_counted() -> None:
    page = on_page_markdown((ROOT / "docs" / "roofline.md").read_text(encoding="utf-8"))
    assert "<!--" not in page
    for table in (roofline.cards(), roofline.comparison(), roofline.each_pass()):
        assert table in page
