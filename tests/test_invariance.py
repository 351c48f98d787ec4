"""What must not change an objective: padding, the order of pairs, how a batch is split, autocast."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from prefopt import Objective, ObjectiveConfig, ObjectiveOutput, TokenBatch, zoo
from prefopt.component import RewardShaping, TokenWeighting
from prefopt.objective import Mean
from prefopt.signals import SIGNALS
from prefopt.weightings import SparseWeighting
from tests.batches import random_case, rubbish, without_noise

ROWS = {name: row() for name, row in zoo.ZOO.items()} | {"independent": zoo.sparsepo(shared=False)}
each_row = pytest.mark.parametrize("config", ROWS.values(), ids=ROWS)


def build(config: ObjectiveConfig, *, layers: int = 3) -> Objective:
    torch.manual_seed(3)
    return without_noise(Objective(config, num_layers=layers, hidden_size=5))


def of_twins(objective: Objective, one: TokenBatch, two: TokenBatch) -> tuple[ObjectiveOutput, ObjectiveOutput]:
    """The objective on two batches, neither of which it has seen: some losses keep something from step to step."""
    return copy.deepcopy(objective)(one), objective(two)


def near_one(config: ObjectiveConfig) -> ObjectiveConfig:
    """The same with masks that are 1, so that sums of dyadic numbers stay exact."""
    if not isinstance(config.weighting, SparseWeighting):
        return config
    weighting, term = SparseWeighting(init="near_one"), config.divergence
    term_weighting = None if term.weighting is None else weighting
    return config.model_copy(
        update={
            "weighting": weighting,
            "divergence": term.model_copy(update={"weighting": term_weighting}),
            "regularizers": (),
        }
    )


def dyadic(tokens: TokenBatch, kinds: tuple[str, ...] = ("mlp", "attn", "resid", "logits")) -> TokenBatch:
    """The batch with eighths and quarters for numbers: their sums are exact in whatever order they are added."""
    draw = torch.Generator().manual_seed(8)

    def eighths(*shape: int) -> Tensor:
        values = torch.randint(-16, 17, shape, generator=draw) / 8
        return torch.where(tokens.mask, values, rubbish(values))

    activations = torch.randint(0, 5, (len(kinds), *tokens.mask.shape), generator=draw) / 4
    activations[..., 0], activations[..., 1] = 0, 1  # every row of two tokens or more spans 0 to 1
    return replace(
        tokens,
        logps=eighths(*tokens.mask.shape).requires_grad_(),
        ref_logps=eighths(*tokens.mask.shape),
        divergence=eighths(*tokens.mask.shape).abs().requires_grad_(),
        ref_activations=torch.where(tokens.mask, activations, rubbish(activations)),
        activation_kinds=kinds,
    )


def widened(tokens: TokenBatch, columns: int) -> TokenBatch:
    """The batch with more columns of padding, which hold rubbish."""

    def more(values: Tensor, row_axis: int = 0) -> Tensor:
        shape = list(values.shape)
        shape[row_axis + 1] = columns
        tail = rubbish(values.new_empty(shape)) if values.is_floating_point() else values.new_zeros(shape)
        return torch.cat([values, tail], dim=row_axis + 1)

    fields = {name: more(getattr(tokens, name)) for name in ("mask", "token_ids")}
    fields |= {signal.value: more(getattr(tokens, signal), spec.row_axis) for signal, spec in SIGNALS.items()}
    for name in ("logps", "divergence"):
        fields[name] = more(getattr(tokens, name).detach()).requires_grad_()
    columns = {name: values if values.ndim == 1 else more(values) for name, values in tokens.columns.items()}
    return replace(tokens, **fields, columns=columns)


@each_row
def test_more_padding_changes_not_a_bit(config: ObjectiveConfig) -> None:
    objective = build(near_one(config))
    tokens = dyadic(random_case(7, dtype=torch.float32).tokens())
    wider = widened(tokens, 9)
    one, two = of_twins(objective, tokens, wider)
    width = tokens.mask.shape[1]
    assert two.weights.shape[1] == width + 9
    assert torch.equal(one.weights, two.weights[:, :width])
    assert torch.equal(one.rewards, two.rewards)
    assert torch.equal(one.losses, two.losses)
    assert one.metrics.keys() == two.metrics.keys()
    for name, metric in one.metrics.items():
        assert metric.value == pytest.approx(two.metrics[name].value, rel=1e-6), name
    one.loss.backward()
    two.loss.backward()
    assert torch.equal(tokens.logps.grad, wider.logps.grad[:, :width])
    assert not wider.logps.grad[:, width:].any()
    if config.divergence is not None:
        assert torch.equal(tokens.divergence.grad, wider.divergence.grad[:, :width])


@each_row
def test_published_weights_do_not_see_padding(config: ObjectiveConfig) -> None:
    objective, tokens = build(config), dyadic(random_case(7, dtype=torch.float32).tokens())
    one, two = of_twins(objective, tokens, widened(tokens, 9))
    assert torch.equal(one.weights, two.weights[:, : tokens.mask.shape[1]])
    torch.testing.assert_close(one.losses, two.losses, rtol=1e-6, atol=1e-6)


class LearnedScale(TokenWeighting):
    """w_t = theta on the response, by a product with the mask: what a plugin's author writes first."""

    name: Literal["learned_scale"] = "learned_scale"

    def build(self, *, num_layers: int, hidden_size: int) -> nn.Module:
        class Scale(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.theta = nn.Parameter(torch.ones(()))

            def forward(self, tokens: TokenBatch) -> Tensor:
                return self.theta * tokens.mask

        return Scale()


class UnmaskedSum(RewardShaping):
    """Sums the whole row, and so relies on token rewards that are 0 off the response."""

    name: Literal["unmasked_sum"] = "unmasked_sum"

    def __call__(self, rewards: Tensor, mask: Tensor, is_chosen: Tensor) -> Tensor:
        return rewards.sum(-1)


def test_rubbish_on_padding_does_not_reach_plugins() -> None:
    config = zoo.tdpo1().model_copy(update={"weighting": LearnedScale(), "shaping": UnmaskedSum()})
    case = random_case(11, dtype=torch.float32)
    objective = build(config)
    output = objective(case.tokens())
    torch.testing.assert_close(output.rewards, build(zoo.tdpo1())(case.tokens()).rewards)
    output.loss.backward()
    assert objective.weighting.theta.grad.isfinite()
    assert objective.weighting.theta.grad != 0


@each_row
def test_the_order_of_pairs_changes_nothing(config: ObjectiveConfig) -> None:
    case, objective = random_case(8), build(config).double()
    order = [2, 0, 1]
    one, other = of_twins(objective, case.tokens(), case.of_rows([*order, *(row + 3 for row in order)]).tokens())
    exact = {"rtol": 1e-13, "atol": 1e-13}
    # Losses that compare quantiles belong to no pair, and stay in the order of the quantiles.
    moved = one.losses if config.loss.sorts_pairs else one.losses[order]
    torch.testing.assert_close(other.losses, moved, **exact)
    torch.testing.assert_close(other.rewards.view(2, 3), one.rewards.view(2, 3)[:, order], **exact)
    torch.testing.assert_close(other.loss, one.loss, **exact)


@each_row
def test_metrics_add_up_over_batches(config: ObjectiveConfig) -> None:
    """Batches of two pairs and one: a mean of their means would be wrong, the sum of totals over numbers is not."""
    case, objective = random_case(9, dtype=torch.float32), build(config)
    whole = objective(case.tokens())
    parts: list[ObjectiveOutput] = [
        objective(case.of_rows([0, 1, 3, 4]).tokens()),
        objective(case.of_rows([2, 5]).tokens()),
    ]
    for name, metric in whole.metrics.items():
        first, second = (part.metrics[name] for part in parts)
        added = Mean(first.total + second.total, first.number + second.number)
        assert added.number == metric.number
        assert added.value == pytest.approx(metric.value, rel=1e-5, abs=1e-7), name


def test_a_mean_of_nothing_is_nan() -> None:
    assert torch.tensor(Mean.from_values(torch.zeros(0)).value).isnan()
    assert Mean.from_values(torch.tensor([True, False])).value == 0.5


@each_row
def test_autocast_leaves_the_objective_in_float32(config: ObjectiveConfig) -> None:
    objective, case = build(config), random_case(10, dtype=torch.float32)
    tokens = case.tokens()
    plain = copy.deepcopy(objective)(tokens)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
        output = objective(tokens)
    assert output.losses.dtype == output.rewards.dtype == output.weights.dtype == torch.float32
    assert torch.equal(output.losses, plain.losses)
    output.loss.backward()
    assert case.logits.grad.isfinite().all()
