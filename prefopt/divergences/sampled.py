"""Estimates of a divergence from the response's own token alone: cheap, since they never see the vocabulary, and noisy.

x = log pi - log pi_ref of the token where the direction is "forward", KL(pi_ref || pi), and its negative where it is
"reverse", KL(pi || pi_ref). An estimate is right on average only for tokens drawn from the first of the two: from the
reference for the forward KL, from the policy for the reverse. The responses of a preference data set are from neither,
so take these for what published code does, and the exact ones for what it means.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Literal, final

import torch
from pydantic import Field
from torch import Tensor

from prefopt.component import SampledDivergence
from prefopt.stable import capped_expm1

__all__ = ["SampledK1", "SampledK2", "SampledK3"]

Direction = Literal["forward", "reverse"]

_SIGNS = MappingProxyType({"forward": 1, "reverse": -1})


def _log_ratio(direction: Direction, logps: Tensor, ref_logps: Tensor) -> Tensor:
    return _SIGNS[direction] * (logps - ref_logps)


@final
class SampledK1(SampledDivergence):
    """D = -x.

    Right on average, and of either sign: the one divergence that may be negative. Its gradient in a forward direction
    is that of the negative log-likelihood, whatever the reference.
    Source: Schulman 2020, "Approximating KL divergence", k1.
    """

    name: Literal["sampled_k1"] = "sampled_k1"
    direction: Direction = "forward"

    def __call__(self, logps: Tensor, ref_logps: Tensor) -> Tensor:
        """logps, ref_logps [...] of the tokens -> [...]."""
        return -_log_ratio(self.direction, logps, ref_logps)


@final
class SampledK2(SampledDivergence):
    """D = x^2 / 2.

    Never negative, and biased; the same in both directions.
    Source: Schulman 2020, "Approximating KL divergence", k2.
    """

    name: Literal["sampled_k2"] = "sampled_k2"

    def __call__(self, logps: Tensor, ref_logps: Tensor) -> Tensor:
        """logps, ref_logps [...] of the tokens -> [...]."""
        return (logps - ref_logps).square() / 2


@final
class SampledK3(SampledDivergence):
    """D = exp(x) - 1 - x.

    Never negative, and right on average. Where x > cap the exponential goes on as its tangent, so that it does not
    overflow. Source: Schulman 2020, "Approximating KL divergence", k3.
    """

    name: Literal["sampled_k3"] = "sampled_k3"
    direction: Direction = "forward"
    cap: float = Field(default=30.0, gt=0)

    def __call__(self, logps: Tensor, ref_logps: Tensor) -> Tensor:
        """logps, ref_logps [...] of the tokens -> [...]."""
        x = _log_ratio(self.direction, logps, ref_logps)
        x = x.clamp(max=torch.finfo(x.dtype).max)  # where one of the two excludes the token, infinity less infinity
        return (capped_expm1(x, self.cap) - x).clamp(min=0)
