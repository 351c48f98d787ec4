"""Statistics of the layers over a data set: means, extremes, and the tokens with the largest and smallest means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from prefopt.data.token_texts import decode
from prefopt.pages.token_view import PairTokens, TokenLayer


@final
@dataclass(frozen=True)
class TokenMean:
    """A token of the vocabulary, how often it occurs in responses, and the mean of its values there."""

    id: int
    text: str
    count: int
    mean: float


@final
@dataclass(frozen=True)
class Summary:
    """A layer over all response tokens; `zeros` is the share of tokens whose value is exactly 0."""

    layer: str
    mean: float
    smallest: float
    largest: float
    zeros: float

    @property
    def constant(self) -> bool:
        """Whether all tokens have the same value."""
        return self.smallest == self.largest


@final
@dataclass(frozen=True)
class Ranking:
    """The tokens with the largest and the smallest mean in a layer, of `among` tokens that occur often enough."""

    layer: str
    among: int
    heaviest: list[TokenMean]
    lightest: list[TokenMean]


@final
class LayerStatistics:
    """Running sums over pairs, so that no pair has to be held: memory grows with the vocabulary V alone."""

    def __init__(self, layers: Sequence[TokenLayer], vocabulary: int) -> None:
        self.pairs = self.correct = 0
        self._names = [layer.name for layer in layers]
        self._counts = torch.zeros(vocabulary, dtype=torch.long)
        self._sums = torch.zeros(len(layers), vocabulary, dtype=torch.float64)
        self._smallest = torch.full((len(layers),), torch.inf, dtype=torch.float64)
        self._largest = -self._smallest
        self._zeros = torch.zeros(len(layers), dtype=torch.long)

    @property
    def tokens(self) -> int:
        """Response tokens so far."""
        return int(self._counts.sum())

    @property
    def accuracy(self) -> float:
        """The share of pairs whose chosen response has the larger reward."""
        return self.correct / self.pairs

    def add(self, pair: PairTokens) -> None:
        """Add a pair that `score_pairs` scored."""
        chosen, rejected = pair.chosen, pair.rejected
        assert chosen.reward is not None
        assert rejected.reward is not None
        self.pairs += 1
        self.correct += chosen.reward > rejected.reward
        for response in (chosen, rejected):
            ids = torch.tensor(response.ids)
            values = torch.tensor([response.values[name] for name in self._names], dtype=torch.float64)
            self._counts.index_add_(0, ids, torch.ones_like(ids))
            self._sums.index_add_(1, ids, values)
            self._smallest = self._smallest.minimum(values.amin(1))
            self._largest = self._largest.maximum(values.amax(1))
            self._zeros += (values == 0).sum(1)

    def summaries(self) -> dict[str, Summary]:
        """layer -> its summary."""
        means, zeros = self._sums.sum(1) / self.tokens, self._zeros.double() / self.tokens
        columns = (column.tolist() for column in (means, self._smallest, self._largest, zeros))
        return {row[0]: Summary(*row) for row in zip(self._names, *columns, strict=True)}

    def ranking(self, layer: str, tokenizer: PreTrainedTokenizerBase, *, minimum: int, shown: int) -> Ranking:
        """The `shown` tokens at either end of a layer, the furthest first, of those that occur `minimum` times."""
        frequent = (self._counts >= minimum).nonzero().squeeze(-1)
        means = self._sums[self._names.index(layer), frequent] / self._counts[frequent]
        order = means.argsort(descending=True, stable=True)

        def token_means(order: Tensor) -> list[TokenMean]:
            return [
                TokenMean(token, decode([token], tokenizer), int(self._counts[token]), mean)
                for token, mean in zip(frequent[order].tolist(), means[order].tolist(), strict=True)
            ]

        # Where there are few tokens, none stands at both ends.
        return Ranking(
            layer,
            among=len(frequent),
            heaviest=token_means(order[: min(shown, (len(frequent) + 1) // 2)]),
            lightest=token_means(order.flip(0)[: min(shown, len(frequent) // 2)]),
        )
