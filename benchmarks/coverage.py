"""How often 95% intervals of means over seeds hold the truth, and how often tests err where nothing differs.

    python -m benchmarks.coverage [OUT.md]

Figures of seeds are drawn from distributions of known mean; every method sees the same draws.
"""

from __future__ import annotations

import datetime
import platform
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats  # type: ignore[import-untyped]

from benchmarks.markdown import row, table
from prefopt.comparison.statistics import paired_permutation, paired_t, t_intervals

__all__ = ["main"]

SEEDS = (3, 4, 5, 6, 8, 10, 15, 20)
TIMES = 2000
RESAMPLES = 999
_AT_A_TIME = 100
_SIGMA = 1.0
"""Of the logarithm of lognormal figures, whose skewness is then 6.2."""

_ITEMS = 24
"""Held-out items of a win rate."""

Array = NDArray[np.float64]
Draw = Callable[[np.random.Generator, tuple[int, int]], Array]
Method = Callable[[Array, float], NDArray[np.bool_]]


def _lognormal(draw: np.random.Generator, shape: tuple[int, int]) -> Array:
    return draw.lognormal(0.0, _SIGMA, shape)


def _win_rate(draw: np.random.Generator, shape: tuple[int, int], mean: float = 0.9) -> Array:
    """Over items, of policies whose own rate varies from one seed to the next."""
    rates = draw.beta(20 * mean, 20 * (1 - mean), shape)
    return draw.binomial(_ITEMS, rates, shape) / _ITEMS


def _rare(draw: np.random.Generator, shape: tuple[int, int]) -> Array:
    return draw.binomial(_ITEMS, 0.02, shape) / _ITEMS


FIGURES: Mapping[str, tuple[Draw, float]] = {
    "normal": (lambda draw, shape: draw.standard_normal(shape), 0.0),
    "heavy tails (t of 3)": (lambda draw, shape: draw.standard_t(3, shape), 0.0),
    "lognormal": (_lognormal, float(np.exp(_SIGMA**2 / 2))),
    "win rate of 0.9": (_win_rate, 0.9),
}
"""A figure of each seed, and its true mean."""

DIFFERENCES: Mapping[str, tuple[Draw, float]] = {
    "of normal": (lambda draw, shape: draw.standard_normal(shape) - draw.standard_normal(shape), 0.0),
    "of lognormal": (lambda draw, shape: _lognormal(draw, shape) - _lognormal(draw, shape), 0.0),
    "of win rates": (lambda draw, shape: _win_rate(draw, shape) - _win_rate(draw, shape), 0.0),
    "of rare events, mostly ties": (lambda draw, shape: _rare(draw, shape) - _rare(draw, shape), 0.0),
    "of normal with lognormal of the same mean": (
        lambda draw, shape: _lognormal(draw, shape) - draw.normal(np.exp(_SIGMA**2 / 2), 1.0, shape),
        0.0,
    ),
}
"""Of two objectives in each seed, nothing differing on average."""


def _holds(low: Array, high: Array, truth: float) -> NDArray[np.bool_]:
    return (low <= truth) & (truth <= high)


def _students_t(values: Array, truth: float) -> NDArray[np.bool_]:
    return _holds(*t_intervals(values), truth)


def _bootstrap(method: str) -> Method:
    def holds(values: Array, truth: float) -> NDArray[np.bool_]:
        with np.errstate(all="ignore"):
            interval = stats.bootstrap(
                (values,), np.mean, axis=-1, method=method, n_resamples=RESAMPLES, batch=10, rng=0
            ).confidence_interval
        return _holds(np.nan_to_num(interval.low, nan=np.inf), interval.high, truth)  # without an interval: not held

    return holds


def _studentised(values: Array, truth: float) -> NDArray[np.bool_]:
    """(mean* - mean) / sem* of resamples in the place of Student's t; a resample of one value alone is infinite."""
    seeds = values.shape[-1]
    indices = np.random.default_rng(0).integers(seeds, size=(RESAMPLES, seeds))
    held = []
    for start in range(0, len(values), _AT_A_TIME):
        sample = values[start : start + _AT_A_TIME]
        resamples = sample[:, indices]
        with np.errstate(all="ignore"):
            t = (resamples.mean(-1) - sample.mean(-1, keepdims=True)) / stats.sem(resamples, axis=-1)
        t = np.sort(np.nan_to_num(t, nan=0.0), axis=-1)
        low, high = (t[:, round(share * (RESAMPLES + 1)) - 1] for share in (0.025, 0.975))
        sem = stats.sem(sample, axis=-1)
        with np.errstate(all="ignore"):
            ends = (np.nan_to_num(sample.mean(-1) - end * sem, nan=np.inf) for end in (high, low))
            held.append(_holds(*ends, truth))
    return np.concatenate(held)


def _sign_flips(values: Array, truth: float) -> NDArray[np.bool_]:
    """The interval of the means that the sign-flip test does not reject."""
    return np.array([paired_permutation(line - truth, seed=0, resamples=RESAMPLES) >= 0.05 for line in values])


METHODS: Mapping[str, Method] = {
    "Student's t": _students_t,
    "percentile bootstrap": _bootstrap("percentile"),
    "BCa bootstrap": _bootstrap("BCa"),
    "studentised bootstrap": _studentised,
    "sign flips": _sign_flips,
}


def _paired_t(values: Array) -> Array:
    return np.array([1.0 if (p := paired_t(line)) is None else p for line in values])


def _both(values: Array) -> Array:
    """The p that the report judges by, of a single comparison."""
    flips = [paired_permutation(line, seed=0, resamples=RESAMPLES) for line in values]
    return np.array([max(flip, p or 0.0) for flip, p in zip(flips, map(paired_t, values), strict=True)])


def _coverage(figures: Mapping[str, tuple[Draw, float]]) -> Iterator[str]:
    yield from table(["figure", "interval", *(f"{seeds} seeds" for seeds in SEEDS)])
    for figure, (draw, truth) in figures.items():
        samples = {seeds: draw(np.random.default_rng(seeds), (TIMES, seeds)) for seeds in SEEDS}
        for name, method in METHODS.items():
            yield row([figure, name, *(f"{100 * method(samples[seeds], truth).mean():.0f}%" for seeds in SEEDS)])


def _errors() -> Iterator[str]:
    yield from table(["differences", "test", *(f"{seeds} seeds" for seeds in SEEDS)])
    tests: dict[str, Callable[[Array], Array]] = {
        "paired t": _paired_t,
        "both": _both,
    }
    for figure, (draw, _) in DIFFERENCES.items():
        samples = {seeds: draw(np.random.default_rng(seeds), (TIMES, seeds)) for seeds in SEEDS}
        for name, test in tests.items():
            yield row([figure, name, *(f"{100 * (test(samples[seeds]) < 0.05).mean():.1f}%" for seeds in SEEDS)])


def _lines() -> Iterator[str]:
    yield "# Intervals and tests over few seeds"
    yield ""
    libraries = ", ".join(f"{name} {version(name)}" for name in ("prefopt", "numpy", "scipy"))
    yield (
        f"{datetime.date.today()}. python {platform.python_version()}, {libraries}. `python -m benchmarks.coverage`: "
        f"{TIMES} samples of each kind and size, so that a share near 95% is known to 1 point."
    )
    yield ""
    yield "How often a 95% interval holds the true mean of a figure:"
    yield ""
    yield from _coverage(FIGURES)
    yield ""
    yield "How often one of the mean difference of two objectives, paired by seed, holds 0 where nothing differs:"
    yield ""
    yield from _coverage(DIFFERENCES)
    yield ""
    yield (
        "How often a test at 0.05 finds a difference there. Both: what the report judges by, the paired t test and the "
        "sign-flip test, of which the larger p counts."
    )
    yield ""
    yield from _errors()
    yield ""
    yield "The least p of the sign-flip test over n seeds, 2 / 2^n:"
    yield ""
    yield from table(["seeds", *map(str, SEEDS)], [["least p", *(f"{2.0 ** (1 - seeds):.2g}" for seeds in SEEDS)]])


def main() -> None:
    text = "\n".join(_lines()) + "\n"
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
