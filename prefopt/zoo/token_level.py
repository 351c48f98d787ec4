"""Rows with a token axis: the divergence at each position, and masks.

Written out below, r is log pi - log pi_ref of a response token, k = KL(pi_ref || pi) at its position, c the chosen
response, j the rejected one, z = beta (sum r_c - sum r_j), and sums run over response tokens.
"""

from __future__ import annotations

from prefopt.divergences import ForwardKL
from prefopt.objective import DivergenceTerm, ObjectiveConfig
from prefopt.regularizers import MaskL1
from prefopt.weightings import ActivationWeighting, LengthDesensitisedWeighting, SparseWeighting
from prefopt.weightings.activation import Reduction, SiteKind
from prefopt.weightings.sparse.config import GateName, ScaleName

__all__ = ["ld_dpo", "mapo", "sparsepo", "sparsepo_token", "tdpo1", "tdpo2"]


def tdpo1(beta: float = 0.1) -> ObjectiveConfig:
    """loss = -log sigmoid(beta (sum r_c - sum r_j) - beta (sum k_j - sum k_c)).

    Token-level DPO with the sequential KL of both responses. Source: arXiv 2404.11999, its L_TDPO1.
    """
    return ObjectiveConfig(beta=beta, divergence=DivergenceTerm(measure=ForwardKL()))


def tdpo2(beta: float = 0.1, alpha: float = 0.5) -> ObjectiveConfig:
    """loss = -log sigmoid(beta (sum r_c - sum r_j) - alpha beta (sum k_j - stopgrad(sum k_c))).

    Token-level DPO whose chosen KL passes no gradient. Source: arXiv 2404.11999, its L_TDPO2; alpha 0.5
    is its setting.

    Differs: the authors' code logs rewards with coefficient 1 on the KL where it trains on alpha; here what is logged
    is what is trained.
    """
    return ObjectiveConfig(beta=beta, divergence=DivergenceTerm(measure=ForwardKL(), alpha=alpha, detach_chosen=True))


def mapo(
    beta: float = 0.1,
    sites: tuple[SiteKind, ...] = ("mlp", "attn", "resid", "logits"),
    reduction: Reduction = "zn_rescale",
) -> ObjectiveConfig:
    """loss = -log sigmoid(beta (sum m r_c - sum m r_j) - beta (sum m k_j - sum m k_c)).

    The weights m come from the reference's activations; `reduction` says how (see `ActivationWeighting`). Source:
    MaPO, in arXiv 2410.05102, with its reduction zn_rescale.

    Differs: the published code gives NaN for a response of one token and for constant activations; here such weights
    are 1.
    """
    return ObjectiveConfig(
        beta=beta,
        weighting=ActivationWeighting(sites=sites, reduction=reduction),
        divergence=DivergenceTerm(measure=ForwardKL()),
    )


def sparsepo(
    beta: float = 0.1, shared: bool = True, l1_reward: float = 0.001, l1_divergence: float = 0.001
) -> ObjectiveConfig:
    """loss = -log sigmoid(beta (sum w r_c - sum w r_j) - beta (sum v k_j - sum v k_c)) + L1, w and v learned masks.

    shared=True is SparsePO-common (v = w, one mask), False is SparsePO-independent (a mask each). L1 charges l1_reward
    for w and l1_divergence for v, over both responses of the pair; a common mask is charged the mean of the two, once.
    Source: arXiv 2410.05102; the L1 weights are those of its dialogue setting.

    Differs: the published code logs rewards with the opposite sign of the divergence from the one it trains on,
    silently zeroes the masks' dropout, and freezes the masks under LoRA; here none of that is so.
    """
    share = 0.5 if shared else 1.0
    return ObjectiveConfig(
        beta=beta,
        weighting=SparseWeighting(),
        divergence=DivergenceTerm(measure=ForwardKL(), weighting=None if shared else SparseWeighting()),
        regularizers=(MaskL1(reward=share * l1_reward, divergence=share * l1_divergence),),
    )


def sparsepo_token(
    beta: float = 0.1,
    shared: bool = True,
    gate: GateName = "hard_concrete",
    scale: ScaleName = "mean_one",
    l0: float = 0.0001,
) -> ObjectiveConfig:
    """loss = -log sigmoid(beta (sum w r_c - sum w r_j) - beta (sum v k_j - sum v k_c)) + L0, w and v masks of mean one.

    SparsePO with masks that can see the tokens that they weigh: they read the reference's state at y_t's own position,
    start near one, and are divided by their mean over the response, so that beta keeps its meaning and the tokens of
    a response compete for it. The hard concrete gate makes exact zeros and, by its noise in training, can take them
    back; L0 charges l0 for each token's probability of being open, of each mask. shared=True has one mask (v = w).
    Source: this package, after SparsePO (arXiv 2410.05102); the gate and its penalty, arXiv 1712.01312.

    Differs: from the paper in all of that; its own objective is sparsepo.
    """
    mask = SparseWeighting(position="token", gate=gate, init="near_one", scale=scale, l0=l0)
    return ObjectiveConfig(
        beta=beta,
        weighting=mask,
        divergence=DivergenceTerm(measure=ForwardKL(), weighting=None if shared else mask),
    )


def ld_dpo(beta: float = 0.1, alpha: float = 0.5) -> ObjectiveConfig:
    """loss = -log sigmoid(beta (sum w r_c - sum w r_j)), w = 1 up to the shorter response's length, alpha beyond it.

    Length-desensitised DPO: what one response says beyond the length of the other counts less, under policy and
    reference alike. Source: arXiv 2409.06411; alpha 0.5 is the middle of the range that it tunes over.

    Differs: LLaMA-Factory and ms-swift weigh the policy alone; TRL both, as here.
    """
    return ObjectiveConfig(beta=beta, weighting=LengthDesensitisedWeighting(alpha=alpha))
