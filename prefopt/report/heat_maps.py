"""Token heat maps: held-out pairs, token by token, for the page to shade."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from prefopt.comparison.suite import Suite
from prefopt.comparison.summary import Row, grouped
from prefopt.pages.token_view import PairTokens, ResponseTokens, TokenLayer, token_view
from prefopt.report.format import at, named

_LAYERS = (
    TokenLayer("w", "weight w", "how much the token's log-ratio counts in the reward"),
    TokenLayer("v", "weight v", "how much the token's divergence counts in the reward, if the objective has one"),
    TokenLayer("divergence", "divergence", "KL(reference || policy) at the token, in nats"),
    TokenLayer("log_ratio", "log-ratio", "log policy - log reference of the token, in nats", signed=True),
)


@final
@dataclass(frozen=True)
class HeatMaps:
    """prompts and settings, in words, are the menus of the `view`; `seed` is that of the policies."""

    prompts: list[str]
    settings: list[str]
    layers: tuple[TokenLayer, ...]
    view: dict[str, Any]
    seed: int


def heat_maps(suite: Suite, rows: Sequence[Row]) -> HeatMaps | None:
    """The heat maps of the first seed that has any; None where no record has."""
    seed = next((seed for row in rows for seed, record in row.finished.items() if record.get("heat_maps")), None)
    if seed is None:
        return None
    pairs: list[PairTokens] = []
    settings: list[str] = []
    for setting, group in grouped(suite, rows).items():
        titles = {named(row, suite.plane.distance): row.finished.get(seed, {}).get("heat_maps") or () for row in group}
        if any(titles.values()):
            settings.append(at(setting).removeprefix(", ") or "all runs")
        for title, maps in titles.items():
            pairs += [_pair(pair, index, title, len(settings) - 1) for index, pair in enumerate(maps)]
    prompts = {pair.row: pair.prompt for pair in pairs}
    return HeatMaps(list(prompts.values()), settings, _LAYERS, token_view(_LAYERS, pairs), seed)


def _pair(record: Mapping[str, Any], index: int, title: str, setting: int) -> PairTokens:
    chosen, rejected = (
        ResponseTokens(response["tokens"], response, marked=response.get("marked"))
        for response in (record["chosen"], record["rejected"])
    )
    return PairTokens(str(record["prompt"]), chosen, rejected, row=index, title=title, setting=setting)
