"""Rows that read more of a pair than its rewards, or blend losses of them.

Written out below, r is log pi - log pi_ref of a response token, c the chosen response, j the rejected one, z = beta
(sum r_c - sum r_j), and sums and means run over response tokens.
"""

from __future__ import annotations

from prefopt.losses import BcoLoss, LogisticLoss, MixtureLoss, OffsetLoss, OnPolicyWeightedLoss
from prefopt.objective_config import ObjectiveConfig
from prefopt.regularizers import NegativeLogLikelihood


def odpo(beta: float = 0.1, alpha: float = 1.0) -> ObjectiveConfig:
    """loss = -log sigmoid(z - alpha log(s_c - s_j)), s the scores of the responses.

    DPO with an offset: the more two responses differ in score, the further apart their rewards must be. Scores come
    from the fields score_chosen and score_rejected of each row; `loss: {scale: identity}` takes their plain difference.
    Source: arXiv 2402.10571, its L_ODPO with a logarithm as the scaling; the paper varies alpha, which is 1 here.
    """
    return ObjectiveConfig(beta=beta, loss=OffsetLoss(alpha=alpha))


def wpo(beta: float = 0.1) -> ObjectiveConfig:
    """loss = -w_c w_j log sigmoid(z), w = exp(mean(log pi - log sum_v pi(v)^2)) without gradient.

    Weighted preference optimisation: pairs that the policy would hardly say itself count less, which brings data of
    other models closer to its own. Source: arXiv 2406.11827 eq. 2, with sampled alignment; beta 0.1 is DPO's.

    Differs: TRL's use_weighting is this weight on any of its losses; here `on_policy_weighted` holds any loss.
    """
    return ObjectiveConfig(beta=beta, loss=OnPolicyWeightedLoss(loss=LogisticLoss()))


def mpo(beta: float = 0.1, preference: float = 0.8, quality: float = 0.2, generation: float = 1.0) -> ObjectiveConfig:
    """loss = preference L_dpo + quality L_bco - generation mean log pi_c.

    Mixed preference optimisation: DPO's loss, BCO's with its running baseline (see `bco`), and the likelihood of the
    chosen response. Pairs are coupled by the baseline. Source: arXiv 2411.10442; the weights are its settings.

    Differs: TRL mixes its bco_pair, which has no baseline.
    """
    blend = MixtureLoss(losses=(LogisticLoss(), BcoLoss()), weights=(preference, quality))
    return ObjectiveConfig(beta=beta, loss=blend, regularizers=(NegativeLogLikelihood(weight=generation),))
