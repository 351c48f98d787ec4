"""Scores batch by batch are those of the pairs one by one."""

from __future__ import annotations

import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from prefopt import zoo
from prefopt.data import EncodingConfig, prepare, rows_of
from prefopt.scoring import PreferenceModel
from prefopt.scoring.batches import scored_batches


def test_batches_are_in_order_and_without_gradient(
    model_folder: str, tokenizer: PreTrainedTokenizerFast, rows: list[dict[str, str]]
) -> None:
    pairs, _ = prepare(rows_of(rows[:5], name="rows"), tokenizer, EncodingConfig(), description="rows")
    model = PreferenceModel(*(AutoModelForCausalLM.from_pretrained(model_folder) for _ in range(2)), zoo.dpo()).train()
    pad = tokenizer.pad_token_id
    batches = list(scored_batches(model, pairs, pad_token_id=pad, batch_size=2))
    assert not model.training
    assert [[row["row"] for row in scored.rows] for scored in batches] == [[0, 1], [2, 3], [4]]
    singles = [scored.output for scored in scored_batches(model, pairs, pad_token_id=pad, batch_size=1)]
    for scored in batches:
        assert not scored.output.loss.requires_grad
        assert len(scored.batch.prompt_ids) == len(scored.rows)
        chosen, rejected = scored.output.rewards.chunk(2)
        for row, *rewards in zip(scored.rows, chosen, rejected, strict=True):
            torch.testing.assert_close(torch.stack(rewards), singles[row["row"]].rewards)
    assert list(scored_batches(model, [], pad_token_id=pad, batch_size=2)) == []
