"""What is compared: each installed token weighting, aimed and shuffled, on planted tokens and on real text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
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
    """Makes the fields of a suite, without objectives; the metrics that are compared at equal KL; and the token columns
    of its pairs, whose weightings are compared: those that read none, where there are none."""

    fields: Callable[[], Fields]
    rewards: tuple[str, ...] = ("reward",)
    columns: frozenset[str] = frozenset()


def _planted(*, task: Mapping[str, Any] = MappingProxyType({}), epochs: int = 1, scored: bool = False) -> Fields:
    planted = {"name": "planted", **task}
    return {
        "task": {"name": "scored", "task": planted, "epochs": epochs} if scored else planted,
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

_PLANTED: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "clean": {},
        "few pairs": {"task": {"pairs": 256}, "epochs": 8},
        "noise": {"task": {"noise": 0.2}},
        "spurious": {"task": {"spurious": 0.8}},
        "long": {"task": {"shortest": 64, "longest": 64, "bearing": 0.04}},
    }
)
_SCORES = frozenset({"log_ratios", "guidance", "likelihoods"})
"""The columns of the task `scored`, of prefopt-tis."""

SETTINGS: Mapping[str, Setting] = MappingProxyType(
    {name: Setting(partial(_planted, **fields)) for name, fields in _PLANTED.items()}
    | {
        f"{name}, scored": Setting(partial(_planted, scored=True, **fields), columns=_SCORES)
        for name, fields in _PLANTED.items()
    }
    | {f"sentiment {prompts} prompts": Setting(partial(_sentiment, prompts), _REAL) for prompts in (24, 48, 96)}
)
"""Five of the planted task, whose truth is known; the same five with what other models say of each token, for the
weightings that read it; and three of real text."""

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


_READ: Mapping[str, Any] = MappingProxyType(
    {
        "guided": {"name": "guided", "column": "guidance"},
        "selective, by an oracle": {"name": "selective", "score": "column", "column": "guidance"},
    }
)
"""Settings of weightings that read columns."""


def weightings(columns: Set[str] = frozenset()) -> tuple[dict[str, Any], dict[str, str]]:
    """The weightings that are trained, by name, and why the other installed ones are not: those that read none of the
    columns, or, where there are some, those that read no others."""
    trained: dict[str, Any] = {}
    left_out: dict[str, str] = {}
    names: set[str] = set()
    for cls, owner in installed():
        if not issubclass(cls, TokenWeighting) or issubclass(cls, ComposedWeighting | UniformWeighting):
            continue
        weighting = cls()
        name = str(weighting.name)
        names.add(name)
        read = {column.name for column in weighting.columns}
        if not read <= columns:
            left_out[name] = (
                f"reads the column {', '.join(sorted(read))}, which other models or people make ({owner.distribution})"
            )
        elif bool(read) == bool(columns):
            trained[name] = name
    if columns:
        return trained | {label: setting for label, setting in _READ.items() if setting["name"] in names}, left_out
    return trained | dict(LEARNED) | dict(_ORACLES), left_out


def suite_of(setting: str, seeds: Sequence[int], **changes: Mapping[str, Any]) -> Suite:
    """The comparison of a setting: DPO, and every weighting at mean one, aimed and shuffled. DPO is trained at more
    betas, so that it has the distances of all."""
    fields = SETTINGS[setting].fields()
    (beta, betas), *_ = fields["sweeps"].items()
    objectives: dict[str, Any] = {
        BASELINE: {"zoo": "dpo", "sweeps": {beta: [round(betas[0] / 3, 3), *betas, round(3 * betas[-1], 3)]}}
    }
    for name, weighting in weightings(SETTINGS[setting].columns)[0].items():
        aims = {name: weighting, shuffled(name): {"name": "shuffled", "weighting": weighting}}
        for label, aimed in aims.items():
            spec = {"zoo": "dpo", "weighting": {"name": "scaled", "to": "mean_one", "weighting": aimed}}
            objectives[label] = spec | ({"training": {"mask_learning_rate": _MASK_RATE}} if _learns(weighting) else {})
    for section, values in changes.items():
        fields[section] = {**fields[section], **values}
    # Without controls: of mean one, the uniform weighting at the same strength is the baseline.
    return Suite.model_validate(fields | {"objectives": objectives, "seeds": list(seeds), "controls": False})


def shuffled(name: str) -> str:
    return f"{name}, shuffled"


def _learns(weighting: Any) -> bool:
    function = resolve(TokenWeighting, weighting).build(num_layers=1, hidden_size=4)
    return isinstance(function, nn.Module) and any(True for _ in function.parameters())
