"""What the trainer settles and refuses before it starts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers.training_args import ParallelMode

from prefopt import zoo
from prefopt.training import PreferenceConfig, PreferenceTrainer
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


def test_fsdp_without_accelerators_is_refused(
    model_folder: str, rows: list[dict[str, str]], out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if torch.accelerator.is_available():
        pytest.skip("accelerate spreads models here")
    args = config(out)
    args.fsdp, args.fsdp_config = True, {}  # which a configuration has where a launcher has started several processes
    monkeypatch.setattr(PreferenceConfig, "parallel_mode", ParallelMode.DISTRIBUTED)
    with pytest.raises(ValueError, match=r"^fsdp: accelerate spreads no model over processes on cpu \(NO\), and each"):
        PreferenceTrainer(model_folder, objective=zoo.dpo(), args=args, train_dataset=rows)
    monkeypatch.undo()
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")  # that configuration's, of which the arguments know nothing
    with pytest.raises(ValueError, match=r"^fsdp: accelerate spreads no model over processes on cpu \(NO\), and each"):
        PreferenceTrainer(model_folder, objective=zoo.dpo(), args=config(out), train_dataset=rows)


@pytest.mark.parametrize("name", ["dpo", "sparsepo", "simpo", "tbpo_a"])
def test_the_metrics_of_an_evaluation_are_known_before(
    name: str, model_folder: str, rows: list[dict[str, str]], out: str
) -> None:
    settings = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "best", "save_steps": 1}

    def made(metric: str, **sets: Any) -> PreferenceTrainer:
        args = config(out, metric_for_best_model=metric, **settings)
        return PreferenceTrainer(model_folder, objective=zoo.ZOO[name](), args=args, train_dataset=rows[:8], **sets)

    metrics = set(made("rewards/accuracies", eval_dataset=rows).evaluate())
    with pytest.raises(ValueError, match=r"gives no 'nothing'\. Metrics: (.*)\.$") as caught:
        made("nothing", eval_dataset=rows)
    names = {f"eval_{name}" for name in str(caught.value).partition("Metrics: ")[2][:-1].split(", ")}
    of_weights = {
        f"eval_{slot}/{name}" for slot in ("weights", "divergence_weights") for name in ("entropy", "negative")
    }
    assert names - metrics <= {"eval_aux_loss", *of_weights}
    assert metrics - names <= {"epoch", "eval_model_preparation_time"}
    with pytest.raises(ValueError, match=r"gives no 'loss'\. .*, one_loss, .*, two_loss"):
        made("loss", eval_dataset={"one": rows, "two": rows})


@pytest.mark.slow
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


def test_data_of_less_than_a_batch_is_not_dropped_whole(
    model_folder: str, rows: list[dict[str, str]], out: str
) -> None:
    args = config(out, dataloader_drop_last=True, per_device_train_batch_size=4)
    with pytest.raises(ValueError, match=r"dataloader_drop_last leaves no batch: 3 pairs, and a batch has 4"):
        PreferenceTrainer(model_folder, objective=zoo.dpo(), args=args, train_dataset=rows[:3])
    PreferenceTrainer(model_folder, objective=zoo.dpo(), args=args, train_dataset=rows[:4])


def test_prepared_data_with_negative_ids_and_with_longer_pairs(
    model_folder: str, rows: list[dict[str, str]], out: str, caplog: pytest.LogCaptureFixture
) -> None:
    def trainer(data: object, **changes: int) -> PreferenceTrainer:
        return PreferenceTrainer(model_folder, objective=zoo.dpo(), args=config(out, **changes), train_dataset=data)

    data = trainer(rows).train_dataset
    longest = max(data["length"])
    assert "is not read" not in caplog.text
    trainer(data, max_length=longest - 1)
    assert f"nothing reads max_length ({longest - 1}, and pairs have up to {longest} tokens)" in caplog.text
    ignored = data.map(lambda pair: {"chosen_ids": [-100, *pair["chosen_ids"][1:]]})
    with pytest.raises(ValueError, match=r"row 0 of train: it has token id -100, and ids are not negative"):
        trainer(ignored)
