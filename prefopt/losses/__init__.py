"""Preference losses: from the rewards of the two responses to the loss of the pair. d = r(y_chosen) - r(y_rejected)."""

from __future__ import annotations

from prefopt.component import PreferenceLoss
from prefopt.hookspecs import concrete_classes, hookimpl
from prefopt.losses import absolute, composed, coupled, margin, weighted
from prefopt.losses.absolute import *
from prefopt.losses.composed import *
from prefopt.losses.coupled import *
from prefopt.losses.margin import *
from prefopt.losses.weighted import *

_LOSSES = concrete_classes(PreferenceLoss, margin, absolute, coupled, weighted, composed)

__all__ = sorted(loss.__name__ for loss in _LOSSES)


@hookimpl
def prefopt_preference_losses() -> list[type[PreferenceLoss]]:
    return _LOSSES
