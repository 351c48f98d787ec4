"""The scripts of docs/examples run, with a tiny model in the place of the named one, and compute what they claim."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from transformers import AutoModelForCausalLM

from prefopt import Objective, PreferenceBatch, zoo
from prefopt.scoring import PreferenceModel
from prefopt.training import PreferenceTrainer
from tests.test_docs import NAMED_MODEL
from tests.training.test_trainer import config

FOLDER = Path(__file__).parents[1] / "docs" / "examples"

pytestmark = pytest.mark.slow


def run(name: str, model_folder: str, monkeypatch: pytest.MonkeyPatch, cwd: Path) -> dict[str, Any]:
    """The namespace of a script after it ran in a folder."""
    monkeypatch.chdir(cwd)
    file = FOLDER / name
    code = file.read_text(encoding="utf-8").replace(NAMED_MODEL, model_folder).replace("lr=1e-5", "lr=1e-2")
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(code, str(file), "exec", dont_inherit=True), namespace)
    return namespace


def test_plain_torch(model_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = run("torch_loop.py", model_folder, monkeypatch, tmp_path)
    assert script["losses"][0] == pytest.approx(0.693147, abs=1e-5)
    assert script["losses"][-1] < 0.65
    # The same loss and gradient as the engine's.
    policy, tokenizer = script["policy"], script["tokenizer"]
    policy.zero_grad()
    script["objective"](script["token_batch"](script["PAIRS"])).loss.backward()
    theirs = [p.grad.clone() for p in policy.parameters()]
    policy.zero_grad()
    prompts, *sides = ([tokenizer(pair[part])["input_ids"] for pair in script["PAIRS"]] for part in range(3))
    responses = [[[*ids, tokenizer.eos_token_id] for ids in side] for side in sides]
    model = PreferenceModel(policy, script["reference"], script["objective"])
    model(PreferenceBatch.from_ids(prompts, *responses, pad_token_id=0)).loss.backward()
    largest = max(float(gradient.abs().max()) for gradient in theirs)
    for parameter, gradient in zip(policy.parameters(), theirs, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-5 * largest)


def test_accelerate(model_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = run("accelerate_loop.py", model_folder, monkeypatch, tmp_path)
    assert len(script["losses"]) == 3
    assert script["losses"][-1] < script["losses"][0]
    saved = AutoModelForCausalLM.from_pretrained("runs/accelerate")
    assert torch.equal(saved.lm_head.weight, script["policy"].lm_head.weight)
    assert Objective.load("runs/accelerate").config == zoo.sparsepo_token()


@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true:UserWarning")
def test_inside_trl(
    model_folder: str, rows: list[dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trl = pytest.importorskip("trl", reason="the script of TRL's trainer needs TRL")
    script = run("trl_trainer.py", model_folder, monkeypatch, tmp_path)
    logged = [entry for entry in script["trainer"].state.log_history if "loss" in entry]
    assert len(logged) == 3
    assert all("rewards/margins" in entry and "weights/mean" in entry for entry in logged)
    before = Objective(zoo.sparsepo_token(), num_layers=2, hidden_size=32).state_dict()
    after = Objective.load("runs/trl").state_dict()
    assert any(not torch.equal(after[name], before[name]) for name in after)
    assert AutoModelForCausalLM.from_pretrained("runs/trl")
    # TRL goes on from what prefopt's trainer saves, by its folder's name.
    args = config("runs/saved", max_steps=1)
    ours = PreferenceTrainer(model_folder, objective=zoo.dpo(), args=args, train_dataset=rows)
    ours.train()
    ours.save_model()
    args = trl.DPOConfig("runs/on", max_steps=1, bf16=False, report_to="none", activation_checkpointing=False)
    theirs = trl.DPOTrainer("runs/saved", args=args, train_dataset=datasets.Dataset.from_list(rows[:8]))
    assert torch.equal(theirs.model.lm_head.weight, ours.model.policy.lm_head.weight)
    # Under `dpo` loss and gradients are TRL's own on the same batch.
    results = []
    for kind, options in ((trl.DPOTrainer, {}), (script["ObjectiveTrainer"], {"objective": zoo.dpo(beta=0.5)})):
        args = trl.DPOConfig("runs/parity", beta=0.5, bf16=False, report_to="none", activation_checkpointing=False)
        data = datasets.Dataset.from_list(rows[:8])
        reference = AutoModelForCausalLM.from_pretrained(model_folder)
        policy = AutoModelForCausalLM.from_pretrained(model_folder)
        with torch.no_grad():
            for index, parameter in enumerate(policy.parameters()):
                wave = torch.sin(1.7 * torch.arange(parameter.numel(), dtype=torch.float32) + index)
                parameter.add_(0.06 * wave.view_as(parameter))
        tokenizer = script["trainer"].processing_class
        trainer = kind(policy, reference, args, None, data, processing_class=tokenizer, **options)
        loss = trainer.compute_loss(trainer.model, trainer.data_collator(list(trainer.train_dataset)))
        loss.backward()
        results.append((loss.detach(), {name: p.grad for name, p in policy.named_parameters()}))
    (their_loss, theirs), (our_loss, ours) = results
    torch.testing.assert_close(our_loss, their_loss, rtol=1e-5, atol=0)
    largest = max(float(gradient.abs().max()) for gradient in theirs.values())
    assert largest > 1e-3
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-4, atol=1e-5 * largest, msg=name)
