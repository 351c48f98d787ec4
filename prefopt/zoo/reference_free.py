"""Rows without a reference model: rewards are log-probabilities.

Written out below, log pi is that of a response token under the policy, c the chosen response, j the rejected one, and
sums and means run over response tokens.
"""

from __future__ import annotations

from prefopt.losses import HingeLoss, LogisticLoss, MixtureLoss
from prefopt.objective_config import ObjectiveConfig
from prefopt.regularizers import NegativeLogLikelihood
from prefopt.shapings import LogOddsShaping, MeanShaping
from prefopt.weightings import LowConfidenceWeighting, ScaledWeighting
from prefopt.zoo.parameters import checked


@checked
def simpo(beta: float = 2.0, gamma: float = 1.0) -> ObjectiveConfig:
    """loss = -log sigmoid(beta (mean log pi_c - mean log pi_j) - gamma), with means over each response's tokens.

    Simple preference optimisation, without a reference. Source: arXiv 2405.14734 eq. 6; beta 2 and gamma 1 lie in the
    range of its settings.
    """
    return ObjectiveConfig(beta=beta, shaping=MeanShaping(), loss=LogisticLoss(margin=gamma), reference_free=True)


@checked
def confpo(beta: float = 1.5, gamma: float = 1.6) -> ObjectiveConfig:
    """loss = -log sigmoid(beta (mean_S log pi_c - mean_S log pi_j) - gamma), S the tokens of a response with pi(y_t) <
    mean pi(y).

    Confidence-guided SimPO: the tokens that the policy finds unlikelier than the response's mean probability, and no
    others. Source: arXiv 2506.08712, as released; beta and gamma are those of its scripts.

    Differs: a pair with a response that has no such token has here no reward and a constant loss, there the loss 0; no
    gradient in either.
    """
    return ObjectiveConfig(
        beta=beta,
        weighting=ScaledWeighting(weighting=LowConfidenceWeighting(), to="selected_mean"),
        shaping=MeanShaping(),
        loss=LogisticLoss(margin=gamma),
        reference_free=True,
    )


@checked
def cpo(beta: float = 0.1, nll_weight: float = 1.0) -> ObjectiveConfig:
    """loss = -log sigmoid(beta (sum log pi_c - sum log pi_j)) - nll_weight mean log pi_c.

    Contrastive preference optimisation. The second term is a mean over the chosen response's tokens, as its code has
    it. Source: arXiv 2401.08417.
    """
    return ObjectiveConfig(beta=beta, regularizers=(NegativeLogLikelihood(weight=nll_weight),), reference_free=True)


@checked
def cpo_simpo(beta: float = 2.0, gamma: float = 1.0, nll_weight: float = 1.0) -> ObjectiveConfig:
    """loss = -log sigmoid(beta (mean log pi_c - mean log pi_j) - gamma) - nll_weight mean log pi_c.

    SimPO with CPO's likelihood term. Source: SimPO arXiv 2405.14734 eq. 6 and CPO arXiv 2401.08417.
    """
    return ObjectiveConfig(
        beta=beta,
        shaping=MeanShaping(),
        loss=LogisticLoss(margin=gamma),
        regularizers=(NegativeLogLikelihood(weight=nll_weight),),
        reference_free=True,
    )


@checked
def orpo(lam: float = 0.1) -> ObjectiveConfig:
    """loss = -mean log pi_c - lam log sigmoid(o_c - o_j), o = log(p / (1 - p)), log p = mean log pi.

    Odds-ratio preference optimisation: likelihood and preference in one. Source: arXiv 2403.07691; lam 0.1 is its
    setting.

    Differs: TRL's likelihood takes in the prompt; here it is that of the chosen response alone, as in the paper.
    """
    return ObjectiveConfig(
        beta=1.0,
        shaping=LogOddsShaping(),
        loss=MixtureLoss(losses=(LogisticLoss(),), weights=(lam,)),
        regularizers=(NegativeLogLikelihood(),),
        reference_free=True,
    )


@checked
def slic(delta: float = 1.0, lam: float = 1.0) -> ObjectiveConfig:
    """loss = max(0, delta - sum log pi_c + sum log pi_j) - lam sum log pi_c.

    Sequence likelihood calibration from human feedback: a hinge on log-likelihoods, with the likelihood of the chosen
    response as regulariser. Source: arXiv 2305.10425, its rank calibration loss; the paper tunes delta and lam, which
    are 1 here.

    Differs: what TRL and others call hinge or SLiC is a hinge on DPO's rewards, `hinge` here. The paper regularises by
    a target of its supervised data, here by the chosen response.
    """
    return ObjectiveConfig(
        beta=1.0,
        loss=HingeLoss(margin=delta),
        regularizers=(NegativeLogLikelihood(weight=lam, reduction="sum"),),
        reference_free=True,
    )
