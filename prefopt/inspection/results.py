"""The result of an inspection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

from prefopt.inspection.layers import distinct, scale
from prefopt.inspection.statistics import Ranking, Summary
from prefopt.mask_health import MaskHealth
from prefopt.pages.token_view import PairTokens, TokenLayer


@final
@dataclass(frozen=True)
class Inspection:
    """A run on a data set.

    about      the run, its models, objective and data, and the versions: the metadata of the files
    layers     the layers of the objective; `summaries` and `rankings`, by a layer's name, are over all `pairs` and
               `tokens`. A layer that repeats another, or has one value for all tokens, has no ranking
    accuracy   the share of pairs whose chosen response has the larger reward
    mask_health, mask_faults  the figures of a learned mask, None without one; what is wrong: the fault -> its words
    shown      the first pairs of the data set
    files      the files that were written
    """

    about: dict[str, Any]
    layers: Sequence[TokenLayer]
    summaries: dict[str, Summary]
    rankings: dict[str, Ranking]
    pairs: int
    tokens: int
    accuracy: float
    mask_health: MaskHealth | None
    mask_faults: dict[str, str]
    shown: list[PairTokens]
    files: list[Path]

    @property
    def distinct(self) -> list[TokenLayer]:
        """The layers to shade by: those that do not repeat another."""
        return distinct(self.layers)

    @property
    def default(self) -> TokenLayer:
        """The first layer whose values tell tokens apart."""
        return next((layer for layer in self.distinct if not self.summaries[layer.name].constant), self.distinct[0])

    def scale(self, layer: TokenLayer, pairs: Sequence[PairTokens]) -> float:
        """The magnitude that has the darkest shade when these pairs are shown side by side."""
        responses = (response for pair in pairs for response in pair.responses.values())
        return scale(value for response in responses for value in response.values[layer.name] or ())

    def to_dict(self) -> dict[str, object]:
        """All but the pairs, ready for JSON."""
        return {
            **self.about,
            "pairs": self.pairs,
            "tokens": self.tokens,
            "accuracy": self.accuracy,
            "mask_health": None if self.mask_health is None else asdict(self.mask_health),
            "mask_faults": self.mask_faults,
            "layers": {
                layer.name: {"label": layer.label, "meaning": layer.meaning, **asdict(self.summaries[layer.name])}
                for layer in self.layers
            },
            "rankings": {name: asdict(ranking) for name, ranking in self.rankings.items()},
        }
