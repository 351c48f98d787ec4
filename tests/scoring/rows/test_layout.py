"""States of several layers at the response tokens."""

from __future__ import annotations

import pytest
import torch

from prefopt.scoring.rows.layout import Layout
from tests.scoring.conftest import drawn


@pytest.mark.parametrize("dtypes", [(torch.float32,) * 2, (torch.float32, torch.bfloat16)], ids=["alike", "mixed"])
@pytest.mark.parametrize("lengths", [[(3, 4, 4)] * 2, [(3, 4, 2), (5, 1, 4)]], ids=["full", "padded"])
@pytest.mark.parametrize("rows", [Layout.two_rows, Layout.shared])
def test_a_stack_holds_every_layer_scattered(make_batch, rows, lengths, dtypes):
    layout = rows(make_batch(drawn(lengths)))
    layers = [torch.randn(*layout.shape, 6).to(dtype) for dtype in dtypes]
    for layer in layers:
        layer.flatten(0, 1)[0] = torch.nan  # which no response token reads
    stack = layout.stack(layers, layout.query_positions)
    expected = [layout.scatter(layout.gather(layer, layout.query_positions)) for layer in layers]
    assert torch.equal(stack, torch.stack([values.float() for values in expected]))
    assert bool(stack[:, ~layout.mask].eq(0).all())
