"""Extra columns of the data, all the way to the components that read them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, ClassVar, Literal

import datasets
import pytest
import torch
import yaml
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from prefopt import Objective, ObjectiveConfig, TokenBatch, masked_sum, zoo
from prefopt.columns import Column, PairColumn, TokenColumn
from prefopt.component import PreferenceLoss, TokenWeighting
from prefopt.data import DataError, EncodingConfig, PreferenceCollator, prepare, rows_of
from prefopt.training import PreferenceTrainer, RunFile, start, train
from tests.training.test_trainer import config

GOOD_COUNTS = 2.0
DEFAULT = 0.5


class Annotated(TokenWeighting):
    """w_t as the data has it."""

    name: Literal["test_annotated"] = "test_annotated"
    seen: ClassVar[list[Tensor]] = []

    @property
    def columns(self) -> frozenset[Column]:
        return frozenset({TokenColumn("w", default=DEFAULT)})

    def __call__(self, tokens: TokenBatch) -> Tensor:
        self.seen.append(tokens.columns["w"])
        return torch.where(tokens.mask, tokens.columns["w"], 0)


class Offset(PreferenceLoss):
    """-log sigmoid(r_c - r_j - margin), with the margin of the data."""

    name: Literal["test_offset"] = "test_offset"

    @property
    def columns(self) -> frozenset[Column]:
        return frozenset({PairColumn("margin")})

    def __call__(self, chosen: Tensor, rejected: Tensor, tokens: TokenBatch) -> Tensor:
        return torch.nn.functional.softplus(rejected - chosen + tokens.columns["margin"])


OBJECTIVE = ObjectiveConfig(weighting=Annotated(), loss=Offset())


@pytest.fixture
def annotated(rows: list[dict[str, str]]) -> list[dict[str, Any]]:
    """The last word of every chosen response counts double."""
    return [
        row
        | {
            "margin": number % 3,
            "chosen_w": [{"start": len(row["chosen"]) - 4, "end": len(row["chosen"]), "value": GOOD_COUNTS}],
            "rejected_w": [1.0] * len(row["rejected"].split()),
        }
        for number, row in enumerate(rows)
    ]


@pytest.mark.parametrize("accumulation", [1, 2])
def test_components_see_the_columns_of_their_rows(
    model_folder: str, annotated: list[dict[str, Any]], out: str, accumulation: int
) -> None:
    Annotated.seen.clear()
    args = config(out, max_steps=1, gradient_accumulation_steps=accumulation)
    trainer = PreferenceTrainer(
        model_folder, objective=OBJECTIVE, args=args, train_dataset=annotated, eval_dataset=annotated[:5]
    )
    before = [p.detach().clone() for p in trainer.model.policy.parameters()]
    trainer.train()
    assert any(not torch.equal(a, b) for a, b in zip(before, trainer.model.policy.parameters(), strict=True))
    assert len(Annotated.seen) >= accumulation
    for seen in Annotated.seen:
        chosen, rejected = seen.chunk(2)
        assert ((chosen == GOOD_COUNTS).sum(-1) == 1).all()
        assert not (rejected == GOOD_COUNTS).any()
        assert ((rejected == DEFAULT).sum(-1) == 1).all()  # the end of text
    assert trainer.evaluate()["eval_loss"] > 0


def test_the_loss_is_that_of_the_columns(model_folder: str, annotated: list[dict[str, Any]], out: str) -> None:
    trainer = PreferenceTrainer(model_folder, objective=OBJECTIVE, args=config(out), train_dataset=annotated)
    batch = next(iter(trainer.get_train_dataloader()))
    margins = torch.tensor([trainer.train_dataset[row]["pair:margin"] for row in batch["rows"].tolist()])
    torch.testing.assert_close(batch["pair:margin"], margins)
    with torch.no_grad():
        output = trainer.compute_loss(trainer.model, batch, return_outputs=True)[1]
    torch.testing.assert_close(output.losses, torch.nn.functional.softplus(margins), rtol=1e-4, atol=1e-5)
    words = masked_sum(output.weights, output.tokens.mask) - DEFAULT
    lengths = output.tokens.mask.sum(-1) - 1
    assert words[8:].tolist() == lengths[8:].tolist()
    assert words[:8].tolist() == (GOOD_COUNTS + DEFAULT * (lengths[:8] - 1)).tolist()


def test_a_loaded_objective_and_a_prepared_data_set(
    model_folder: str, tokenizer: PreTrainedTokenizerFast, annotated: list[dict[str, Any]], out: str
) -> None:
    dataset, _ = prepare(
        rows_of(annotated, name="rows"), tokenizer, EncodingConfig(), description="rows", extra=OBJECTIVE.columns
    )
    objective = Objective(OBJECTIVE, num_layers=2, hidden_size=32)
    trainer = PreferenceTrainer(model_folder, objective=objective, args=config(out, max_steps=1), train_dataset=dataset)
    assert trainer.train_dataset is dataset
    trainer.train()


def test_a_prepared_data_set_without_a_column_is_refused(
    model_folder: str, tokenizer: PreTrainedTokenizerFast, annotated: list[dict[str, Any]], out: str
) -> None:
    def prepared(*extra: Column) -> datasets.Dataset:
        rows = rows_of(annotated, name="rows")
        return prepare(rows, tokenizer, EncodingConfig(), description="rows", extra=extra)[0]

    def refused(dataset: Any) -> str:
        with pytest.raises(DataError) as caught:
            PreferenceTrainer(model_folder, objective=OBJECTIVE, args=config(out), **dataset)
        return str(caught.value)

    with_margin = prepared(PairColumn("margin"))
    message = refused({"train_dataset": with_margin})
    assert "train data: it holds token ids already, but not the column 'w'" in message
    assert "that token weighting 'test_annotated' reads (no 'chosen:w', 'rejected:w')" in message
    assert "extra=[TokenColumn(name='w', default=0.5, " in message
    message = refused({"train_dataset": annotated, "eval_dataset": {"mine": prepared(TokenColumn("w"))}})
    assert "eval-mine data: " in message
    assert "'margin' that preference loss 'test_offset' reads (no 'pair:margin')" in message
    # An objective that reads none takes a data set that has some.
    PreferenceTrainer(
        model_folder, objective=zoo.dpo(), args=config(out, max_steps=1), train_dataset=with_margin
    ).train()


def test_rows_without_the_fields_stop_before_training(model_folder: str, rows: list[dict[str, str]], out: str) -> None:
    with pytest.raises(DataError, match=r"field 'margin': found no such field.*columns: \{margin: NAME\}"):
        PreferenceTrainer(model_folder, objective=OBJECTIVE, args=config(out), train_dataset=rows)


def test_fields_are_renamed(model_folder: str, annotated: list[dict[str, Any]], out: str) -> None:
    renamed = [{"gap" if key == "margin" else key: value for key, value in row.items()} for row in annotated]
    args = config(out, columns={"margin": "gap"})
    trainer = PreferenceTrainer(model_folder, objective=OBJECTIVE, args=args, train_dataset=renamed)
    assert trainer.train_dataset["pair:margin"][:4] == [0, 1, 2, 0]


def test_a_run_file(
    model_folder: str, annotated: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prefopt.zoo.ZOO", {"mine": lambda: OBJECTIVE})
    data = tmp_path / "pairs.parquet"
    datasets.Dataset.from_list(annotated).to_parquet(data)
    file = tmp_path / "run.yaml"
    training = {"max_steps": 1, "report_to": "none", "use_cpu": True, "output_dir": str(tmp_path / "out")}
    fields = {"model": model_folder, "data": {"train": str(data)}, "objective": "mine", "training": training}
    file.write_text(yaml.safe_dump(fields))
    trainer = start(RunFile.load(file))
    assert set(trainer.train_dataset.column_names) >= {"pair:margin", "chosen:w", "rejected:w"}
    assert train(trainer).folder == tmp_path / "out"


def test_the_collator_takes_along_what_it_is_told(
    tokenizer: PreTrainedTokenizerFast, annotated: list[dict[str, Any]]
) -> None:
    rows = rows_of(annotated[:3], name="rows")
    dataset, _ = prepare(rows, tokenizer, EncodingConfig(), description="rows", extra=OBJECTIVE.columns)
    assert not any(":" in key for key in PreferenceCollator(0)(list(dataset)))
    batch = PreferenceCollator(0, OBJECTIVE.columns)(list(dataset))
    assert batch["pair:margin"].tolist() == [0, 1, 2]
    assert batch["pair:margin"].dtype == batch["chosen:w"].dtype == torch.float32
    for side in ("chosen", "rejected"):
        assert batch[f"{side}:w"].shape == batch[f"{side}_ids"].shape
        for number, row in enumerate(dataset):
            values = row[f"{side}:w"]
            assert batch[f"{side}:w"][number].tolist() == values + [0] * (batch[f"{side}_ids"].shape[1] - len(values))
    with pytest.raises(KeyError, match="pair:other"):
        PreferenceCollator(0, [PairColumn("other")])(list(dataset))


SEGMENTS = {
    "chosen_segment": [{"start": 0, "end": 4, "value": 0}, {"start": 4, "end": 8, "value": 1}],
    "rejected_segment": [{"start": 0, "end": 3, "value": 0}, {"start": 3, "end": 7, "value": 1}],
    "chosen_score": [{"start": 0, "end": 4, "value": 1}, {"start": 4, "end": 8, "value": 3}],
    "rejected_score": [{"start": 0, "end": 3, "value": 2}, {"start": 3, "end": 7, "value": 0.5}],
}


def test_segments_of_the_rows_are_compared(
    model_folder: str, annotated: list[dict[str, Any]], out: str, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{"prompt": "It was", "chosen": " good so", "rejected": " bad it", **SEGMENTS}] * 7
    rows.append({**rows[0], "rejected_segment": []})
    objective = zoo.dpo_2d()
    arguments = config(out, max_steps=1, per_device_train_batch_size=8)
    trainer = PreferenceTrainer(model_folder, objective=objective, args=arguments, train_dataset=rows)
    with torch.no_grad(), caplog.at_level("WARNING"):
        batch = next(iter(trainer.get_train_dataloader()))
        output = trainer.compute_loss(trainer.model.train(), batch, return_outputs=True)[1]
    torch.testing.assert_close(output.losses.sum(), torch.tensor(7 * 2 * math.log(2)), rtol=1e-4, atol=1e-5)
    assert output.metrics["units/compared"].total.item() == 14
    assert "step 0: 1 of 8 pairs have no units to compare" in caplog.text
    assert "fields chosen_score, rejected_score, chosen_segment, rejected_segment." in caplog.text
