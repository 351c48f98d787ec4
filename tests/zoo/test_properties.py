"""What theory says of every row of the zoo, on batches that hypothesis makes up."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from prefopt import Objective, ObjectiveOutput, TokenBatch, zoo
from prefopt.signals import SIGNALS, Signal
from tests.batches import KINDS, columns_of, padded, penalties, signals_but, without_noise
from tests.test_invariance import widened
from tests.zoo import test_papers, test_papers_losses, test_papers_tokens, test_papers_units
from tests.zoo.test_golden import golden_batch

pytestmark = pytest.mark.slow

each_row = pytest.mark.parametrize("name", zoo.ZOO)
few = settings(deadline=None, max_examples=6, derandomize=True)

CLOSE = {"rtol": 1e-9, "atol": 1e-9}
LN2 = math.log(2)


@st.composite
def batches(draw: st.DrawFn, *, floor: float = -20.0, dtype: torch.dtype = torch.float64, pairs: int = 3) -> TokenBatch:
    """Log-probabilities from floor to 0 under both models, divergences as large, states and activations of any kind;
    rubbish on the padding.
    """
    lengths = draw(st.lists(st.integers(1, 5), min_size=2 * pairs, max_size=2 * pairs))
    shape = (2 * pairs, max(lengths) + 1)
    mask = torch.arange(shape[1]) < torch.tensor(lengths)[:, None]
    numbers = arrays("float64", (3, *shape), elements=st.floats(floor, 0, width=32))
    logps, ref_logps, divergence = torch.tensor(draw(numbers)).to(dtype)
    phase = draw(st.integers(0, 1000))

    def waves(*size: int) -> Tensor:
        return torch.sin(phase + 7 * torch.arange(math.prod(size), dtype=dtype)).view(size)

    signals = {"ref_logps": ref_logps, "divergence": -divergence, "log_collision": waves(*shape) - 2}
    signals |= signals_but(signals, waves, rows=shape[0], width=shape[1], layers=3, hidden=5)
    fields = {name: padded(values, mask, SIGNALS[Signal(name)].row_axis) for name, values in signals.items()}
    fields["divergence"].requires_grad_()
    return TokenBatch(
        logps=padded(logps, mask, 0).requires_grad_(),
        mask=mask,
        token_ids=torch.zeros(shape, dtype=torch.long),
        **fields,
        activation_kinds=KINDS,
        columns=columns_of(waves(2 * pairs), waves(*shape), mask),
    )


def rows_of(tokens: TokenBatch, rows: list[int]) -> TokenBatch:
    """The batch with those responses, in that order."""
    fields = {name: getattr(tokens, name)[rows] for name in ("logps", "mask", "token_ids")}
    for signal, spec in SIGNALS.items():
        values = getattr(tokens, signal)
        fields[signal.value] = values[:, rows] if spec.row_axis else values[rows]
    of_all = torch.cat([tokens.columns["score_chosen"], tokens.columns["score_rejected"]])[rows].chunk(2)
    pairs = torch.tensor(rows[: len(rows) // 2]) % tokens.pairs
    columns = {name: values[rows if values.ndim > 1 else pairs] for name, values in tokens.columns.items()}
    columns |= dict(zip(("score_chosen", "score_rejected"), of_all, strict=True))
    return tokens.replace(**fields, columns=columns)


def evaluated(name: str, tokens: TokenBatch) -> ObjectiveOutput:
    return built(name, hidden=tokens.last_states.shape[-1]).to(tokens.logps.dtype)(tokens)


def built(name: str, *, hidden: int = 5, **changes: object) -> Objective:
    torch.manual_seed(0)
    config = zoo.ZOO[name]().model_copy(update=changes)
    return without_noise(Objective(config, num_layers=3, hidden_size=hidden))


@each_row
@few
@given(tokens=batches(floor=-1e3, dtype=torch.float32))
def test_finite_whatever_the_models_say(name: str, tokens: TokenBatch) -> None:
    """Log-ratios of up to 1000 nats a token, in float32."""
    objective = built(name)
    output = objective(tokens)
    for values in (output.losses, output.rewards, output.weights):
        assert values.isfinite().all()
    leaves = [tokens.logps, tokens.divergence, *objective.parameters()]
    for gradient in torch.autograd.grad(output.loss, leaves, allow_unused=True):
        assert gradient is None or gradient.isfinite().all()


@each_row
@few
@given(tokens=batches(), columns=st.integers(1, 7))
def test_more_padding_changes_nothing(name: str, tokens: TokenBatch, columns: int) -> None:
    one, two = evaluated(name, tokens), evaluated(name, widened(tokens, columns))
    torch.testing.assert_close(two.losses, one.losses, **CLOSE)
    torch.testing.assert_close(two.rewards, one.rewards, **CLOSE)


@each_row
@few
@given(tokens=batches(), order=st.permutations(range(3)))
def test_the_order_of_pairs_changes_nothing(name: str, tokens: TokenBatch, order: list[int]) -> None:
    one, two = (evaluated(name, batch) for batch in (tokens, rows_of(tokens, [*order, *(row + 3 for row in order)])))
    torch.testing.assert_close(two.loss, one.loss, **CLOSE)
    torch.testing.assert_close(two.rewards.view(2, 3), one.rewards.view(2, 3)[:, order], **CLOSE)
    if not zoo.ZOO[name]().loss.sorts_pairs:
        torch.testing.assert_close(two.losses, one.losses[order], **CLOSE)


@each_row
@few
@given(tokens=batches())
def test_only_coupled_rows_care_how_a_batch_is_cut(name: str, tokens: TokenBatch) -> None:
    if not zoo.ZOO[name]().couples_pairs:
        parts = torch.cat([evaluated(name, rows_of(tokens, [pair, pair + 3])).losses for pair in range(3)])
        torch.testing.assert_close(parts, evaluated(name, tokens).losses, **CLOSE)


EXPECTED = test_papers.EXPECTED | test_papers_losses.EXPECTED | test_papers_tokens.EXPECTED | test_papers_units.EXPECTED
REFERENCE_FREE = {name for name, row in zoo.ZOO.items() if row().reference_free}
ANTISYMMETRIC = {name: row.swapped for name, row in EXPECTED.items() if row.swapped is not None}
AT_REFERENCE = {name: row.at_reference for name, row in EXPECTED.items() if row.at_reference is not None}


def as_swapped(name: str, tokens: TokenBatch) -> tuple[ObjectiveOutput, ObjectiveOutput, Tensor]:
    """As given and with responses swapped, and the margin of the rewards that are reported as given."""
    one, two = evaluated(name, tokens), evaluated(name, rows_of(tokens, [3, 4, 5, 0, 1, 2]))
    chosen, rejected = one.rewards.chunk(2)
    return one, two, chosen - rejected


def no_constant(values: Tensor) -> bool:
    return bool(values.max() - values.min() > 1e-6 * values.abs().max())


@pytest.mark.parametrize("name", [name for name in zoo.ZOO if name not in ANTISYMMETRIC])
def test_of_the_others_the_margin_is_not_what_swapping_costs(name: str) -> None:
    """On a batch whose margins lie on both sides of every bend and target."""
    tokens = golden_batch()
    far = tokens.ref_logps + 40 * (tokens.logps.detach() - tokens.ref_logps)
    one, two, margins = as_swapped(name, tokens.replace(logps=far.clamp(max=-1e-3)))
    assert no_constant((one.losses - two.losses) / margins), "its line in EXPECTED lacks `swapped`"


@pytest.mark.parametrize("name", [name for name in zoo.ZOO if name not in {*AT_REFERENCE, *REFERENCE_FREE}])
def test_of_the_others_the_loss_at_the_reference_depends_on_the_pair(name: str) -> None:
    objective = built(name, regularizers=()).double()
    assert no_constant(objective.at_reference(golden_batch()).losses), "its line in EXPECTED lacks `at_reference`"


@pytest.mark.parametrize("name", ANTISYMMETRIC)
@few
@given(tokens=batches())
def test_swapping_the_responses_costs_the_margin(name: str, tokens: TokenBatch) -> None:
    one, two, margin = as_swapped(name, tokens)
    torch.testing.assert_close(two.rewards, one.rewards.roll(3), **CLOSE)
    difference = one.losses - two.losses
    if zoo.ZOO[name]().couples_pairs:  # its losses are of quantiles, not of pairs
        difference, margin = difference.mean(), margin.mean()
    torch.testing.assert_close(difference, -ANTISYMMETRIC[name] * margin, rtol=1e-7, atol=1e-7)


def test_rows_with_a_value_at_the_reference_have_one() -> None:
    assert set(AT_REFERENCE) <= set(zoo.ZOO) - REFERENCE_FREE


@pytest.mark.parametrize("name", AT_REFERENCE)
@few
@given(tokens=batches())
def test_the_loss_where_the_policy_is_the_reference(name: str, tokens: TokenBatch) -> None:
    objective = built(name).double()
    output = objective.at_reference(tokens)
    same = tokens.replace(logps=tokens.ref_logps, divergence=torch.zeros_like(tokens.ref_logps))
    penalty = penalties(objective, same)
    for regularizer in objective.config.regularizers:
        penalty = penalty + regularizer(same, output.weights, output.divergence_weights)
    torch.testing.assert_close(output.losses, penalty + AT_REFERENCE[name], rtol=1e-12, atol=1e-12)
    assert output.rewards.abs().max() < 1e-12


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("simpo", math.log1p(math.exp(1.0))),
        ("cpo", LN2 + 1.3),
        ("cpo_simpo", math.log1p(math.exp(1.0)) + 1.3),
        ("orpo", 0.1 * LN2 + 1.3),
        ("slic", 1.0),
    ],
)
@few
@given(tokens=batches())
def test_the_rows_without_a_reference_where_both_responses_are_as_likely(
    name: str, expected: float, tokens: TokenBatch
) -> None:
    """1.3 nats a token; of cpo and slic, which sum, in responses of equal lengths."""
    if name in {"cpo", "slic"}:
        tokens = tokens.replace(mask=tokens.mask[:3].repeat(2, 1))
    flat = tokens.replace(logps=torch.where(tokens.mask, torch.full_like(tokens.logps, -1.3), math.nan))
    losses = evaluated(name, flat).losses
    likelihood = 1.3 * tokens.mask[:3].sum(-1).double() if name == "slic" else 0  # the one whose regulariser is a sum
    torch.testing.assert_close(losses, torch.full_like(losses, expected) + likelihood, **CLOSE)


@pytest.mark.parametrize("name", sorted(REFERENCE_FREE))
@few
@given(tokens=batches())
def test_the_rows_without_a_reference_ask_none(name: str, tokens: TokenBatch) -> None:
    other = tokens.replace(ref_logps=torch.full_like(tokens.ref_logps, math.nan), divergence=None)
    assert torch.equal(evaluated(name, other).losses, evaluated(name, tokens).losses)
