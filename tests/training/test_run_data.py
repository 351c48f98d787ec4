"""Sources of a run file: mixtures, parts of sources, several evaluation sets."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import datasets
import pytest
import yaml

from prefopt.data import DataError, DataSource
from prefopt.training import RunFile, RunFileError
from prefopt.training.execute import start, train
from prefopt.training.run_data import prepare_run_data
from prefopt.training.trainer_inputs import ensure_pad_token


@pytest.fixture
def folder(tmp_path: Path, rows: list[dict[str, str]]) -> Path:
    """Eight pairs in a.jsonl, twelve in b.jsonl under other names, four in held-out.jsonl."""
    renamed = [{"question": row["prompt"], "chosen": row["chosen"], "rejected": row["rejected"]} for row in rows[8:20]]
    for name, content in {"a": rows[:8], "b": renamed, "held-out": rows[20:24]}.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
    return tmp_path


@pytest.fixture
def run(folder: Path, model_folder: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(folder)

    def resolved(**data: Any) -> RunFile:
        training = {"output_dir": "out", "use_cpu": True, "max_steps": 2, "report_to": "none", "bf16": False}
        return RunFile.model_validate({"model": model_folder, "data": data, "objective": "dpo", "training": training})

    return resolved


A, B = {"path": "a.jsonl"}, {"path": "b.jsonl", "columns": {"prompt": "question"}}


def sources_of(dataset: datasets.Dataset) -> dict[str, int]:
    files = [where.partition(":")[0] for where in dataset["where"]]
    return {name: files.count(name) for name in sorted(set(files))}


def prepared(run: RunFile, tokenizer: Any) -> Any:
    return prepare_run_data(run, run.preference_config(), ensure_pad_token(tokenizer))


@pytest.mark.parametrize(
    ("data", "counts"),
    [
        ({"train": [A, B]}, {"a.jsonl": 8, "b.jsonl": 12}),
        ({"train": [A | {"fraction": 0.5}, B | {"rows": 3}]}, {"a.jsonl": 4, "b.jsonl": 3}),
        ({"train": [A, B | {"rows": 100}]}, {"a.jsonl": 8, "b.jsonl": 12}),
        ({"train": A | {"rows": 5}}, {"a.jsonl": 5}),
        ({"train": [A, A]}, {"a.jsonl": 16}),
    ],
)
def test_sources_are_put_together(run: Any, tokenizer: Any, data: dict[str, Any], counts: dict[str, int]) -> None:
    resolved = run(**data)
    train = prepared(resolved, tokenizer).train.dataset
    assert sources_of(train) == counts
    assert train["row"] == list(range(len(train)))
    assert prepared(resolved, tokenizer).train.dataset.to_list() == train.to_list()


def test_weights_say_how_often_a_source_comes(run: Any, tokenizer: Any) -> None:
    resolved = run(train=[A | {"weight": 3.0}, B | {"weight": 1.0}], mixture="interleave")
    counts = sources_of(prepared(resolved, tokenizer).train.dataset)
    assert counts["a.jsonl"] == 8  # the first to be exhausted
    assert 0 < counts["b.jsonl"] < 8
    every = run(train=[A, B], mixture="interleave", stopping_strategy="all_exhausted")
    mixed = prepared(every, tokenizer).train.dataset
    assert len(set(mixed["where"])) == 20
    assert mixed["row"] == list(range(len(mixed)))


def test_the_reports_are_of_each_source(run: Any, tokenizer: Any) -> None:
    data = prepared(run(train=[A, B], eval={"near": "a.jsonl", "far": "held-out.jsonl"}), tokenizer)
    assert {name: report.rows for name, report in data.reports.items()} == {
        "train-1": 8,
        "train-2": 12,
        "eval-near": 8,
        "eval-far": 4,
    }


@pytest.mark.parametrize(
    ("evaluation", "shared"),
    [("a.jsonl", "8 of its 8"), (B | {"rows": 3}, "3 of its 3"), ("held-out.jsonl", None)],
)
def test_pairs_that_are_evaluated_and_trained_on_are_counted(
    run: Any, tokenizer: Any, evaluation: Any, shared: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    prepared(run(train=[A, B], eval=evaluation), tokenizer)
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [shared in line for line in warnings if shared] == ([True] if shared else [])
    assert bool(warnings) == bool(shared)


@pytest.mark.slow
def test_several_evaluation_sets_have_metrics_of_their_own(run: Any) -> None:
    resolved = run(train=[A, B], eval={"near": A | {"rows": 4}, "far": "held-out.jsonl"})
    result = train(start(resolved))
    assert {"eval_near_loss", "eval_far_loss", "eval_far_rewards/accuracies"} <= result.evaluation.keys()
    again = RunFile.load(result.folder / "run.yaml")
    assert again == resolved
    written = yaml.safe_load((result.folder / "run.yaml").read_text())["data"]
    assert written["train"] == ["a.jsonl", B]
    assert written["eval"] == {"near": A | {"rows": 4}, "far": "held-out.jsonl"}
    assert json.loads((result.folder / "about.json").read_text())["data"]["train-2"]["kept"] == 12


@pytest.mark.parametrize(("size", "held_out"), [(0.25, 5), (3, 3), (0.001, 1)])
def test_pairs_are_held_out_for_evaluation(run: Any, tokenizer: Any, size: float, held_out: int) -> None:
    data = prepared(run(train=[A, B], test_split_size=size), tokenizer)
    train, evaluation = data.train.dataset, data.evaluation.dataset
    assert (len(train), len(evaluation)) == (20 - held_out, held_out)
    assert len({*train["where"], *evaluation["where"]}) == 20
    assert evaluation["row"] == list(range(held_out))


def test_no_pair_is_left_for_training(run: Any, tokenizer: Any) -> None:
    with pytest.raises(DataError, match="leaves no pair of 8 for training"):
        prepared(run(train=A, test_split_size=8), tokenizer)


@pytest.mark.parametrize(
    ("data", "line"),
    [
        ({"train": []}, r"data\.train: .*at least 1"),
        ({"train": [A | {"fractoin": 0.5}]}, r"data\.train\.0\.fractoin: .*Did you mean 'fraction'"),
        ({"train": [A | {"fraction": 1.5}]}, r"data\.train\.0\.fraction: at most 1"),
        ({"train": [A | {"fraction": 0.5, "rows": 2}]}, "give one of them"),
        ({"train": A, "mixture": "interleave"}, "mixture is read where train is a list"),
        ({"train": [A, B], "stopping_strategy": "all_exhausted"}, "read only with mixture: interleave"),
        ({"train": [A | {"weight": 2.0}, B]}, "read only with mixture: interleave"),
        ({"train": [A | {"weight": 2.0}, B], "mixture": "interleave"}, "all sources of train a weight, or none"),
        ({"train": A, "test_split_size": 2.5}, "neither a share below 1 nor a number of pairs"),
        ({"train": A, "eval": B, "test_split_size": 0.1}, "eval names others; give one"),
        ({"train": [A, B], "mixture": "interleave", "eval": B | {"weight": 1.0}}, "is read in train alone"),
        ({"train": A, "eval": {"a/b": B}}, r"data\.eval: 'a/b' cannot name a data set"),
        ({"train": A, "eval": {"near": {"split": "test"}}}, r"data\.eval\.near\.path: it is needed"),
    ],
)
def test_sources_without_sense_are_refused(run_of: Any, data: dict[str, Any], line: str) -> None:
    with pytest.raises(RunFileError, match=line):
        run_of(data)


@pytest.fixture
def run_of(tmp_path: Path) -> Any:
    def load(data: dict[str, Any]) -> RunFile:
        file = tmp_path / "run.yaml"
        file.write_text(yaml.safe_dump({"model": "some/model", "data": data, "objective": "dpo"}))
        return RunFile.load(file)

    return load


def test_a_configuration_of_the_hub_goes_to_load_dataset(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []

    def load_dataset(path: str, **options: Any) -> list[dict[str, str]]:
        calls.append((path, options))
        return [{"prompt": "p", "chosen": "good", "rejected": "bad"}]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    source = DataSource(path="some/pairs", name="helpful", revision="v2", data_files=["a.json", "b.json"])
    assert len(list(source.read("train_prefs"))) == 1
    options = {"split": "train_prefs", "name": "helpful", "revision": "v2", "data_files": ["a.json", "b.json"]}
    assert calls == [("some/pairs", options)]


def test_options_of_load_dataset_are_refused_for_a_file(folder: Path) -> None:
    with pytest.raises(DataError, match="it is read without load_dataset, which takes revision"):
        DataSource(path=str(folder / "a.jsonl"), revision="v2").read("train")


def test_each_source_sets_its_bad_rows_aside(run: Any, tokenizer: Any, folder: Path) -> None:
    with (folder / "b.jsonl").open("a") as file:
        file.write("no json\n")
    with pytest.raises(DataError, match=r"b\.jsonl:13"):
        prepared(run(train=[A, B]), tokenizer)
    data = prepared(run(train=[A, B], on_bad_rows="quarantine"), tokenizer)
    assert data.reports["train-2"].quarantined == 1
    assert (folder / "out" / "quarantine-train-2.jsonl").is_file()
