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
from tests.batches import KINDS, padded, penalties, scores, signals_but, without_noise
from tests.test_invariance import widened

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
        columns=scores(waves(2 * pairs)),
    )


def rows_of(tokens: TokenBatch, rows: list[int]) -> TokenBatch:
    """The batch with those responses, in that order."""
    fields = {name: getattr(tokens, name)[rows] for name in ("logps", "mask", "token_ids")}
    for signal, spec in SIGNALS.items():
        values = getattr(tokens, signal)
        fields[signal.value] = values[:, rows] if spec.row_axis else values[rows]
    of_all = torch.cat([tokens.columns["score_chosen"], tokens.columns["score_rejected"]])[rows].chunk(2)
    columns = dict(zip(("score_chosen", "score_rejected"), of_all, strict=True))
    return tokens.replace(**fields, columns=columns)


def evaluated(name: str, tokens: TokenBatch) -> ObjectiveOutput:
    return built(name).to(tokens.logps.dtype)(tokens)


def built(name: str) -> Objective:
    torch.manual_seed(0)
    return without_noise(Objective(zoo.ZOO[name](), num_layers=3, hidden_size=5))


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


# loss(c, j) - loss(j, c) = -(this) z, with z the margin of the rewards that are reported, at the default settings.
# The others are not linear in z (hinge, rso, exo, nca, bco, bco_pair, aot_paired, apo_zero, apo_down, discopop), have a
# target margin (odpo, simpo), a weight (wpo) or a likelihood term for the chosen response alone (cpo, cpo_simpo, orpo,
# slic, rpo, mpo), or treat it otherwise (dpop).
ANTISYMMETRIC = {
    **dict.fromkeys(("dpo", "tdpo1", "tdpo2", "mapo", "sparsepo", "ld_dpo", "dpo_norm", "aot"), 1.0),
    **dict.fromkeys(("f_dpo_reverse_kl", "f_dpo_forward_kl", "f_dpo_jensen_shannon", "f_dpo_alpha"), 1.0),
    "cdpo": 1 - 2 * 0.1,
    "robust": 1 / (1 - 2 * 0.1),
    # (z - m)^2 - (z + m)^2 = -4 m z, m = 1 / (2 beta)
    **dict.fromkeys(("ipo", "ipo_sum", "sppo"), 4 / (2 * 0.1)),
}


@pytest.mark.parametrize("name", ANTISYMMETRIC)
@few
@given(tokens=batches())
def test_swapping_the_responses_costs_the_margin(name: str, tokens: TokenBatch) -> None:
    one, two = evaluated(name, tokens), evaluated(name, rows_of(tokens, [3, 4, 5, 0, 1, 2]))
    chosen, rejected = one.rewards.chunk(2)
    torch.testing.assert_close(two.rewards, one.rewards.roll(3), **CLOSE)
    difference, margin = one.losses - two.losses, chosen - rejected
    if zoo.ZOO[name]().couples_pairs:  # its losses are of quantiles, not of pairs
        difference, margin = difference.mean(), margin.mean()
    torch.testing.assert_close(difference, -ANTISYMMETRIC[name] * margin, rtol=1e-7, atol=1e-7)


# The loss where the policy is the reference, without regularisers, at the default settings; that of odpo and wpo
# depends on the scores and on the policy's own distribution.
AT_REFERENCE = {
    **dict.fromkeys(("dpo", "tdpo1", "tdpo2", "mapo", "sparsepo", "sparsepo_token", "ld_dpo"), LN2),
    **dict.fromkeys(("cdpo", "robust", "aot", "aot_paired", "dpop", "dpo_norm", "rpo"), LN2),
    **dict.fromkeys(("f_dpo_reverse_kl", "f_dpo_forward_kl", "f_dpo_jensen_shannon", "f_dpo_alpha"), LN2),
    **dict.fromkeys(("hinge", "rso", "apo_zero", "apo_down"), 1.0),
    **dict.fromkeys(("ipo", "ipo_sum"), 1 / (4 * 0.1**2)),
    "sppo": 2 / (4 * 0.1**2),
    "exo": -LN2 - math.log(1e-3 * (1 - 1e-3)) / 2,
    "nca": 2 * LN2,
    "bco": 2 * LN2,
    "mpo": 0.8 * LN2 + 0.2 * 2 * LN2,
    "bco_pair": 2 * LN2,
    "discopop": (LN2 + 1) / 2,
}
REFERENCE_FREE = {name for name, row in zoo.ZOO.items() if row().reference_free}


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
