"""A gradient or a weight that is not finite stops the run, and costs nothing of what was saved."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor
from transformers import TrainerCallback
from typer.testing import CliRunner

from prefopt import zoo
from prefopt.cli import app
from prefopt.training import PreferenceTrainer
from prefopt.training.finite_steps import NonFiniteGradientError, NonFiniteWeightsError
from tests.training.test_trainer import config

SAVES = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 1}


class After(TrainerCallback):
    """Acts once, after a step."""

    def __init__(self, step: int, act: Callable[[], object]) -> None:
        self.step, self.act = step, act

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            self.act()


@pytest.fixture
def trainer(model_folder: str, rows: list[dict[str, str]], out: str) -> Callable[..., PreferenceTrainer]:
    def make(**changes: Any) -> PreferenceTrainer:
        return PreferenceTrainer(model_folder, objective=zoo.dpo(), args=config(out, **changes), train_dataset=rows)

    return make


def head(trainer: PreferenceTrainer) -> Tensor:
    weight: Tensor = trainer.model.policy.lm_head.weight
    return weight


@pytest.mark.parametrize("max_grad_norm", [0.0, 1.0])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_stops_before_the_step(
    trainer: Callable[..., PreferenceTrainer], out: str, value: float, max_grad_norm: float
) -> None:
    run = trainer(max_grad_norm=max_grad_norm, **SAVES)

    def spoil() -> None:
        head(run).register_hook(lambda gradient: gradient.index_fill(0, torch.tensor([3]), value))

    run.add_callback(After(2, spoil))
    with pytest.raises(NonFiniteGradientError, match=r"^step 3: the norm of the gradients is (nan|inf)") as caught:
        run.train()
    assert "\n" not in str(caught.value)
    assert [path.name for path in Path(out).glob("checkpoint-*")] == ["checkpoint-2"]
    saved = load_file(Path(out) / "checkpoint-2" / "model.safetensors")
    state = run.model.policy.state_dict()
    assert all(torch.equal(weight, state[name]) for name, weight in saved.items())
    assert all(bool(weight.isfinite().all()) for weight in saved.values())


def test_weights_that_are_not_finite_are_no_checkpoint(trainer: Callable[..., PreferenceTrainer], out: str) -> None:
    run = trainer(**SAVES)

    def spoil() -> None:
        head(run).data[3, 5] = math.inf

    run.add_callback(After(2, spoil))
    with pytest.raises(
        NonFiniteWeightsError, match=r"1 of the \d+ tensors.*first policy\.lm_head.*, 1 values"
    ) as caught:
        run.train()
    assert f"{out}/checkpoint-2: the policy is not saved there" in str(caught.value)
    assert f"the last checkpoint, {out}/checkpoint-1, is as it was" in str(caught.value)
    assert [path.name for path in Path(out).glob("checkpoint-*")] == ["checkpoint-1"]
    assert all(bool(w.isfinite().all()) for w in load_file(Path(out) / "checkpoint-1" / "model.safetensors").values())


def test_a_last_step_that_breaks_the_weights_is_an_error(trainer: Callable[..., PreferenceTrainer]) -> None:
    run = trainer()
    run.add_callback(After(4, lambda: head(run).data.fill_(math.nan)))
    with pytest.raises(
        NonFiniteWeightsError, match=r"step 4, the last: NaN or infinity in 1 of .*; there is no checkpoint; "
    ):
        run.train()


def test_a_saved_policy_is_not_overwritten(trainer: Callable[..., PreferenceTrainer], out: str) -> None:
    run = trainer()
    run.train()
    run.save_model()
    before = {path: path.read_bytes() for path in Path(out).iterdir() if path.is_file()}
    head(run).data.fill_(math.nan)
    with pytest.raises(NonFiniteWeightsError, match=f"^{out}: the policy is not saved there"):
        run.save_model()
    assert before == {path: path.read_bytes() for path in Path(out).iterdir() if path.is_file()}


def test_a_weight_that_does_not_train_may_be_infinite(trainer: Callable[..., PreferenceTrainer], out: str) -> None:
    run = trainer()
    embeddings = run.model.policy.get_input_embeddings().weight
    embeddings.requires_grad_(False)
    embeddings.data[1] = -math.inf  # a token that no row has
    run.train()
    run.save_model()
    assert (Path(out) / "model.safetensors").is_file()


def test_float16_leaves_steps_out_until_its_scale_is_used_up(trainer: Callable[..., PreferenceTrainer]) -> None:
    run = trainer()
    scaler = run.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    scaler.scale(torch.ones(()))  # the scale is made with the first loss
    guard = run._guard
    guard._finite = torch.tensor(True)
    assert guard.judge(torch.tensor(math.inf)) == math.inf
    assert guard.judge(torch.tensor(3.0)) == 3.0
    assert guard.judge(None) is None
    logs = {"loss": 1.5}
    guard.correct(logs)
    assert logs == {"loss": 1.5, "skipped_steps": 1}
    run._tr_loss = torch.tensor(0.0)
    guard.on_step_begin(run.args, run.state, run.control)
    guard._finite = torch.tensor(True)
    scaler.update(new_scale=0.5)
    with pytest.raises(NonFiniteGradientError, match="step 1: the norm of the gradients is inf"):
        guard.judge(torch.tensor(math.inf))


def test_the_pair_whose_gradient_is_not_finite_is_named(model_folder: str, out: str) -> None:
    rows = [{"prompt": "the", "chosen": f" {word} good", "rejected": " bad"} for word in "a film was story end".split()]
    args = config(out, per_device_train_batch_size=2, gradient_accumulation_steps=2)
    run = PreferenceTrainer(model_folder, objective=zoo.dpo(), args=args, train_dataset=rows)
    story = run.processing_class("story").input_ids[0]

    def spoil(_module: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        is_story = (inputs[0] == story)[..., None]
        if output.requires_grad and bool(is_story.any()):
            output.register_hook(lambda gradient: gradient.masked_fill(is_story, math.nan))

    run.model.policy.get_input_embeddings().register_forward_hook(spoil)
    named = r"step \d: the norm of the gradients is nan \(of pair 3, row 3 of train, alone: not finite in policy\."
    with pytest.raises(NonFiniteGradientError, match=named + r"model\.embed_tokens\.weight\), and the step was not"):
        run.train()


@pytest.mark.slow
@pytest.mark.parametrize("rate", ["1e6", "1e30"])
def test_a_run_that_diverges_is_one_line(
    model_folder: str, rows: list[dict[str, str]], tmp_path: Path, rate: str
) -> None:
    data, out = tmp_path / "pairs.jsonl", tmp_path / "out"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    training = {"max_steps": 2, "report_to": "none", "use_cpu": True, "output_dir": str(out), **SAVES}
    fields = {"model": model_folder, "data": {"train": str(data)}, "objective": "dpo", "training": training}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(fields))
    result = CliRunner().invoke(app, ["train", str(tmp_path / "run.yaml"), f"training.learning_rate={rate}"])
    assert result.exit_code == 2
    (line,) = [line for line in result.output.splitlines() if "error:" in line]
    assert "step 2" in line
    for folder in (out, *out.glob("checkpoint-*")):
        for file in folder.glob("*.safetensors"):
            assert all(bool(weight.isfinite().all()) for weight in load_file(file).values())
