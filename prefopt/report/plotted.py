"""The plots of a comparison, made of its rows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch

from prefopt.comparison.frontier import Frontiers
from prefopt.comparison.run import REFERENCE
from prefopt.comparison.statistics import bootstraps
from prefopt.comparison.suite import Suite
from prefopt.comparison.summary import Estimate, Row, grouped
from prefopt.report.plots import Panel, Place, Plot

__all__ = ["PLOTS", "plots"]

PLOTS = ("frontier", "sparsity", "divergence", "curves")
"""The names of the plots there may be."""

_CURVES = {
    "loss": "Loss, with all regularisers",
    "rewards/margins": "Reward margin, chosen - rejected",
    "rewards/accuracies": "Share of pairs ranked right",
    "weights/sparsity": "Share of weights w at zero",
}
_WEIGHTS = {
    "w": {"sparsity_w": "Share of weights w at zero", "mean_w": "Mean weight w"},
    "v": {"sparsity_v": "Share of weights v at zero", "mean_v": "Mean weight v"},
}
_SIDES = {"divergence/chosen": "Chosen responses", "divergence/rejected": "Rejected responses"}
_FAR = 2.0
"""How much further than the hypervolume reaches a frontier is drawn: a policy that went astray would make the others
a dot."""

Series = Sequence[tuple[float, float]]


def plots(suite: Suite, table: Sequence[Row], planes: Sequence[Frontiers]) -> dict[str, Plot]:
    """Those that there is something to show in, by name."""
    found = [_frontier(suite, planes), _sparsity(suite, table), _divergence(suite, table), _curves(suite, table)]
    return {plot.name: plot for plot in found if plot.panels}


def _frontier(suite: Suite, planes: Sequence[Frontiers]) -> Plot:
    distance, reward = suite.plane.distance, suite.plane.reward
    panels = []
    for plane in planes:
        (reference,) = plane.rows[REFERENCE]
        lines = {}
        for name, own in plane.rows.items():
            if name != REFERENCE:
                known = [row for row in (reference, *own) if {distance, reward} <= row.metrics.keys()]
                places = [
                    Place(row.name, row.setting, row.metrics[distance].mean, row.metrics[reward], row.metrics[distance])
                    for row in known
                ]
                lines[name] = sorted(places, key=lambda place: place.x)
        panels.append(Panel(reward, reward.replace("_", " "), plane.setting, lines))
    far = math.inf if suite.plane.within is None else _FAR * suite.plane.within
    return Plot("frontier", distance, panels, marks=True, far=far)


def _sparsity(suite: Suite, table: Sequence[Row]) -> Plot:
    """What masks came to, against the sweep that frontiers run along, or the first; without sweeps, by objective."""
    masked = [name for name in suite.objectives if any(_is_masked(row) for row in table if row.name == name)]
    swept = suite.plane.over if suite.plane.over in suite.sweeps else next(iter(suite.sweeps), None)
    values = _ordered([dict(row.setting)[swept] for row in table if row.name in masked] if swept else masked)
    place_of = {value: place + 0.5 for place, value in enumerate(values)}
    panels = []
    for rest, rows in grouped(suite, table, along=swept).items():
        own = [row for row in rows if row.name in masked and row.metrics]
        for which, figures in _WEIGHTS.items():
            names = [name for name in masked if which == "w" or _has_own_v([row for row in own if row.name == name])]
            for figure, title in figures.items():
                lines = {
                    name: [
                        Place(name, row.setting, place_of[dict(row.setting)[swept] if swept else name], known)
                        for row in own
                        if row.name == name and (known := row.metrics.get(figure)) is not None
                    ]
                    for name in names
                }
                if any(lines.values()):
                    reach = (0.0, 1.0) if figure.startswith("sparsity") else (0.0,)
                    panels.append(Panel(figure, title, rest, lines, reach))
    return Plot("sparsity", swept or "objective", panels, marks=True, ticks={at: v for v, at in place_of.items()})


def _is_masked(row: Row) -> bool:
    """Whether any token had another weight than 1."""
    return any(value != 1 for figure in ("mean_w", "mean_v") for value in _of_items(row, figure))


def _has_own_v(own: Sequence[Row]) -> bool:
    """Whether the divergence's weights are others than those of the log-ratios."""
    pairs = list(zip(*_WEIGHTS.values(), strict=True))
    return any(_of_items(row, v) not in ([], _of_items(row, w)) for row in own for w, v in pairs)


def _of_items(row: Row, figure: str) -> list[float]:
    return [value for record in row.finished.values() for value in record["values"].get(figure, {}).values()]


def _ordered(values: Sequence[str]) -> list[str]:
    """Each once; numbers by size, others as they come."""
    once = list(dict.fromkeys(values))
    try:
        return sorted(once, key=float)
    except ValueError:
        return once


def _divergence(suite: Suite, table: Sequence[Row]) -> Plot:
    panels = []
    for setting, own in grouped(suite, table).items():
        sides = {side: {row.name: _profile(row, side) for row in own} for side in _SIDES}
        highest = max((p.y.mean for lines in sides.values() for line in lines.values() for p in line), default=0.0)
        for side, title in _SIDES.items():
            if any(sides[side].values()):
                panels.append(Panel(side, title, setting, sides[side], (0.0, highest)))
    return Plot("divergence", "token", panels, marks=False)


def _profile(row: Row, side: str) -> list[Place]:
    profiles = [record.get("profiles", {}).get(side, []) for record in row.finished.values()]
    return _means(row, [list(enumerate(profile, start=1)) for profile in profiles])


def _curves(suite: Suite, table: Sequence[Row]) -> Plot:
    panels = []
    for setting, own in grouped(suite, table).items():
        for figure, title in _CURVES.items():
            lines = {row.name: _means(row, [r["curves"].get(figure, []) for r in row.finished.values()]) for row in own}
            if any(lines.values()):
                panels.append(Panel(figure, title, setting, lines, (0.0,)))
    return Plot("curves", "step", panels, marks=False)


def _means(row: Row, by_seed: Sequence[Series]) -> list[Place]:
    """The mean over seeds at each x that all seeds have."""
    series = [dict(each) for each in by_seed]
    shared = sorted(set.intersection(*map(set, series))) if series else []
    if not shared:
        return []
    values = torch.tensor([[each[x] for each in series] for x in shared], dtype=torch.float64)
    return [Place(row.name, row.setting, x, known) for x, known in zip(shared, _estimates(values), strict=True)]


def _estimates(values: torch.Tensor) -> Iterator[Estimate]:
    """Of each row of values [points, seeds]."""
    seeds = values.shape[1]
    if seeds == 1:
        yield from (Estimate(value, None, None, "items", 1) for value in values[:, 0].tolist())
        return
    for known in bootstraps(values, seed=0):
        yield Estimate(known.mean, known.low, known.high, "seeds", seeds)
