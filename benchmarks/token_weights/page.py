"""The page of all settings: does a weighting find the tokens, does its aim pay, and what does it cost?"""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import fmean, median

from benchmarks.machine import hardware, versions
from benchmarks.markdown import table
from benchmarks.token_weights.gains import Gain, gains
from benchmarks.token_weights.settings import BASELINE, SETTINGS, shuffled, weightings
from prefopt.comparison.results import Results
from prefopt.report.format import shown

__all__ = ["lines"]


def lines(folders: Mapping[str, Path], command: str) -> Iterator[str]:
    """The page, from the folder of each setting."""
    yield "# Every token weighting"
    yield ""
    used = ", ".join(f"{name} {number}" for name, number in versions().items())
    yield f"{datetime.date.today()}. {hardware()}. {used}. `{command}`."
    yield ""
    yield (
        "DPO with the token weights of each weighting, scaled to mean one in every response. AUROC and average "
        "precision: of the weights against the tokens that bear worth, on held-out pairs (0.5 and the tokens' share "
        "know nothing), with the least and the largest over betas; of sentiment, the tokens of VADER's words, which "
        "ranked the pairs. Rewards of samples less that of the same weights on shuffled tokens, and less that of DPO, "
        "which is the uniform weighting of the same budget: the true reward of planted text; of sentiment, "
        "`proxy_reward` by VADER and `reward` by a classifier of film reviews, which ranked no pair. Read at a "
        "sequence KL in nats (after `at`) that most seeds of both have; `about`: in each seed at the middle of the "
        "distances that both have, whose median is given. At the same betas, or, where these share no distance, with "
        "DPO at two more. Paired by seed, 95% intervals, p < 0.05 adjusted within a column in bold; -: no distance in "
        "common in most seeds, or not measured. Seconds: a run's training over that of DPO."
    )
    for setting, folder in folders.items():
        yield from _table(setting, Results.load(folder))
    columns = frozenset().union(*(SETTINGS[setting].columns for setting in folders))
    left_out = weightings(columns)[1]
    yield ""
    yield "Not trained: " + "; ".join(f"`{name}` {why}" for name, why in left_out.items()) + "."


def _table(setting: str, results: Results) -> Iterator[str]:
    names = [name for name in results.suite.objectives if shuffled(name) in results.suite.objectives]
    yield from ("", f"## {setting.capitalize()}", "", f"{len(results.suite.seeds)} seeds.", "")
    figures = {"AUROC": "auroc_w", "average precision": "ap_w"}
    columns = [{name: _figure(results, name, metric) for name in names} for metric in figures.values()]
    head = ["weighting", *figures]
    for reward in SETTINGS[setting].rewards:
        head += [f"{reward} over shuffled", f"{reward} over DPO"]
        columns += [_gains(results, reward, {name: shuffled(name) for name in names})]
        columns += [_gains(results, reward, dict.fromkeys(names, BASELINE))]
    cost = _seconds(results)
    head.append("seconds, of DPO's")
    columns.append({name: f"{seconds / cost[BASELINE]:.2f}" for name, seconds in cost.items()})
    yield from table(head, ([f"`{name}`", *(column.get(name, "-") for column in columns)] for name in names))


def _gains(results: Results, reward: str, opponents: Mapping[str, str]) -> dict[str, str]:
    return {name: _gain(gain) for name, gain in gains(results, reward, opponents).items()}


def _gain(gain: Gain) -> str:
    text = shown(gain.difference.estimate, "+")
    about = "about " if gain.by_seed else ""
    return f"{f'**{text}**' if gain.difference.told else text} at {about}{gain.distance:.2g}"


def _figure(results: Results, name: str, metric: str) -> str:
    """The mean over the betas, and the least and the largest of them."""
    means = [row.metrics[metric].mean for row in results.rows if row.name == name and metric in row.metrics]
    return f"{fmean(means):.3f} ({min(means):.3f} to {max(means):.3f})" if means else "-"


def _seconds(results: Results) -> dict[str, float]:
    """The median of an objective's runs' training."""
    seconds: dict[str, list[float]] = {}
    for row in results.rows:
        for record in row.finished.values():
            if "training" in record["seconds"]:
                seconds.setdefault(row.name, []).append(record["seconds"]["training"])
    return {name: median(values) for name, values in seconds.items()}
