"""Batches of pairs of like length, and the share of padding that is left."""

from __future__ import annotations

import pytest

from prefopt import PreferenceBatch, zoo
from prefopt.training import PreferenceTrainer
from tests.training.test_trainer import config


@pytest.mark.slow
def test_pairs_of_like_length_together_need_less_padding(
    model_folder: str, rows: list[dict[str, str]], out: str
) -> None:
    shares = {}
    varied = [row | {"chosen": row["chosen"] * (1 + index % 8)} for index, row in enumerate(rows * 4)]
    for strategy in ("random", "group_by_length"):
        args = config(out, train_sampling_strategy=strategy, per_device_train_batch_size=4, max_steps=8)
        trainer = PreferenceTrainer(model_folder, objective=zoo.dpo(), args=args, train_dataset=varied)
        batches = [batch for batch, _ in zip(trainer.get_train_dataloader(), range(8), strict=False)]
        lengths = [PreferenceBatch.from_mapping(batch).lengths for batch in batches]
        by_hand = 1 - sum(sizes.sum() for sizes in lengths) / sum(sizes.max() * len(sizes) for sizes in lengths)
        trainer.train()
        logged = [entry["padding/share"] for entry in trainer.state.log_history if "padding/share" in entry]
        assert len(logged) == 8
        assert all(0 <= share < 1 for share in logged)
        shares[strategy] = float(by_hand)
    assert shares["group_by_length"] < 0.7 * shares["random"]


def test_the_share_of_padding_by_hand(model_folder: str, rows: list[dict[str, str]], out: str) -> None:
    args = config(out, per_device_eval_batch_size=8)
    trainer = PreferenceTrainer(model_folder, objective=zoo.dpo(), args=args, eval_dataset=rows[:8])
    lengths = trainer.eval_dataset["length"][:]
    expected = 1 - sum(lengths) / (8 * max(lengths))
    assert trainer.evaluate()["eval_padding/share"] == pytest.approx(expected)
