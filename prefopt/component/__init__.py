"""What a component is: a frozen configuration that is also the mathematics, in one of six kinds."""

from __future__ import annotations

from prefopt.component.base import Component, Named
from prefopt.component.divergences import (
    BackwardBlock,
    Divergence,
    ExactDivergence,
    SampledDivergence,
    StreamedDivergence,
)
from prefopt.component.kinds import (
    LossFunction,
    PreferenceLoss,
    Regularizer,
    RewardShaping,
    TokenWeighting,
    Units,
    WeightFunction,
    built,
    weights_and_penalty,
)
from prefopt.signals import Signal

__all__ = [
    "BackwardBlock",
    "Component",
    "Divergence",
    "ExactDivergence",
    "LossFunction",
    "Named",
    "PreferenceLoss",
    "Regularizer",
    "RewardShaping",
    "SampledDivergence",
    "Signal",
    "StreamedDivergence",
    "TokenWeighting",
    "Units",
    "WeightFunction",
    "built",
    "weights_and_penalty",
]
