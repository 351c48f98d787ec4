"""Do token weights help? Every installed token weighting on the planted task, whose truth is known.

    python -m benchmarks.token_weights FOLDER [--setting NAME ...] [--seeds N] [--page OUT.md]

A weighting of the registry is in the table by being installed: those that need no more than their defaults are trained,
on DPO and scaled to mean one, so that all have the same budget; beside each the same weights on the wrong tokens
(`shuffled`). The folder holds a comparison for each setting; the same command goes on with what is not finished.
"""

from __future__ import annotations

import argparse
import datetime
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from types import MappingProxyType
from typing import Any

from torch import nn

from benchmarks.machine import hardware, versions
from benchmarks.markdown import table
from prefopt import TokenWeighting, resolve
from prefopt.comparison.differences import Difference, differences
from prefopt.comparison.results import Results
from prefopt.comparison.runner import compare
from prefopt.comparison.suite import SUITE, Suite
from prefopt.registry import installed
from prefopt.report.format import shown
from prefopt.weightings.composed import ComposedWeighting
from prefopt.weightings.uniform import UniformWeighting

__all__ = ["LEARNED", "SETTINGS", "lines", "main", "suite_of", "weightings"]

SETTINGS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "clean": {},
        "few pairs": {"task": {"pairs": 256}, "training": {"num_train_epochs": 8}},
        "noise": {"task": {"noise": 0.2}},
        "spurious": {"task": {"spurious": 0.8}},
        "long": {"task": {"shortest": 64, "longest": 64, "bearing": 0.04}},
    }
)
"""Changes of the suite."""

LEARNED: Mapping[str, Any] = MappingProxyType(
    {"sparse, near one": {"name": "sparse", "init": "near_one", "position": "embedding", "architecture": "two_layer"}}
)
"""Settings of weightings that are tried beside the defaults."""

ORACLE = "oracle"
_BASELINE = "dpo"
_MASK_RATE = 5e-3


def weightings() -> tuple[dict[str, Any], dict[str, str]]:
    """The weightings that are trained, by name, and why the other installed ones are not."""
    trained: dict[str, Any] = {}
    left_out: dict[str, str] = {}
    for cls, owner in installed():
        if not issubclass(cls, TokenWeighting) or issubclass(cls, ComposedWeighting | UniformWeighting):
            continue
        weighting = cls()
        name = str(weighting.name)
        if weighting.columns:
            columns = ", ".join(sorted(column.name for column in weighting.columns))
            left_out[name] = f"reads the column {columns}, which other models or people make ({owner.distribution})"
        else:
            trained[name] = name
    return trained | dict(LEARNED) | {ORACLE: {"name": "column", "column": "weights", "default": 0.0}}, left_out


def suite_of(setting: str, seeds: Sequence[int], **changes: Any) -> Suite:
    """The comparison of a setting: DPO, and every weighting at mean one, aimed and shuffled."""
    objectives: dict[str, Any] = {_BASELINE: "dpo"}
    for name, weighting in weightings()[0].items():
        aims = {name: weighting, _shuffled(name): {"name": "shuffled", "weighting": weighting}}
        for label, aimed in aims.items():
            spec = {"zoo": "dpo", "weighting": {"name": "scaled", "to": "mean_one", "weighting": aimed}}
            objectives[label] = spec | ({"training": {"mask_learning_rate": _MASK_RATE}} if _learns(weighting) else {})
    fields: dict[str, Any] = {
        "task": {"name": "planted"},
        "objectives": objectives,
        "sweeps": {"objective.beta": [0.3, 1.0]},
        "seeds": list(seeds),
        "controls": False,  # of mean one, the uniform weighting at the same strength is the baseline
        "training": {
            "num_train_epochs": 1,
            "per_device_train_batch_size": 16,
            "learning_rate": 1e-3,
            "lr_scheduler_type": "cosine",
            "warmup_steps": 0.1,
            "use_cpu": True,
        },
    }
    for layer in (SETTINGS[setting], changes):
        for section, values in layer.items():
            fields[section] = {**fields[section], **values} if isinstance(values, Mapping) else values
    return Suite.model_validate(fields)


def _shuffled(name: str) -> str:
    return f"{name}, shuffled"


def _learns(weighting: Any) -> bool:
    function = resolve(TokenWeighting, weighting).build(num_layers=1, hidden_size=4)
    return isinstance(function, nn.Module) and any(True for _ in function.parameters())


def lines(folders: Mapping[str, Path], command: str) -> Iterator[str]:
    """The page, from the folder of each setting."""
    trained, left_out = weightings()
    yield "# Do token weights help? On planted tokens"
    yield ""
    used = ", ".join(f"{name} {number}" for name, number in versions().items())
    yield f"{datetime.date.today()}. {hardware()}. {used}. `{command}`."
    yield ""
    yield (
        "DPO with the token weights of each weighting, scaled to mean one in every response. AUROC and average "
        "precision: of the weights against the tokens that bear worth, on held-out pairs (0.5 and the tokens' share "
        "know nothing), with the least and the largest over betas. Reward: the true reward of samples at the same "
        "sequence KL, less that of the same weights on shuffled tokens, and less that of DPO, which is the uniform "
        "weighting of the same budget; paired by seed, 95% intervals, adjusted p < 0.05 in bold. Seconds: a run's "
        "training over that of DPO."
    )
    for setting, folder in folders.items():
        results = Results.load(folder)
        yield from _table(setting, results, list(trained))
    yield ""
    yield "Not trained: " + "; ".join(f"`{name}` {why}" for name, why in left_out.items()) + "."


def _table(setting: str, results: Results, names: Sequence[str]) -> Iterator[str]:
    seeds, plane = len(results.suite.seeds), results.planes[0]
    measure = plane.matched[0] if plane.matched else None
    at = "no common distance" if measure is None else f"at {measure.distance:.3g} nats, {measure.seeds} seeds"
    yield from ("", f"## {setting.capitalize()}", "", f"{seeds} seeds; rewards {at}.", "")
    aims = {} if measure is None else _by_name(differences(measure.values, {n: _shuffled(n) for n in names}))
    gains = {} if measure is None else _by_name(measure.differences)
    cost = _seconds(results)
    head = ["weighting", "AUROC", "average precision", "reward over shuffled", "reward over DPO", "seconds, of DPO's"]
    body = (
        [
            f"`{name}`",
            _figure(results, name, "auroc_w"),
            _figure(results, name, "ap_w"),
            _difference(aims.get(name)),
            _difference(gains.get(name)),
            f"{cost[name] / cost[_BASELINE]:.2f}" if name in cost else "",
        ]
        for name in names
    )
    yield from table(head, body)


def _by_name(several: Sequence[Difference]) -> dict[str, Difference]:
    return {difference.name: difference for difference in several}


def _difference(difference: Difference | None) -> str:
    if difference is None:
        return "not at this distance"
    text = shown(difference.estimate, "+")
    return f"**{text}**" if difference.told else text


def _figure(results: Results, name: str, metric: str) -> str:
    """The mean over the betas, and the least and the largest of them."""
    means = [row.metrics[metric].mean for row in results.rows if row.name == name and metric in row.metrics]
    return f"{fmean(means):.3f} ({min(means):.3f} to {max(means):.3f})" if means else "failed"


def _seconds(results: Results) -> dict[str, float]:
    """The mean of an objective's runs' training."""
    seconds: dict[str, list[float]] = {}
    for row in results.rows:
        for record in row.finished.values():
            if "training" in record["seconds"]:
                seconds.setdefault(row.name, []).append(record["seconds"]["training"])
    return {name: fmean(values) for name, values in seconds.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.token_weights", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--setting", action="append", choices=list(SETTINGS), help="Of these alone; all unless given.")
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--page", type=Path, help="Write the page here.")
    given = parser.parse_args(arguments)
    command = shlex.join([*str(parser.prog).split(), *(sys.argv[1:] if arguments is None else arguments)])
    settings = given.setting or list(SETTINGS)
    for setting in settings:
        compare(suite_of(setting, range(given.seeds)), _folder(given.folder, setting), processes=given.processes)
    finished = {s: _folder(given.folder, s) for s in SETTINGS if (_folder(given.folder, s) / SUITE).exists()}
    if given.page:
        given.page.write_text(
            "\n".join(lines(finished, command)) + "\n",
            encoding="utf-8",
        )


def _folder(folder: Path, setting: str) -> Path:
    return folder / setting.replace(" ", "-")


if __name__ == "__main__":
    main()
