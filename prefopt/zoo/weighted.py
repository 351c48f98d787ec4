"""Rows that read more of a pair than its rewards, or blend losses of them.

Written out below, r is log pi - log pi_ref of a response token, c the chosen response, j the rejected one, z = beta
(sum r_c - sum r_j), and sums and means run over response tokens.
"""

from __future__ import annotations

from prefopt.losses import BcoLoss, LogisticLoss, MixtureLoss, OffsetLoss, OnPolicyWeightedLoss, TokenRewardLoss
from prefopt.objective_config import ObjectiveConfig
from prefopt.regularizers import NegativeLogLikelihood
from prefopt.zoo.parameters import checked


@checked
def odpo(beta: float = 0.1, alpha: float = 1.0) -> ObjectiveConfig:
    """loss = -log sigmoid(z - alpha log(s_c - s_j)), s the scores of the responses.

    DPO with an offset: the more two responses differ in score, the further apart their rewards must be. Scores come
    from the fields score_chosen and score_rejected of each row; `loss: {scale: identity}` takes their plain difference.
    Source: arXiv 2402.10571, its L_ODPO with a logarithm as the scaling; the paper varies alpha, which is 1 here.
    """
    return ObjectiveConfig(beta=beta, loss=OffsetLoss(alpha=alpha))


@checked
def wpo(beta: float = 0.1) -> ObjectiveConfig:
    """loss = -w_c w_j log sigmoid(z), w = exp(mean(log pi - log sum_v pi(v)^2)) without gradient.

    Weighted preference optimisation: pairs that the policy would hardly say itself count less, which brings data of
    other models closer to its own. Source: arXiv 2406.11827 eq. 2, with sampled alignment; beta 0.1 is DPO's.

    Differs: TRL's use_weighting is this weight on any of its losses; here `on_policy_weighted` holds any loss.
    """
    return ObjectiveConfig(beta=beta, loss=OnPolicyWeightedLoss(loss=LogisticLoss()))


@checked
def t_reg(beta: float = 0.1, alpha: float = 0.25) -> ObjectiveConfig:
    """loss = -log sigmoid(z) - alpha w beta (sum q_c log pi_c + sum q_j log pi_j), w = sigmoid(-z) without gradient.

    DPO with token rewards that the reference gives before the training. Asked to revise the response, it finds a token
    likelier where a better one is wanted, q > 0, or a worse one, q < 0: q_t = sigmoid(log pi_ref(y_t | better) - log
    pi_ref(y_t | worse)) - 0.5. They come from the fields chosen_token_rewards and rejected_token_rewards of each row,
    which `prefopt-score-tokens --sigmoid` of prefopt-tis writes. Source: T-REG, arXiv 2412.02685, from two summaries of
    the paper that give its equations and agree; the paper itself and its code could not be read. It searches alpha in
    0.1, 0.25 and 0.5; 0.25 here is the middle.
    """
    return ObjectiveConfig(beta=beta, loss=TokenRewardLoss(loss=LogisticLoss(), alpha=alpha, beta=beta))


@checked
def mpo(beta: float = 0.1, preference: float = 0.8, quality: float = 0.2, generation: float = 1.0) -> ObjectiveConfig:
    """loss = preference L_dpo + quality L_bco - generation mean log pi_c.

    Mixed preference optimisation: DPO's loss, BCO's with its running baseline (see `bco`), and the likelihood of the
    chosen response. Pairs are coupled by the baseline. Source: arXiv 2411.10442; the weights are its settings.

    Differs: TRL mixes its bco_pair, which has no baseline.
    """
    blend = MixtureLoss(losses=(LogisticLoss(), BcoLoss()), weights=(preference, quality))
    return ObjectiveConfig(beta=beta, loss=blend, regularizers=(NegativeLogLikelihood(weight=generation),))
