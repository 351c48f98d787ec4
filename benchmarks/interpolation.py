"""How often objectives on the same frontier are told apart, by how rewards between runs are read.

    python -m benchmarks.interpolation [OUT.md] [SUITES]

Nothing is trained: distances and rewards are drawn, read and tested as `prefopt.comparison` does.
"""

from __future__ import annotations

import datetime
import math
import platform
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np

from benchmarks.markdown import row, table
from prefopt.comparison.distances import common_distances
from prefopt.comparison.interpolation import Line, reward_at, straightest_power
from prefopt.comparison.statistics import LEVEL, holm, paired_permutation, paired_t

__all__ = ["FRONTIERS", "READINGS", "main", "share"]

_SUITES = 1000
_SEEDS = 6
_BETAS = (0.1, 0.3, 1.0, 3.0)
_REACH = (1.0, 1.5, 0.7)
"""How many times as far as the first an objective goes at equal beta: their runs lie where those of others do not."""

_SPREADS = (0.0, 0.1, 0.5)
"""Standard deviation of the logarithm of distances from one seed to the next."""

_NOISE = 0.03
"""Standard deviation of a policy's reward from one training to the next; of a run's beside, a third."""

FRONTIERS: Mapping[str, Callable[[float], float]] = {
    "straight": lambda distance: distance / 20,
    "square root": lambda distance: math.sqrt(distance / 20),
    "saturating, 1 - exp(-distance / 8)": lambda distance: 1 - math.exp(-distance / 8),
    "logarithmic, log(1 + distance)": lambda distance: math.log1p(distance) / 3,
}
"""Of height 3 at distances of about 20."""

READINGS: Mapping[str, float | None] = {
    "distance": 1.0,
    "square root": 0.5,
    "logarithm": 0.0,
    "the power in which they are straightest": None,
}


def _drawn(height: Callable[[float], float], spread: float, draw: np.random.Generator) -> list[list[Line]]:
    """The line of each objective in each seed."""
    far = np.exp(draw.normal(0, spread, (len(_REACH), _SEEDS)))
    trained = draw.normal(0, _NOISE, (len(_REACH), _SEEDS))
    return [
        [
            [
                (distance, {"": 3 * height(distance) + luck + draw.normal(0, _NOISE / 3)})
                for distance in (4 / beta**0.7 * reach * stretch for beta in _BETAS)
            ]
            for stretch, luck in zip(far[number], trained[number], strict=True)
        ]
        for number, reach in enumerate(_REACH)
    ]


def share(
    height: Callable[[float], float], spread: float, suites: int, seed: int = 0
) -> tuple[dict[str, int], list[float]]:
    """In how many of so many suites some difference from the first objective is told, by reading; and the powers."""
    told, powers, draw = dict.fromkeys(READINGS, 0), [], np.random.default_rng(seed)
    for _ in range(suites):
        lines = _drawn(height, spread, draw)
        spans = {
            str(number): {seed: (min(x for x, _ in line), max(x for x, _ in line)) for seed, line in enumerate(by_seed)}
            for number, by_seed in enumerate(lines)
        }
        distances = common_distances(spans, "0")
        distance = distances[len(distances) // 2]
        powers.append(straightest_power([line for by_seed in lines for line in by_seed]))
        for name, power in READINGS.items():
            told[name] += _is_told(lines, distance, powers[-1] if power is None else power)
    return told, powers


def _is_told(lines: Sequence[Sequence[Line]], distance: float, power: float) -> bool:
    """Whether an objective that is read in all seeds is told from the first."""
    read = [[reward_at(line, distance, power) for line in by_seed] for by_seed in lines]
    if not all(read[0]):
        return False
    families = [
        [other[""] - first[""] for first, other in zip(read[0], by_seed, strict=True)]
        for by_seed in read[1:]
        if all(by_seed)
    ]
    p_t = holm([p if (p := paired_t(differences)) is not None else 1.0 for differences in families])
    p_signs = [paired_permutation(differences, seed=0, resamples=0) for differences in families]
    return any(max(pair) < LEVEL for pair in zip(p_t, p_signs, strict=True))


def _lines(suites: int) -> Iterator[str]:
    libraries = ", ".join(f"{name} {version(name)}" for name in ("prefopt", "numpy", "scipy"))
    yield "# Rewards between runs, by how they are read"
    yield ""
    yield (
        f"{datetime.date.today()}. python {platform.python_version()}, {libraries}. "
        f"`python -m benchmarks.interpolation`: {suites} simulated suites of each kind, of three objectives on the "
        "same frontier, which go 1, 1.5 and 0.7 times as far at equal beta, with "
        f"{len(_BETAS)} betas, {_SEEDS} seeds, and trainings that differ by {_NOISE:g} of a height of 3: the errors of "
        f"a grid are not lost in noise. At {LEVEL:.0%}, chance alone gives at most "
        f"{100 * (LEVEL + 2 * math.sqrt(LEVEL * (1 - LEVEL) / suites)):.1f}%."
    )
    yield ""
    yield "Suites in which some difference is told, where none is. Straight lines between neighbouring runs, in:"
    yield ""
    yield from table(["frontier", "spread of distances", *READINGS, "that power"])
    for words, height in FRONTIERS.items():
        for spread in _SPREADS:
            told, powers = share(height, spread, suites)
            shares = [f"{100 * count / suites:.1f}%" for count in told.values()]
            yield row([words, f"{spread:g}", *shares, f"{np.mean(powers):.2f} ± {np.std(powers):.2f}"])


def main() -> None:
    suites = int(sys.argv[2]) if len(sys.argv) > 2 else _SUITES
    text = "\n".join(_lines(suites)) + "\n"
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
