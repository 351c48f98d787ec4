"""Rows that compare parts of two responses, their tokens or segments, and take the mean or sum of the losses.

Written out below, r is log pi - log pi_ref of a response token, k = KL(pi_ref || pi) at its position, c the chosen
response, j the rejected one, t a position in both responses, and sums over a segment run over its tokens.
"""

from __future__ import annotations

from prefopt.divergences import ForwardKL
from prefopt.losses import ScaledBasuLoss
from prefopt.objective_config import DivergenceTerm, ObjectiveConfig
from prefopt.units import NumberedUnits, StateBaselineUnits, TokenUnits
from prefopt.weightings import ColumnWeighting
from prefopt.zoo.parameters import checked


@checked
def tbpo_a(beta: float = 0.1, lam: float = 0.0, s: float = 4.0) -> ObjectiveConfig:
    """loss = mean_t (exp(-d_t) - d_t) / s, d_t = beta ((r_c,t + k_c,t) - (r_j,t + k_j,t)), for lam = 0.

    Token-level Bregman preference optimisation with advantages: TDPO1's token rewards, compared position by position up
    to the shorter response's end, under the scaled Basu power divergence, for other lam too. `loss: logistic` is its
    logistic instance. Source: arXiv 2605.12288, as released: KL(reference || policy) over the whole vocabulary, with
    gradient on both sides, lam 0 and s 4. The release was read in forks of it.

    Differs: the paper is said to estimate the KL from one token; that is `divergence: {measure: sampled_k3}`.
    """
    return ObjectiveConfig(
        beta=beta, divergence=DivergenceTerm(measure=ForwardKL()), units=TokenUnits(), loss=ScaledBasuLoss(lam=lam, s=s)
    )


@checked
def tbpo_q(beta: float = 0.1, lam: float = 0.0, s: float = 4.0, limit: float = 10.0) -> ObjectiveConfig:
    """loss = mean_t (exp(-d_t) - d_t) / s, d_t = beta (r_c,t - r_j,t - c_t), for lam = 0.

    Token-level Bregman preference optimisation with a learned baseline: c_t = b(h_j,t) - b(h_c,t) less its mean over t,
    within -limit and limit, b linear in the policy's last hidden state where the token is predicted. b passes no
    gradient to the policy, and learns by the same loss: set mask_learning_rate to 1e-3 and mask_weight_decay to 0, as
    in the release, where the policy has 5e-7; at the policy's rate it stays at its start. Source: arXiv 2605.12288, as
    released: a linear b, limits of 10, lam 0 and s 4. The release was read in forks of it.

    Differs: b starts at 0, where the loss is that of token log-ratios alone, and has no constant, which would cancel;
    the release draws both at random.
    """
    units = StateBaselineUnits(units=TokenUnits(), limit=limit)
    return ObjectiveConfig(beta=beta, units=units, loss=ScaledBasuLoss(lam=lam, s=s))


@checked
def dpo_2d(beta: float = 0.1) -> ObjectiveConfig:
    """loss = -sum_i log sigmoid(beta (s_c,i sum r_c,i - s_j,i sum r_j,i)), over i up to the fewer segments.

    2D-DPO, grouped: s_i is the score of a segment, the i-th best of the chosen response and the i-th worst of the
    rejected one; what has no partner is left out. Segments come from chosen_segment and rejected_segment, scores >= 0
    from chosen_score and rejected_score, as spans of the response; tokens in no span are in no segment. Source: arXiv
    2410.19720; the code of arXiv 2505.01706, which builds on it, was read, its own was not seen.

    Differs: a segment's score here is its first token's, and scores are not negative.
    """
    score = "score"
    return ObjectiveConfig(
        beta=beta,
        weighting=ColumnWeighting(column=score, default=0.0),
        units=NumberedUnits(column="segment", pairing="rank", score=score, reduction="sum"),
    )


@checked
def aw_dpo(beta: float = 0.1) -> ObjectiveConfig:
    """loss = -sum_u w_u log sigmoid(beta (sum r_c,u - sum r_j,u)), w_u = d_u / sum d, u the reasoning and the answer.

    Alignment-weighted DPO: each part counts by how much the responses differ in it, d_u, from the fields gap_reasoning
    and gap_answer of a row. Spans of chosen_part and rejected_part with value 0 are reasoning, other tokens the answer.
    Source: arXiv 2602.21346, its eq. 3 and 4, as written.

    Differs: the paper's d_u, the harm score of the chosen response less that of the rejected one, may have either sign,
    which turns a part's preference round; here a negative d_u is refused.
    """
    units = NumberedUnits(column="part", default=1, weights=("gap_reasoning", "gap_answer"))
    return ObjectiveConfig(beta=beta, units=units)


@checked
def contrastive_dpo_released(beta: float = 0.1) -> ObjectiveConfig:
    """loss = -sum_t log sigmoid(beta (r_c,t - w_t r_j,t)), over t up to the longer response, r = 0 beyond an end.

    cDPO of critical tokens, as released: the link is taken position by position. w_t = 1 - s_t, s_t how much likelier a
    model of right trajectories finds a token than one of wrong ones, comes from rejected_weights, tokens without a
    number weigh 1; chosen_weights is an empty list. Source: the code of arXiv 2411.19943; as written, its link is of
    sums over the responses, which is `dpo` with `weighting: column`.

    Differs: the code takes the mean over all positions of a padded batch, prompts too, where each position without a
    token adds ln 2; that is this sum by a number which hangs on the batch, plus a constant.
    """
    return ObjectiveConfig(beta=beta, weighting=ColumnWeighting(), units=TokenUnits(reduction="sum", unpaired="zero"))
