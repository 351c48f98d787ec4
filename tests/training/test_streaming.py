"""Training on a stream: as on the pairs that it gives, resumed bit for bit, and what needs all pairs is refused."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
import yaml
from typer.testing import CliRunner

from prefopt import zoo
from prefopt.cli import app
from prefopt.data import DataError
from prefopt.training import PreferenceTrainer, RunFile, RunFileError, start, train
from prefopt.training.manifest import CheckpointError
from tests.forked import run_module
from tests.training.test_trainer import config

SAVING = {"save_strategy": "steps", "save_steps": 2}


@pytest.fixture
def made(model_folder: str, rows: list[dict[str, str]], out: str) -> Any:
    def make(data: Any = None, **changes: Any) -> PreferenceTrainer:
        args = config(changes.pop("out", out), **changes.pop("args", {}))
        objective = changes.pop("objective", zoo.dpo())
        pair_stream = datasets.Dataset.from_list(rows).to_iterable_dataset(num_shards=4).shuffle(seed=3, buffer_size=8)
        data = pair_stream if data is None else data
        return PreferenceTrainer(model_folder, objective=objective, args=args, train_dataset=data, **changes)

    return make


def endless(rows: list[dict[str, Any]]) -> datasets.IterableDataset:
    def numbered() -> Iterator[dict[str, Any]]:
        for number in count():
            row = rows[number % len(rows)]
            yield {**row, "prompt": f"{row['prompt']} {'film ' * (number // len(rows))}"}

    return datasets.IterableDataset.from_generator(numbered)


def losses(trainer: PreferenceTrainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def weights(trainer: PreferenceTrainer) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in trainer.model.policy.parameters()]


def test_an_evaluation_reads_a_stream_that_ends_and_refuses_one_that_does_not(
    made: Any, rows: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prefopt.training.data_sets._MOST", 12)
    assert len(made(rows, eval_dataset=endless(rows).take(12)).eval_dataset) == 12
    with pytest.raises(DataError, match=r"^eval data: a stream of more than 12 rows, and perhaps without end"):
        made(rows, eval_dataset=endless(rows))
    with pytest.raises(DataError, match=r"^eval-near data: a stream of more than 12 rows"):
        made(rows, eval_dataset={"near": endless(rows)})


def test_an_endless_stream_and_its_report(made: Any, rows: list[dict[str, str]], caplog: Any) -> None:
    trainer = made(endless(rows), eval_dataset=rows[:4], args={"eval_strategy": "steps", "eval_steps": 3})
    with caplog.at_level(logging.INFO, "prefopt"):
        trainer.train()
    assert trainer.state.global_step == 4
    assert 0 < losses(trainer)[-1] < 0.69
    report = trainer.data_reports["train"]
    assert 32 <= report.kept <= 48  # a batch is read ahead
    assert f"train data: {report.rows} rows read" in caplog.text


def test_a_resumed_run_is_the_same_run(made: Any, out: str) -> None:
    """Of six steps of eight pairs of 32: the stream begins anew in the fifth, in another order."""
    whole = made(args={**SAVING, "max_steps": 6, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 4})
    whole.train()
    settings = json.loads(Path(out, "checkpoint-4", "manifest.json").read_text())["settings"]
    assert settings["stream"]["pairs"] == 32
    assert len(settings["stream"]["digest"]) == 64
    again = made(args={**SAVING, "max_steps": 6, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 4})
    again.train(f"{out}/checkpoint-4")
    assert losses(again) == losses(whole)
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(again), strict=True))


def test_a_run_is_not_resumed_on_other_pairs(made: Any, rows: list[dict[str, str]], out: str, caplog: Any) -> None:
    made(args=SAVING).train()
    before = Path(out, "checkpoint-2", "model.safetensors").read_bytes()
    other = datasets.Dataset.from_list(rows[::-1]).to_iterable_dataset()
    with pytest.raises(CheckpointError, match=r"on other pairs than the first 16 of this stream; .*despite: \[data\]"):
        made(other, args=SAVING).train(f"{out}/checkpoint-2")
    assert Path(out, "checkpoint-2", "model.safetensors").read_bytes() == before
    made(other, args=SAVING | {"resume_despite": ["data"]}).train(f"{out}/checkpoint-2")
    with caplog.at_level(logging.WARNING, "prefopt"):
        made(other, args=SAVING | {"ignore_data_skip": True}).train(f"{out}/checkpoint-2")
    assert "checkpoint-2 without a comparison of its pairs with the stream's" in caplog.text
    with pytest.raises(CheckpointError, match=r"data \(a stream there, 32 pairs, "):
        made(rows, args=SAVING).train(f"{out}/checkpoint-2")


def test_a_faulty_row_stops_or_is_set_aside(made: Any, rows: list[dict[str, Any]], out: str) -> None:
    faulty = [*rows[:10], {**rows[10], "chosen": ""}, *rows[11:]]
    pair_stream = datasets.Dataset.from_list(faulty).to_iterable_dataset()
    with pytest.raises(DataError, match="train: row 10 of train: field 'chosen': found "):
        made(pair_stream).train()
    trainer = made(pair_stream, args={"on_bad_rows": "quarantine"})
    trainer.train()
    assert trainer.data_reports["train"].quarantined >= 1
    (line,) = Path(out, "quarantine-train.jsonl").read_text().splitlines()
    assert json.loads(line)["where"] == "row 10 of train"
    beyond = {"prompt_ids": [99], "chosen_ids": [1], "rejected_ids": [1], "where": "row 3"}
    with pytest.raises(ValueError, match="row 3: it has "):
        trainer.train_dataset.check(beyond)


@pytest.mark.parametrize(
    ("args", "error"),
    [
        ({"max_steps": -1}, "the training data are a stream, whose length nobody knows; set max_steps"),
        (
            {"dataloader_num_workers": 2},
            "dataloader_num_workers: the training data are a stream; workers would",
        ),
        ({"dataset_num_proc": 2}, "dataset_num_proc: the training data are a stream; its rows are encoded one"),
        ({"reference_cache": "cache"}, "reference_cache: the training data are a stream; the cache is filled before"),
        ({"train_sampling_strategy": "group_by_length"}, "train_sampling_strategy: .*; sorting pairs by length needs"),
        (
            {"accelerator_config": {"split_batches": True}},
            "accelerator_config: batches of pairs have their own",
        ),
    ],
)
def test_what_needs_all_pairs_is_refused(args: dict[str, Any], error: str, made: Any) -> None:
    with pytest.raises(ValueError, match=f"^{error}"):
        made(args=args)


def test_a_step_that_is_not_finite_names_the_pair(made: Any) -> None:
    trainer = made()
    with torch.no_grad():
        trainer.model.policy.model.embed_tokens.weight.fill_(torch.inf)
    with pytest.raises(FloatingPointError, match=r"step 1, row \d+ of train: "):
        trainer.train()


@pytest.fixture
def run(model_folder: str, rows: list[dict[str, str]], tmp_path: Path) -> Any:
    def load(data: dict[str, Any] | None = None, **training: Any) -> RunFile:
        pairs = tmp_path / "pairs.jsonl"
        pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
        fixed = {"output_dir": str(tmp_path / "run"), "use_cpu": True, "report_to": "none", "disable_tqdm": True}
        document = {
            "model": model_folder,
            "data": {"train": str(pairs), "streaming": True, **(data or {})},
            "objective": "dpo",
            "training": {**fixed, "max_steps": 5, "per_device_train_batch_size": 8, "learning_rate": 1e-2, **training},
        }
        file = tmp_path / "run.yaml"
        file.write_text(yaml.safe_dump(document))
        return RunFile.load(file)

    return load


def test_a_run_file(run: Any, tmp_path: Path) -> None:
    train(start(run({"buffer_size": 10, "eval": str(tmp_path / "pairs.jsonl")})))
    about = json.loads((tmp_path / "run" / "about.json").read_text())
    assert about["data"]["train"]["kept"] >= 40
    assert about["data"]["eval"]["kept"] == 32
    assert "streaming: true" in (tmp_path / "run" / "run.yaml").read_text()


@pytest.mark.parametrize(
    ("data", "training", "error"),
    [
        ({}, {"max_steps": -1}, r"data\.streaming needs training\.max_steps"),
        ({"train": ["a", "b"]}, {}, "streaming: a mixture of sources needs all pairs; give the pairs as they are"),
        ({"train": {"path": "a", "fraction": 0.5}}, {}, "streaming: fraction of a is drawn from all pairs"),
        ({"train": {"path": "a", "rows": 5}}, {}, "streaming: rows of a is drawn from all pairs"),
        ({"test_split_size": 0.1}, {}, "streaming: test_split_size is drawn from all pairs; .* name others as eval"),
        ({"reference_cache": "c"}, {}, "streaming: reference_cache needs all pairs before training"),
        ({"dataset_num_proc": 2}, {}, "streaming: dataset_num_proc needs all pairs before training"),
        ({"streaming": False, "buffer_size": 5}, {}, "buffer_size is read only with streaming"),
    ],
)
def test_what_a_run_file_cannot_stream(data: dict[str, Any], training: dict[str, Any], error: str, run: Any) -> None:
    with pytest.raises(RunFileError, match=error):
        run(data, **training)


def test_a_dry_run_of_a_stream(run: Any, tmp_path: Path) -> None:
    run()
    result = CliRunner().invoke(app, ["train", str(tmp_path / "run.yaml"), "--dry-run"])
    assert result.exit_code == 0, result.output
    assert "No plan: the training data are a stream" in " ".join(result.output.split())


@pytest.mark.long
def test_two_processes_are_as_one(model_folder: str, rows: list[dict[str, str]], tmp_path: Path) -> None:
    data = tmp_path / "rows.json"
    data.write_text(json.dumps(rows))
    results = []
    for processes in (1, 2):
        out = tmp_path / str(processes)
        run_module("tests.training.streaming_processes", processes, model_folder, data, out, 8 // processes)
        results.append(json.loads((out / "result.json").read_text()))
    one, two = results
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-4)
    assert two["again"] == two["losses"]
    assert (two["labels"], two["pairs"]) == (one["labels"], 7) == (list(range(7)), one["pairs"])
    assert two["logps"] == pytest.approx(one["logps"], rel=1e-4)
    assert two["quarantine"] == one["quarantine"]
    assert one["quarantine"].count("\n") == 1
    assert one["samples"] == two["samples"] == 3
