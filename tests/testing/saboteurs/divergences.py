"""Divergences with one fault each."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from prefopt.component import BackwardBlock, Component, ExactDivergence, StreamedDivergence
from prefopt.divergences import ForwardKL, ReverseKL

KL = ForwardKL()


class Unclamped(ExactDivergence):
    """D = sum_v q_v (log q_v - log p_v), with what rounding leaves.

    Source: these tests.
    """

    name: Literal["bad_never_negative"] = "bad_never_negative"

    def __call__(self, logps: Tensor, ref_logps: Tensor) -> Tensor:
        weights = ref_logps.exp()
        return (weights * torch.where(weights > 0, ref_logps - logps, 0)).sum(-1)


class Deadband(ExactDivergence):
    """D = max(0, KL(q || p) - 0.3).

    Source: these tests.
    """

    name: Literal["bad_zero"] = "bad_zero"

    def __call__(self, logps: Tensor, ref_logps: Tensor) -> Tensor:
        return torch.relu(KL(logps, ref_logps) - 0.3)


class OfProbabilities(ExactDivergence):
    """D = sum_v q_v log q_v - q_v log p_v, of probabilities.

    Source: these tests.
    """

    name: Literal["bad_peaked"] = "bad_peaked"

    def __call__(self, logps: Tensor, ref_logps: Tensor) -> Tensor:
        p, q = logps.exp(), ref_logps.exp()
        return (torch.special.xlogy(q, q) - torch.special.xlogy(q, p)).sum(-1).clamp(min=0)


class Unsilenced(ExactDivergence):
    """D = sum_v q_v (log q_v - log p_v), zero times infinity and all.

    Source: these tests.
    """

    name: Literal["bad_impossible"] = "bad_impossible"

    def __call__(self, logps: Tensor, ref_logps: Tensor) -> Tensor:
        return (ref_logps.exp() * (ref_logps - logps)).sum(-1).clamp(min=0)


class Detached(ExactDivergence):
    """D = KL(q || p), without its gradient.

    Source: these tests.
    """

    name: Literal["bad_gradient"] = "bad_gradient"

    def __call__(self, logps: Tensor, ref_logps: Tensor) -> Tensor:
        return KL(logps, ref_logps).detach()

    def logit_gradient(self, logps: Tensor, ref_logps: Tensor, value: Tensor) -> Tensor:
        return torch.zeros_like(logps)


class WrongClosedForm(ExactDivergence):
    """D = KL(q || p), dD/dz = q - p.

    Source: these tests.
    """

    name: Literal["bad_closed_form"] = "bad_closed_form"

    def __call__(self, logps: Tensor, ref_logps: Tensor) -> Tensor:
        return KL(logps, ref_logps)

    def logit_gradient(self, logps: Tensor, ref_logps: Tensor, value: Tensor) -> Tensor:
        return ref_logps.exp() - logps.exp()


class Mistreamed(StreamedDivergence):
    """D = KL(q || p); its gradient block by block is KL(p || q)'s.

    Source: these tests.
    """

    name: Literal["bad_streaming"] = "bad_streaming"

    def __call__(self, logps: Tensor, ref_logps: Tensor) -> Tensor:
        return KL(logps, ref_logps)

    def block_forward(self, exps: Tensor, ref_exps: Tensor, log_ratio: Tensor) -> Tensor:
        return KL.block_forward(exps, ref_exps, log_ratio)

    def combine(self, sums: Tensor, scale: Tensor, ref_scale: Tensor, log_normaliser_ratio: Tensor) -> Tensor:
        return KL.combine(sums, scale, ref_scale, log_normaliser_ratio)

    def block_backward(self, block: BackwardBlock) -> Tensor:
        return ReverseKL().block_backward(block)


class ByChunk(ExactDivergence):
    """D = KL(q || p) / n, n the positions of the chunk.

    Source: these tests.
    """

    name: Literal["bad_positions"] = "bad_positions"

    def __call__(self, logps: Tensor, ref_logps: Tensor) -> Tensor:
        value = KL(logps, ref_logps)
        return value / value.numel()


SABOTEURS: dict[str, type[Component]] = {
    "divergence_is_never_negative": Unclamped,
    "divergence_is_zero_where_equal_and_only_there": Deadband,
    "peaked_distributions_are_finite": OfProbabilities,
    "impossible_tokens_give_no_nan": Unsilenced,
    "gradient_reaches_the_policy": Detached,
    "closed_form_gradient_agrees": WrongClosedForm,
    "streaming_agrees_with_the_call": Mistreamed,
    "cutting_into_positions_changes_nothing": ByChunk,
}
