"""The built-in components keep what plugins have to keep; one that does not says which check it fails and why."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from prefopt.component import Component
from prefopt.divergences import AlphaDivergence, SampledK1, SampledK3
from prefopt.losses import (
    BcoLoss,
    HingeLoss,
    LogisticLoss,
    MixtureLoss,
    NcaLoss,
    OffsetLoss,
    OnPolicyWeightedLoss,
    RobustLoss,
    ScaledBasuLoss,
    SquaredLoss,
    TokenRewardLoss,
    WeightedLoss,
)
from prefopt.registry import installed
from prefopt.regularizers import MaskL1, NegativeLogLikelihood
from prefopt.shapings import AlphaShaping
from prefopt.testing import conformance
from prefopt.units import NumberedUnits, SeparatedUnits, StateBaselineUnits, TokenUnits
from prefopt.weightings import (
    ActivationWeighting,
    MixedWeighting,
    PositionWeighting,
    ScaledWeighting,
    ShuffledWeighting,
    SparseWeighting,
    UniformWeighting,
)

Run = Callable[[], object]


def with_defaults() -> list[Component]:
    """Every built-in component that needs no arguments; MaskL1 needs a weight."""
    built_in = [component for component, owner in installed() if owner.distribution == "prefopt"]
    plain = [cls for cls in built_in if not any(field.is_required() for field in cls.model_fields.values())]
    return [cls() for cls in plain if cls is not MaskL1]


@pytest.mark.slow
@conformance(*with_defaults())
def test_every_component_with_its_defaults(check: Run) -> None:
    check()


@pytest.mark.slow
@conformance(
    UniformWeighting(value=0.25),
    ActivationWeighting(sites=("mlp",)),
    ActivationWeighting(reduction="sigmoid"),
    ActivationWeighting(sites=("attn", "logits"), reduction="abs_mean"),
    PositionWeighting(values=(2.0, 0.0), learned=False),
    ShuffledWeighting(weighting=SparseWeighting()),
    ShuffledWeighting(weighting=SparseWeighting(init="near_one", gate="hard_concrete", l0=0.1)),
    ScaledWeighting(weighting=SparseWeighting(init="near_one", gate="hard_concrete", l0=0.1), to="mean_one"),
    MixedWeighting(weighting=SparseWeighting(init="near_one"), share=0.3),
    ScaledWeighting(weighting=UniformWeighting(value=0.5), to="sum_one"),
    ScaledWeighting(weighting=ActivationWeighting(), to="selected_mean"),
    ScaledWeighting(weighting=PositionWeighting(), to="pair_min"),
    ScaledWeighting(weighting=ActivationWeighting(), to="reward_match"),
    SparseWeighting(position="token"),
    SparseWeighting(init="near_one"),
    SparseWeighting(init="near_one", position="token", dropout=0.1),
    SparseWeighting(init="near_one", position="embedding", architecture="two_layer", hidden_width=4),
    SparseWeighting(init="near_one", scale="mean_one", layers="last"),
    SparseWeighting(init="near_one", floor=1.5),
    SparseWeighting(floor=0.3, scale="mean_one", position="token"),
    SparseWeighting(gate="softplus", layers=(1, 3)),
    SparseWeighting(init="near_one", gate="sigmoid", scale="mean_one", architecture="two_layer", hidden_width=4),
    SparseWeighting(gate="sigmoid", architecture="two_layer", hidden_width=4),
    SparseWeighting(init="near_one", gate="hard_concrete", position="token", l0=0.1),
    SparseWeighting(init="near_one", gate="binary", scale="mean_one", position="token", l0=0.1),
    SparseWeighting(init="near_one", gate="top_k", scale="mean_one", position="token", share=0.4),
)
def test_weightings(check: Run) -> None:
    check()


@conformance(
    AlphaDivergence(a=0.1),
    SampledK1(direction="reverse"),
    SampledK3(direction="reverse", cap=5),
)
def test_divergences(check: Run) -> None:
    check()


@conformance(
    AlphaShaping(a=0),
)
def test_shapings(check: Run) -> None:
    check()


@pytest.mark.slow
@conformance(
    TokenUnits(reduction="sum", unpaired="zero"),
    SeparatedUnits(pairing="rank"),
    NumberedUnits(pairing="index"),
    NumberedUnits(pairing="rank", reduction="sum"),
    NumberedUnits(weights=("one", "two", "three")),
    StateBaselineUnits(units=SeparatedUnits(), limit=0.5, reduction="sum"),
    StateBaselineUnits(units=NumberedUnits(weights=("one", "two", "three"))),
)
def test_units(check: Run) -> None:
    check()


@conformance(
    LogisticLoss(label_smoothing=0.2, margin=1.5),
    RobustLoss(label_smoothing=0),
    ScaledBasuLoss(lam=0.5, s=2),
    OffsetLoss(scale="identity", alpha=0.5),
    WeightedLoss(loss=HingeLoss()),
    WeightedLoss(loss=RobustLoss()),
    OnPolicyWeightedLoss(loss=LogisticLoss()),
    TokenRewardLoss(loss=LogisticLoss()),
    TokenRewardLoss(loss=HingeLoss(), alpha=0.5, beta=1.0, reduction="mean"),
    TokenRewardLoss(loss=BcoLoss()),
    MixtureLoss(losses=(LogisticLoss(), BcoLoss()), weights=(0.8, 0.2)),
    MixtureLoss(losses=(SquaredLoss(), WeightedLoss(loss=NcaLoss())), weights=(1, 2)),
)
def test_losses(check: Run) -> None:
    check()


@conformance(
    MaskL1(reward=0.1),
    MaskL1(reward=0.1, divergence=0.2),
    NegativeLogLikelihood(weight=0.5, reduction="sum"),
)
def test_regularizers(check: Run) -> None:
    check()


def test_every_built_in_component_is_here() -> None:
    tests = [value for name, value in globals().items() if name.startswith("test_") and hasattr(value, "pytestmark")]
    tried = {type(case.values[0].func.__self__.component) for test in tests for case in test.pytestmark[0].args[1]}
    assert tried == {component for component, bringer in installed() if bringer.distribution == "prefopt"}
