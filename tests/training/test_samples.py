"""Samples of policy and reference while training: what is drawn, where it goes, and that training does not notice."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from accelerate import Accelerator, DistributedType
from peft import LoraConfig
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers.integrations import TrackioCallback, WandbCallback

from prefopt import zoo
from prefopt.tasks.judges import resolve_judge
from prefopt.training import PreferenceTrainer, RunFile, RunFileError, SamplesCallback, start
from prefopt.training.random_states import RandomStates
from prefopt.training.samples import SampleRow, _report
from tests.training.test_trainer import config

WORDS = {"scorer": {"name": "words", "positive": ["good", "fine", "story"], "negative": ["bad", "dull", "plot"]}}
SHORT = {"max_new_tokens": 4, "num_prompts": 3}


@pytest.fixture
def made(model_folder: str, rows: list[dict[str, str]], out: str) -> Any:
    def make(**changes: Any) -> PreferenceTrainer:
        args = config(changes.pop("out", out), **changes.pop("args", {}))
        data = {"train_dataset": rows[:24], "eval_dataset": rows[24:], "objective": zoo.dpo()}
        return PreferenceTrainer(model_folder, args=args, **data | changes)

    return make


def table(folder: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(folder, "samples.jsonl").read_text().splitlines()]


def test_training_is_as_it_is_without_samples(made: Any, out: str) -> None:
    plain = made(out=f"{out}-plain", args={"max_steps": 3})
    plain.train()
    sampled = made(args={"max_steps": 3, "report_to": "tensorboard"})
    judge = resolve_judge(WORDS)
    sampled.add_callback(SamplesCallback(sampled, every=1, temperature=1.0, seed=3, judge=judge, **SHORT))
    sampled.train()
    losses = [[e["loss"] for e in run.state.log_history if "loss" in e] for run in (plain, sampled)]
    assert losses[0] == losses[1]
    assert len(losses[1]) == 3
    weights = (run.model.policy.parameters() for run in (plain, sampled))
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))

    lines = table(out)
    assert [line["step"] for line in lines] == [1] * 3 + [2] * 3 + [3] * 3
    assert [line["reference"] for line in lines[:3]] == [line["reference"] for line in lines[6:]]
    assert [line["policy"] for line in lines[:3]] != [line["policy"] for line in lines[6:]]
    logged = [entry["samples/win_rate"] for entry in sampled.state.log_history if "samples/win_rate" in entry]
    assert logged == [sum(line["win"] for line in lines[i : i + 3]) / 3 for i in (0, 3, 6)]
    (events,) = Path(out).glob("runs/*/events*")
    written = EventAccumulator(str(events), size_guidance={"tensors": 0}).Reload()
    (first, *_), text = written.Tensors("samples/text_summary"), lines[0]["policy"].replace("<", "&lt;")
    shown = first.tensor_proto.string_val[0].decode()
    assert shown.startswith("| prompt | policy | reference | win |\n|---|---|---|---|\n| ")
    assert text in shown


def test_the_random_states_and_the_mode_of_the_model_stay(made: Any) -> None:
    trainer = made()
    callback = SamplesCallback(trainer, ["the film", "a plot"], every=1, temperature=1.0, max_new_tokens=3)
    trainer.model.train()
    before = RandomStates.now()
    rows = callback.rows()
    after = RandomStates.now()
    assert torch.equal(before.cpu, after.cpu)
    assert before.python == after.python
    assert (before.numpy[1] == after.numpy[1]).all()
    assert trainer.model.training
    assert [row.prompt for row in rows] == ["the film", "a plot"]
    assert [row.policy for row in rows] == [row.reference for row in rows]  # before the first step
    assert {row.win for row in rows} == {None}


@pytest.mark.parametrize("how", ["adapter", "cache", "reference_free"])
def test_the_reference_of(how: str, made: Any, tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "adapter": {"peft_config": LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"])},
        "cache": {"args": {"reference_cache": str(tmp_path / "cache"), "max_steps": 1}},
        "reference_free": {"objective": zoo.simpo()},
    }[how]
    trainer = made(**changes)
    callback = SamplesCallback(trainer, every=1, **SHORT)
    expected = [row.reference for row in callback.rows()]
    assert (None in expected) == (how == "reference_free")
    if how == "adapter":
        with torch.no_grad():
            next(p for n, p in trainer.model.named_parameters() if "lora_B" in n).fill_(5.0)
        callback._reference = None
        rows = callback.rows()
        assert [row.reference for row in rows] == expected != [row.policy for row in rows]
    if how == "cache":
        trainer.train()
        assert trainer.model.reference is None
        callback._reference = None
        assert [row.reference for row in callback.rows()] == expected
        assert trainer.model.reference is None


def test_at_every_evaluation_and_after_resuming(made: Any, out: str) -> None:
    args = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1, "max_steps": 3}
    first = made(args=args)
    first.add_callback(SamplesCallback(first, **SHORT))
    first.train()
    whole = table(out)
    assert [line["step"] for line in whole[::3]] == [1, 2, 3]
    with Path(out, "samples.jsonl").open("a") as file:
        file.write('{"step": 3, "pro')  # a run that was killed
    again = made(args=args)
    again.add_callback(SamplesCallback(again, **SHORT))
    again.train(f"{out}/checkpoint-2")
    assert table(out) == whole
    again.evaluate()
    assert table(out) == whole


@pytest.mark.parametrize("kind", [WandbCallback, TrackioCallback])
def test_tables_of_wandb_and_trackio(kind: type[Any]) -> None:
    logged: list[dict[str, Any]] = []
    module = SimpleNamespace(Table=lambda **fields: fields, log=logged.append)
    callback = kind.__new__(kind)
    callback._wandb = callback._trackio = module
    _report(callback, [SampleRow("a", "b", "c", 1.0)], 7)
    (entry,) = logged
    assert entry["train/global_step"] == 7
    fields = entry["samples"]
    names, values = (
        (list(fields["dataframe"]), fields["dataframe"].to_numpy().tolist())
        if "dataframe" in fields
        else (fields["columns"], fields["data"])
    )
    assert (names, values) == (["prompt", "policy", "reference", "win"], [["a", "b", "c", 1.0]])


def test_what_samples_need(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Accelerator, "distributed_type", DistributedType.FSDP)
        trainer = made()
        with pytest.raises(ValueError, match="samples: no process has the whole policy"):
            SamplesCallback(trainer, every=1)
    with pytest.raises(ValueError, match="samples are drawn at every evaluation, and there is none; give `every`"):
        SamplesCallback(made())
    with pytest.raises(ValueError, match="samples need prompts; give `prompts`, or evaluation data"):
        SamplesCallback(made(eval_dataset=None), every=1)
    with pytest.raises(ValueError, match="every: 0 is no number of steps"):
        SamplesCallback(made(), every=0)
    with pytest.raises(ValueError, match="judge: it compares policy and reference, and there is no reference"):
        SamplesCallback(made(objective=zoo.simpo()), every=1, judge=resolve_judge(WORDS))


def test_samples_of_a_run_file(model_folder: str, rows: list[dict[str, str]], tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    training = {"output_dir": str(tmp_path / "run"), "max_steps": 1, "use_cpu": True, "report_to": "none"}
    training |= {"save_strategy": "no", "disable_tqdm": True}
    file = tmp_path / "run.yaml"

    def load(**samples: Any) -> RunFile:
        fields = {"model": model_folder, "data": {"train": str(pairs)}, "objective": "dpo", "training": training}
        file.write_text(yaml.safe_dump(fields | {"samples": samples}))
        return RunFile.load(file)

    with pytest.raises(RunFileError, match=r"samples needs prompts; give samples\.prompts"):
        load(every=1)
    with pytest.raises(RunFileError, match=r"give samples\.every, or training\.eval_strategy"):
        load(prompts=["the film"])
    with pytest.raises(RunFileError, match=r"samples\.judge: a judge is a mapping with one of scorer, endpoint"):
        start(load(prompts=["the film"], every=1, judge={"name": "words"}), judges=resolve_judge)
    run = load(prompts=["the film", "a plot"], every=1, judge=WORDS, max_new_tokens=3)
    with pytest.raises(RunFileError, match=r"samples\.judge needs start\(run, judges=prefopt\.tasks\.judges\.resol"):
        start(run)
    trainer = start(run, judges=resolve_judge)
    trainer.train()
    assert [line["prompt"] for line in table(training["output_dir"])] == ["the film", "a plot"]
    assert "samples/win_rate" in [name for entry in trainer.state.log_history for name in entry]
    assert yaml.safe_load(Path(training["output_dir"], "run.yaml").read_text())["samples"]["every"] == 1
