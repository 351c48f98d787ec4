"""Losses that read more of a pair than its two rewards: columns of the data, or how the policy sees the responses."""

from __future__ import annotations

from types import MappingProxyType
from typing import Annotated, Literal, final

import torch
from pydantic import AfterValidator, Field, SerializeAsAny
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from prefopt.columns import Column, PairColumn, TokenColumn
from prefopt.component import LossFunction, PreferenceLoss, Signal, built
from prefopt.losses.composed import ComposedLoss, WeightedSum
from prefopt.tokens import TokenBatch, masked_mean, masked_sum


def _of_pairs(loss: PreferenceLoss) -> PreferenceLoss:
    if loss.sorts_pairs:
        raise ValueError(
            f"{loss.name!r} sorts the rewards of a batch, so no loss belongs to one pair and can be weighed"
        )
    return loss


LossOfPairs = Annotated[SerializeAsAny[PreferenceLoss], AfterValidator(_of_pairs)]


@final
class OffsetLoss(PreferenceLoss):
    """loss = -log sigmoid(d - alpha f(score_chosen - score_rejected)), f the logarithm or the identity.

    A pair whose responses differ more in score must be further apart in reward. Reads the columns `score_chosen` and
    `score_rejected`. With the logarithm, a pair of equal scores asks for no margin at all.
    Source: ODPO (arXiv 2402.10571), which scales by the logarithm unless it compares scalings.

    >>> sorted(column.name for column in OffsetLoss(alpha=0.5).columns)
    ['score_chosen', 'score_rejected']
    """

    name: Literal["offset"] = "offset"
    alpha: float = Field(default=1.0, ge=0)
    scale: Literal["log", "identity"] = "log"

    @property
    def columns(self) -> frozenset[Column]:
        return frozenset({PairColumn("score_rejected"), PairColumn("score_chosen", at_least="score_rejected")})

    def __call__(self, chosen: Tensor, rejected: Tensor, tokens: TokenBatch) -> Tensor:
        """chosen, rejected [B] -> [B]."""
        gap = tokens.columns["score_chosen"] - tokens.columns["score_rejected"]
        return -logsigmoid(chosen - rejected - self.alpha * _SCALES[self.scale](gap))


def _log(gap: Tensor) -> Tensor:
    return gap.clamp(min=torch.finfo(gap.dtype).tiny).log()


def _identity(gap: Tensor) -> Tensor:
    return gap


_SCALES = MappingProxyType({"log": _log, "identity": _identity})


@final
class WeightedLoss(ComposedLoss):
    """loss = weight loss_1(r_c, r_j), the weight of each pair from a column of the data.

    For confidences of labels, sampling weights and the like. Reads the column that `column` names, numbers >= 0.
    Source: this library; weighing examples is older than preference losses.

    >>> from prefopt import resolve
    >>> resolve(PreferenceLoss, {"name": "weighted", "loss": "hinge", "column": "votes"}).columns
    frozenset({PairColumn(name='votes', at_least=0.0)})
    """

    name: Literal["weighted"] = "weighted"
    loss: LossOfPairs
    column: str = "weight"

    @property
    def parts(self) -> tuple[PreferenceLoss, ...]:
        return (self.loss,)

    @property
    def columns(self) -> frozenset[Column]:
        return super().columns | {PairColumn(self.column, at_least=0.0)}

    def build(self) -> WeightedSum:
        """(chosen [B], rejected [B], TokenBatch) -> [B]: the inner loss times the weights of the column."""
        return WeightedSum((self.loss,), self._weights)

    def _weights(self, tokens: TokenBatch) -> tuple[Tensor]:
        return (tokens.columns[self.column],)


@final
class OnPolicyWeightedLoss(ComposedLoss):
    """loss = w_c w_j loss_1(r_c, r_j), w = exp((1 / T) sum_t (log pi(y_t) - log sum_v pi(v)^2)).

    A response counts by how likely the policy is to say it, against what the policy would say itself: about 1 for its
    own responses, so that data of others is weighed as if it were the policy's. The weights pass no gradient.
    Source: WPO (arXiv 2406.11827) eq. 2, with its sampled alignment.

    >>> from prefopt import resolve
    >>> sorted(resolve(PreferenceLoss, {"name": "on_policy_weighted", "loss": "logistic"}).requires)
    [<Signal.LOG_COLLISION: 'log_collision'>]
    """

    name: Literal["on_policy_weighted"] = "on_policy_weighted"
    loss: LossOfPairs

    @property
    def parts(self) -> tuple[PreferenceLoss, ...]:
        return (self.loss,)

    @property
    def requires(self) -> frozenset[Signal]:
        return super().requires | {Signal.LOG_COLLISION}

    def build(self) -> WeightedSum:
        """(chosen [B], rejected [B], TokenBatch) -> [B]: the inner loss times w_c w_j."""
        return WeightedSum((self.loss,), self._weights)

    def _weights(self, tokens: TokenBatch) -> tuple[Tensor]:
        assert tokens.log_collision is not None
        aligned = masked_mean(tokens.logps.detach() - tokens.log_collision, tokens.mask)
        chosen, rejected = aligned.chunk(2)
        return ((chosen + rejected).exp(),)


@final
class TokenRewardLoss(ComposedLoss):
    """loss = loss_1(r_c, r_j) - alpha w beta (sum q_c log pi_c + sum q_j log pi_j), w = sigmoid(r_j - r_c) without
    gradient.

    q is what the data says of each token: one above 0 is to become likelier and one below 0 less likely, in either
    response, and the more so the less the policy tells the two apart. Reads q, any finite numbers, from the token
    column that `column` names, of a row the fields chosen_COLUMN and rejected_COLUMN; a token without a number has 0,
    and no part in the term.

    beta       of the term's log-probabilities, in the paper that of the rewards
    reduction  sum; mean: over each response's tokens, as where rewards are means
    Source: T-REG (arXiv 2412.02685), its regularisation, from two summaries of the paper that agree; the paper itself
    and its code could not be read. alpha 0.25 is the middle of the 0.1, 0.25 and 0.5 that it searches. `mean` is this
    library's.

    >>> from prefopt import resolve
    >>> resolve(PreferenceLoss, {"name": "token_reward", "loss": "logistic"}).columns
    frozenset({TokenColumn(name='token_rewards', default=0.0, at_least=None, at_most=None, whole=False)})
    """

    name: Literal["token_reward"] = "token_reward"
    loss: LossOfPairs
    alpha: float = Field(default=0.25, ge=0, allow_inf_nan=False)
    beta: float = Field(default=0.1, gt=0, allow_inf_nan=False)
    reduction: Literal["sum", "mean"] = "sum"
    column: str = "token_rewards"

    @property
    def parts(self) -> tuple[PreferenceLoss, ...]:
        return (self.loss,)

    @property
    def columns(self) -> frozenset[Column]:
        return super().columns | {TokenColumn(self.column)}

    @property
    def reads_whole_responses(self) -> bool:
        return True

    def build(self) -> TokenRewardSum:
        """(chosen [B], rejected [B], TokenBatch) -> [B]: the inner loss and the term."""
        return TokenRewardSum(self)


@final
class TokenRewardSum(nn.Module):
    """(chosen [B], rejected [B], TokenBatch) -> [B], the loss of a TokenRewardLoss. Holds the inner loss's state."""

    def __init__(self, config: TokenRewardLoss) -> None:
        super().__init__()
        self.config = config
        self.loss: LossFunction = built(config.loss)

    def forward(self, chosen: Tensor, rejected: Tensor, tokens: TokenBatch) -> Tensor:
        """chosen, rejected [B] -> [B]."""
        config = self.config
        q = torch.where(tokens.mask, tokens.columns[config.column].to(tokens.logps.dtype), 0)
        # A token without a part has none either where its log-probability is -inf: 0 times that is nan.
        logps = torch.where(q * config.alpha == 0, 0, tokens.logps)
        of_chosen, of_rejected = _REDUCTIONS[config.reduction](q * logps, tokens.mask).chunk(2)
        weight = (rejected - chosen).detach().sigmoid()
        term = config.alpha * config.beta * weight * (of_chosen + of_rejected)
        return self.loss(chosen, rejected, tokens) - term


_REDUCTIONS = MappingProxyType({"sum": masked_sum, "mean": masked_mean})
