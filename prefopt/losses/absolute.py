"""Losses of the two rewards themselves, which can tell a good response from one that is only better."""

from __future__ import annotations

from typing import Literal, final

from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from prefopt.component import PreferenceLoss
from prefopt.tokens import TokenBatch


@final
class NcaLoss(PreferenceLoss):
    """loss = -log sigmoid(r_c) - 1/2 log sigmoid(-r_c) - 1/2 log sigmoid(-r_j).

    Noise contrastive alignment: the chosen reward is kept from falling. Source: NCA (arXiv 2402.05369), for pairs.

    >>> NcaLoss()(Tensor([2.0]), Tensor([0.5]), None)
    tensor([1.6774])
    """

    name: Literal["nca"] = "nca"

    def __call__(self, chosen: Tensor, rejected: Tensor, tokens: TokenBatch) -> Tensor:
        """chosen, rejected [B] -> [B]."""
        return -logsigmoid(chosen) - (logsigmoid(-chosen) + logsigmoid(-rejected)) / 2


@final
class BcoPairLoss(PreferenceLoss):
    """loss = -log sigmoid(r_c) - log sigmoid(-r_j): a binary classifier of good and bad responses.

    Source: BCO (arXiv 2404.04656) for pairs, with its reward shift delta, a running mean of rewards, held at 0.

    >>> BcoPairLoss()(Tensor([2.0]), Tensor([0.5]), None)
    tensor([1.1010])
    """

    name: Literal["bco_pair"] = "bco_pair"

    def __call__(self, chosen: Tensor, rejected: Tensor, tokens: TokenBatch) -> Tensor:
        """chosen, rejected [B] -> [B]."""
        return -logsigmoid(chosen) - logsigmoid(-rejected)


@final
class SppoLoss(PreferenceLoss):
    """loss = (r_c - m)^2 + (r_j + m)^2, with target m.

    Source: SPPO (arXiv 2405.00675) with hard labels, where r is a log-ratio and m = 1 / (2 beta).

    >>> SppoLoss()(Tensor([2.0]), Tensor([0.5]), None)
    tensor([39.2500])
    """

    name: Literal["sppo"] = "sppo"
    target: float = Field(default=5.0, gt=0)

    def __call__(self, chosen: Tensor, rejected: Tensor, tokens: TokenBatch) -> Tensor:
        """chosen, rejected [B] -> [B]."""
        return (chosen - self.target).square() + (rejected + self.target).square()


@final
class ApoZeroLoss(PreferenceLoss):
    """loss = 1 - sigmoid(r_c) + sigmoid(r_j): the chosen response up, the rejected one down.

    For chosen responses that are better than the model's own. Source: APO (arXiv 2408.06266) eq. 7.

    >>> ApoZeroLoss()(Tensor([2.0]), Tensor([0.5]), None)
    tensor([0.7417])
    """

    name: Literal["apo_zero"] = "apo_zero"

    def __call__(self, chosen: Tensor, rejected: Tensor, tokens: TokenBatch) -> Tensor:
        """chosen, rejected [B] -> [B]."""
        return (-chosen).sigmoid() + rejected.sigmoid()


@final
class ApoDownLoss(PreferenceLoss):
    """loss = sigmoid(r_c) + 1 - sigmoid(r_c - r_j): both responses down, the rejected one further.

    For chosen responses that are worse than the model's own. Source: APO (arXiv 2408.06266) eq. 8.

    >>> ApoDownLoss()(Tensor([2.0]), Tensor([0.5]), None)
    tensor([1.0632])
    """

    name: Literal["apo_down"] = "apo_down"

    def __call__(self, chosen: Tensor, rejected: Tensor, tokens: TokenBatch) -> Tensor:
        """chosen, rejected [B] -> [B]."""
        return chosen.sigmoid() + (rejected - chosen).sigmoid()
