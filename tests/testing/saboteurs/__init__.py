"""Components with one fault each, as a plugin: each is to fail the check that looks for its fault, and it alone."""

from __future__ import annotations

from types import MappingProxyType

from prefopt.component import Component, Divergence, PreferenceLoss, Regularizer, RewardShaping, TokenWeighting, Units
from prefopt.hookspecs import hookimpl
from tests.testing.saboteurs import configuration, divergences, others, reading, results, units, weightings

SABOTEURS: MappingProxyType[str, type[Component]] = MappingProxyType(
    configuration.SABOTEURS
    | results.SABOTEURS
    | reading.SABOTEURS
    | weightings.SABOTEURS
    | divergences.SABOTEURS
    | others.SABOTEURS
    | units.SABOTEURS
)
"""By the name of the check that each fails."""

ALSO = MappingProxyType(
    {
        "pairs_do_not_leak": {"cutting_the_batch_changes_nothing"},
        "unit_numbers_are_int64": {"some_units_have_partners", "gradients_are_finite", "objective_descends"},
        "some_units_have_partners": {"objective_descends"},
        "one_value_each": {"gradients_are_finite", "objective_descends"},
    }
)
"""Which other checks a saboteur must fail: what hangs on other pairs changes when these are cut away, numbers of
another dtype cannot be matched, without partners nothing is trained, and an objective refuses a result of another
shape."""


def _of(kind: type[Component]) -> list[type[Component]]:
    return [cls for check, cls in SABOTEURS.items() if issubclass(cls, kind) and check != "is_registered"]


@hookimpl
def prefopt_token_weightings() -> list[type[Component]]:
    return _of(TokenWeighting)


@hookimpl
def prefopt_divergences() -> list[type[Component]]:
    return _of(Divergence)


@hookimpl
def prefopt_reward_shapings() -> list[type[Component]]:
    return _of(RewardShaping)


@hookimpl
def prefopt_units() -> list[type[Component]]:
    return _of(Units)


@hookimpl
def prefopt_preference_losses() -> list[type[Component]]:
    return _of(PreferenceLoss)


@hookimpl
def prefopt_regularizers() -> list[type[Component]]:
    return _of(Regularizer)
