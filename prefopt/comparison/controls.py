"""Controls: the same objective without its mask, at the strength that the mask left it.

A mask scales beta: it trains at beta mean(w). An objective with a mask and one without are therefore not comparable at
equal beta, and a mask is compared with this control.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from statistics import fmean

from prefopt.comparison.run import Run, control_name
from prefopt.comparison.run_log import Record
from prefopt.comparison.suite import Suite
from prefopt.objective_config import ObjectiveConfig
from prefopt.training.preflight import learns
from prefopt.weightings import UniformWeighting

_UNIFORM = UniformWeighting()


def masked(objective: ObjectiveConfig) -> bool:
    """Whether the objective has token weights other than 1."""
    term = objective.divergence
    return any(weighting not in (None, _UNIFORM) for weighting in (objective.weighting, term and term.weighting))


def unmasked(objective: ObjectiveConfig, mean_w: float, mean_v: float | None) -> ObjectiveConfig:
    """The objective at beta mean(w) with weight 1 on every token, its divergence at alpha mean(v) / mean(w).

    beta (sum w r + alpha sum v k) has that strength on average; mean_w > 0, mean_v is None without a divergence term.
    Regularisers stay; on weights that are constant they have no gradient.
    """
    term = objective.divergence
    if term is not None and mean_v is not None:
        term = term.model_copy(update={"weighting": None, "alpha": term.alpha * mean_v / mean_w})
    fields = {"beta": objective.beta * mean_w, "weighting": _UNIFORM, "divergence": term}
    return objective.model_copy(update=fields)


def controls(suite: Suite, records: Mapping[str, Record]) -> Iterator[Run]:
    """The controls of the suite's finished runs that have a mask; none with `controls: false`.

    The means are those that the run logged, over all of training. A mask that is zero throughout has no control.
    """
    for run in suite.runs() if suite.controls else ():
        record = records.get(run.key)
        if run.objective is None or not masked(run.objective) or record is None or record["error"] is not None:
            continue
        mean_w, mean_v = (_mean(record, name) for name in ("weights/mean", "divergence_weights/mean"))
        if mean_w:
            control = unmasked(run.objective, mean_w, mean_v)
            yield replace(
                run,
                name=control_name(run.name),
                objective=control,
                training={k: v for k, v in run.training.items() if not k.startswith("mask_") or learns(control)},
                control=run.name,
            )


def _mean(record: Record, name: str) -> float | None:
    curve = record["curves"].get(name)
    return fmean(value for _, value in curve) if curve else None
