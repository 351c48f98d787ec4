"""The objective: its configuration as a value, what it reports, and what must not change it."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Literal

import pytest
import torch
import yaml
from pydantic import ValidationError
from torch import Tensor, nn

from prefopt import DivergenceTerm, Objective, ObjectiveConfig, TokenBatch, available, zoo
from prefopt.component import PreferenceLoss, Regularizer, RewardShaping, Signal, TokenWeighting
from prefopt.divergences import AlphaDivergence, ForwardKL
from prefopt.losses import HingeLoss
from prefopt.regularizers import MaskL1
from prefopt.shapings import MeanShaping
from prefopt.unit_pairs import UnitPairs
from prefopt.validation import explain
from prefopt.weightings import SparseWeighting
from tests.batches import penalties, random_case, without_noise

ROWS = {name: row() for name, row in zoo.ZOO.items()} | {"independent": zoo.sparsepo(shared=False)}
each_row = pytest.mark.parametrize("config", ROWS.values(), ids=ROWS)


class ReadsDivergence(TokenWeighting):
    """Weighs a token by its divergence."""

    name: Literal["reads_divergence"] = "reads_divergence"

    @property
    def requires(self) -> frozenset[Signal]:
        return frozenset({Signal.DIVERGENCE})

    def __call__(self, tokens: TokenBatch) -> Tensor:
        return torch.where(tokens.mask, tokens.divergence.detach(), 0)


def build(config: ObjectiveConfig, *, layers: int = 3) -> Objective:
    torch.manual_seed(3)
    return without_noise(Objective(config, num_layers=layers, hidden_size=5))


def lines(value: object) -> list[str]:
    with pytest.raises(ValidationError) as error:
        ObjectiveConfig.model_validate(value)
    return explain(error.value, ObjectiveConfig)


@each_row
def test_round_trips(config: ObjectiveConfig) -> None:
    assert ObjectiveConfig.model_validate_json(config.model_dump_json()) == config
    text = yaml.safe_dump(config.model_dump(mode="json"))
    assert ObjectiveConfig.model_validate(yaml.safe_load(text)) == config
    assert hash(ObjectiveConfig.model_validate(config.model_dump())) == hash(config)


def test_rows_are_different_values_but_for_the_one_with_two_names() -> None:
    assert ROWS["f_dpo_reverse_kl"] == ROWS["dpo"]
    assert len(set(ROWS.values())) == len(ROWS) - 1


def test_a_slot_takes_a_name_a_mapping_or_a_component() -> None:
    by_name = ObjectiveConfig(
        weighting="sparse", loss="hinge", shaping="mean", regularizers=["mask_l1"], divergence={"measure": "alpha"}
    )
    by_mapping = ObjectiveConfig.model_validate(
        {
            "weighting": {"name": "sparse"},
            "loss": {"name": "hinge", "margin": 1.0},
            "shaping": {"name": "mean"},
            "regularizers": [{"name": "mask_l1", "reward": 0}],
            "divergence": {"measure": {"name": "alpha", "a": 0.5}, "alpha": 1},
        }
    )
    by_value = ObjectiveConfig(
        weighting=SparseWeighting(),
        loss=HingeLoss(),
        shaping=MeanShaping(),
        regularizers=(MaskL1(),),
        divergence=DivergenceTerm(measure=AlphaDivergence()),
    )
    assert by_name == by_mapping == by_value


def test_what_an_objective_requires() -> None:
    assert zoo.dpo().requires == frozenset()
    assert zoo.tdpo2().requires == {Signal.DIVERGENCE}
    assert zoo.mapo(sites=("mlp",)).requires == {Signal.DIVERGENCE, Signal.REF_ACTIVATIONS}
    assert zoo.mapo(sites=("mlp",)).activation_kinds == {"mlp"}
    term = DivergenceTerm(measure=ForwardKL(), weighting=SparseWeighting(position="token"))
    both = ObjectiveConfig(weighting=SparseWeighting(), divergence=term)
    assert both.requires == {Signal.DIVERGENCE, Signal.REF_HIDDEN_STATES, Signal.REF_TOKEN_STATES}


def test_errors_are_plain_lines() -> None:
    weightings, regularizers = (", ".join(sorted(available(kind))) for kind in (TokenWeighting, Regularizer))
    fields = "beta, divergence, loss, reference_free, regularizers, shaping, units, weighting"
    for value, line in [
        (
            {"weighting": "sparce"},
            f"weighting: no TokenWeighting named 'sparce'. Did you mean 'sparse'? Installed: {weightings}.",
        ),
        (
            {"regularizers": ["mask_l1", {"name": "mask_l2"}]},
            f"regularizers.1: no Regularizer named 'mask_l2'. Did you mean 'mask_l1'? Installed: {regularizers}.",
        ),
        (
            {"divergence": {"measure": "forward_kl", "weighting": {"name": "unifrom"}}},
            f"divergence.weighting: no TokenWeighting named 'unifrom'. Did you mean 'uniform'? "
            f"Installed: {weightings}.",
        ),
        (
            {"loss": {"name": "hinge", "gamma": 3}},
            "loss: hinge: gamma: no such field in HingeLoss. Fields: margin, name.",
        ),
        (
            {"wieghting": "sparse"},
            f"wieghting: no such field in ObjectiveConfig. Did you mean 'weighting'? Fields: {fields}.",
        ),
        (
            {"divergence": {"measure": "forward_kl", "alhpa": 1}},
            "divergence.alhpa: no such field in DivergenceTerm. Did you mean 'alpha'? "
            "Fields: alpha, detach_chosen, measure, weighting.",
        ),
        ({"beta": -1}, "beta: more than 0 is needed, got -1"),
        ({"divergence": {}}, "divergence.measure: it is needed"),
        (
            {"weighting": "activation", "reference_free": True},
            "token weighting 'activation' reads signals of the reference, but `reference_free` is true",
        ),
        (
            {"weighting": ReadsDivergence()},
            "token weighting 'reads_divergence' reads the divergence, but `divergence` is not set",
        ),
        (
            {"divergence": {"measure": "forward_kl"}, "reference_free": True},
            "`divergence` measures the distance from the reference, but `reference_free` is true",
        ),
    ]:
        assert lines(value) == [line]
    assert len(lines({"beta": 0, "weighting": "sparce"})) == 2


def test_a_component_that_reads_the_divergence_is_welcome_where_there_is_one() -> None:
    case = random_case(1)
    config = ObjectiveConfig(weighting=ReadsDivergence(), divergence=DivergenceTerm(measure=ForwardKL()))
    output = build(config)(case.tokens())
    torch.testing.assert_close(output.weights, torch.where(case.mask, case.tokens().divergence, 0).detach())


@each_row
def test_save_and_load(config: ObjectiveConfig, tmp_path: Path) -> None:
    objective, tokens = build(config), random_case(2, dtype=torch.float32).tokens()
    objective.save(tmp_path / "folder" / "objective")
    torch.manual_seed(99)  # a mask that is not loaded would be drawn anew
    loaded = without_noise(Objective.load(tmp_path / "folder" / "objective"))
    assert loaded.config == config
    assert torch.equal(loaded(tokens).losses, objective(tokens).losses)
    assert {name: value.tolist() for name, value in loaded.state_dict().items()} == {
        name: value.tolist() for name, value in objective.state_dict().items()
    }


def test_loading_without_the_weights_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Objective.load(tmp_path)
    build(zoo.sparsepo()).save(tmp_path)
    (tmp_path / "objective.safetensors").unlink()
    with pytest.raises(FileNotFoundError):
        Objective.load(tmp_path)
    build(zoo.tdpo2()).save(tmp_path)  # nothing is learned, so nothing is missing
    assert Objective.load(tmp_path).config == zoo.tdpo2()


@pytest.mark.parametrize("name", ["dpo", "tdpo1", "tdpo2", "mapo", "sparsepo"])
def test_at_reference_it_says_ln_2_and_its_regularisers(name: str) -> None:
    tokens = random_case(4, dtype=torch.float32).tokens()
    output = build(ROWS[name])(tokens)
    at_reference = build(ROWS[name]).at_reference(tokens)
    penalty = torch.zeros(3)
    for regularizer in ROWS[name].regularizers:
        penalty = penalty + regularizer(tokens, output.weights, output.divergence_weights)
    torch.testing.assert_close(at_reference.losses, math.log(2) + penalty)
    assert torch.equal(at_reference.rewards, torch.zeros(6))
    assert torch.equal(at_reference.weights, output.weights)
    assert not torch.equal(output.rewards, at_reference.rewards)


@each_row
def test_only_the_loss_carries_gradient(config: ObjectiveConfig) -> None:
    output = build(config)(random_case(5, dtype=torch.float32).tokens())
    assert output.loss.requires_grad
    assert output.losses.requires_grad
    others = [output.rewards, output.weights, *(tensor for metric in output.metrics.values() for tensor in metric)]
    assert not any(tensor.requires_grad for tensor in others)
    assert output.divergence_weights is None or not output.divergence_weights.requires_grad


@each_row
def test_metrics_are_those_of_the_trained_rewards(config: ObjectiveConfig) -> None:
    case = random_case(6, dtype=torch.float32)
    tokens = case.tokens()
    objective = build(config)
    with torch.no_grad():
        output = objective(tokens)
        chosen, rejected = output.rewards.chunk(2)
        added = [regularizer(tokens, output.weights, output.divergence_weights) for regularizer in config.regularizers]
        losses = objective.loss(chosen, rejected, tokens)
        added.append(penalties(objective, tokens))
    if config.units is None:  # test_units has the losses, and the metrics, of units
        torch.testing.assert_close(output.losses, sum(added, start=losses))
    value = {name: metric.value for name, metric in output.metrics.items() if not name.startswith("units/")}
    assert all(value.pop(name) == 0 for name in list(value) if name.endswith("weights/negative"))
    summed = {
        name: torch.where(case.mask, getattr(tokens, name).detach(), 0).sum(-1) for name in ("logps", "divergence")
    }

    def of_weights(name: str, weights: Tensor) -> dict[str, Tensor]:
        kept = [row[mask] for row, mask in zip(weights, case.mask, strict=True)]
        shares = [row / row.sum() for row in kept if len(row) > 1 and row.any()]
        entropies = [-(p[p > 0] * p[p > 0].log()).sum() / math.log(len(p)) for p in shares]
        return {
            f"{name}/mean": torch.cat(kept).mean(),
            f"{name}/sparsity": (torch.cat(kept) == 0).float().mean(),
            f"{name}/all_zero": torch.tensor([not row.any() for row in kept]).float().mean(),
            f"{name}/entropy": torch.stack(entropies).mean(),
        }

    expected = {
        "rewards/chosen": chosen.mean(),
        "rewards/rejected": rejected.mean(),
        "rewards/margins": (chosen - rejected).mean(),
        "rewards/accuracies": (chosen > rejected).float().mean(),
        "beta/effective": config.beta * output.weights[case.mask].mean(),
        **of_weights("weights", output.weights),
        "lengths/chosen": torch.tensor(11 / 3),
        "lengths/rejected": torch.tensor(10 / 3),
    }
    for name, values in summed.items():
        expected |= {f"{name}/chosen": values[:3].mean(), f"{name}/rejected": values[3:].mean()}
    if output.divergence_weights is not None:
        expected |= of_weights("divergence_weights", output.divergence_weights)
        ratios = torch.where(case.mask, output.weights * (tokens.logps - tokens.ref_logps).detach(), 0)
        compared = case.mask if config.units is None else UnitPairs.match(config.units, tokens).places >= 0
        alone = config.beta * config.shaping(ratios, compared, tokens.is_chosen)
        log_ratio_margin = (alone[:3] - alone[3:]).mean()
        expected["rewards/margins_log_ratio"] = log_ratio_margin
        expected["rewards/margins_divergence"] = expected["rewards/margins"] - log_ratio_margin
    assert value == pytest.approx({name: float(metric) for name, metric in expected.items()}, rel=1e-5)


class Column(TokenWeighting):
    """w_t = 1, in another shape."""

    name: Literal["column"] = "column"

    def __call__(self, tokens: TokenBatch) -> Tensor:
        return torch.ones_like(tokens.logps)[..., None]


class Total(PreferenceLoss):
    """One loss for all pairs."""

    name: Literal["total"] = "total"

    def __call__(self, chosen: Tensor, rejected: Tensor, tokens: TokenBatch) -> Tensor:
        return (rejected - chosen).mean()


class Forgetful(RewardShaping):
    """No reward."""

    name: Literal["forgetful"] = "forgetful"

    def __call__(self, rewards: Tensor, mask: Tensor, is_chosen: Tensor) -> Tensor:
        rewards.sum(-1)  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        (
            {"weighting": Column()},
            "token weighting 'column' gives a result of shape (6, 8, 1), where one of",
        ),
        ({"loss": Total()}, "preference loss 'total' gives a result of shape (), where one of shape (3,) is needed"),
        ({"shaping": Forgetful()}, "reward shaping 'forgetful' gives a result NoneType, where one of shape (6,)"),
    ],
)
def test_a_result_of_another_shape_is_an_error_that_names_the_component(config: dict[str, object], fault: str) -> None:
    with pytest.raises(ValueError, match=re.escape(fault)):
        build(ObjectiveConfig(**config))(random_case(6, dtype=torch.float32).tokens())


class DetachedMask(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.ones(()))

    def forward(self, tokens: TokenBatch) -> Tensor:
        return torch.where(tokens.mask, self.level.detach(), 0)


class Detached(TokenWeighting):
    """w_t = a, detached."""

    name: Literal["detached"] = "detached"

    def build(self, *, num_layers: int, hidden_size: int) -> DetachedMask:
        return DetachedMask()


def test_weights_to_learn_without_a_gradient_are_an_error_in_training_alone() -> None:
    tokens = random_case(6, dtype=torch.float32).tokens()
    for config in (
        ObjectiveConfig(weighting=Detached()),
        ObjectiveConfig(divergence={"measure": "forward_kl", "weighting": Detached()}),
    ):
        objective = build(config)
        objective.eval()(tokens)
        with pytest.raises(ValueError, match="'detached' has parameters to learn, and its weights carry no"):
            objective.train()(tokens)
        objective.requires_grad_(False)(tokens)
