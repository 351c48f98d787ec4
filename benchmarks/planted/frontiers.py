"""From finished runs to figures with intervals over seeds: of each beta, and of the frontier that the betas draw."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch

from benchmarks.planted.grid import REFERENCE, Run
from prefopt.comparison import resolve_task
from prefopt.comparison.statistics import at_distance, bootstrap, holm, hypervolume, paired_permutation

__all__ = ["estimate", "summary"]

Point = tuple[float, float]


def estimate(values: Sequence[float | None]) -> dict[str, float] | None:
    """The mean of one value a seed and its 95% bootstrap interval, and how many of them there are, of how many."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    return bootstrap(torch.tensor(known), seed=0).model_dump() | {"count": len(known), "of": len(values)}


def summary(
    records: Sequence[Mapping[str, Any]], runs: Sequence[Run], *, at: Sequence[float], within: float
) -> dict[str, Any]:
    """All that page and picture are made of: `settings` by name, and `overall` over settings and seeds.

    The frontier of an objective in one setting and seed is the line from the reference, at distance 0, through the
    (sequence KL, reward) of its betas.
    """
    names = list(dict.fromkeys(run.objective for run in runs if run.row is not None))
    settings, seeds = list(dict.fromkeys(run.setting for run in runs)), list(dict.fromkeys(run.seed for run in runs))
    betas = {
        setting: {
            name: list(dict.fromkeys(run.beta for run in runs if (run.setting, run.objective) == (setting, name)))
            for name in names
        }
        for setting in settings
    }
    by_run = {(r["setting"], r["seed"], r["objective"], r["beta"]): r for r in records}
    frontiers: dict[tuple[str, int, str], list[Point]] = {}
    for setting in settings:
        for seed in seeds:
            for name in names:
                keys = [
                    (setting, seed, REFERENCE, None),
                    *((setting, seed, name, beta) for beta in betas[setting][name]),
                ]
                if all(key in by_run for key in keys):
                    frontiers[setting, seed, name] = [_point(by_run[key]["metrics"]) for key in keys]
    measures: dict[str, Callable[[list[Point]], float | None]] = {
        f"reward at KL {place:g}": lambda points, place=place: at_distance(points, place) for place in at
    }
    measures[f"hypervolume to KL {within:g}"] = lambda points: hypervolume(
        points[1:], distance=within, reward=points[0][1]
    )
    found = {name: {key: measure(points) for key, points in frontiers.items()} for name, measure in measures.items()}
    return {
        "seeds": seeds,
        "betas": betas,
        "objectives": {run.objective: run.row for run in runs if run.row is not None},
        "metrics": {metric.name: asdict(metric) for run in runs for metric in resolve_task(run.task).metrics},
        "seconds": _seconds(records),
        "settings": {
            setting: {
                "task": next(run.task for run in runs if run.setting == setting),
                "epochs": next(run.epochs for run in runs if run.setting == setting),
                "runs": _of_runs(by_run, setting, seeds, betas[setting]),
                "frontiers": _of_frontiers(found, setting, seeds, names),
            }
            for setting in settings
        },
        "overall": _overall(found, settings, seeds, names),
    }


def _point(metrics: Mapping[str, float]) -> Point:
    return metrics["sequence_kl"], metrics["reward"]


def _of_runs(
    by_run: Mapping[Any, Mapping[str, Any]], setting: str, seeds: Sequence[int], betas: Mapping[str, Sequence[Any]]
) -> list[dict[str, Any]]:
    rows = []
    for name, beta in ((REFERENCE, None), *((name, beta) for name, own in betas.items() for beta in own)):
        of_seeds = [by_run[key] for seed in seeds if (key := (setting, seed, name, beta)) in by_run]
        if of_seeds:
            metrics = {metric: estimate([r["metrics"][metric] for r in of_seeds]) for metric in of_seeds[0]["metrics"]}
            rows.append({"objective": name, "beta": beta, "metrics": metrics, "samples": of_seeds[0]["samples"]})
    return rows


def _of_frontiers(
    found: Mapping[str, Mapping[Any, float | None]], setting: str, seeds: Sequence[int], names: Sequence[str]
) -> dict[str, Any]:
    """For each objective and measure: the estimate, and that of the difference from the first objective."""
    return {
        name: {
            measure: {
                "value": estimate([values.get((setting, seed, name)) for seed in seeds]),
                "against_first": estimate([_difference(values, (setting, seed), name, names[0]) for seed in seeds]),
            }
            for measure, values in found.items()
        }
        for name in names
    }


def _overall(
    found: Mapping[str, Mapping[Any, float | None]],
    settings: Sequence[str],
    seeds: Sequence[int],
    names: Sequence[str],
) -> dict[str, Any]:
    """Differences from the first objective over settings and seeds, with p values adjusted for the other objectives."""
    table: dict[str, Any] = {}
    for measure, values in found.items():
        of_names = {
            name: [_difference(values, (setting, seed), name, names[0]) for setting in settings for seed in seeds]
            for name in names[1:]
        }
        known = {name: [value for value in each if value is not None] for name, each in of_names.items()}
        raw = {name: paired_permutation(torch.tensor(each), seed=0) for name, each in known.items() if each}
        adjusted = dict(zip(raw, holm(list(raw.values())), strict=True))
        table[measure] = {
            name: {"difference": estimate(of_names[name]), "p": p, "p_holm": adjusted[name]} for name, p in raw.items()
        }
    return table


def _difference(values: Mapping[Any, float | None], where: tuple[str, int], name: str, first: str) -> float | None:
    one, other = values.get((*where, name)), values.get((*where, first))
    return None if one is None or other is None else one - other


def _seconds(records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Of processor time: each part in all, and the mean of a training run without its material."""
    parts = {part: sum(r["seconds"][part] for r in records) for part in ("material", "training", "measuring")}
    trained = [r for r in records if r["objective"] != REFERENCE]
    each = sum(r["seconds"]["training"] + r["seconds"]["measuring"] for r in trained) / max(1, len(trained))
    return parts | {"each": each}
