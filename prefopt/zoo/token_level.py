"""Rows with a token axis: the divergence at each position, and masks.

Written out below, r is log pi - log pi_ref of a response token, k = KL(pi_ref || pi) at its position, c the chosen
response, j the rejected one, z = beta (sum r_c - sum r_j), and sums run over response tokens.
"""

from __future__ import annotations

from prefopt.divergences import ForwardKL
from prefopt.objective_config import DivergenceTerm, ObjectiveConfig
from prefopt.regularizers import MaskL1
from prefopt.weightings import (
    ActivationWeighting,
    ColumnWeighting,
    DownSampledWeighting,
    ImportanceWeighting,
    LengthDesensitisedWeighting,
    SparseWeighting,
    TransportWeighting,
    UniformWeighting,
)
from prefopt.weightings.activation import Reduction, SiteKind
from prefopt.zoo.parameters import checked


@checked
def tdpo1(beta: float = 0.1) -> ObjectiveConfig:
    """loss = -log sigmoid(beta (sum r_c - sum r_j) - beta (sum k_j - sum k_c)).

    Token-level DPO with the sequential KL of both responses. Source: arXiv 2404.11999, its L_TDPO1.
    """
    return ObjectiveConfig(beta=beta, divergence=DivergenceTerm(measure=ForwardKL()))


@checked
def tdpo2(beta: float = 0.1, alpha: float = 0.5) -> ObjectiveConfig:
    """loss = -log sigmoid(beta (sum r_c - sum r_j) - alpha beta (sum k_j - stopgrad(sum k_c))).

    Token-level DPO whose chosen KL passes no gradient. Source: arXiv 2404.11999, its L_TDPO2; alpha 0.5
    is its setting.

    Differs: the authors' code logs rewards with coefficient 1 on the KL where it trains on alpha; here what is logged
    is what is trained.
    """
    return ObjectiveConfig(beta=beta, divergence=DivergenceTerm(measure=ForwardKL(), alpha=alpha, detach_chosen=True))


@checked
def mapo(
    beta: float = 0.1,
    sites: tuple[SiteKind, ...] = ("mlp", "attn", "resid", "logits"),
    reduction: Reduction = "zn_rescale",
) -> ObjectiveConfig:
    """loss = -log sigmoid(beta (sum m r_c - sum m r_j) - beta (sum m k_j - sum m k_c)).

    The weights m come from the reference's activations; `reduction` says how (see `ActivationWeighting`). Source:
    MaPO, in arXiv 2410.05102, with its reduction zn_rescale.

    Differs: the published code gives NaN for a response of one token and for constant activations; here such weights
    are 1. It also rounds a site's standard deviation, minimum and maximum to float16: weights up to 0.0004 off, outside
    of [0, 1] too, and NaN for a deviation below 3e-8 or above 65504; here they are computed in float32 or wider.
    """
    return ObjectiveConfig(
        beta=beta,
        weighting=ActivationWeighting(sites=sites, reduction=reduction),
        divergence=DivergenceTerm(measure=ForwardKL()),
    )


@checked
def sparsepo(
    beta: float = 0.1, shared: bool = True, l1_reward: float = 0.001, l1_divergence: float = 0.001
) -> ObjectiveConfig:
    """loss = -log sigmoid(beta (sum w r_c - sum w r_j) - beta (sum v k_j - sum v k_c)) + L1, w and v learned masks.

    shared=True is SparsePO-common (v = w, one mask), False is SparsePO-independent (a mask each). L1 has rate l1_reward
    for w and l1_divergence for v, over both responses of the pair; a common mask has the mean of the two, once.
    Source: arXiv 2410.05102; the L1 weights are those of its dialogue setting.

    Its masks start near zero: beta acts as about a hundredth of itself, and some seeds are dead from the start, which
    is warned of. `sparsepo_token` has neither.

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


@checked
def sparsepo_token(beta: float = 0.1, alpha: float = 10.0, l1: float = 0.002, floor: float = 0.3) -> ObjectiveConfig:
    """loss = -log sigmoid(beta (sum w r_c - sum w r_j) - alpha beta (sum k_j - stopgrad(sum k_c))) + beta l1 sum w.

    w is a learned mask that can see the token it weighs: a hidden layer over the reference's embedding of y_t, then a
    relu, which starts at one on every token. Its L1 is over both responses of the pair, and grows with beta, as what a
    weight can gain does. Where a response's mean weight would be below the floor, its scores are raised, so that L1
    alone neither closes the mask nor shrinks beta before the policy has learned anything. The divergence has weight one
    on every token, as in TDPO2: it holds the tokens that the mask leaves out, which would be free to drift otherwise.
    Source: this package, after SparsePO (arXiv 2410.05102) and TDPO2 (arXiv 2404.11999).

    The mask learns at a rate of its own: set mask_learning_rate, to 5e-3 for a start. At a policy's usual rate it stays
    near one, and the objective is TDPO2 with an alpha that is far too large for it.

    Differs: from SparsePO in all of that; its own objective is sparsepo.
    """
    return ObjectiveConfig(
        beta=beta,
        weighting=SparseWeighting(position="embedding", architecture="two_layer", init="near_one", floor=floor),
        divergence=DivergenceTerm(measure=ForwardKL(), alpha=alpha, weighting=UniformWeighting(), detach_chosen=True),
        regularizers=(MaskL1(reward=beta * l1),),
    )


@checked
def ld_dpo(beta: float = 0.1, alpha: float = 0.5) -> ObjectiveConfig:
    """loss = -log sigmoid(beta (sum w r_c - sum w r_j)), w = 1 up to the shorter response's length, alpha beyond it.

    Length-desensitised DPO: what one response says beyond the length of the other counts less, under policy and
    reference alike. Source: arXiv 2409.06411; alpha 0.5 is the middle of the range that it tunes over.

    Differs: LLaMA-Factory and ms-swift weigh the policy alone; TRL both, as here.
    """
    return ObjectiveConfig(beta=beta, weighting=LengthDesensitisedWeighting(alpha=alpha))


@checked
def poet(beta: float = 0.1) -> ObjectiveConfig:
    """loss = -log sigmoid(beta (sum_b r_c - sum_b r_j)), sums over the first b tokens, b the shorter response's length.

    Prefix-oriented equal-length training of DPO: both responses are cut to one length. `ld_dpo` at alpha 0. Source:
    arXiv 2506.09457, which has no parameter of its own; beta 0.1 is DPO's.
    """
    return ObjectiveConfig(beta=beta, weighting=LengthDesensitisedWeighting(alpha=0.0))


@checked
def sampo(beta: float = 0.1, seed: int = 0) -> ObjectiveConfig:
    """loss = -log sigmoid(beta (sum_S r_c - sum_S r_j)), S as many tokens drawn at random as the shorter response has.

    DPO with down-sampled rewards, against the bias to long responses. Source: arXiv 2406.10957; beta 0.1 is DPO's.

    Differs: the release draws tokens of policy and reference apart, so that theirs are others, and anew in every epoch;
    here both have the same ones, which depend on the response and the seed.
    """
    return ObjectiveConfig(beta=beta, weighting=DownSampledWeighting(seed=seed))


@checked
def otpo(beta: float = 0.1, reg: float = 1.0, reg_m: float = 0.2) -> ObjectiveConfig:
    """loss = -log sigmoid(beta (sum w r_c - sum w r_j)), w the marginals of an optimal transport between the responses.

    Tokens that have something like them in the other response count more, and the weights of either response sum to the
    length of the shorter one (see `TransportWeighting`). Its control is `uniform` scaled to `pair_min`: the same budget
    without the aim. Source: arXiv 2505.18720, as released; reg 0.1 and beta 0.1 are its 3B models', beta 0.01 its 8B's.

    Differs: the release iterates to a precision of 1e-6, here the steps are as many as 1e-12 takes.
    """
    return ObjectiveConfig(beta=beta, weighting=TransportWeighting(reg=reg, reg_m=reg_m))


@checked
def ti_dpo(beta: float = 0.1, alpha: float = 0.5, lam: float = 0.7) -> ObjectiveConfig:
    """loss = -log sigmoid(beta (sum w r_c - sum w r_j) - alpha beta (sum k_j - stopgrad(sum k_c))), w = lam I / mean I
    + (1 - lam) P / mean P.

    Token-importance guided DPO, without its triplet term. I is how far the input embedding of a token moves the
    policy's highest logit after the response, P a bell over the positions (see `ImportanceWeighting`); I takes another
    forward and backward pass of the policy. lam 0, P alone, is the control. Source: arXiv 2505.19653 as released, whose
    base is TDPO2; beta, alpha and lam are the paper's.

    Differs: the paper prints no divergence and does not rescale w, so that P outweighs I; the release has both as here,
    and a triplet of a response sampled at every step, which is left out, as in the paper's ablation.
    """
    return ObjectiveConfig(
        beta=beta,
        weighting=ImportanceWeighting(lam=lam),
        divergence=DivergenceTerm(measure=ForwardKL(), alpha=alpha, weighting=UniformWeighting(), detach_chosen=True),
    )


@checked
def mask_dpo(beta: float = 0.1) -> ObjectiveConfig:
    """loss = -log sigmoid(beta (sum w r_c - sum w r_j)), w from the fields chosen_weights and rejected_weights.

    Mask-DPO: w is 0 on sentences of the chosen response that are not factual and on those of the rejected one that are,
    1 on all others, as spans of the data say; a token that no span covers has 1. Source: arXiv 2503.02846, as released;
    beta 0.1 is its setting.

    Differs: the release lays sentences, tokenised apart, end to end, which drifts where a token crosses their boundary,
    and trains a pair whose lengths then differ without its mask, unsaid; here spans are of characters.
    """
    return ObjectiveConfig(beta=beta, weighting=ColumnWeighting(column="weights"))
