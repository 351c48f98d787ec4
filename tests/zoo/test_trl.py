"""Every loss of TRL's DPOTrainer that has a row in the zoo, run through both trainers on the same model and rows: the
same token ids, loss, gradients and rewards. Where the two differ, the difference and its size are stated.

TRL scores in float32 whatever the model's precision, so this is float32 too.
"""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaForCausalLM, PreTrainedTokenizerFast

from prefopt import ObjectiveConfig, TokenBatch, masked_mean, masked_sum, zoo
from prefopt.losses import ApoZeroLoss, HingeLoss, MixtureLoss, NcaLoss
from prefopt.shapings import AlphaShaping, ForwardKLShaping, MeanShaping
from prefopt.training import PreferenceConfig, PreferenceTrainer
from prefopt.training.migration import migrate
from prefopt.weightings import LengthDesensitisedWeighting

pytestmark = pytest.mark.slow

trl = pytest.importorskip("trl", reason="parity with TRL needs TRL: pip install trl==1.16.0")

PAIRS = 8
ARGUMENTS = {"report_to": "none", "use_cpu": True, "max_length": None, "per_device_eval_batch_size": PAIRS}

Rows = list[dict[str, str]]


@dataclass(frozen=True)
class Case:
    """TRL's arguments and the objective that says the same.

    same_rewards: whether the rewards that we report, which are those that the loss is given, are TRL's, which are beta
    times the sum of the log-ratios whatever is made of them.
    """

    arguments: dict[str, Any]
    objective: ObjectiveConfig
    same_rewards: bool = True


B = 0.5
LD = LengthDesensitisedWeighting(alpha=0.25)
ALPHA = {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.3}
THREE = MixtureLoss(losses=(HingeLoss(), ApoZeroLoss(), NcaLoss()), weights=(0.5, 1.0, 0.25))

SUM = {"loss_type": ["sigmoid", "sppo_hard", "nca_pair"], "loss_weights": [0.5, 0.02, 2.0], "use_weighting": True}
AVERAGED = {"loss_type": ["ipo", "sigmoid_norm"], "loss_weights": [0.5, 1.5]}


def migrated(arguments: dict[str, Any]) -> ObjectiveConfig:
    """What `prefopt migrate` makes of TRL's arguments."""
    settings = {"model_name_or_path": "m", "dataset_name": "d", "beta": B, **arguments}
    return zoo.build(migrate(settings).run["objective"])


CASES = {  # loss_type is the name, where that is one, else sigmoid
    "sigmoid": Case({}, zoo.dpo(B)),
    "hinge": Case({}, zoo.hinge(B)),
    "ipo": Case({}, zoo.ipo(B), same_rewards=False),
    "exo_pair": Case({"label_smoothing": 0.01}, zoo.exo(B, label_smoothing=0.01)),
    "nca_pair": Case({}, zoo.nca(B)),
    "bco_pair": Case({}, zoo.bco_pair(B)),
    "robust": Case({"label_smoothing": 0.2}, zoo.robust(B, label_smoothing=0.2)),
    "sppo_hard": Case({}, zoo.sppo(B), same_rewards=False),
    "aot": Case({"label_smoothing": 0.2}, zoo.aot_paired(B, label_smoothing=0.2)),
    "aot_unpaired": Case({"label_smoothing": 0.2}, zoo.aot(B, label_smoothing=0.2)),
    "apo_zero": Case({}, zoo.apo_zero(B)),
    "apo_down": Case({}, zoo.apo_down(B)),
    "discopop": Case({"discopop_tau": 0.4}, zoo.discopop(B, tau=0.4)),
    "sigmoid_norm": Case({}, zoo.dpo_norm(B), same_rewards=False),
    "forward_kl": Case({"f_divergence_type": "forward_kl"}, zoo.f_dpo_forward_kl(B), same_rewards=False),
    "js_divergence": Case({"f_divergence_type": "js_divergence"}, zoo.f_dpo_jensen_shannon(B), same_rewards=False),
    "alpha_divergence": Case(ALPHA, zoo.f_dpo_alpha(B, alpha=0.3), same_rewards=False),
    "ld_alpha": Case({"ld_alpha": 0.25}, zoo.ld_dpo(B, alpha=0.25)),
    # Combinations: options there, slots here.
    "hinge under forward_kl": Case(
        {"loss_type": "hinge", "f_divergence_type": "forward_kl"},
        ObjectiveConfig(beta=B, shaping=ForwardKLShaping(), loss=HingeLoss()),
        same_rewards=False,
    ),
    "exo_pair under alpha_divergence": Case(
        {"loss_type": "exo_pair", "label_smoothing": 0.01, **ALPHA},
        zoo.exo(B, label_smoothing=0.01).model_copy(update={"shaping": AlphaShaping(a=0.3)}),
        same_rewards=False,
    ),
    "sigmoid_norm with ld_alpha": Case(
        {"loss_type": "sigmoid_norm", "ld_alpha": 0.25},
        ObjectiveConfig(beta=B, weighting=LD, shaping=MeanShaping()),
        same_rewards=False,
    ),
    "use_weighting": Case({"use_weighting": True}, zoo.wpo(B)),
    "a sum that is migrated": Case(SUM, migrated(SUM)),
    "an averaged sum that is migrated": Case(AVERAGED, migrated(AVERAGED), same_rewards=False),
    "a sum of three losses": Case(
        {"loss_type": ["hinge", "apo_zero", "nca_pair"], "loss_weights": [0.5, 1.0, 0.25]},
        ObjectiveConfig(beta=B, loss=THREE),
    ),
}

AS_REGULARISER = {"sft"}

SOURCE = inspect.getsource(trl.DPOTrainer._compute_loss)
LOSS_TYPES = set(re.findall(r'loss_type == "(\w+)"', SOURCE))


def loss_type(name: str) -> str:
    return name if name in LOSS_TYPES else "sigmoid"


@dataclass
class Result:
    """What a trainer says of the batch of all rows."""

    loss: Tensor
    gradients: dict[str, Tensor]
    metrics: dict[str, float]
    ids: list[list[list[int]]]


METRICS = [f"rewards/{name}" for name in ("chosen", "rejected", "margins", "accuracies")]


@dataclass
class Both:
    """The two trainers on the same rows, from the same policy and reference."""

    folder: str
    tokenizer: PreTrainedTokenizerFast
    rows: Rows
    out: Path

    def theirs(self, **arguments: Any) -> Result:
        fields = {"beta": B, "bf16": False, "activation_checkpointing": False} | ARGUMENTS | arguments
        data, args = datasets.Dataset.from_list(self.rows), trl.DPOConfig(str(self.out / "trl"), **fields)
        trainer = trl.DPOTrainer(self.policy(), self.reference(), args, None, data, data, self.tokenizer)
        trainer.model.eval()  # so that the metrics are those of evaluation; there is no dropout
        (batch,) = trainer.get_eval_dataloader()
        loss = trainer.compute_loss(trainer.model, batch)
        metrics = {name: trainer._metrics["eval"][name][0] for name in METRICS}
        return self.result(loss, trainer.model, metrics, trainer.eval_dataset)

    def ours(self, objective: ObjectiveConfig) -> tuple[Result, TokenBatch]:
        trainer = PreferenceTrainer(
            self.policy(),
            self.reference(),
            objective=objective,
            args=PreferenceConfig(str(self.out / "prefopt"), **ARGUMENTS),
            train_dataset=self.rows,
            eval_dataset=self.rows,
            processing_class=self.tokenizer,
        )
        trainer.model.eval()
        (batch,) = trainer.get_eval_dataloader()
        loss, output = trainer.compute_loss(trainer.model, batch, return_outputs=True)
        metrics = {name: output.metrics[name].value for name in METRICS}
        tokens = output.tokens.replace(logps=output.tokens.logps.detach())
        return self.result(loss, trainer.model.policy, metrics, trainer.eval_dataset), tokens

    def trained(self) -> tuple[Any, Any]:
        """TRL's trainer and ours after three steps of two batches each, with the metrics of an evaluation."""
        fields = ARGUMENTS | {
            "max_steps": 3,
            "learning_rate": 3e-3,
            "logging_steps": 1,
            "save_strategy": "no",
            "seed": 7,
        }
        fields |= {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "per_device_eval_batch_size": 3}
        theirs_only = {"beta": B, "bf16": False, "activation_checkpointing": False}
        data = datasets.Dataset.from_list(self.rows)
        args = trl.DPOConfig(str(self.out / "trl"), **fields, **theirs_only)
        theirs = trl.DPOTrainer(self.policy(), self.reference(), args, None, data, data, self.tokenizer)
        models = {"model": self.policy(), "ref_model": self.reference(), "processing_class": self.tokenizer}
        args = PreferenceConfig(str(self.out / "prefopt"), **fields)
        rows = {"train_dataset": self.rows, "eval_dataset": self.rows}
        ours = PreferenceTrainer(objective=zoo.dpo(B), args=args, **models, **rows)
        for trainer in (theirs, ours):
            trainer.train()
            trainer.evaluate()
        return theirs, ours

    def reference(self) -> LlamaForCausalLM:
        return AutoModelForCausalLM.from_pretrained(self.folder, dtype=torch.float32)

    def policy(self) -> LlamaForCausalLM:
        """The reference with every weight moved by a wave."""
        model = self.reference()
        with torch.no_grad():
            for index, parameter in enumerate(model.parameters()):
                wave = torch.sin(1.7 * torch.arange(parameter.numel(), dtype=torch.float32) + index)
                parameter.add_(0.06 * wave.view_as(parameter))
        return model

    @staticmethod
    def result(loss: Tensor, policy: torch.nn.Module, metrics: dict[str, float], data: datasets.Dataset) -> Result:
        loss.backward()
        gradients = {name: parameter.grad for name, parameter in policy.named_parameters()}
        ids = [[row["prompt_ids"], row["chosen_ids"], row["rejected_ids"]] for row in data]
        return Result(loss.detach(), gradients, metrics, ids)


@pytest.fixture
def both(model_folder: str, tokenizer: PreTrainedTokenizerFast, rows: Rows, tmp_path: Path) -> Both:
    return Both(model_folder, tokenizer, [dict(row) for row in rows[:PAIRS]], tmp_path)


def assert_same_step(theirs: Result, ours: Result) -> None:
    """The same loss and gradients."""
    torch.testing.assert_close(ours.loss, theirs.loss, rtol=1e-5, atol=0)
    assert ours.gradients.keys() == theirs.gradients.keys()
    largest = max(float(gradient.abs().max()) for gradient in theirs.gradients.values())
    assert largest > 1e-3, "a gradient of zero compares nothing"
    for name, gradient in theirs.gradients.items():
        torch.testing.assert_close(ours.gradients[name], gradient, rtol=1e-4, atol=1e-5 * largest, msg=name)


@pytest.mark.parametrize("name", CASES)
def test_same_tokens_loss_gradients_and_rewards(name: str, both: Both) -> None:
    case = CASES[name]
    theirs = both.theirs(**{"loss_type": loss_type(name)} | case.arguments)
    ours, tokens = both.ours(case.objective)
    assert ours.ids == theirs.ids
    assert all(response[-1] == both.tokenizer.eos_token_id for _, *pair in ours.ids for response in pair)
    gap = (tokens.logps - tokens.ref_logps)[tokens.mask].abs()
    assert gap.mean() > 0.05, "a policy that is the reference compares little"
    assert_same_step(theirs, ours)
    assert (ours.metrics == pytest.approx(theirs.metrics, rel=1e-4, abs=1e-5)) == case.same_rewards
    weights = case.objective.weighting(tokens)
    sums = masked_sum(weights * torch.where(tokens.mask, tokens.logps - tokens.ref_logps, 0), tokens.mask)
    assert theirs.metrics["rewards/chosen"] == pytest.approx(B * float(sums[:PAIRS].mean()), rel=1e-4)


def test_training_is_that_of_trl_step_by_step_and_metrics_of_an_evaluation_are_means_over_pairs(both: Both) -> None:
    """The order of pairs, the rates, the loss over accumulated batches and its gradient. TRL's metrics of an evaluation
    are means over batches, of which the last is smaller; its loss is a mean over pairs, as all is here."""
    their_trainer, our_trainer = both.trained()
    theirs, ours = their_trainer.state.log_history, our_trainer.state.log_history
    compared = ["loss", "grad_norm", "learning_rate", "logps/chosen", "logps/rejected", *METRICS]
    for their_step, our_step in zip(theirs[:3], ours[:3], strict=True):
        expected = {name: their_step[name] for name in compared}
        assert {name: our_step[name] for name in compared} == pytest.approx(expected, rel=1e-3, abs=1e-5)
    assert abs(theirs[2]["rewards/margins"] - theirs[0]["rewards/margins"]) > 0.01
    assert ours[-1]["eval_loss"] == pytest.approx(theirs[-1]["eval_loss"], rel=1e-4)
    pairs = our_trainer.predict(both.rows).predictions["logps/chosen"]
    batches = [pairs[:3].mean(), pairs[3:6].mean(), pairs[6:].mean()]
    assert ours[-1]["eval_logps/chosen"] == pytest.approx(float(pairs.mean()), rel=1e-4)
    assert theirs[-1]["eval_logps/chosen"] == pytest.approx(float(sum(batches)) / 3, rel=1e-4)
    assert abs(pairs.mean() - sum(batches) / 3) > 0.05


def test_every_loss_of_trl_is_here() -> None:
    assert {"sigmoid", "sigmoid_norm", "sft"} <= LOSS_TYPES
    assert (LOSS_TYPES & CASES.keys()) | AS_REGULARISER == LOSS_TYPES
    divergences = {case.arguments.get("f_divergence_type", "reverse_kl") for case in CASES.values()}
    assert divergences == set(re.findall(r'f_divergence_type == "(\w+)"', SOURCE))


def test_label_smoothing_on_sigmoid_is_ignored_by_trl(both: Both) -> None:
    """Without a word: its loss stays that of DPO. Ours is cDPO's, which lies above by e times the mean margin."""
    smoothed, plain = (both.theirs(loss_type="sigmoid", label_smoothing=e) for e in (0.2, 0.0))
    assert torch.equal(smoothed.loss, plain.loss)
    ours, _ = both.ours(zoo.cdpo(B, label_smoothing=0.2))
    difference = float(ours.loss - smoothed.loss)
    assert difference == pytest.approx(0.2 * ours.metrics["rewards/margins"], rel=1e-3)
    assert abs(difference) > 0.01


def test_the_likelihood_term_is_a_mean_over_tokens_there_and_over_responses_here(both: Both) -> None:
    """[sigmoid, sft] is RPO. TRL averages over all chosen tokens of the batch, so that a long response counts more; we
    average over each response, then over pairs."""
    theirs = both.theirs(loss_type=["sigmoid", "sft"], loss_weights=[1.0, 0.7])
    ours, tokens = both.ours(zoo.rpo(B, alpha=0.7))
    logps, mask = tokens.logps[:PAIRS], tokens.mask[:PAIRS]
    over_tokens, over_responses = -logps[mask].mean(), -masked_mean(logps, mask).mean()
    difference = ours.loss - theirs.loss
    torch.testing.assert_close(difference, 0.7 * (over_responses - over_tokens), rtol=1e-2, atol=1e-6)
    # Of a model that is unsure of every token alike the losses are near; the gradients are not.
    assert difference.abs() > 1e-4
    our, their = (
        torch.cat([gradient.flatten() for gradient in result.gradients.values()]) for result in (ours, theirs)
    )
    assert (our - their).norm() > 0.01 * their.norm()


def test_the_likelihood_terms_are_equal_where_lengths_are(both: Both) -> None:
    words = " ".join(row["chosen"] for row in both.rows).split()
    for index, row in enumerate(both.rows):
        row["chosen"] = " " + " ".join(words[index : index + 4]) + " story"
    theirs = both.theirs(loss_type=["sigmoid", "sft"], loss_weights=[1.0, 0.7])
    ours, tokens = both.ours(zoo.rpo(B, alpha=0.7))
    assert len(set(tokens.mask[:PAIRS].sum(-1).tolist())) == 1
    assert ours.ids == theirs.ids
    assert_same_step(theirs, ours)
