"""The layers of a run: what its objective makes of every response token."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from prefopt.component import SampledDivergence
from prefopt.objective import ObjectiveOutput
from prefopt.objective_config import ObjectiveConfig
from prefopt.pages.token_view import TokenLayer
from prefopt.validation import did_you_mean

_QUANTILE = 0.98
"""The share of the tokens whose magnitude the darkest shade covers: one outlier must not pale the others."""


def layers(config: ObjectiveConfig) -> tuple[TokenLayer, ...]:
    """The layers of an objective: v needs a divergence, and without a reference log-ratios are log-probabilities."""
    weight = TokenLayer("w", "weight w", "how much the token's log-ratio counts")
    if config.reference_free:
        meaning = "log pi, in nats; the objective has no reference"
        log_ratio = TokenLayer("log_ratio", "log-probability", meaning, signed=True)
    else:
        meaning = "log pi - log pi_ref, in nats: how much likelier the token is under the policy"
        log_ratio = TokenLayer("log_ratio", "log-ratio", meaning, signed=True)
    term = config.divergence
    if term is None:
        return weight, log_ratio
    shared = "w" if term.weighting is None else None
    meaning = f"{term.measure.name} of policy and reference where the token is predicted"
    return (
        weight,
        TokenLayer("v", "weight v", "how much the token's divergence counts", repeats=shared),
        log_ratio,
        TokenLayer("divergence", "divergence", meaning, signed=isinstance(term.measure, SampledDivergence)),
    )


def layer_values(output: ObjectiveOutput) -> dict[str, Tensor]:
    """layer -> [N, T], for every layer that the objective has."""
    tokens = output.tokens
    values = {
        "w": output.weights,
        "v": output.divergence_weights,
        "log_ratio": tokens.logps - tokens.ref_logps,  # the latter are 0 without a reference
        "divergence": tokens.divergence,
    }
    return {name: value for name, value in values.items() if value is not None}


def distinct(layers: Iterable[TokenLayer]) -> list[TokenLayer]:
    """The layers to shade by: those that do not repeat another."""
    return [layer for layer in layers if layer.repeats is None]


def layer_named(layers: Iterable[TokenLayer], name: str) -> TokenLayer:
    """The layer to shade by that has this name. Raises ValueError if there is none."""
    by_name = {layer.name: layer for layer in distinct(layers)}
    if name not in by_name:
        raise ValueError(f"no layer {name!r} in this run.{did_you_mean(name, by_name)} It has {', '.join(by_name)}.")
    return by_name[name]


def scale(values: Iterable[float]) -> float:
    """The magnitude that has the darkest shade: 98% of the values do not exceed it; 1 where all values are 0."""
    sizes = torch.tensor(list(values), dtype=torch.float64).abs()
    if not sizes.numel():
        return 1.0
    capped = sizes.quantile(_QUANTILE) if sizes.numel() < 2**24 else sizes.max()  # torch's limit of a quantile
    return float(capped) or float(sizes.max()) or 1.0
