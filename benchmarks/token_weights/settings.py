"""What is compared: each installed token weighting, aimed and shuffled, in eight settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, final

from torch import nn

from prefopt import TokenWeighting, resolve
from prefopt.comparison.suite import Suite
from prefopt.registry import installed
from prefopt.weightings.composed import ComposedWeighting
from prefopt.weightings.uniform import UniformWeighting

__all__ = ["BASELINE", "LEARNED", "ORACLE", "SETTINGS", "shuffled", "suite_of", "weightings"]

Fields = dict[str, Any]

_SENTIMENT = Path(__file__).parents[1] / "suites" / "sentiment-twin.yaml"


@final
class Setting(NamedTuple):
    """Makes the fields of a suite, without objectives; and the metrics that are compared at equal KL."""

    fields: Callable[[], Fields]
    rewards: tuple[str, ...] = ("reward",)


def _planted(*, task: Mapping[str, Any] = MappingProxyType({}), epochs: int = 1) -> Fields:
    return {
        "task": {"name": "planted", **task},
        "sweeps": {"objective.beta": [0.3, 1.0]},
        "training": {
            "num_train_epochs": epochs,
            "per_device_train_batch_size": 16,
            "learning_rate": 1e-3,
            "lr_scheduler_type": "cosine",
            "warmup_steps": 0.1,
            "use_cpu": True,
        },
    }


def _sentiment(prompts: int) -> Fields:
    """The small sentiment suite's task and training, of so many prompts. Raises SuiteError where PREFOPT_SHARED is
    not set."""
    suite = Suite.load(_SENTIMENT)
    return {
        "task": suite.task.model_dump(mode="json") | {"train_prompts": prompts},
        "sweeps": {"objective.beta": [0.3, 3.0]},
        "training": suite.training | {"max_steps": 60, "warmup_steps": 6},
    }


_REAL = ("proxy_reward", "reward")
"""By what ranked the pairs, and by the judge that ranked none."""

SETTINGS: Mapping[str, Setting] = MappingProxyType(
    {
        "clean": Setting(_planted),
        "few pairs": Setting(partial(_planted, task={"pairs": 256}, epochs=8)),
        "noise": Setting(partial(_planted, task={"noise": 0.2})),
        "spurious": Setting(partial(_planted, task={"spurious": 0.8})),
        "long": Setting(partial(_planted, task={"shortest": 64, "longest": 64, "bearing": 0.04})),
        "sentiment 24 prompts": Setting(partial(_sentiment, 24), _REAL),
        "sentiment 48 prompts": Setting(partial(_sentiment, 48), _REAL),
        "sentiment 96 prompts": Setting(partial(_sentiment, 96), _REAL),
    }
)
"""Five of the planted task, whose truth is known, and three of real text."""

_NEAR_ONE = {"name": "sparse", "init": "near_one", "position": "embedding", "architecture": "two_layer"}
_TRUTH = {"name": "column", "column": "weights", "default": 0.0}


def _mixed(weighting: Any) -> Any:
    return {"name": "mixed", "weighting": {"name": "scaled", "to": "mean_one", "weighting": weighting}}


LEARNED: Mapping[str, Any] = MappingProxyType(
    {"sparse, near one": _NEAR_ONE, "sparse, near one, mixed": _mixed(_NEAR_ONE)}
)
"""Settings of weightings that are tried beside the defaults."""

ORACLE = "oracle"
_ORACLES: Mapping[str, Any] = MappingProxyType({ORACLE: _TRUTH, f"{ORACLE}, mixed": _mixed(_TRUTH)})
BASELINE = "dpo"
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
    return trained | dict(LEARNED) | dict(_ORACLES), left_out


def suite_of(setting: str, seeds: Sequence[int], **changes: Mapping[str, Any]) -> Suite:
    """The comparison of a setting: DPO, and every weighting at mean one, aimed and shuffled."""
    objectives: dict[str, Any] = {BASELINE: "dpo"}
    for name, weighting in weightings()[0].items():
        aims = {name: weighting, shuffled(name): {"name": "shuffled", "weighting": weighting}}
        for label, aimed in aims.items():
            spec = {"zoo": "dpo", "weighting": {"name": "scaled", "to": "mean_one", "weighting": aimed}}
            objectives[label] = spec | ({"training": {"mask_learning_rate": _MASK_RATE}} if _learns(weighting) else {})
    fields = SETTINGS[setting].fields()
    for section, values in changes.items():
        fields[section] = {**fields[section], **values}
    # Without controls: of mean one, the uniform weighting at the same strength is the baseline.
    return Suite.model_validate(fields | {"objectives": objectives, "seeds": list(seeds), "controls": False})


def shuffled(name: str) -> str:
    return f"{name}, shuffled"


def _learns(weighting: Any) -> bool:
    function = resolve(TokenWeighting, weighting).build(num_layers=1, hidden_size=4)
    return isinstance(function, nn.Module) and any(True for _ in function.parameters())
