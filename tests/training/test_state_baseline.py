"""Units that learn: their baseline moves, is saved, loaded and resumed, and has a rate of its own, as masks do."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from prefopt import Objective, PreferenceBatch, zoo
from prefopt.scoring import PreferenceModel
from prefopt.training import PreferenceTrainer
from prefopt.training.evaluation_metrics import reject_unknown_metric
from tests.training.test_resume import Interrupt
from tests.training.test_trainer import config

OBJECTIVE = zoo.tbpo_q(beta=0.5)


def trainer_of(model: str, rows: list[dict[str, str]], out: str, *callbacks: Any, **changes: Any) -> PreferenceTrainer:
    fields = {"max_steps": 8, "save_strategy": "steps", "save_steps": 4, "mask_learning_rate": 0.05, **changes}
    args = config(out, **fields)
    return PreferenceTrainer(model, objective=OBJECTIVE, args=args, train_dataset=rows, callbacks=list(callbacks))


def test_a_baseline_learns_and_is_saved_loaded_and_resumed(
    model_folder: str, rows: list[dict[str, str]], out: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "prefopt"):
        whole = trainer_of(model_folder, rows, f"{out}-whole")
        whole.train()
    assert "step 0: loss 0.250000, as expected where the policy equals the reference" in caplog.text
    assert "mask_learning_rate is not set" not in caplog.text
    head = whole.model.objective.units.weight
    rates = {group["lr"] for group in whole.optimizer.param_groups if any(p is head for p in group["params"])}
    assert len(rates) == 1
    assert rates != {group["lr"] for group in whole.optimizer.param_groups} - rates
    logs = [entry["units/baseline"] for entry in whole.state.log_history if "loss" in entry]
    assert logs[0] == 0
    assert logs[-1] > 1e-4
    assert head.isfinite().all()
    assert head.abs().min() > 0

    whole.save_model()
    loaded = Objective.load(f"{out}-whole")
    assert loaded.config == OBJECTIVE
    assert torch.equal(loaded.units.weight, head)
    text = " ".join(Path(f"{out}-whole", "README.md").read_text().split())
    assert "`objective.safetensors` what its units learned: the baseline of their margins" in text

    with pytest.raises(KeyboardInterrupt):
        trainer_of(model_folder, rows, out, Interrupt()).train()
    resumed = trainer_of(model_folder, rows, out)
    resumed.train(resume_from_checkpoint=True)
    expected = dict(whole.model.named_parameters())
    for name, parameter in resumed.model.named_parameters():
        torch.testing.assert_close(parameter, expected[name], rtol=0, atol=0, msg=name)


def test_in_groups_of_pairs_head_and_policy_have_the_gradients_of_the_whole(model_folder: str) -> None:
    torch.manual_seed(0)
    reference = AutoModelForCausalLM.from_pretrained(model_folder)
    ids = [[[5, 6, 7], [8, 9]], [[11, 12, 13, 14], [15, 16]], [[17, 18, 19], [20]]]
    gradients = []
    for budget in (1, None):
        policy = AutoModelForCausalLM.from_pretrained(model_folder)
        with torch.no_grad():
            for parameter in policy.parameters():
                parameter.mul_(1.01)
        model = PreferenceModel(policy, reference, OBJECTIVE, logits_budget=budget)
        torch.nn.init.constant_(model.objective.units.weight, 0.3)
        loss = model(PreferenceBatch.from_ids(*ids, pad_token_id=0)).loss
        loss.backward()
        gradients.append([model.objective.units.weight.grad, *(p.grad for p in policy.parameters())])
    for one, two in zip(*gradients, strict=True):
        assert two.abs().max() > 0
        torch.testing.assert_close(one, two, rtol=2e-4, atol=1e-6)


def test_a_reference_of_another_size_is_refused(model_folder: str) -> None:
    policy = AutoModelForCausalLM.from_pretrained(model_folder)
    size = policy.config.hidden_size
    other = AutoModelForCausalLM.from_config(
        type(policy.config)(**{**policy.config.to_dict(), "hidden_size": 2 * size})
    )
    message = f"'state_baseline' learns from the policy's states, which are of size {size}, and the reference's are of"
    with pytest.raises(ValueError, match=message):
        PreferenceModel(policy, other, OBJECTIVE)
    PreferenceModel(policy, other, zoo.dpo())


def test_an_evaluation_gives_its_metrics(out: str) -> None:
    learning, plain = (
        Objective(objective, num_layers=2, hidden_size=1) for objective in (OBJECTIVE, zoo.build({"zoo": "tbpo_a"}))
    )
    args = config(out, metric_for_best_model="eval_units/baseline")
    reject_unknown_metric(learning, args, [""])
    with pytest.raises(ValueError, match="an evaluation gives no 'eval_units/baseline'"):
        reject_unknown_metric(plain, args, [""])
