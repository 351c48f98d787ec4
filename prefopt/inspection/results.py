"""What an inspection found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

from prefopt.inspection.layers import Layer, offered, scale
from prefopt.inspection.tally import Ranking, Summary
from prefopt.inspection.weigh import WeighedPair

__all__ = ["Inspection"]


@final
@dataclass(frozen=True)
class Inspection:
    """A run on a data set.

    about      the run, its models, objective and data, and the versions: what the files hold as metadata
    layers     what the objective has; `summaries` and `rankings`, by a layer's name, are over all `pairs` and `tokens`.
               A layer that repeats another, or has one number for all tokens, has no ranking
    accuracy   the share of pairs whose chosen response has the larger reward
    shown      the first pairs of the data set
    files      what was written
    """

    about: dict[str, Any]
    layers: Sequence[Layer]
    summaries: dict[str, Summary]
    rankings: dict[str, Ranking]
    pairs: int
    tokens: int
    accuracy: float
    shown: list[WeighedPair]
    files: list[Path]

    @property
    def offered(self) -> list[Layer]:
        """The layers to shade by: those that do not repeat another."""
        return offered(self.layers)

    @property
    def first(self) -> Layer:
        """The first layer whose numbers tell tokens apart."""
        return next((layer for layer in self.offered if not self.summaries[layer.name].constant), self.offered[0])

    def scale(self, layer: Layer, pairs: Sequence[WeighedPair]) -> float:
        """What has the darkest shade when these pairs are shown side by side."""
        return scale(value for pair in pairs for _, side in pair.sides for value in side.numbers[layer.name])

    def to_dict(self) -> dict[str, object]:
        """All but the pairs, ready for JSON."""
        return {
            **self.about,
            "pairs": self.pairs,
            "tokens": self.tokens,
            "accuracy": self.accuracy,
            "layers": {
                layer.name: {"label": layer.label, "meaning": layer.meaning, **asdict(self.summaries[layer.name])}
                for layer in self.layers
            },
            "rankings": {name: asdict(ranking) for name, ranking in self.rankings.items()},
        }
