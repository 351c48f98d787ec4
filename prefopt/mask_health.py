"""Whether a learned mask is well: its figures, what is wrong with it in words, and a watch over training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self, final

import torch
from torch import Tensor

from prefopt.metrics import Mean, MetricSums
from prefopt.tokens import TokenBatch

_DEAD = 0.5
"""Share of responses whose weights are all zero."""
_COLLAPSED = 0.1
"""Mean weight: a tenth of the strength that beta names."""
_WORDLESS, _TIMES = 0.5, 2
"""Share of the weight on tokens without words, and how many times their share of the tokens that has to be."""

_FIGURES = ("weights/all_zero", "weights/mean", "weights/wordless", "wordless/share", "weights/negative")
"""The metrics that the figures are."""

_WINDOW = 5
"""Batches of training over which a mask is judged: what comes and goes is not said."""


@torch.no_grad()
def wordless_metrics(name: str, weights: Tensor, tokens: TokenBatch, wordless: Tensor) -> dict[str, Mean]:
    """The share of the weights [N, T] that lies on tokens without words, and those tokens' share of all response
    tokens; `wordless` [V] says of each token id whether it has none.

    >>> batch = TokenBatch(*torch.zeros(2, 2, 3), torch.ones(2, 3) > 0, torch.tensor([[1, 2, 0], [2, 1, 0]]))
    >>> shares = wordless_metrics("weights", torch.tensor([[1.0, 0.0, 3.0]] * 2), batch, torch.arange(3) == 0)
    >>> {name: round(share.value, 2) for name, share in shares.items()}
    {'weights/wordless': 0.75, 'wordless/share': 0.33}
    """
    mask = tokens.mask
    without = mask & wordless[torch.where(mask, tokens.token_ids, 0)]
    return {
        f"{name}/wordless": Mean(_total(weights, without), _total(weights, mask)),
        "wordless/share": Mean(without.sum().float(), mask.sum().float()),
    }


def _total(weights: Tensor, kept: Tensor) -> Tensor:
    return torch.where(kept, weights.detach().float(), 0).sum()


@final
@dataclass(frozen=True)
class MaskHealth:
    """The figures of a mask w over some batches, which are metrics of the objective.

    all_zero         share of the responses whose weights are all zero: `weights/all_zero`
    mean             of w over response tokens: `weights/mean`; times beta it is `beta/effective`
    wordless         share of w's sum on special tokens, punctuation and white space: `weights/wordless`; None where
                     that is not measured, or w is zero everywhere
    wordless_tokens  the share of the tokens that these are: `wordless/share`
    negative         share of response tokens whose weight is below zero: `weights/negative`
    """

    all_zero: float
    mean: float
    wordless: float | None = None
    wordless_tokens: float | None = None
    negative: float = 0.0

    @classmethod
    def from_metrics(cls, means: Mapping[str, float]) -> Self:
        """The figures among an objective's metrics, by the names under which they are logged."""
        optional = (means.get("weights/wordless"), means.get("wordless/share"))
        return cls(means["weights/all_zero"], means["weights/mean"], *optional, means.get("weights/negative", 0.0))

    def faults(self, beta: float) -> dict[str, str]:
        """What is wrong, in words with the remedy, by its name: "negative", or "dead", or "collapsed"; "wordless".

        >>> list(MaskHealth(all_zero=0.0, mean=0.03).faults(beta=0.1))
        ['collapsed']
        """
        faults = {}
        if self.negative > 0:
            faults["negative"] = (
                f"the mask has weights below zero, on {100 * self.negative:.2g}% of the response tokens: such "
                "a token is trained against the preference. End its forward in what is never negative, such as "
                "sigmoid or softplus"
            )
        elif self.all_zero > _DEAD:
            faults["dead"] = (
                f"the mask is dead: all weights of {self.all_zero:.0%} of the responses are zero, and such responses "
                "teach the policy nothing. A learned mask starts alive with init near_one and stays so with a floor, "
                "such as floor 0.3; else lower its L1 or l0, or mask_learning_rate"
            )
        elif self.mean < _COLLAPSED:
            faults["collapsed"] = (
                f"the mask has collapsed: the mean weight is {self.mean:.2g}, so that a beta of {beta:g} acts as one "
                f"of {beta * self.mean:.2g}. Start it with init near_one and keep its scale with a floor, such as "
                "floor 0.3, or with scale mean_one; else lower its L1 or l0, or mask_learning_rate, or raise beta"
            )
        share, tokens = self.wordless, self.wordless_tokens
        if share is not None and tokens is not None and share > _WORDLESS and share >= _TIMES * tokens:
            faults["wordless"] = (
                f"the mask weighs tokens without words: {share:.0%} of its weight lies on special tokens, punctuation "
                f"and white space, which are {tokens:.0%} of the tokens. It tells how responses end or are set, not "
                "what they say: make the ends and the form of chosen and rejected responses alike, or raise the floor; "
                "`prefopt inspect` shows the tokens"
            )
        return faults


@final
class MaskWatch:
    """Judges a mask by batches of training, the first alone and then five together, and says each fault once.

    Of the first batch it says whether every response is all-zero: nothing but chance revives such a mask.
    """

    def __init__(self, beta: float, say: Callable[[str], None]) -> None:
        self.beta = beta
        self.say = say
        self._sums = MetricSums()
        self._batches = 0
        self._is_first = True
        self._faults: set[str] = set()

    def add(self, metrics: Mapping[str, Mean]) -> None:
        """Add the metrics of a batch of training."""
        self._sums.add(metrics, _FIGURES)
        self._batches += 1
        if self._batches not in (1, _WINDOW):  # reading the figures waits for the device
            return
        health = MaskHealth.from_metrics(self._sums.means())
        if self._is_first and health.all_zero == 1:
            self._tell(health)
        self._is_first = False
        if self._batches == _WINDOW:
            self._tell(health)
            self._sums, self._batches = MetricSums(), 0

    def _tell(self, health: MaskHealth) -> None:
        for name, text in health.faults(self.beta).items():
            if name not in self._faults:
                self._faults.add(name)
                self.say(text)
