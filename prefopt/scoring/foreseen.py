"""Gradients of a pair that are known up to one factor before its logits are.

A loss of the margin alone reaches every token's statistics through that margin,

    dL/dlogp_t = L'(m) dm/dlogp_t,   dL/dD_t = L'(m) dm/dD_t

and for a margin that is linear in them, as with every weighting that does not read what the policy says, dm/dlogp_t and
dm/dD_t are known beforehand. Backward through the head is linear in them too. So it is taken for the factor 1 while a
chunk's logits are there, and multiplied by L'(m) once all chunks have been seen: no logits are saved, and none computed
twice. Whether an objective is like this is not read off its name: its gradients are taken at two made-up statistics,
and compared again with those that backward brings.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from prefopt.objective import Objective
from prefopt.scoring.forward import ModelStates, token_batch
from prefopt.scoring.lm_head.foreseen import Foreseen
from prefopt.scoring.lm_head.token_statistics import TokenStatistics
from prefopt.scoring.rows.layout import Layout

_STEP = 0.61803398875
"""Made-up log-ratios and divergences are multiples of it but for their whole part: no two tokens have like ones."""


def foreseen_gradients(
    objective: Objective,
    layout: Layout,
    states: ModelStates | None,
    with_divergence: Callable[[TokenStatistics], TokenStatistics],
    dtype: torch.dtype,
) -> Foreseen | None:
    """The gradients of a layout's statistics, or None where no factor makes those at one statistic those at another, or
    the objective keeps something from call to call.

    states  the signals of the layout's responses. `with_divergence` adds what is computed of the log-probabilities.
    """
    if any(True for _ in objective.buffers()):
        return None
    device = layout.mask.device
    ones = torch.ones(len(layout.labels), dtype=dtype, device=device)
    uneven = _STEP * torch.arange(len(ones), dtype=dtype, device=device) % 1
    is_chosen = torch.arange(len(layout.mask), device=device) < layout.pairs
    signs = torch.where(is_chosen, 1, -1).repeat_interleave(layout.mask.sum(-1), output_size=len(ones))
    beta, made_up = objective.config.beta, []
    # Policy and reference alike; then, for shapings that add tokens up and that take their mean, a margin of about one.
    for size, apart in ((0.0, 0.0), (2 / (beta * len(ones)), 0.3), (1 / beta, 0.3)):
        logps = (size * signs + apart * (uneven - 0.5) - ones).requires_grad_()
        divergence = (apart * uneven).requires_grad_()
        statistics = TokenStatistics(logps, -ones, divergence, -ones)
        with torch.enable_grad(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            losses = objective(token_batch(layout, with_divergence(statistics), states)).losses
            gradients = torch.autograd.grad(losses.sum(), [logps, divergence], materialize_grads=True)
        made_up.append(Foreseen(*gradients))
    first, *others = made_up
    return first if all(first.factor(other.d_logps, other.d_divergence) is not None for other in others) else None
