"""What the numbers come to over a data set: means, and the most and the least weighted tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from prefopt.data.token_texts import decode
from prefopt.inspection.layers import Layer
from prefopt.inspection.weigh import WeighedPair

__all__ = ["Ranking", "Summary", "Tally", "TokenMean"]


@final
@dataclass(frozen=True)
class TokenMean:
    """A token of the vocabulary, how often it occurs in responses, and the mean of its numbers there."""

    id: int
    text: str
    count: int
    mean: float


@final
@dataclass(frozen=True)
class Summary:
    """A layer over all response tokens."""

    layer: str
    mean: float
    smallest: float
    largest: float
    zeros: float
    """The share of tokens whose number is exactly 0."""

    @property
    def constant(self) -> bool:
        """Whether all tokens have the same number."""
        return self.smallest == self.largest


@final
@dataclass(frozen=True)
class Ranking:
    """The tokens with the largest and the smallest mean in a layer, of `among` tokens that occur often enough."""

    layer: str
    among: int
    heaviest: list[TokenMean]
    lightest: list[TokenMean]


class _Sums:
    """Of one layer: by token of the vocabulary, and over all."""

    def __init__(self, vocabulary: int) -> None:
        self.by_token = torch.zeros(vocabulary, dtype=torch.float64)
        self.smallest, self.largest, self.zeros = torch.inf, -torch.inf, 0

    def add(self, ids: Tensor, values: Tensor) -> None:
        self.by_token.index_add_(0, ids, values)
        self.smallest = min(self.smallest, float(values.min()))
        self.largest = max(self.largest, float(values.max()))
        self.zeros += int((values == 0).sum())


@final
class Tally:
    """Adds up pairs as they come, so that none has to be kept."""

    def __init__(self, layers: Sequence[Layer], vocabulary: int) -> None:
        self.pairs = self.ranked_right = 0
        self._counts = torch.zeros(vocabulary, dtype=torch.long)
        self._sums = {layer.name: _Sums(vocabulary) for layer in layers}

    @property
    def tokens(self) -> int:
        """Response tokens so far."""
        return int(self._counts.sum())

    @property
    def accuracy(self) -> float:
        """The share of pairs whose chosen response has the larger reward."""
        return self.ranked_right / self.pairs

    def add(self, pair: WeighedPair) -> None:
        """Count a pair."""
        self.pairs += 1
        self.ranked_right += pair.chosen.reward > pair.rejected.reward
        for _, response in pair.sides:
            ids = torch.tensor(response.ids)
            self._counts.index_add_(0, ids, torch.ones_like(ids))
            for name, values in response.numbers.items():
                self._sums[name].add(ids, torch.tensor(values, dtype=torch.float64))

    def summaries(self) -> list[Summary]:
        """Of every layer."""
        number = self.tokens
        return [
            Summary(name, float(of.by_token.sum()) / number, of.smallest, of.largest, of.zeros / number)
            for name, of in self._sums.items()
        ]

    def ranking(self, layer: str, tokenizer: PreTrainedTokenizerBase, *, minimum: int, shown: int) -> Ranking:
        """Of the tokens that occur at least `minimum` times, those `shown` at either end of a layer, the furthest
        first."""
        often = (self._counts >= minimum).nonzero().squeeze(-1)
        means = self._sums[layer].by_token[often] / self._counts[often]
        order = means.argsort(descending=True, stable=True)

        def named(places: Tensor) -> list[TokenMean]:
            return [
                TokenMean(index, decode([index], tokenizer), int(self._counts[index]), float(mean))
                for index, mean in zip(often[places].tolist(), means[places].tolist(), strict=True)
            ]

        # Where there are few tokens, none stands at both ends.
        return Ranking(
            layer,
            among=len(often),
            heaviest=named(order[: min(shown, (len(often) + 1) // 2)]),
            lightest=named(order.flip(0)[: min(shown, len(often) // 2)]),
        )
