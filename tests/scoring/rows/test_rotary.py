"""Rotary embeddings that follow the longest row of a batch: every row is scored as if it were called alone."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from prefopt import zoo
from prefopt.scoring import PreferenceModel
from prefopt.scoring.rows.rotary import longest_unscaled_row
from tests.scoring.conftest import drawn

LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "original_max_position_embeddings": 16,
    "short_factor": [1.0] * 4,
    "long_factor": [1.0, 3.0, 5.0, 9.0],
}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}
ROPES = {
    "dynamic": {"max_position_embeddings": 16, "rope_parameters": DYNAMIC},
    "longrope": {"max_position_embeddings": 64, "rope_parameters": LONGROPE},
}
# Rows of up to 8, 16 and 44 tokens: at fixed frequencies, at the limit, beyond it.
PAIRS = drawn([(5, 3, 2), (9, 4, 7), (4, 40, 2)])


@pytest.mark.slow
@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("rope", ROPES)
def test_a_row_is_that_of_a_single_call_whatever_is_beside_it_and_before_it(
    tiny, make_batch, log_probs, tmp_path, rope, cached
):
    reference = tiny("llama", **ROPES[rope])
    assert longest_unscaled_row(reference) == 16
    assert longest_unscaled_row(tiny("llama")) == math.inf
    policy = copy.deepcopy(reference)
    model = PreferenceModel(policy, reference, zoo.tdpo2(), reference_cache=tmp_path if cached else None)
    for chosen in ([0], [0, 1, 2], [1], [0, 1], [2], [2, 0]):
        pairs = [PAIRS[number] for number in chosen]
        batch = make_batch(pairs)
        tokens = model.score(batch)
        expected = [
            log_probs(tiny("llama", **ROPES[rope]), p, y)
            for side in (1, 2)
            for p, y in ((q[0], q[side]) for q in pairs)
        ]
        for row, values in enumerate(expected):
            single = values.gather(-1, tokens.token_ids[row, : len(values), None])[:, 0]
            torch.testing.assert_close(tokens.logps[row, : len(values)], single, rtol=1e-9, atol=1e-9)
        assert float(model(batch).loss.detach()) == pytest.approx(math.log(2), abs=1e-14)
        policy(torch.ones(1, 30, dtype=torch.long))  # as generation does: dynamic NTK remembers it
