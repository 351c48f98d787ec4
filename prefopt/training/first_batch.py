"""Checks of the first batch of training: its weights, its units, and its loss."""

from __future__ import annotations

import logging
import math

import torch

from prefopt.objective import Objective, ObjectiveOutput
from prefopt.scoring.zero import gathered

_LOG = logging.getLogger(__name__)

_TOLERANCE = 1e-4


def check_first_batch(objective: Objective, output: ObjectiveOutput) -> None:
    """Log whether the loss is the one at policy = reference, and warn where it is not, or where pairs have no units to
    compare. Raises ValueError where a weight is below zero."""
    _reject_negative_weights(objective, output)
    _check_units(objective, output)
    _check_initial_loss(objective, output)


def _reject_negative_weights(objective: Objective, output: ObjectiveOutput) -> None:
    """Raise ValueError where a weight of the first batch is below zero."""
    for slot, weighting in objective.weightings.items():
        negative = output.metrics.get(f"{slot}/negative")
        if negative is not None and negative.total > 0:
            raise ValueError(
                f"step 0: {weighting.kind} {weighting.name!r} gives {int(negative.total)} of {int(negative.number)} "
                "response tokens a weight below zero, which trains them against the preference; end its mathematics in "
                f"what is never negative, such as sigmoid or softplus. `prefopt check {weighting.name}` tries it"
            )


def _check_units(objective: Objective, output: ObjectiveOutput) -> None:
    """Warn where pairs of the first batch have no units to compare: their loss is 0 whatever the policy says."""
    none = output.metrics.get("units/none")
    if none is not None and none.total > 0:
        units = objective.config.units
        assert units is not None
        fields = ", ".join(field for column in sorted(units.columns, key=str) for field in column.fields)
        _LOG.warning(
            "step 0: %d of %d pairs have no units to compare, or weights of zero alone, and train nothing; the metric "
            "units/none counts such pairs, units/unpaired the tokens without a partner. See that units %r of both "
            "responses have partners%s.",
            *(int(none.total), int(none.number), units.name, f": fields {fields}" if fields else ""),
        )


def _check_initial_loss(objective: Objective, output: ObjectiveOutput) -> None:
    """Log whether the loss of the first batch is the one at policy = reference, and warn where it is not."""
    loss = output.losses.mean().item()  # without the auxiliary loss of a router
    if not math.isfinite(loss):
        return  # which the step is judged for
    if objective.config.reference_free:
        _LOG.info("step 0: loss %.6f; the objective is reference-free, so no value is expected", loss)
        return
    with torch.no_grad(), gathered(objective):
        expected = objective.at_reference(output.tokens).loss.item()
    if abs(loss - expected) <= _TOLERANCE * max(1.0, abs(expected)):
        _LOG.info("step 0: loss %.6f, as expected where the policy equals the reference", loss)
        return
    tokens = output.tokens
    gap = (tokens.logps - tokens.ref_logps)[tokens.mask].detach().abs()
    _LOG.warning(
        "step 0: loss %.6f, but %.6f where the policy is the reference. The two differ by up to %.2g nats a token "
        "(%.2g on average): they are different models, or were loaded in different precision.",
        *(loss, expected, gap.max().item(), gap.mean().item()),
    )
