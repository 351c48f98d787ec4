"""How often the verdict of a comparison is wrong, on simulated suites whose truth is known.

    python -m benchmarks.verdicts [OUT.md] [SUITES, in hundreds]

Nothing is trained: records are drawn, with frontiers of known height, and go through all that a report computes.
"""

from __future__ import annotations

import datetime
import math
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.markdown import row, table
from prefopt.comparison.results import Results
from prefopt.comparison.run import Run
from prefopt.comparison.statistics import LEVEL
from prefopt.comparison.suite import Suite
from prefopt.comparison.verdict import Verdict, verdict

__all__ = ["SCENARIOS", "Scenario", "Share", "lines", "main", "share", "simulated", "total"]

_SUITES = 1000
"""Of each scenario."""

_HUNDRED = 100
"""Suites that are drawn from one seed."""

_BETA = "objective.beta"
_BETAS = (0.1, 0.3, 1.0, 3.0)
_ITEMS = 12


@dataclass(frozen=True)
class Scenario:
    """A kind of suite.

    words     what is the case
    worth     the height of each objective's frontier, the baseline's first
    reach     how many times as far as the first an objective goes at equal beta
    training  standard deviation of a policy's reward from one training to the next
    spread    standard deviation of the logarithm of distances from one seed to the next
    failing   share of the runs that fail
    skewed    whether trainings and items differ by lognormal figures
    rounded   whether an item's reward is 0 or 1: a win, so that seeds tie
    seeds     how many
    power     of the distance, in the height of the frontier: height (1 - exp(-distance / 8)) without one
    """

    words: str
    worth: tuple[float, ...] = (3.0, 3.0)
    reach: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)
    training: float = 0.15
    spread: float = 0.1
    failing: float = 0.0
    skewed: bool = False
    rounded: bool = False
    seeds: int = 6
    power: float | None = None

    @property
    def worth_by_name(self) -> dict[str, float]:
        return {f"objective {number}": worth for number, worth in enumerate(self.worth)}

    @property
    def suite(self) -> Suite:
        return Suite.model_validate(
            {
                "task": "planted",
                "objectives": {
                    name: {"zoo": "dpo", "training": {"weight_decay": 0.01 * number}}
                    for number, name in enumerate(self.worth_by_name)
                },
                "sweeps": {_BETA: list(_BETAS)},
                "seeds": list(range(self.seeds)),
                "controls": False,
            }
        )


SCENARIOS: Mapping[str, Scenario] = {
    "null, two": Scenario("two objectives, nothing differs"),
    "null, four": Scenario("four objectives, nothing differs", worth=(3.0,) * 4),
    "null, twelve seeds": Scenario("four objectives, nothing differs, twelve seeds", worth=(3.0,) * 4, seeds=12),
    "one better": Scenario("one of three is better", worth=(3.0, 3.0, 4.0)),
    "two tie": Scenario("two of four are equally good, and better than the baseline", worth=(3.0, 3.0, 4.0, 4.0)),
    "unlike distances": Scenario(
        "nothing differs, but one goes half as far at equal beta, and another twice, unlike from seed to seed",
        worth=(3.0,) * 3,
        reach=(1.0, 0.5, 2.0),
        spread=0.5,
    ),
    "unlike distances, square root": Scenario(
        "the same on frontiers that bend most at the reference, with the square root of the distance",
        worth=(3.0,) * 3,
        reach=(1.0, 0.5, 2.0),
        spread=0.5,
        power=0.5,
    ),
    "unlike distances, straight": Scenario(
        "the same on frontiers that do not bend", worth=(3.0,) * 3, reach=(1.0, 0.5, 2.0), spread=0.5, power=1.0
    ),
    "ties": Scenario("nothing differs, items are won or lost", worth=(3.0,) * 3, rounded=True, training=0.05),
    "skew": Scenario("nothing differs, trainings and items are skewed", worth=(3.0,) * 3, skewed=True),
    "failed runs": Scenario("nothing differs, a tenth of the runs fails", worth=(3.0,) * 3, failing=0.1, seeds=10),
    "failed runs, one better": Scenario(
        "one of three is better, a tenth of the runs fails", worth=(3.0, 3.0, 4.0), failing=0.1, seeds=10
    ),
    "three seeds": Scenario("one of three is better, three seeds", worth=(3.0, 3.0, 4.0), seeds=3),
}


def simulated(scenario: Scenario, runs: Sequence[Run], draw: np.random.Generator) -> dict[str, Any]:
    """Records of the runs of its suite by key."""
    numbers = {name: number for number, name in enumerate(scenario.worth_by_name)}
    easy = draw.normal(0, 0.3, (scenario.seeds, _ITEMS))  # items and seeds are easy or hard for all objectives alike
    far = np.exp(draw.normal(0, scenario.spread, (scenario.seeds, len(numbers))))
    records: dict[str, Any] = {}

    def noise(deviation: float, *shape: int) -> Any:
        if not scenario.skewed:
            return draw.normal(0, deviation, shape)
        return deviation * (draw.lognormal(0, 1, shape) - math.exp(0.5)) / math.sqrt((math.e - 1) * math.e)

    trained = noise(scenario.training, scenario.seeds, len(numbers))
    for run in runs:
        height, distance, luck = 0.0, 0.0, 0.0
        if run.name in numbers:
            number = numbers[run.name]
            distance = 4 / run.setting[_BETA] ** 0.7 * scenario.reach[number] * far[run.seed, number]
            bend = 1 - math.exp(-distance / 8) if scenario.power is None else (distance / 20) ** scenario.power
            height = scenario.worth[number] * bend
            luck = trained[run.seed, number] + float(noise(scenario.training / 3))
        rewards = height + luck + easy[run.seed] + noise(0.2, _ITEMS)
        if scenario.rounded:
            rewards = (draw.random(_ITEMS) < 1 / (1 + np.exp(-(height + luck + easy[run.seed] - 1)))).astype(float)
        values = {"reward": rewards.tolist(), "sequence_kl": [distance] * _ITEMS}
        by_item = {name: dict(zip(map(str, range(_ITEMS)), line, strict=True)) for name, line in values.items()}
        failed = run.name in numbers and draw.random() < scenario.failing
        records[run.key] = {"values": {} if failed else by_item, "error": "RuntimeError: no" if failed else None}
    return records


@dataclass
class Share:
    """What was said of the suites of a scenario, in counts.

    matched  suites with several objectives compared at the same distance
    named    those whose verdict names a best objective
    wrong    those that name one that is not: none is, or another
    claims   those with any wrong claim: such a name, or a difference from the baseline that is told, but is none or has
             the other sign
    further  of these, those not compared at the same distance, where one that goes further has a higher reward
    """

    suites: int = 0
    matched: int = 0
    named: int = 0
    wrong: int = 0
    claims: int = 0
    further: int = 0


def share(scenario: Scenario, suites: int, seed: int = 0) -> Share:
    """Of so many suites, drawn from `seed`."""
    suite, draw, counts = scenario.suite, np.random.default_rng(seed), Share()
    worth, runs = scenario.worth_by_name, suite.runs()
    for _ in range(suites):
        judged = verdict(Results.compute(suite, simulated(scenario, runs, draw)))
        counts.suites += 1
        if judged is None:
            continue
        wrong = judged.best is not None and _is_wrong(judged.best, worth)
        counts.matched += judged.distance is not None
        counts.named += judged.best is not None
        counts.wrong += wrong
        claims = wrong or _has_wrong_difference(judged, worth)
        counts.claims += claims
        counts.further += claims and judged.distance is None
    return counts


def total(shares: Sequence[Share]) -> Share:
    return Share(*(sum(column) for column in zip(*(astuple(counts) for counts in shares), strict=True)))


def _is_wrong(best: str, worth: Mapping[str, float]) -> bool:
    return any(worth[best] <= other for name, other in worth.items() if name != best)


def _has_wrong_difference(judged: Verdict, worth: Mapping[str, float]) -> bool:
    return any(d.estimate.mean * (worth[d.name] - worth[d.against]) <= 0 for d in judged.told)


def lines(shares: Mapping[str, Share]) -> Iterator[str]:
    """The page, of counts by scenario."""
    yield "# Verdicts on suites of known truth"
    yield ""
    libraries = ", ".join(f"{name} {version(name)}" for name in ("prefopt", "numpy", "scipy", "pandas"))
    yield (
        f"{datetime.date.today()}. python {platform.python_version()}, {libraries}. `python -m benchmarks.verdicts`: "
        f"simulated suites, with {len(_BETAS)} betas and six seeds where nothing else is said. {LEVEL:.0%} are allowed "
        "to be wrong; by chance it may be as many as stand in the last column."
    )
    yield ""
    heads = [
        "suites",
        "number",
        "compared at one distance",
        "name a best",
        "name a wrong one",
        "any wrong claim",
        "of these, at unequal distances",
        "by chance",
    ]
    yield from table(heads)
    for name, scenario in SCENARIOS.items():
        counts = shares[name]
        figures = (counts.matched, counts.named, counts.wrong, counts.claims, counts.further)
        chance = LEVEL + 2 * math.sqrt(LEVEL * (1 - LEVEL) / counts.suites)
        percents = [*(figure / counts.suites for figure in figures), chance]
        yield row([scenario.words, str(counts.suites), *(f"{100 * percent:.1f}%" for percent in percents)])


def main() -> None:
    suites = int(sys.argv[2]) if len(sys.argv) > 2 else _SUITES
    shares = {
        name: total([share(scenario, _HUNDRED, seed) for seed in range(math.ceil(suites / _HUNDRED))])
        for name, scenario in SCENARIOS.items()
    }
    text = "\n".join(lines(shares)) + "\n"
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
