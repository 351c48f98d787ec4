"""Estimates of a divergence from the response's own token: cheap, without a pass over the vocabulary, and noisy.

x = log pi - log pi_ref of the token for the direction "forward", KL(pi_ref || pi), and its negative for "reverse",
KL(pi || pi_ref). An estimate is unbiased only for tokens drawn from the first of the two models. The responses of a
preference data set are from neither, so these reproduce published code; the exact divergences are what it means.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal, final

import torch
from pydantic import Field
from torch import Tensor

from prefopt.component import SampledDivergence
from prefopt.stable import capped_expm1

Direction = Literal["forward", "reverse"]

_SIGNS = MappingProxyType({"forward": 1, "reverse": -1})


def _log_ratio(direction: Direction, logps: Tensor, ref_logps: Tensor) -> Tensor:
    return _SIGNS[direction] * (logps - ref_logps)


def _where_finite(x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """function(x), without gradient where x is not finite: a slope that is not finite would be nan under a weight of
    0."""
    finite = x.isfinite()
    return torch.where(finite, function(torch.where(finite, x, 0)), function(x.detach()))


@final
class SampledK1(SampledDivergence):
    """D = -x.

    Unbiased, and of either sign: the one divergence that may be negative. Its gradient in the forward direction is that
    of the negative log-likelihood, whatever the reference.
    Source: Schulman 2020, "Approximating KL divergence", k1.

    >>> SampledK1()(torch.tensor(-1.0), torch.tensor(-1.5))
    tensor(-0.5000)
    """

    name: Literal["sampled_k1"] = "sampled_k1"
    direction: Direction = "forward"

    @property
    def expected_failures(self) -> Mapping[str, str]:
        return {"divergence_is_never_negative": "k1 is the log-ratio of one token, right only on average"}

    def __call__(self, logps: Tensor, ref_logps: Tensor) -> Tensor:
        """logps, ref_logps [...] of the tokens -> [...]."""
        return -_log_ratio(self.direction, logps, ref_logps)


@final
class SampledK2(SampledDivergence):
    """D = x^2 / 2.

    Never negative, and biased; the same in both directions.
    Source: Schulman 2020, "Approximating KL divergence", k2.

    >>> SampledK2()(torch.tensor(-1.0), torch.tensor(-1.5))
    tensor(0.1250)
    """

    name: Literal["sampled_k2"] = "sampled_k2"

    def __call__(self, logps: Tensor, ref_logps: Tensor) -> Tensor:
        """logps, ref_logps [...] of the tokens -> [...]."""
        return _where_finite(logps - ref_logps, lambda x: x.square() / 2)


@final
class SampledK3(SampledDivergence):
    """D = exp(x) - 1 - x.

    Never negative, and unbiased. Above x = cap the exponential continues as its tangent, so that it does not overflow.
    Source: Schulman 2020, "Approximating KL divergence", k3.

    >>> SampledK3()(torch.tensor(-1.0), torch.tensor(-1.5))
    tensor(0.1487)
    """

    name: Literal["sampled_k3"] = "sampled_k3"
    direction: Direction = "forward"
    cap: float = Field(default=30.0, gt=0)

    def __call__(self, logps: Tensor, ref_logps: Tensor) -> Tensor:
        """logps, ref_logps [...] of the tokens -> [...]."""
        return _where_finite(_log_ratio(self.direction, logps, ref_logps), self._of_ratio)

    def _of_ratio(self, x: Tensor) -> Tensor:
        x = x.clamp(max=torch.finfo(x.dtype).max)  # where one of the two excludes the token, infinity less infinity
        return (capped_expm1(x, self.cap) - x).clamp(min=0)
