"""What the trainer settles and refuses before it starts."""

from __future__ import annotations

import pytest
import torch

from prefopt import zoo
from prefopt.training import PreferenceTrainer
from tests.training.test_trainer import config


def test_the_seed_decides_a_masks_first_weights(model_folder: str, rows: list[dict[str, str]], out: str) -> None:
    def first_weights(seed: int) -> torch.Tensor:
        args = config(out, seed=seed)
        trainer = PreferenceTrainer(model_folder, objective=zoo.sparsepo(), args=args, train_dataset=rows)
        return trainer.model.objective.weighting.weight.detach()

    assert torch.equal(first_weights(1), first_weights(1))
    assert not torch.equal(first_weights(1), first_weights(2))


def test_coupled_pairs_are_not_cut_into_batches(model_folder: str, rows: list[dict[str, str]], out: str) -> None:
    cut = config(out, gradient_accumulation_steps=2)
    with pytest.raises(ValueError, match="'aot' compares the pairs of a step with each other"):
        PreferenceTrainer(model_folder, objective=zoo.aot(), args=cut, train_dataset=rows)
    PreferenceTrainer(model_folder, objective=zoo.dpo(), args=cut, train_dataset=rows)
    PreferenceTrainer(model_folder, objective=zoo.aot(), args=config(out), train_dataset=rows)


def test_whether_pairs_share_a_row(model_folder: str, rows: list[dict[str, str]], out: str) -> None:
    losses = []
    for shared in (True, False):
        args = config(out, shared_prefix=shared)
        trainer = PreferenceTrainer(model_folder, objective=zoo.tdpo2(), args=args, train_dataset=rows)
        trainer.train()
        assert trainer.model.shares_prefix == shared
        losses.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    assert losses[0][-1] < 0.65
