"""A run that was interrupted goes on as an uninterrupted one would."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import LoraConfig
from transformers import TrainerCallback
from typer.testing import CliRunner

from prefopt import zoo
from prefopt.cli import app
from prefopt.training import PreferenceTrainer
from tests.training.test_trainer import NEAR_ONE, config


class Interrupt(TrainerCallback):
    """Stops the run, as a signal would, at the step after a checkpoint."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 5:
            raise KeyboardInterrupt


def _trainer(model: str, rows: list[dict[str, str]], out: str, adapter: bool, *callbacks: TrainerCallback) -> Any:
    objective = zoo.build({"zoo": "sparsepo", **NEAR_ONE, "weighting": {**NEAR_ONE["weighting"], "dropout": 0.2}})
    return PreferenceTrainer(
        model,
        objective=objective,
        args=config(out, max_steps=8, save_strategy="steps", save_steps=4, mask_learning_rate=0.05),
        train_dataset=rows,
        peft_config=LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM") if adapter else None,
        callbacks=list(callbacks),
    )


@pytest.mark.slow
@pytest.mark.parametrize("adapter", [False, True], ids=["all weights", "adapter"])
def test_resumed_is_as_uninterrupted(adapter: bool, model_folder: str, rows: list[dict[str, str]], out: str) -> None:
    whole = _trainer(model_folder, rows, f"{out}-whole", adapter)
    whole.train()
    broken = _trainer(model_folder, rows, out, adapter, Interrupt())
    with pytest.raises(KeyboardInterrupt):
        broken.train()
    resumed = _trainer(model_folder, rows, out, adapter)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 8
    expected = dict(whole.model.named_parameters())
    for name, parameter in resumed.model.named_parameters():
        torch.testing.assert_close(parameter, expected[name], rtol=0, atol=0, msg=name)
    tail = [entry for entry in whole.state.log_history if entry["step"] > 4 and "loss" in entry]
    again = [entry for entry in resumed.state.log_history if entry["step"] > 4 and "loss" in entry]
    assert [entry["loss"] for entry in again] == [entry["loss"] for entry in tail]
    assert [entry["weights/mean"] for entry in again] == [entry["weights/mean"] for entry in tail]


@pytest.mark.slow
def test_the_best_checkpoint_is_put_back(model_folder: str, rows: list[dict[str, str]], out: str) -> None:
    args = config(
        out,
        max_steps=6,
        learning_rate=0.3,  # so high that later steps are worse than earlier ones
        save_strategy="steps",
        save_steps=2,
        eval_strategy="steps",
        eval_steps=2,
        load_best_model_at_end=True,
        metric_for_best_model="eval_rewards/accuracies",
    )
    trainer = PreferenceTrainer(model_folder, objective=zoo.dpo(), args=args, train_dataset=rows, eval_dataset=rows)
    trainer.train()
    assert trainer.evaluate()["eval_rewards/accuracies"] == pytest.approx(trainer.state.best_metric)


def test_another_objective_does_not_resume(model_folder: str, rows: list[dict[str, str]], out: str) -> None:
    args = config(out, max_steps=2, save_strategy="steps", save_steps=2)
    PreferenceTrainer(model_folder, objective=zoo.dpo(), args=args, train_dataset=rows).train()
    other = PreferenceTrainer(model_folder, objective=zoo.dpo(beta=0.5), args=args, train_dataset=rows)
    with pytest.raises(ValueError, match=r"other settings wrote it: objective.beta \(0.1 there, 0.5 here\)"):
        other.train(resume_from_checkpoint=True)


@pytest.mark.slow
def test_a_run_that_is_finished_trains_nothing(
    model_folder: str, rows: list[dict[str, str]], out: str, caplog: pytest.LogCaptureFixture
) -> None:
    whole = _trainer(model_folder, rows, out, False)
    whole.train()
    logs = whole.state.log_history
    again = _trainer(model_folder, rows, out, False)
    output = again.train(resume_from_checkpoint=True)
    assert f"{out}/checkpoint-8 is of step 8 of 8: no step is left, and nothing is trained." in caplog.text
    assert output.global_step == 8
    assert output.metrics == {}
    *entries, summary = again.state.log_history
    assert entries == logs[:-1]
    assert summary == pytest.approx({name: logs[-1][name] for name in ("train_loss", "epoch", "step")})
    for name, parameter in again.model.named_parameters():
        assert torch.equal(parameter, dict(whole.model.named_parameters())[name])


@pytest.mark.slow
@pytest.mark.parametrize("ended", [True, False], ids=["ended", "killed before the last save"])
def test_prefopt_train_leaves_a_finished_run_as_it_is(
    model_folder: str, rows: list[dict[str, str]], tmp_path: Path, ended: bool
) -> None:
    data, out = tmp_path / "pairs.jsonl", tmp_path / "out"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    saves = {"save_strategy": "steps", "save_steps": 2, "resume_from_checkpoint": "true"}
    training = {"max_steps": 2, "report_to": "none", "use_cpu": True, "output_dir": str(out), **saves}
    fields = {"model": model_folder, "data": {"train": str(data)}, "objective": "dpo", "training": training}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(fields))
    assert CliRunner().invoke(app, ["train", str(tmp_path / "run.yaml")]).exit_code == 0
    if not ended:
        for name in ("model.safetensors", "trainer_state.json"):
            (out / name).unlink()
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    result = CliRunner().invoke(app, ["train", str(tmp_path / "run.yaml")])
    assert result.exit_code == 0, result.output
    after = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    if ended:
        assert after == before
        other = CliRunner().invoke(app, ["train", str(tmp_path / "run.yaml"), "objective.beta=0.5"])
        assert (other.exit_code, "\nerror: " in other.output, "--debug" in other.output) == (2, True, False)
    else:
        assert {path.name for path in after.keys() - before.keys()} == {"model.safetensors", "trainer_state.json"}


def test_data_without_a_pair_is_refused(model_folder: str, rows: list[dict[str, str]], out: str) -> None:
    prepared = _trainer(model_folder, rows, out, False).train_dataset.select([])
    with pytest.raises(ValueError, match="the training data has no pairs, so that there is no step"):
        _trainer(model_folder, prepared, out, False)
