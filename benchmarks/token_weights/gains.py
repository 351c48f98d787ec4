"""The reward of one objective over another's, at the same distance from the reference."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean, median
from typing import NamedTuple, final

from prefopt.comparison.differences import Difference, adjusted, paired
from prefopt.comparison.frontier import frontiers
from prefopt.comparison.interpolation import Line, reward_at, straightest_power
from prefopt.comparison.results import Results
from prefopt.comparison.run import REFERENCE
from prefopt.comparison.statistics import most_seeds
from prefopt.comparison.summary import Row, basis, frame

__all__ = ["Gain", "by_seed", "gains"]


@final
class Gain(NamedTuple):
    """A difference of rewards, and the distance: of all seeds, or the median of the seeds' own, `by_seed`."""

    difference: Difference
    distance: float
    by_seed: bool


def gains(results: Results, reward: str, opponents: Mapping[str, str]) -> dict[str, Gain]:
    """The reward of each objective over its opponent's, judged together; those that never share a distance are absent.

    Of their runs at the same settings, whose errors are alike, at a distance that most seeds have, or else in each seed
    at the middle, geometrically, of the distances that the two have in it; where fewer than most seeds have any, of all
    their runs.
    """
    read = {name: _gain(results, reward, name, opponent) for name, opponent in opponents.items()}
    gained = {name: gain for name, gain in read.items() if gain is not None}
    judged = adjusted([gain.difference for gain in gained.values()])
    return {
        name: gain._replace(difference=difference)
        for (name, gain), difference in zip(gained.items(), judged, strict=True)
    }


def _gain(results: Results, reward: str, name: str, opponent: str) -> Gain | None:
    rows = [row for row in results.rows if row.name in (name, opponent, REFERENCE)]
    settings = {row.setting for row in rows if row.name == name}
    shared = [row for row in rows if row.name == REFERENCE or row.setting in settings]
    candidates = (
        gain
        for compared in (shared, rows)
        for read in (_at_one_distance, by_seed)
        for gain in read(results, reward, name, opponent, compared)
    )
    return next(candidates, None)


def _at_one_distance(results: Results, reward: str, name: str, opponent: str, rows: Sequence[Row]) -> Iterator[Gain]:
    suite = results.suite
    changes = {
        "frontier": suite.plane.model_copy(update={"reward": reward}),
        "objectives": {objective: suite.objectives[objective] for objective in (opponent, name)},
        "baseline": opponent,
    }
    for plane in frontiers(suite.model_copy(update=changes), rows, results.values):
        for measure in plane.matched[:1]:
            if measure.seeds >= most_seeds(len(suite.seeds)):
                assert measure.distance is not None
                yield Gain(measure.differences[0], measure.distance, by_seed=False)


def by_seed(results: Results, reward: str, name: str, opponent: str, rows: Sequence[Row]) -> Iterator[Gain]:
    """The gain at each seed's own distance; none where fewer than most seeds have one."""
    lines = {objective: _lines(results, reward, objective, rows) for objective in (name, opponent)}
    middles = {
        seed: (max(nearest, 0) * farthest) ** 0.5  # an estimated KL can be below 0
        for seed in lines[name].keys() & lines[opponent].keys()
        if (nearest := max(min(x for x, _ in lines[objective][seed]) for objective in lines))
        <= (farthest := min(max(x for x, _ in lines[objective][seed]) for objective in lines))
    }
    power = straightest_power([line for of_seeds in lines.values() for line in of_seeds.values()])
    readings = frame(
        (reward, (), objective, seed, item, value)
        for objective, of_seeds in lines.items()
        for seed, distance in sorted(middles.items())
        for item, value in reward_at(of_seeds[seed], distance, power).items()
    )
    if len(middles) >= most_seeds(len(results.suite.seeds)):
        for difference in paired(readings, {name: opponent}, basis(results.values)):
            yield Gain(difference, median(middles.values()), by_seed=True)


def _lines(results: Results, reward: str, objective: str, rows: Sequence[Row]) -> dict[int, Line]:
    """By seed: the distance and the rewards of each finished run of the objective."""
    values = results.values
    settings = [row.setting for row in rows if row.name == objective]
    values = values[(values["objective"] == objective) & values["setting"].isin(settings)]
    lines: dict[int, list[tuple[float, Mapping[str, float]]]] = {}
    for (seed, _), run in values.groupby(["seed", "setting"], sort=False):
        distances = run[run["metric"] == results.suite.plane.distance]["value"]
        rewards = run[run["metric"] == reward]
        if len(distances) and len(rewards):
            by_item = dict(zip(rewards["item"], rewards["value"], strict=True))
            lines.setdefault(int(seed), []).append((fmean(distances), by_item))
    return dict(lines)
