"""Units: what is compared with what, against loops over single units; and that one unit is the response, bit by bit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from prefopt import Objective, ObjectiveConfig, ObjectiveOutput, PairColumn, TokenBatch, TokenColumn, Units, zoo
from prefopt.losses import LogisticLoss, NcaLoss, WeightedLoss
from prefopt.shapings import MeanShaping, PositiveShaping, SumShaping
from prefopt.units import NumberedUnits, SeparatedUnits, StateBaselineUnits, TokenUnits
from tests.batches import batch_of, random_case

EXACT = {"rtol": 1e-11, "atol": 1e-12}
LENGTHS = (4, 1, 6, 2, 5, 3)


class OneUnit(Units):
    """u_t = 0."""

    name: Literal["one"] = "one"

    def __call__(self, tokens: TokenBatch) -> Tensor:
        return tokens.mask.long() - 1


class Given(Units):
    """u_t = numbers[response][t]."""

    name: Literal["given"] = "given"
    numbers: tuple[tuple[int, ...], ...]

    def __call__(self, tokens: TokenBatch) -> Tensor:
        return padded_rows(self.numbers, -1, tokens.mask.shape[1])


def padded_rows(rows: Sequence[Sequence[float]], filler: float, width: int) -> Tensor:
    return torch.tensor([[*row, *[filler] * (width - len(row))] for row in rows])


def batch(lengths: Sequence[int] = LENGTHS, **columns: Tensor) -> tuple[TokenBatch, Tensor]:
    """A batch as wide as its longest response, and the logits that it is a function of."""
    case = random_case(3, tuple(lengths), width=max(lengths))
    tokens = case.tokens()
    return tokens.replace(columns={**tokens.columns, **columns}), case.logits


def evaluated(config: ObjectiveConfig, tokens: TokenBatch) -> ObjectiveOutput:
    torch.manual_seed(0)
    return Objective(config, num_layers=3, hidden_size=5).double()(tokens)


ROWS = {
    name: zoo.ZOO[name]() for name in ("dpo", "tdpo2", "sparsepo_token", "simpo", "dpop", "nca", "wpo", "orpo", "odpo")
}


@pytest.mark.parametrize("config", ROWS.values(), ids=ROWS)
def test_a_single_unit_is_the_response_in_every_bit(config: ObjectiveConfig) -> None:
    tokens, logits = batch()
    plain, single = (evaluated(config.model_copy(update={"units": units}), tokens) for units in (None, OneUnit()))
    assert torch.equal(single.losses, plain.losses)
    assert torch.equal(single.rewards, plain.rewards)
    one, two = (torch.autograd.grad(output.loss, logits, retain_graph=True)[0] for output in (plain, single))
    assert torch.equal(one, two)
    assert one.abs().max() > 1e-6
    assert {name: mean.value for name, mean in plain.metrics.items()}.items() <= {
        name: mean.value for name, mean in single.metrics.items()
    }.items()


def test_where_no_units_are_set_none_are_written() -> None:
    assert "units" not in zoo.dpo().model_dump(mode="json")
    assert "units" not in zoo.dpo().model_dump_json()
    config = zoo.build({"zoo": "dpo", "units": {"name": "token", "reduction": "sum"}})
    assert ObjectiveConfig.model_validate_json(config.model_dump_json()) == config


NUMBERS = ((0, 0, 7, 2), (5,), (1, 0, 1, 0, 3, 3), (7, 0), (4, 5, 5, 4, 9), (-1, 3, 1))


def by_loops(config: ObjectiveConfig, tokens: TokenBatch, numbers: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Losses [B] and rewards [N], unit by unit."""
    units, losses, rewards = config.units, [], [torch.zeros(()) for _ in numbers]
    assert units is not None
    r = tokens.logps - tokens.ref_logps

    def reward(row: int, number: int) -> Tensor | None:
        members = [r[row, t] for t, unit in enumerate(numbers[row]) if unit == number]
        if not members:
            return None
        is_chosen = torch.tensor([row < tokens.pairs])
        mask = torch.ones(1, len(members), dtype=torch.bool)
        return config.beta * config.shaping(torch.stack(members)[None], mask, is_chosen)[0]

    for pair in range(tokens.pairs):
        row, other = pair, pair + tokens.pairs
        terms, weights = [], []
        for number in sorted({*numbers[row], *numbers[other]} - {-1}):
            chosen, rejected = reward(row, number), reward(other, number)
            if units.unpaired == "left_out" and (chosen is None or rejected is None):
                continue
            zero = torch.zeros((), dtype=r.dtype)
            both = [zero if value is None else value for value in (chosen, rejected)]
            rewards[row], rewards[other] = rewards[row] + both[0], rewards[other] + both[1]
            loss = config.loss.parts[0] if isinstance(config.loss, WeightedLoss) else config.loss
            of_pair = tokens.columns["weight"][pair] if isinstance(config.loss, WeightedLoss) else 1
            terms.append(of_pair * loss.build()(both[0][None], both[1][None], tokens)[0])
            columns = units.weight_columns
            weights.append(tokens.columns[columns[number]][pair] if columns else torch.ones(()))
        total = sum((weight * term for weight, term in zip(weights, terms, strict=True)), start=0 * r[row, 0])
        losses.append(total if units.reduction == "sum" or not terms else total / sum(weights))
    return torch.stack(losses), torch.stack(rewards)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("unpaired", ["left_out", "zero"])
@pytest.mark.parametrize("shaping", [SumShaping(), MeanShaping(), PositiveShaping(lam=3)])
@pytest.mark.parametrize("loss", [LogisticLoss(margin=0.3), NcaLoss(), WeightedLoss(loss=LogisticLoss())])
def test_values_and_gradients_are_those_of_loops_over_units(
    loss: LogisticLoss, shaping: SumShaping, unpaired: Literal["left_out", "zero"], reduction: Literal["mean", "sum"]
) -> None:
    tokens, logits = batch(weight=torch.tensor([0.5, 2.0, 3.0], dtype=torch.float64))
    units = Given(numbers=NUMBERS, unpaired=unpaired, reduction=reduction)
    config = ObjectiveConfig(beta=0.7, units=units, loss=loss, shaping=shaping)
    output = evaluated(config, tokens)
    losses, rewards = by_loops(config, tokens, NUMBERS)
    torch.testing.assert_close(output.losses, losses, **EXACT)
    torch.testing.assert_close(output.rewards, rewards.detach(), **EXACT)
    ours, theirs = (
        torch.autograd.grad(value.mean(), logits, retain_graph=True)[0] for value in (output.losses, losses)
    )
    assert theirs.abs().max() > 1e-6
    torch.testing.assert_close(ours, theirs, **EXACT)


def test_what_has_no_partner_is_counted() -> None:
    tokens, _ = batch()
    metrics = evaluated(ObjectiveConfig(units=Given(numbers=NUMBERS)), tokens).metrics
    shared = [{0, 7}, {5}, {1, 3}]  # of the chosen responses of 4, 1 and 6 tokens; the rejected have 2, 5 and 3
    assert metrics["units/compared"].value == pytest.approx(sum(map(len, shared)) / 3)
    assert metrics["units/unpaired"].value == pytest.approx((1 + 0 + 2 + 0 + 3 + 1) / 21)
    assert metrics["units/none"].value == 0
    alone = Given(numbers=((1, 1, 1, 1), (5,), (1, 0, 1, 0, 3, 3), (0, 0), (4, 5, 5, 4, 9), (-1, 3, 1)))
    output = evaluated(ObjectiveConfig(units=alone), tokens)
    assert output.metrics["units/none"].value == pytest.approx(1 / 3)
    assert output.losses[0].item() == 0
    assert output.rewards[[0, 3]].abs().max() == 0


def test_a_batch_without_any_partner_trains_nothing_and_says_so() -> None:
    tokens, logits = batch((2, 1, 3, 1))
    output = evaluated(ObjectiveConfig(units=Given(numbers=((0, 0), (0,), (1, 1, 1), (-1,)))), tokens)
    (gradient,) = torch.autograd.grad(output.loss, logits)
    assert output.loss.item() == 0
    assert not gradient.any()
    assert output.metrics["units/none"].value == 1
    assert output.metrics["units/unpaired"].value == 1


def test_a_response_without_tokens_has_no_units() -> None:
    tokens, logits = batch((2, 1, 3, 1))
    mask = tokens.mask.clone()
    mask[1] = False
    output = evaluated(ObjectiveConfig(units="token"), tokens.replace(mask=mask))
    (gradient,) = torch.autograd.grad(output.loss, logits)
    assert output.losses[1].item() == 0
    assert gradient.isfinite().all()
    assert gradient[0].any()


def numbers_of(units: Units, lengths: Sequence[int], **columns: Sequence[Sequence[float]]) -> list[list[int]]:
    """The numbers that the units give responses of these lengths, with nan off them."""
    tokens, _ = batch(
        lengths, **{name: padded_rows(rows, float("nan"), max(lengths)) for name, rows in columns.items()}
    )
    return [row[:length].tolist() for row, length in zip(units(tokens), lengths, strict=True)]


def test_tokens_are_numbered_by_position() -> None:
    assert numbers_of(TokenUnits(), (3, 1)) == [[0, 1, 2], [0]]


def test_parts_end_with_their_separator() -> None:
    marks = [[0, 1, 1, 0, 0, 1, 0], [1, 0, 0, 1]]
    numbers = numbers_of(SeparatedUnits(), (7, 4), separator=marks)
    assert numbers == [[0, 0, 0, 1, 1, 1, 2], [0, 1, 1, 1]]


def test_numbers_come_from_the_column() -> None:
    given = [[4, 4, -1, 0, 4], [9, 4, 4]]
    assert numbers_of(NumberedUnits(), (5, 3), unit=given) == given
    assert numbers_of(NumberedUnits(pairing="index"), (5, 3), unit=given) == [[0, 0, -1, 1, 0], [0, 1, 1]]


@pytest.mark.parametrize("units", [NumberedUnits(pairing="rank"), SeparatedUnits(pairing="rank", column="unit")])
def test_by_rank_the_best_of_the_chosen_meets_the_worst_of_the_rejected(units: Units) -> None:
    scores = [[2, 2, 2, 5, 0, 0], [3, 3, 1, 1, 1]]
    given = {
        "numbered": [[3, 3, 3, 1, 0, 0], [6, 6, 2, 2, 2]],
        "separated": [[0, 0, 1, 1, 0, 0], [0, 1, 0, 0, 0]],
    }[units.name]
    numbers = numbers_of(units, (6, 5), unit=given, score=scores)
    if units.name == "numbered":
        assert numbers == [[1, 1, 1, 0, 2, 2], [1, 1, 0, 0, 0]]
    else:  # parts of scores 2 and 0, and of 3 and 1
        assert numbers == [[0, 0, 0, 0, 1, 1], [1, 1, 0, 0, 0]]


def test_of_equal_scores_the_first_to_appear_comes_first() -> None:
    numbers = numbers_of(
        NumberedUnits(pairing="rank"), (4, 3), unit=[[8, 8, 2, 5], [1, 0, 1]], score=[[1] * 4, [0.3] * 3]
    )
    assert numbers == [[0, 0, 1, 2], [0, 1, 0]]


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_weights_of_units_come_from_pair_columns(reduction: Literal["mean", "sum"]) -> None:
    numbers = ((0, 0, 1, 1), (1,), (1, 0, 1, 0, 1, 1), (0, 1), (0, 1, 1, 0, 0), (1, 1, 1))
    weights = {"a": torch.tensor([0.5, 1.0, 0.0]), "b": torch.tensor([2.0, 3.0, 0.7])}
    tokens, logits = batch(unit=padded_rows(numbers, 0.5, 6), **{name: w.double() for name, w in weights.items()})
    config = ObjectiveConfig(beta=0.4, units=NumberedUnits(weights=("a", "b"), reduction=reduction))
    output = evaluated(config, tokens)
    losses, _ = by_loops(config, tokens, numbers)
    torch.testing.assert_close(output.losses, losses, **EXACT)
    ours, theirs = (
        torch.autograd.grad(value.mean(), logits, retain_graph=True)[0] for value in (output.losses, losses)
    )
    torch.testing.assert_close(ours, theirs, **EXACT)
    nothing = tokens.replace(columns={**tokens.columns, "a": torch.zeros(3), "b": torch.zeros(3)})
    assert evaluated(config, nothing).metrics["units/none"].value == 1


def test_pairs_may_come_a_few_at_a_time() -> None:
    objective = Objective(ObjectiveConfig(units="token"), num_layers=3, hidden_size=5)
    assert objective.takes_pairs_apart
    case = random_case(4)
    whole = objective(case.tokens())
    parts = [objective(case.of_rows([pair, pair + 3]).tokens()) for pair in range(3)]
    torch.testing.assert_close(torch.cat([part.losses for part in parts]), whole.losses, **EXACT)
    for name, mean in whole.metrics.items():
        together = [part.metrics[name] for part in parts]
        assert float(sum(m.total for m in together) / sum(m.number for m in together)) == pytest.approx(mean.value)


@pytest.mark.parametrize("loss", ["aot", "bco", {"name": "mixture", "losses": ["logistic", "bco"], "weights": [1, 1]}])
def test_losses_of_whole_batches_are_refused(loss: object) -> None:
    with pytest.raises(ValidationError, match=r"compares the rewards of a whole batch.*leave out `units`"):
        ObjectiveConfig(units="token", loss=loss)


def test_a_loss_with_a_term_of_whole_responses_is_refused_however_deep_it_lies() -> None:
    """Each of K units would add the term once more."""
    loss = {"name": "token_reward", "loss": "logistic"}
    for deep in (loss, {"name": "weighted", "loss": loss}, {"name": "mixture", "losses": [loss], "weights": [1]}):
        ObjectiveConfig(loss=deep)
        with pytest.raises(ValidationError, match=r"has a term of whole responses.*leave out `units`"):
            ObjectiveConfig(units="token", loss=deep)
    ObjectiveConfig(units="token", loss={"name": "on_policy_weighted", "loss": "logistic"})


def test_a_score_that_nothing_reads_is_refused() -> None:
    with pytest.raises(ValidationError, match="score is read with `pairing: rank` alone, not with index"):
        SeparatedUnits(score="quality")
    assert TokenColumn("quality", at_least=0.0) in SeparatedUnits(pairing="rank", score="quality").columns


def test_what_has_no_weight_is_refused() -> None:
    with pytest.raises(ValidationError, match="unit 1, the default, has no weight"):
        NumberedUnits(default=1, weights=("a",))
    assert (
        TokenColumn("unit", default=-1.0, at_least=-1.0, at_most=0.0, whole=True)
        in NumberedUnits(weights=("a",)).columns
    )
    assert PairColumn("a", at_least=0.0) in NumberedUnits(weights=("a",)).columns
    tokens, _ = batch((2, 1), unit=torch.tensor([[0.0, 1.0], [1.0, 0.0]]), a=torch.ones(1))
    with pytest.raises(ValueError, match="unit 1 has no weight: a weigh"):
        evaluated(ObjectiveConfig(units=NumberedUnits(weights=("a",))), tokens)


class Halves(Units):
    """u_t = t / 2."""

    name: Literal["halves"] = "halves"

    def __call__(self, tokens: TokenBatch) -> Tensor:
        return torch.arange(tokens.mask.shape[1]).expand_as(tokens.mask) / 2


def test_numbers_that_are_not_whole_are_refused() -> None:
    with pytest.raises(TypeError, match=r"units 'halves' are numbered in torch\.float32; give int64"):
        evaluated(ObjectiveConfig(units=Halves()), batch_of(torch.ones(1), torch.zeros(1)))


BASELINE = {"name": "state_baseline", "limit": 0.9}
PARTS = ((1, 1, 0, 0), (1,), (1, 0, 1, 0, 2, 2), (0, 1), (0, 1, 1, 0, 2), (1, 1, 0))


def shifts_by_loops(tokens: TokenBatch, head: Tensor, weights: Sequence[Sequence[float]], limit: float) -> Tensor:
    """beta c of every pair's units 0, 1, ... that both have, [B, 3], with beta 0.4: of its first token's state."""
    shifts = torch.zeros(3, 3, dtype=torch.float64)
    for pair in range(3):
        both = sorted({*PARTS[pair]} & {*PARTS[pair + 3]})
        b = [[head @ tokens.last_states[row, PARTS[row].index(unit)] for unit in both] for row in (pair, pair + 3)]
        raw = [two - one for one, two in zip(*b, strict=True)]
        of_units = [weights[pair][unit] for unit in both]
        center = sum(w * value for w, value in zip(of_units, raw, strict=True)) / sum(of_units)
        for unit, value in zip(both, raw, strict=True):
            shifts[pair, unit] = 0.4 * torch.clamp(value - center, -limit, limit).detach()
    return shifts


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_baseline_is_of_a_unit_s_first_token_and_centred_as_the_loss_is_weighed(
    reduction: Literal["mean", "sum"],
) -> None:
    weights = {"a": [0.5, 1.0, 2.0], "b": [2.0, 3.0, 0.7], "c": [1.0, 1.0, 0.4]}
    columns = {name: torch.tensor(values, dtype=torch.float64) for name, values in weights.items()}
    tokens, _ = batch(unit=padded_rows(PARTS, 0.5, 6), **columns)
    units = {"name": "numbered", "weights": list(weights)}
    plain, based = (
        ObjectiveConfig(beta=0.4, units=unit)
        for unit in (units | {"reduction": reduction}, BASELINE | {"units": units, "reduction": reduction})
    )
    objective = Objective(based, num_layers=3, hidden_size=5).double()
    head = torch.tensor([0.7, -0.5, 0.4, 1.1, -0.3], dtype=torch.float64)
    objective.load_state_dict({"units.weight": head})
    shifts = shifts_by_loops(tokens, head, list(zip(*weights.values(), strict=True)), 0.9)
    assert (shifts.abs() == 0.4 * 0.9).any()
    output, without = objective(tokens), evaluated(plain, tokens)
    halves = torch.cat([-shifts.sum(1), shifts.sum(1)]) / 2
    torch.testing.assert_close(output.rewards, without.rewards + halves, **EXACT)
    losses = []
    for pair in range(3):
        both = sorted({*PARTS[pair]} & {*PARTS[pair + 3]})
        sums = [
            [
                sum((tokens.logps - tokens.ref_logps)[row, t] for t, n in enumerate(PARTS[row]) if n == unit)
                for unit in both
            ]
            for row in (pair, pair + 3)
        ]
        margins = [0.4 * (one - two) - shifts[pair, unit] for one, two, unit in zip(*sums, both, strict=True)]
        of_units = [list(weights.values())[unit][pair] for unit in both]
        total = sum(w * -torch.nn.functional.logsigmoid(d) for w, d in zip(of_units, margins, strict=True))
        losses.append(total / (sum(of_units) if reduction == "mean" else 1))
    torch.testing.assert_close(output.losses, torch.stack(losses), **EXACT)
    counted = shifts[shifts != 0].abs() / 0.4
    assert output.metrics["units/baseline"].value == pytest.approx(counted.sum().item() / (2 + 1 + 2))


def test_a_baseline_has_no_say_where_one_unit_or_none_is_compared() -> None:
    tokens, logits = batch()
    numbers = ((0, 0, 0, 0), (5,), (1, 1, 1, 1, 1, 1), (0, 0), (4, 4, 4, 4, 4), (1, 1, 1))
    units = Given(numbers=numbers)
    objective = Objective(ObjectiveConfig(units=StateBaselineUnits(units=units)), num_layers=3, hidden_size=5).double()
    torch.nn.init.normal_(objective.units.weight)
    output = objective(tokens)
    assert torch.equal(output.losses, evaluated(ObjectiveConfig(units=units), tokens).losses)
    slopes = torch.autograd.grad(output.loss, [objective.units.weight, logits])
    assert not slopes[0].any()
    assert slopes[1].any()
    alone = tokens.replace(mask=tokens.mask & ~tokens.is_chosen[:, None])
    (slope,) = torch.autograd.grad(objective(alone).loss, [objective.units.weight])
    assert not slope.any()


def test_a_baseline_comes_in_groups_of_pairs_and_is_a_part_of_no_other_margin() -> None:
    config = zoo.build({"zoo": "tdpo1", "units": BASELINE | {"limit": 0.2}})
    objective = Objective(config, num_layers=3, hidden_size=5).double()
    torch.nn.init.normal_(objective.units.weight)
    assert objective.takes_pairs_apart
    assert objective.learners == (config.units,)
    assert not objective.learned_masks
    case = random_case(4)
    whole = objective(case.tokens())
    parts = [objective(case.of_rows([pair, pair + 3]).tokens()) for pair in range(3)]
    torch.testing.assert_close(torch.cat([part.losses for part in parts]), whole.losses, **EXACT)
    without = evaluated(config.model_copy(update={"units": TokenUnits()}), case.tokens())
    name = "rewards/margins_divergence"
    assert whole.metrics[name].value == pytest.approx(without.metrics[name].value, rel=1e-6)
    assert whole.metrics["rewards/margins"].value != pytest.approx(without.metrics["rewards/margins"].value, rel=1e-6)


@pytest.mark.parametrize(
    ("units", "message"),
    [
        (BASELINE | {"unpaired": "zero"}, "unpaired: 'left_out' is needed, got 'zero'"),
        (BASELINE | {"units": {"name": "token", "unpaired": "zero"}}, "unpaired zero of token is not read; give it to"),
        (BASELINE | {"units": {"name": "token", "reduction": "sum"}}, "reduction sum of token is not read; give it to"),
        (BASELINE | {"units": BASELINE}, "units: 'state_baseline' have a baseline already; leave one of the two out"),
        (BASELINE | {"limit": 0}, "limit: more than 0 is needed, got 0"),
    ],
)
def test_options_that_a_baseline_cannot_have_are_refused(units: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        zoo.build({"zoo": "dpo", "units": units})
    equal = BASELINE | {"reduction": "sum", "units": {"name": "token", "reduction": "sum"}}
    assert zoo.build({"zoo": "dpo", "units": equal}).units.reduction == "sum"


class Learner(torch.nn.Module):
    """Units of tokens, with the baseline that is given."""

    limit = 1.0

    def __init__(self, baseline: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.level = torch.nn.Parameter(torch.ones(()))
        self.given = baseline

    def forward(self, tokens: TokenBatch) -> Tensor:
        return TokenUnits()(tokens)

    def baseline(self, tokens: TokenBatch) -> Tensor:
        return self.given(self.level, tokens.mask)


class Learning(Units):
    """u_t = t."""

    name: Literal["learning"] = "learning"
    baseline: Any

    def __call__(self, tokens: TokenBatch) -> Tensor:
        return TokenUnits()(tokens)

    def build(self, *, num_layers: int, hidden_size: int) -> Learner:
        return Learner(self.baseline)


@pytest.mark.parametrize(
    ("baseline", "unpaired", "message"),
    [
        (lambda level, mask: level * mask.sum(1), "left_out", r"give a baseline of shape \(6,\), where one of shape"),
        (lambda level, mask: level.detach() * mask, "left_out", "no baseline carries a gradient to them"),
        (
            lambda level, mask: level * mask,
            "zero",
            "a baseline, which has nothing to be compared with where a unit has",
        ),
    ],
)
def test_baselines_that_cannot_train_are_refused(
    baseline: Any, unpaired: Literal["left_out", "zero"], message: str
) -> None:
    objective = Objective(
        ObjectiveConfig(units=Learning(baseline=baseline, unpaired=unpaired)), num_layers=2, hidden_size=4
    )
    with pytest.raises(ValueError, match=message):
        objective(batch()[0])


def test_a_baseline_inside_another_is_refused_where_it_is_not_declared_too() -> None:
    units = StateBaselineUnits(units=Learning(baseline=None))
    with pytest.raises(ValueError, match="units: 'learning' have a baseline already; leave one of the two out"):
        Objective(ObjectiveConfig(units=units), num_layers=2, hidden_size=4)
