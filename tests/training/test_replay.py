"""A step that numbers have stopped is kept, and can be computed again."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml
from peft import LoraConfig
from transformers import AutoTokenizer, TrainerCallback
from typer.testing import CliRunner

from prefopt import zoo
from prefopt.cli import app
from prefopt.training import FailedStepError, PreferenceTrainer, Replay, replay
from prefopt.training.disk import RoomOnDisk
from prefopt.training.failed_step import FailedStep
from tests.conftest import WORDS
from tests.training.test_trainer import NEAR_ONE, config

ROWS = [{"prompt": "the film", "chosen": f" {word} good", "rejected": f" {word} bad"} for word in WORDS]
SAVES = {"save_strategy": "steps", "save_steps": 1}


class Poison(TrainerCallback):
    """Makes the embedding of a word NaN, or as large as a value, from a step on."""

    def __init__(self, step: int, word: str = "plot", value: float = math.nan) -> None:
        self.step, self.word, self.value = step, word, value

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any, processing_class: Any, **_: Any) -> None:
        if state.global_step + 1 == self.step:
            token = processing_class(self.word).input_ids[0]
            model.policy.get_input_embeddings().weight.data[token] = self.value


@pytest.fixture
def fails(model_folder: str, out: str) -> Callable[..., PreferenceTrainer]:
    """A trainer whose run has stopped."""

    def run(*callbacks: TrainerCallback, objective: Any = None, model: Any = None, **changes: Any) -> PreferenceTrainer:
        peft = changes.pop("peft_config", None)
        trainer = PreferenceTrainer(
            model or model_folder,
            objective=objective or zoo.dpo(),
            args=config(out, **{"per_device_train_batch_size": 20, "max_steps": 3} | changes),
            train_dataset=ROWS,
            callbacks=list(callbacks),
            processing_class=AutoTokenizer.from_pretrained(model_folder),
            peft_config=peft,
        )
        with pytest.raises(FloatingPointError) as caught:
            trainer.train()
        trainer.caught = str(caught.value)
        return trainer

    return run


def tensors(replayed: Replay, precision: str = "float32") -> dict[tuple[str, str], str]:
    return {(response.where, response.side): response.tensors[precision] for response in replayed.responses}


@pytest.mark.slow
def test_the_first_tensor_of_each_response(fails: Callable[..., PreferenceTrainer], out: str) -> None:
    run = fails(Poison(1))
    assert f"; the step is kept in {out}/failed-step, with 0.1 MiB of weights: `prefopt replay {out}`" in run.caught
    assert not (Path(out) / ".unfinished").exists()
    replayed = replay(out)
    row = WORDS.index("plot")
    word = "policy embeddings, response token 0 'plot'"
    assert tensors(replayed) == {(f"row {row} of train", side): word for side in ("chosen", "rejected")}
    assert tensors(replayed, "float64") == tensors(replayed)
    assert replayed.number == 2 * len(ROWS)
    assert replayed.weights == "1 tensors not finite, first policy.model.embed_tokens.weight"
    assert replayed.is_reproduced
    assert "It is not finite in float64 either" in replayed.verdict


class Break(TrainerCallback):
    """Makes a gradient infinite from a step on, as no model does by itself."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any, **_: Any) -> None:
        if state.global_step + 1 == self.step:
            learned = [weight for weight in model.parameters() if weight.requires_grad]
            learned[-1].register_hook(lambda gradient: gradient + math.inf)


@pytest.mark.slow
@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("adapter", [False, True])
def test_the_step_is_computed_as_it_was(
    fails: Callable[..., PreferenceTrainer], model_folder: str, out: str, adapter: bool, accumulation: int
) -> None:
    """With its masks' draws: the norm of its gradients is the one that an unbroken run logs."""
    objective = zoo.build({"zoo": "sparsepo", "weighting": {**NEAR_ONE["weighting"], "dropout": 0.3}})
    changes: dict[str, Any] = {"gradient_accumulation_steps": accumulation, "per_device_train_batch_size": 4}
    lora = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM") if adapter else None
    fails(Break(2), objective=objective, peft_config=lora, **changes)
    args = config(f"{out}-whole", max_steps=2, **changes)
    whole = PreferenceTrainer(model_folder, objective=objective, args=args, train_dataset=ROWS, peft_config=lora)
    whole.train()
    (norm,) = [entry["grad_norm"] for entry in whole.state.log_history if entry["step"] == 2 and "grad_norm" in entry]
    replayed = replay(out)
    assert replayed.norms["float32"] == pytest.approx(norm, rel=1e-4)
    assert not replayed.is_reproduced
    assert replayed.verdict.startswith("Not reproduced: all is finite in float32 here.")
    assert len(replayed.step.batches) == accumulation
    files = {path.name for path in (Path(out) / "failed-step" / "weights").glob("*.safetensors")}
    assert files == {"adapter_model.safetensors" if adapter else "model.safetensors", "objective.safetensors"}


def test_a_norm_that_overflows_is_a_matter_of_precision(fails: Callable[..., PreferenceTrainer], out: str) -> None:
    run = fails(objective=zoo.ipo(beta=1e-19), per_device_train_batch_size=2)
    assert "each pair's own is finite" in run.caught
    replayed = replay(out)
    assert replayed.norms["float32"] == math.inf
    assert 1e18 < replayed.norms["float64"] < math.inf
    assert replayed.responses == []
    assert "It is finite in float64, so that the precision of float32 is the matter" in replayed.verdict


class Enlarge(TrainerCallback):
    """Makes the logits larger than float16 goes."""

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any, **_: Any) -> None:
        model.policy.lm_head.weight.data.mul_(3e5)


@pytest.mark.slow
def test_the_precision_of_training_comes_first(fails: Callable[..., PreferenceTrainer], out: str) -> None:
    fails(Enlarge(), model_init_kwargs={"dtype": torch.float16}, max_grad_norm=0.0)
    replayed = replay(out)
    assert replayed.precisions == ["float16", "float32", "float64"]
    assert not replayed.is_finite("float16")
    assert replayed.is_finite("float64")
    words = {text for text in tensors(replayed, "float16").values() if text.startswith("policy logits")}
    assert words
    assert all("response token" in text for text in words)


@pytest.mark.slow
def test_weights_of_a_checkpoint_are_not_kept_twice(fails: Callable[..., PreferenceTrainer], out: str) -> None:
    run = fails(Break(3), **SAVES)
    assert f"kept in {out}/failed-step, with the weights of checkpoint-2:" in run.caught
    assert not (Path(out) / "failed-step" / "weights").exists()
    assert not replay(out).is_reproduced
    shutil.rmtree(Path(out) / "checkpoint-2")
    with pytest.raises(FailedStepError, match=r"its weights were those of .*checkpoint-2, which is no longer there"):
        replay(out)


class Usage(NamedTuple):
    free: int


def test_a_disk_without_room(
    fails: Callable[..., PreferenceTrainer], out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1000))
    monkeypatch.setattr(RoomOnDisk, "on_train_begin", lambda *_, **__: None)  # there was room when training began
    run = fails(Poison(1))
    assert "without its weights (0.1 MiB needed, 0.0 MiB free)" in run.caught
    assert len(FailedStep.load(out).batches) == 1
    with pytest.raises(FailedStepError, match="its weights were not kept, as the disk had no room for them"):
        replay(out)


def test_a_step_that_cannot_be_kept_does_not_hide_the_error(
    fails: Callable[..., PreferenceTrainer], out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("prefopt.training.failed_step.save_file", full)
    run = fails(Poison(1))
    assert run.caught.startswith("step 1, row ")
    assert run.caught.endswith(f"the step could not be kept in {out}/failed-step: [Errno 28] No space left on device")
    with pytest.raises(FailedStepError, match="it has no failed-step"):
        replay(out)


@pytest.mark.slow
def test_prefopt_replay(model_folder: str, tmp_path: Path) -> None:
    data, out = tmp_path / "pairs.jsonl", tmp_path / "out"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    training = {"max_steps": 2, "report_to": "none", "use_cpu": True, "output_dir": str(out), "logging_steps": 1}
    fields = {"model": model_folder, "data": {"train": str(data)}, "objective": "dpo", "training": training}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(fields))
    call = CliRunner().invoke
    result = call(app, ["train", str(tmp_path / "run.yaml"), "training.learning_rate=1e30"])
    assert result.exit_code == 2
    replayed = call(app, ["replay", str(out)])
    assert replayed.exit_code == 0, replayed.output
    assert "step 2, " in replayed.output
    assert "Reproduced." in replayed.output
    record = json.loads((out / "failed-step" / "step.json").read_text())
    record["weights"] = None
    (out / "failed-step" / "step.json").write_text(json.dumps(record))
    assert call(app, ["replay", str(out)]).exit_code == 2
    assert call(app, ["replay", str(tmp_path)]).exit_code == 2
    assert call(app, ["train", str(tmp_path / "run.yaml"), "--overwrite"]).exit_code == 0
    assert not (out / "failed-step").exists()
