"""Rows of the two rewards themselves, and of the rewards of a whole batch, against a reference.

Written out below, r is log pi - log pi_ref of a response token, c the chosen response, j the rejected one, and sums run
over response tokens.
"""

from __future__ import annotations

from prefopt.losses import (
    AotLoss,
    AotPairedLoss,
    ApoDownLoss,
    ApoZeroLoss,
    BcoLoss,
    BcoPairLoss,
    DynamicBetaLoss,
    NcaLoss,
    SppoLoss,
)
from prefopt.objective_config import ObjectiveConfig
from prefopt.zoo.parameters import checked


@checked
def nca(beta: float = 0.1) -> ObjectiveConfig:
    """loss = -log sigmoid(b_c) - log sigmoid(-b_c) / 2 - log sigmoid(-b_j) / 2, b = beta sum r.

    Noise contrastive alignment, for pairs: it keeps the chosen reward from falling. Source: arXiv 2402.05369.
    """
    return ObjectiveConfig(beta=beta, loss=NcaLoss())


@checked
def bco(beta: float = 0.1) -> ObjectiveConfig:
    """loss = -log sigmoid(b_c - delta) - log sigmoid(delta - b_j), b = beta sum r, delta the running mean of all b.

    Binary classifier optimisation, for pairs. delta is the mean over both responses of every pair seen in training,
    those of this step included, and passes no gradient; it is saved and resumed with the objective. Pairs are coupled:
    batches cannot be cut into smaller ones. Source: arXiv 2404.04656, its reward shift.

    Differs: TRL's bco_pair has no delta, which is `bco_pair` here; its BCO trainer averages the means of batches, which
    comes to the same where batches are of one size.
    """
    return ObjectiveConfig(beta=beta, loss=BcoLoss())


@checked
def bco_pair(beta: float = 0.1) -> ObjectiveConfig:
    """loss = -log sigmoid(b_c) - log sigmoid(-b_j), b = beta sum r.

    Binary classifier optimisation, for pairs, without its running baseline. Source: arXiv 2404.04656.

    Differs: the paper subtracts a running mean of rewards from b, which `bco` does and this row, like TRL's bco_pair,
    does not.
    """
    return ObjectiveConfig(beta=beta, loss=BcoPairLoss())


@checked
def sppo(beta: float = 0.1) -> ObjectiveConfig:
    """loss = (sum r_c - 1 / (2 beta))^2 + (sum r_j + 1 / (2 beta))^2.

    Self-play preference optimisation with hard labels. beta enters the loss alone: rewards and margins are reported as
    plain log-ratios. Source: arXiv 2405.00675 eq. 4.7, with P 1 for the winner and 0 for the loser.
    """
    return ObjectiveConfig(beta=1.0, loss=SppoLoss(target=1 / (2 * beta)))


@checked
def apo_zero(beta: float = 0.1) -> ObjectiveConfig:
    """loss = 1 - sigmoid(b_c) + sigmoid(b_j), b = beta sum r.

    Anchored preference optimisation, for chosen responses better than the model's own. Source: arXiv 2408.06266 eq. 7.
    """
    return ObjectiveConfig(beta=beta, loss=ApoZeroLoss())


@checked
def apo_down(beta: float = 0.1) -> ObjectiveConfig:
    """loss = sigmoid(b_c) + 1 - sigmoid(b_c - b_j), b = beta sum r.

    Anchored preference optimisation, for chosen responses worse than the model's own. Source: arXiv 2408.06266 eq. 8.
    """
    return ObjectiveConfig(beta=beta, loss=ApoDownLoss())


@checked
def aot(beta: float = 0.1, label_smoothing: float = 0.0) -> ObjectiveConfig:
    """loss_i = -log sigmoid(sorted(b_c)_i - sorted(b_j)_i), b = beta sum r, over the pairs i of a batch.

    Alignment by optimal transport, unpaired: chosen rewards are to dominate rejected ones as distributions. Pairs are
    coupled: batches cannot be cut into smaller ones. Source: arXiv 2406.05882.

    Differs: TRL calls this one aot_unpaired, and aot the paired form, which is `aot_paired` here.
    """
    return ObjectiveConfig(beta=beta, loss=AotLoss(label_smoothing=label_smoothing))


@checked
def aot_paired(beta: float = 0.1, label_smoothing: float = 0.0) -> ObjectiveConfig:
    """loss_i = -log sigmoid(sorted(p)_i - sorted(q)_i), p = beta (sum log pi_c - sum log pi_j), q of the reference.

    Alignment by optimal transport, paired: the policy's log-ratios of chosen to rejected are to dominate the
    reference's as distributions, over the pairs i of a batch. Pairs are coupled: batches cannot be cut into smaller
    ones. Source: arXiv 2406.05882.

    Differs: TRL calls this one aot.
    """
    return ObjectiveConfig(beta=beta, loss=AotPairedLoss(reference_scale=beta, label_smoothing=label_smoothing))


@checked
def beta_dpo(beta: float = 0.1, a: float = 0.6, drop: float = 0.2) -> ObjectiveConfig:
    """loss = -log sigmoid(b (sum r_c - sum r_j)), b = max(beta (1 + a (m - M)), 0.001), over the pairs kept.

    DPO with a beta for every step: m is the mean of sum r_c - sum r_j over the pairs kept, M its running mean over
    steps. A share `drop` of the pairs is left out, those with an unusual sum r_c - sum r_j more often (see
    `DynamicBetaLoss`). In evaluation the loss is DPO's at beta. Pairs are coupled: batches cannot be cut into smaller
    ones. Source: arXiv 2407.08639, as released.

    Differs: the release draws pairs and moves its running means in evaluation too; a step of so few pairs that it would
    keep none keeps one here.
    """
    return ObjectiveConfig(beta=beta, loss=DynamicBetaLoss(beta=beta, a=a, drop=drop))
