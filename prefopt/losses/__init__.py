"""Preference losses: from the rewards of the two responses to the loss of the pair. d = r(y_chosen) - r(y_rejected)."""

from __future__ import annotations

from prefopt.component import PreferenceLoss
from prefopt.hookspecs import hookimpl
from prefopt.losses.absolute import ApoDownLoss, ApoZeroLoss, BcoPairLoss, NcaLoss, SppoLoss
from prefopt.losses.composed import MixtureLoss
from prefopt.losses.coupled import AotLoss, AotPairedLoss, BcoLoss
from prefopt.losses.margin import DiscoPopLoss, ExoLoss, HingeLoss, LogisticLoss, RobustLoss, SquaredLoss
from prefopt.losses.weighed import OffsetLoss, OnPolicyWeightedLoss, WeightedLoss

__all__ = [
    "AotLoss",
    "AotPairedLoss",
    "ApoDownLoss",
    "ApoZeroLoss",
    "BcoLoss",
    "BcoPairLoss",
    "DiscoPopLoss",
    "ExoLoss",
    "HingeLoss",
    "LogisticLoss",
    "MixtureLoss",
    "NcaLoss",
    "OffsetLoss",
    "OnPolicyWeightedLoss",
    "RobustLoss",
    "SppoLoss",
    "SquaredLoss",
    "WeightedLoss",
]


@hookimpl
def prefopt_preference_losses() -> list[type[PreferenceLoss]]:
    return [
        LogisticLoss,
        HingeLoss,
        SquaredLoss,
        RobustLoss,
        ExoLoss,
        DiscoPopLoss,
        NcaLoss,
        BcoPairLoss,
        SppoLoss,
        ApoZeroLoss,
        ApoDownLoss,
        AotLoss,
        AotPairedLoss,
        BcoLoss,
        OffsetLoss,
        WeightedLoss,
        OnPolicyWeightedLoss,
        MixtureLoss,
    ]
