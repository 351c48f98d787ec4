"""Token weightings: the control, MaPO's and SparsePO's."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from prefopt import TokenBatch
from prefopt.columns import TokenColumn
from prefopt.component import Signal, TokenWeighting
from prefopt.weightings import (
    ActivationWeighting,
    ColumnWeighting,
    LengthDesensitisedWeighting,
    SparseMask,
    SparseWeighting,
    UniformWeighting,
)
from tests.batches import KINDS, random_case


def batch(activations: list[list[list[float]]], kinds: tuple[str, ...], mask: list[list[int]]) -> TokenBatch:
    """Activations [S, N, T] of sites of those kinds; the rest of the batch is of no interest."""
    keep = torch.tensor(mask, dtype=torch.bool)
    zero = torch.zeros(keep.shape)
    return TokenBatch(zero, zero, keep, zero.long(), ref_activations=torch.tensor(activations), activation_kinds=kinds)


def sparse(seed: int = 0, *, layers: int = 3, hidden: int = 5, **fields: object) -> SparseMask:
    torch.manual_seed(seed)
    return SparseWeighting(**fields).build(num_layers=layers, hidden_size=hidden)


@pytest.mark.parametrize("value", [0.0, 0.25, 1.0])
def test_uniform_weights_are_its_value_on_the_response_alone(value: float) -> None:
    tokens = random_case(dtype=torch.float32).tokens()
    weights = UniformWeighting(value=value)(tokens)
    assert weights.dtype == torch.float32
    assert torch.equal(weights, torch.where(tokens.mask, value, 0.0))


@pytest.mark.parametrize(
    "weighting",
    [
        UniformWeighting(value=0.5),
        ActivationWeighting(),
        ActivationWeighting(reduction="sigmoid"),
        SparseWeighting(),
        SparseWeighting(position="token"),
        SparseWeighting(position="embedding", init="near_one"),
        LengthDesensitisedWeighting(),
        LengthDesensitisedWeighting(alpha=0),
    ],
    ids=str,
)
def test_weights_are_finite_not_negative_and_zero_off_the_response(weighting: TokenWeighting) -> None:
    tokens = random_case(4).tokens()
    torch.manual_seed(4)
    function = weighting.build(num_layers=3, hidden_size=5)
    weights = function(tokens).detach()
    assert weights.shape == tokens.mask.shape
    assert weights.isfinite().all()
    assert (weights >= 0).all()
    assert (weights[~tokens.mask] == 0).all()
    assert weights[tokens.mask].any()


@pytest.mark.parametrize("alpha", [0.0, 0.25, 1.0])
def test_length_desensitised_weights_by_hand(alpha: float) -> None:
    """Pairs of lengths (3, 1), (2, 4) and (2, 2): only what outruns the other response weighs alpha."""
    tokens = batch([], (), [[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1], [1, 1, 0, 0]])
    expected = [[1, alpha, alpha, 0], [1, 1, 0, 0], [1, 1, 0, 0], [1, 0, 0, 0], [1, 1, alpha, alpha], [1, 1, 0, 0]]
    weights = LengthDesensitisedWeighting(alpha=alpha)(tokens)
    assert torch.equal(weights, torch.tensor(expected, dtype=torch.float32))
    assert alpha < 1 or torch.equal(weights, UniformWeighting()(tokens)), "at alpha 1 it is DPO"


@pytest.mark.parametrize("alpha", [-0.1, 1.1])
def test_length_desensitised_weights_lie_between_nothing_and_all(alpha: float) -> None:
    with pytest.raises(ValidationError, match="alpha"):
        LengthDesensitisedWeighting(alpha=alpha)


def test_activation_weights_by_hand() -> None:
    """Two sites of one kind are averaged before the kinds are, so that a kind with many sites has no more say."""
    tokens = batch(
        [[[0.0, 5.0, 10.0, 99.0]], [[2.0, 2.5, 1.5, -99.0]], [[-1.0, 0.0, -2.0, torch.nan]]],
        ("mlp", "mlp", "attn"),
        [[1, 1, 1, 0]],
    )
    weights = ActivationWeighting(sites=("mlp", "attn"))(tokens)
    mlp = torch.tensor([(0 + 0.5) / 2, (0.5 + 1) / 2, (1 + 0) / 2])
    attn = torch.tensor([0.5, 1.0, 0.0])
    torch.testing.assert_close(weights, torch.cat([(mlp + attn) / 2, torch.zeros(1)])[None])
    torch.testing.assert_close(ActivationWeighting(sites=("attn",))(tokens)[0, :3], attn)


def test_activations_that_say_nothing_weigh_one() -> None:
    rows = [[3.0, 7.0, 7.0], [4.0, 4.0, 4.0], [1.0, 2.0, 2.0], [0.0, 0.0, 0.0]]
    mask = [[1, 0, 0], [1, 1, 1], [1, 1, 0], [0, 0, 0]]
    weights = ActivationWeighting(sites=("resid",))(batch([rows], ("resid",), mask))
    assert weights.tolist() == [[1, 0, 0], [1, 1, 1], [0, 1, 0], [0, 0, 0]]


def test_how_far_weights_of_rounded_moments_are_off() -> None:
    """What zoo.mapo says of the published code, which rounds deviation, minimum and maximum to float16."""

    def half(value: Tensor) -> Tensor:
        return value.half().to(value.dtype)

    def rounded(row: Tensor) -> Tensor:
        standard = (row - row.mean()) / half(row.std())
        lowest, highest = half(standard.min()), half(standard.max())
        return (standard - lowest) / (highest - lowest)

    torch.manual_seed(0)
    rows = [torch.randn(length, dtype=torch.float64) for length in range(2, 200)]
    weights = [
        (rounded(row), ActivationWeighting(sites=("mlp",))(batch([[row.tolist()]], ("mlp",), [[1] * len(row)]))[0])
        for row in rows
    ]
    off = max(float((published - ours).abs().max()) for published, ours in weights)
    assert 1e-4 < off < 4e-4
    assert max(float(published.max()) for published, _ in weights) > 1
    assert all(rounded(rows[9] * scale).isnan().all() for scale in (1e-8, 1e6))


def test_sigmoid_weights_by_hand_and_where_there_is_no_spread() -> None:
    """z-scores of (1, 2, 6) are (-2, -1, 3) / sqrt 7; rounding of 0.1 is no spread; nan is off the rows."""
    nan = torch.nan
    rows = [[1.0, 2.0, 6.0], [0.1, 0.1, 0.1], [7.0, nan, nan], [nan, nan, nan]]
    mask = [[1, 1, 1], [1, 1, 1], [1, 0, 0], [0, 0, 0]]
    weights = ActivationWeighting(sites=("attn",), reduction="sigmoid")(batch([rows], ("attn",), mask))
    torch.testing.assert_close(weights[0], torch.tensor([-2.0, -1.0, 3.0]).div(7**0.5).sigmoid())
    assert weights[1:].tolist() == [[0.5, 0.5, 0.5], [0.5, 0, 0], [0, 0, 0]]
    huge = batch([[[1e-30, 2e-30, 3e-30], [1e30, 2e30, 3e30]]], ("attn",), mask[:1] * 2)
    expected = torch.tensor([-1.0, 0.0, 1.0]).sigmoid().expand(2, -1)
    torch.testing.assert_close(ActivationWeighting(sites=("attn",), reduction="sigmoid")(huge), expected)


def test_abs_mean_asks_for_sites_of_its_own() -> None:
    weighting = ActivationWeighting(sites=("mlp",), reduction="abs_mean")
    assert weighting.activation_kinds == {"mlp.abs"}
    tokens = batch([[[1.0, 2.0, 3.0]], [[5.0, 1.0, 3.0]]], ("mlp", "mlp.abs"), [[1, 1, 1]])
    assert weighting(tokens).tolist() == [[1, 0, 0.5]]
    with pytest.raises(ValueError, match=r"no site of kind 'mlp\.abs' was collected"):
        weighting(batch([[[1.0]]], ("mlp",), [[1]]))


@settings(deadline=None, max_examples=40, derandomize=True)
@given(
    row=st.lists(st.floats(-100, 100, width=16), min_size=2, max_size=6, unique=True),
    scale=st.floats(0.5, 20),
    shift=st.floats(-5, 5),
)
def test_activation_weights_ignore_affine_maps(row: list[float], scale: float, shift: float) -> None:
    values = torch.tensor(row, dtype=torch.float64)
    weighting, mask = ActivationWeighting(sites=("mlp",)), [[1] * len(row)]
    tokens = batch([[row]], ("mlp",), mask)
    plain = weighting(tokens.replace(ref_activations=values[None, None]))
    mapped = weighting(tokens.replace(ref_activations=(scale * values + shift)[None, None]))
    # Values that lie closer together than rounding tells apart would collapse under the map.
    if values.diff().abs().min() > 1e-4:
        torch.testing.assert_close(mapped, plain, rtol=1e-6, atol=1e-6)
    assert plain.amin() == 0
    assert plain.amax() == 1


def test_a_kind_without_sites_is_an_error() -> None:
    tokens = batch([[[1.0, 2.0]]], ("mlp",), [[1, 1]])
    with pytest.raises(ValueError, match=r"^activation weighting: no site of kind 'logits' was collected .*: mlp$"):
        ActivationWeighting(sites=("mlp", "logits"))(tokens)
    with pytest.raises(ValueError, match="collected: none"):
        ActivationWeighting()(tokens.replace(activation_kinds=()))


def test_what_the_weightings_require() -> None:
    assert UniformWeighting().requires == frozenset()
    assert ActivationWeighting().requires == {Signal.REF_ACTIVATIONS}
    assert ActivationWeighting(sites=("attn", "mlp")).activation_kinds == {"attn", "mlp"}
    assert SparseWeighting().requires == {Signal.REF_HIDDEN_STATES}
    assert SparseWeighting(position="token").requires == {Signal.REF_TOKEN_STATES}
    assert SparseWeighting(position="embedding").requires == {Signal.REF_EMBEDDINGS}
    assert set(ActivationWeighting().sites) == set(KINDS)


FIELDS = {"predicting": "states", "token": "token_states", "embedding": "embeddings"}


@pytest.mark.parametrize("position", FIELDS)
def test_position_selects_the_signal(position: str) -> None:
    case = random_case(5, dtype=torch.float32)
    mask = sparse(5, position=position, init="near_one")
    torch.nn.init.normal_(mask.weight)
    weights = mask(case.tokens())
    others = {field: getattr(case, field) + 1 for name, field in FIELDS.items() if name != position}
    field = FIELDS[position]
    assert torch.equal(mask(case.but(**others).tokens()), weights)
    assert not torch.equal(mask(case.but(**{field: getattr(case, field).flip(-1)}).tokens()), weights)


def test_published_initialisation() -> None:
    """Small weights at first; some seeds give a mask that is zero on every token, and has no gradient to recover by."""
    tokens = random_case(6, dtype=torch.float32).tokens()
    means, dead = [], 0
    for seed in range(60):
        mask = sparse(seed, layers=3)
        weights = mask(tokens)
        means.append(float(weights.detach()[tokens.mask].mean()))
        if not weights.any():
            dead += 1
            weights.sum().backward()
            assert all(not parameter.grad.any() for parameter in mask.parameters())
        assert not mask.bias.any()
        assert 0.01 < mask.weight.std() < 0.03
    assert 1 <= dead < 40
    assert 0 < sum(means) / 60 < 0.05


@pytest.mark.parametrize("layers", [1, 3, 12, 13, 24, 36, 49, 80])
def test_near_one_is_one_exactly_whatever_the_number_of_layers(layers: int) -> None:
    case = random_case(7, layers=layers, dtype=torch.float32)
    mask = sparse(layers=layers, init="near_one")
    assert torch.equal(mask(case.tokens()), case.mask.float())
    torch.testing.assert_close(mask.mixer, torch.full((layers,), 1 / layers), rtol=1e-4, atol=0)


def test_near_one_can_learn() -> None:
    case = random_case(7, dtype=torch.float32)
    mask = sparse(init="near_one")
    mask(case.tokens())[0].sum().backward()
    assert mask.weight.grad.abs().max() > 0
    assert mask.mixer.grad.abs().max() > 0


def test_dropout_acts_in_training_alone() -> None:
    tokens = random_case(8, dtype=torch.float32).tokens()
    mask = sparse(init="near_one", dropout=0.5)
    assert torch.equal(mask.eval()(tokens), tokens.mask.float())
    torch.manual_seed(0)
    one, two = (mask.train()(tokens).detach()[tokens.mask] for _ in range(2))
    assert not torch.equal(one, two)
    assert 0 < (one == 0).sum() < len(one)  # dropped
    assert (one > 1).any()  # and the rest scaled up
    # Two draws of one half, on a_l and on w: what survives both is doubled twice.
    twice = sparse(layers=1, init="near_one", dropout=0.5).train()
    assert set(twice(random_case(8, layers=1, dtype=torch.float32).tokens()).unique().tolist()) == {0.0, 4.0}
    plain = sparse(init="near_one").train()
    assert torch.equal(plain(tokens), tokens.mask.float())


def test_a_mask_for_another_number_of_layers_is_an_error() -> None:
    with pytest.raises(ValueError, match="built for 4 layers, but the reference gave states of 3"):
        sparse(layers=4)(random_case().tokens())


def test_no_gradient_reaches_the_states() -> None:
    case = random_case(9, dtype=torch.float32)
    states = case.states.clone().requires_grad_()
    mask = sparse(init="near_one")
    weights = mask(case.tokens().replace(ref_hidden_states=states))
    assert weights.requires_grad
    (to_states,) = torch.autograd.grad(weights.sum(), states, allow_unused=True)
    assert to_states is None


def test_one_token_and_low_precision_states() -> None:
    case = random_case(10, lengths=(1, 1), width=1, dtype=torch.float32)
    mask = sparse(1, init="near_one")
    torch.nn.init.normal_(mask.weight)
    plain: Tensor = mask(case.tokens())
    assert plain.shape == (2, 1)
    assert (plain > 0).all()
    low = mask(case.tokens().replace(ref_hidden_states=case.states.bfloat16()))
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, plain, rtol=0.1, atol=0.1)


def test_weights_of_the_data_are_taken_as_they_are() -> None:
    weighting = ColumnWeighting(column="importance", default=0.25)
    assert weighting.columns == {TokenColumn("importance", default=0.25, at_least=0.0)}
    tokens = random_case(dtype=torch.float32).tokens()
    given = torch.rand(tokens.mask.shape)
    weights = weighting(tokens.replace(columns={"importance": given}))
    assert torch.equal(weights, torch.where(tokens.mask, given, 0))
