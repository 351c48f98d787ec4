"""What a run says of each response token: the layers that tokens can be shaded by."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from prefopt.component import SampledDivergence
from prefopt.objective import ObjectiveConfig, ObjectiveOutput
from prefopt.validation import did_you_mean

__all__ = ["Layer", "layers", "named", "offered", "scale"]

_CAP = 0.98
"""Of the tokens that are shown, this share is not above what has the darkest shade: one outlier must not pale the rest.
"""


@final
@dataclass(frozen=True)
class Layer:
    """A number for each response token: `read` takes it, [N, T], from what the objective said of a batch.

    name is its column in files, label and meaning are for people; `signed` where it may be negative; `repeats` names
    the layer that always has the same numbers, where there is one.
    """

    name: str
    label: str
    meaning: str
    read: Callable[[ObjectiveOutput], Tensor]
    signed: bool = False
    repeats: str | None = None


def layers(config: ObjectiveConfig) -> tuple[Layer, ...]:
    """The layers that an objective has: no divergence, no v; without a reference, log-probabilities for log-ratios."""
    found = [Layer("w", "weight w", "how much the token's log-ratio counts", lambda output: output.weights)]
    term = config.divergence
    if term is not None:
        own = term.weighting is not None
        meaning = "how much the token's divergence counts"
        found.append(Layer("v", "weight v", meaning, _divergence_weights, repeats=None if own else "w"))
    if config.reference_free:
        meaning = "log pi, in nats; the objective asks no reference"
        found.append(Layer("log_ratio", "log-probability", meaning, lambda out: out.tokens.logps, signed=True))
    else:
        meaning = "log pi - log pi_ref, in nats: how much likelier the policy finds the token"
        found.append(Layer("log_ratio", "log-ratio", meaning, _log_ratios, signed=True))
    if term is not None:
        meaning = f"{term.measure.name} of policy and reference where the token is predicted"
        found.append(
            Layer("divergence", "divergence", meaning, _divergence, signed=isinstance(term.measure, SampledDivergence))
        )
    return tuple(found)


def offered(found: Iterable[Layer]) -> list[Layer]:
    """Those to shade by: the ones that do not repeat another."""
    return [layer for layer in found if layer.repeats is None]


def named(found: Iterable[Layer], name: str) -> Layer:
    """The layer of that name among those on offer. Raises ValueError where there is none."""
    known = {layer.name: layer for layer in offered(found)}
    if name not in known:
        raise ValueError(f"no layer {name!r} in this run.{did_you_mean(name, known)} It has {', '.join(known)}.")
    return known[name]


def _divergence_weights(output: ObjectiveOutput) -> Tensor:
    assert output.divergence_weights is not None
    return output.divergence_weights


def _log_ratios(output: ObjectiveOutput) -> Tensor:
    return output.tokens.logps - output.tokens.ref_logps


def _divergence(output: ObjectiveOutput) -> Tensor:
    assert output.tokens.divergence is not None
    return output.tokens.divergence


def scale(values: Iterable[float]) -> float:
    """What has the darkest shade: the magnitude that 98% of the values do not exceed; 1 where that is 0."""
    sizes = torch.tensor(list(values), dtype=torch.float64).abs()
    if not sizes.numel():
        return 1.0
    capped = sizes.quantile(_CAP) if sizes.numel() < 2**24 else sizes.max()  # of more, torch takes no quantile
    return float(capped) or float(sizes.max()) or 1.0
