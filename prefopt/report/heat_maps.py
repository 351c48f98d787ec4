"""Token heat maps: held-out pairs, token by token, for the page to shade."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from prefopt.comparison.suite import Suite
from prefopt.comparison.summary import Row, grouped
from prefopt.report.format import at, named

__all__ = ["LAYERS", "HeatMaps", "Layer", "heat_maps"]


@final
@dataclass(frozen=True)
class Layer:
    """A figure that tokens are shaded by: its name in the records, on the page, and what it is."""

    name: str
    words: str
    what: str
    signed: bool = False


LAYERS = (
    Layer("w", "weight w", "how much the token's log-ratio counts in the reward"),
    Layer("v", "weight v", "how much the token's divergence counts in the reward; none where the objective has none"),
    Layer("divergence", "divergence", "KL(reference || policy) at the token, in nats"),
    Layer("log_ratio", "log-ratio", "log policy - log reference of the token, in nats", signed=True),
)
_SIDES = ("chosen", "rejected")


@final
@dataclass(frozen=True)
class HeatMaps:
    """prompts   of the held-out pairs
    settings  in words
    json      the figures, for the page's script: settings -> rows -> pairs -> sides -> tokens and layers
    seed      whose policies they are
    """

    prompts: list[str]
    settings: list[str]
    json: str
    seed: int


def heat_maps(suite: Suite, table: Sequence[Row]) -> HeatMaps | None:
    """Of the first seed that has any; None where no record has."""
    seed = next((seed for row in table for seed, record in row.finished.items() if _maps(record)), None)
    if seed is None:
        return None
    found: dict[str, list[dict[str, Any]]] = {}
    prompts: list[str] = []
    for setting, rows in grouped(suite, table).items():
        for row in rows:
            if maps := _maps(row.finished.get(seed, {})):
                prompts = prompts or [str(each["prompt"]) for each in maps]
                known = {"name": named(row, suite.plane.distance), "pairs": [dict(_sides(each)) for each in maps]}
                found.setdefault(at(setting).removeprefix(", ") or "all runs", []).append(known)
    text = json.dumps(list(found.values()), separators=(",", ":")).replace("<", r"\u003c")
    return HeatMaps(prompts, list(found), text, seed)


def _maps(record: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    maps: Sequence[Mapping[str, Any]] = record.get("heat_maps") or ()
    return maps


def _sides(pair: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for side in _SIDES:
        of = pair[side]
        layers = {layer.name: of[layer.name] and [_rounded(value) for value in of[layer.name]] for layer in LAYERS}
        yield side, {"tokens": of["tokens"], **layers}


def _rounded(value: float) -> float | None:
    """To three digits, as it is shown; JSON has no word for what is not finite."""
    short = float(f"{value:.3g}")
    return short if abs(short) < float("inf") else None
