"""Rows of the margin between two whole responses, against a reference: DPO and what other losses make of it.

Written out below, r is log pi - log pi_ref of a response token, k = KL(pi_ref || pi) at its position, c the chosen
response, j the rejected one, z = beta (sum r_c - sum r_j), and sums run over response tokens.
"""

from __future__ import annotations

from prefopt.losses import (
    DiscoPopLoss,
    ExoLoss,
    HingeLoss,
    LogisticLoss,
    RobustLoss,
    ShiftedLoss,
    SquaredLoss,
)
from prefopt.objective_config import ObjectiveConfig
from prefopt.regularizers import NegativeLogLikelihood
from prefopt.shapings import MeanShaping, PositiveShaping
from prefopt.zoo.parameters import checked


@checked
def dpo(beta: float = 0.1) -> ObjectiveConfig:
    """loss = -log sigmoid(beta (sum r_c - sum r_j)).

    Direct preference optimisation. Source: arXiv 2305.18290 eq. 7; beta 0.1 is its default.
    """
    return ObjectiveConfig(beta=beta)


@checked
def cdpo(beta: float = 0.1, label_smoothing: float = 0.1) -> ObjectiveConfig:
    """loss = -(1 - e) log sigmoid(z) - e log sigmoid(-z), z = beta (sum r_c - sum r_j), e = label_smoothing.

    Conservative DPO: labels are wrong with probability e. Source: Mitchell 2023, "A note on DPO with noisy preferences
    and relationship to IPO", eq. 3.

    Differs: TRL reads label smoothing in some losses only: with its sigmoid loss it is ignored, without an error.
    """
    return ObjectiveConfig(beta=beta, loss=LogisticLoss(label_smoothing=label_smoothing))


@checked
def dpo_shift(beta: float = 0.1, lam: float = 0.7) -> ObjectiveConfig:
    """loss = -log sigmoid(beta (sum r_c - lam sum r_j)).

    DPO-Shift: the rejected reward counts less, so that the likelihood of the chosen response falls less with it.
    Source: arXiv 2502.07599, with a fixed lam; 0.7 is that of its recipes, beta 0.1 is DPO's.

    Differs: the release can also move lam linearly over the steps of a training; a loss here does not know of steps.
    """
    return ObjectiveConfig(beta=beta, loss=ShiftedLoss(lam=lam))


@checked
def robust(beta: float = 0.1, label_smoothing: float = 0.1) -> ObjectiveConfig:
    """loss = (-(1 - e) log sigmoid(z) + e log sigmoid(-z)) / (1 - 2 e), e = label_smoothing.

    Robust DPO: the loss whose expectation under labels flipped with probability e is DPO's under the true ones. Not
    bounded below. Source: arXiv 2403.00409.
    """
    return ObjectiveConfig(beta=beta, loss=RobustLoss(label_smoothing=label_smoothing))


@checked
def hinge(beta: float = 0.1) -> ObjectiveConfig:
    """loss = max(0, 1 - beta (sum r_c - sum r_j)).

    SLiC-HF's hinge on DPO's rewards. Source: arXiv 2305.10425, its rank calibration loss; on rewards, RSO, arXiv
    2309.06657.
    """
    return ObjectiveConfig(beta=beta, loss=HingeLoss())


@checked
def rso(gamma: float = 0.05) -> ObjectiveConfig:
    """loss = max(0, 1 - gamma (sum r_c - sum r_j)).

    The hinge loss of RSO, which is SLiC's on DPO's rewards: the row `hinge` under its paper's name for beta. Its
    rejection sampling is a matter of data, not of the loss. Source: arXiv 2309.06657.
    """
    return ObjectiveConfig(beta=gamma, loss=HingeLoss())


@checked
def ipo(beta: float = 0.1) -> ObjectiveConfig:
    """loss = (mean r_c - mean r_j - 1 / (2 beta))^2, with means over each response's tokens.

    Identity preference optimisation, length-averaged, as its authors confirm. beta is the paper's tau and enters the
    loss alone: rewards and margins are reported as plain mean log-ratios. Source: arXiv 2310.12036 eq. 17.

    Differs: OpenRLHF sums where this averages; here that is `ipo_sum`.
    """
    return ObjectiveConfig(beta=1.0, shaping=MeanShaping(), loss=SquaredLoss(margin=1 / (2 * beta)))


@checked
def ipo_sum(beta: float = 0.1) -> ObjectiveConfig:
    """loss = (sum r_c - sum r_j - 1 / (2 beta))^2.

    IPO as its paper writes it, without length-averaging; some libraries call this one IPO. Rewards and margins are
    reported as plain log-ratios. Source: arXiv 2310.12036 eq. 17.

    Differs: TRL, LLaMA-Factory and ms-swift mean the averaged form when they say IPO; here that is `ipo`.
    """
    return ObjectiveConfig(beta=1.0, loss=SquaredLoss(margin=1 / (2 * beta)))


@checked
def exo(beta: float = 0.1, label_smoothing: float = 1e-3) -> ObjectiveConfig:
    """loss = s (log s - log(1 - e)) + (1 - s) (log(1 - s) - log e), s = sigmoid(z), e = label_smoothing.

    Efficient exact optimisation, for pairs: the reverse KL where DPO has the forward. Source: arXiv 2402.00856 eq. 16;
    e 0.001 stands in for 0.

    Differs: TRL's default is 0, which it refuses for this loss; here the default is 0.001.
    """
    return ObjectiveConfig(beta=beta, loss=ExoLoss(label_smoothing=label_smoothing))


@checked
def discopop(beta: float = 0.05, tau: float = 0.05) -> ObjectiveConfig:
    """loss = -(1 - m) log sigmoid(z) + m exp(-z), m = sigmoid(z / tau).

    A loss found by search, log-ratio modulated. Source: arXiv 2406.08414 eq. 5; beta and tau 0.05 are its settings.
    """
    return ObjectiveConfig(beta=beta, loss=DiscoPopLoss(tau=tau))


@checked
def dpop(beta: float = 0.3, lam: float = 50.0) -> ObjectiveConfig:
    """loss = -log sigmoid(beta (sum r_c - sum r_j - lam max(0, -sum r_c))).

    DPO-Positive (Smaug): the chosen response may not fall below the reference. Source: arXiv 2402.13228 eq. 3; beta 0.3
    and lam 50 are its settings.

    Differs: the paper's first versions put the penalty outside beta; its authors call that an error, and the version
    of July 2024 has it inside, as here.
    """
    return ObjectiveConfig(beta=beta, shaping=PositiveShaping(lam=lam))


@checked
def dpo_norm(beta: float = 5.0) -> ObjectiveConfig:
    """loss = -log sigmoid(beta (mean r_c - mean r_j)), with means over each response's tokens.

    Length-normalised DPO with a reference. Unlike SimPO it has a reference and no margin.
    Source: SimPO's ablation, arXiv 2405.14734; Tulu 3, arXiv 2411.15124, whose
    setting is beta 5.

    Differs: TRL's sigmoid_norm is this row, though its documentation offers it as SimPO, which has no reference and a
    margin.
    """
    return ObjectiveConfig(beta=beta, shaping=MeanShaping())


@checked
def rpo(beta: float = 0.1, alpha: float = 1.0) -> ObjectiveConfig:
    """loss = -log sigmoid(z) - alpha mean log pi_c, with the mean over the chosen response's tokens.

    DPO with a likelihood term (DPO-NLL). Source: iterative reasoning preference optimisation, arXiv 2404.19733; alpha
    1 is its setting.

    Differs: TRL's sft term is a mean over all chosen tokens of the batch; here it is a mean over each response, then
    over pairs.
    """
    return ObjectiveConfig(beta=beta, regularizers=(NegativeLogLikelihood(weight=alpha),))
