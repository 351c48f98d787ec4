"""From TRL's loss settings to an objective: one loss to its row of the zoo, several to a mixture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from prefopt import zoo
from prefopt.objective import ObjectiveConfig

__all__ = ["READ_BY_OBJECTIVE", "migrate_objective"]

Settings = Mapping[str, Any]

READ_BY_OBJECTIVE = frozenset(
    {"loss_type", "loss_weights", "beta", "label_smoothing", "f_divergence_type", "f_alpha_divergence_coef", "ld_alpha"}
    | {"discopop_tau", "use_weighting"}
)


def _smoothing(settings: Settings) -> dict[str, Any]:
    return {"label_smoothing": settings["label_smoothing"]} if "label_smoothing" in settings else {}


def _tau(settings: Settings) -> dict[str, Any]:
    return {"tau": settings["discopop_tau"]} if "discopop_tau" in settings else {}


def _nothing(settings: Settings) -> dict[str, Any]:
    return {}


_LOSSES: Mapping[str, tuple[str, Callable[[Settings], dict[str, Any]]]] = MappingProxyType(
    {
        "sigmoid": ("dpo", _nothing),
        "hinge": ("hinge", _nothing),
        "ipo": ("ipo", _nothing),
        "exo_pair": ("exo", _smoothing),
        "nca_pair": ("nca", _nothing),
        "bco_pair": ("bco_pair", _nothing),
        "robust": ("robust", _smoothing),
        "sppo_hard": ("sppo", _nothing),
        "aot": ("aot_paired", _smoothing),
        "aot_unpaired": ("aot", _smoothing),
        "apo_zero": ("apo_zero", _nothing),
        "apo_down": ("apo_down", _nothing),
        "discopop": ("discopop", _tau),
        "sigmoid_norm": ("dpo_norm", _nothing),
    }
)
"""TRL's loss -> the row of the zoo, and what else of TRL's settings that row reads."""

_F_DIVERGENCES: Mapping[str, tuple[str, Callable[[Settings], dict[str, Any]]]] = MappingProxyType(
    {
        "forward_kl": ("f_forward_kl", _nothing),
        "js_divergence": ("f_jensen_shannon", _nothing),
        "alpha_divergence": ("f_alpha", lambda settings: {"a": settings.get("f_alpha_divergence_coef", 0.5)}),
    }
)
_AVERAGED = frozenset({"ipo", "sigmoid_norm"})

_TARGETS = MappingProxyType({"squared": "margin", "sppo": "target"})
"""The squared losses, whose rows take plain log-ratios x: (x - m)^2 = (beta x - beta m)^2 / beta^2. Their targets."""


def migrate_objective(settings: Settings, notes: list[str]) -> dict[str, Any]:
    """The `objective` of a run file; `notes` is given a line for what differs.

    Raises ValueError where a loss has no row, or where no one objective is the mixture.
    """
    losses = settings.get("loss_type", "sigmoid")
    losses = [losses] if isinstance(losses, str) else list(losses)
    weights = [float(weight) for weight in settings.get("loss_weights") or [1.0] * len(losses)]
    if len(weights) != len(losses):
        raise ValueError(f"loss_weights {weights} are not as many as the losses in loss_type: {', '.join(losses)}")
    weighed = [(loss, weight) for loss, weight in zip(losses, weights, strict=True) if loss != "sft"]
    likelihood = sum(weight for loss, weight in zip(losses, weights, strict=True) if loss == "sft")
    if not weighed:
        raise ValueError("loss_type sft alone is no preference loss: there is no objective for it here")
    rows = [_row(loss, settings, notes) for loss, _ in weighed]
    alone = len(rows) == 1 and weighed[0][1] == 1.0
    objective = dict(rows[0]) if alone else _mixture(rows, weighed, settings)
    if settings.get("use_weighting"):
        objective["loss"] = {"name": "on_policy_weighted", "loss": objective.get("loss") or _loss(rows[0])}
    if likelihood:
        objective["regularizers"] = [{"name": "nll", "weight": likelihood}]
        notes.append(
            "sft: TRL's is a mean over all chosen tokens of the batch, here over each response, then over pairs"
        )
        if settings.get("use_weighting"):
            notes.append(
                "use_weighting: TRL weighs the sft term too; here the weights are on the preference loss alone"
            )
    if settings.get("f_divergence_type", "reverse_kl") != "reverse_kl":
        objective["shaping"] = _shaping(settings, losses)
    if settings.get("ld_alpha") is not None:
        objective["weighting"] = {"name": "length_desensitised", "alpha": settings["ld_alpha"]}
    return objective


def _row(loss: str, settings: Settings, notes: list[str]) -> dict[str, Any]:
    if loss not in _LOSSES:
        raise ValueError(f"loss_type {loss!r} has no row here. Those that have: {', '.join(_LOSSES)}.")
    row, reads = _LOSSES[loss]
    fields = {"zoo": row, "beta": settings.get("beta", 0.1), **reads(settings)}
    if settings.get("label_smoothing") and "label_smoothing" not in fields:
        notes.append(
            f"label_smoothing: TRL ignores it with {loss}, so it is left out; `zoo: cdpo` smooths the sigmoid loss"
        )
    return fields


def _mixture(rows: list[dict[str, Any]], weighed: list[tuple[str, float]], settings: Settings) -> dict[str, Any]:
    """Rows of the zoo as one objective, all at TRL's beta."""
    built = [zoo.build(row) for row in rows]
    if any(config.shaping != built[0].shaping for config in built):
        averaged = ", ".join(loss for loss, _ in weighed if loss in _AVERAGED)
        others = ", ".join(loss for loss, _ in weighed if loss not in _AVERAGED)
        raise ValueError(
            f"loss_type mixes {averaged}, of log-ratios averaged over the response, with {others}, of their sum; "
            "an objective here has one reward shaping, so there is none that is this mixture"
        )
    beta = settings.get("beta", 0.1)
    parts = [_at(beta, config, weight) for config, (_, weight) in zip(built, weighed, strict=True)]
    losses, weights = zip(*parts, strict=True)
    mixture = {"name": "mixture", "losses": list(losses), "weights": list(weights)}
    return {"beta": beta, "shaping": built[0].shaping.model_dump(mode="json"), "loss": mixture}


def _at(beta: float, config: ObjectiveConfig, weight: float) -> tuple[dict[str, Any], float]:
    """The loss of a row and its weight, for rewards at that beta."""
    fields = config.loss.model_dump(mode="json")
    if config.beta == beta:
        return fields, weight
    target = _TARGETS[config.loss.name]
    return fields | {target: fields[target] * beta}, weight / beta**2


def _loss(row: dict[str, Any]) -> dict[str, Any]:
    return zoo.build(row).loss.model_dump(mode="json")


def _shaping(settings: Settings, losses: list[str]) -> dict[str, Any]:
    divergence = settings["f_divergence_type"]
    if divergence not in _F_DIVERGENCES:
        raise ValueError(f"f_divergence_type {divergence!r} is none of reverse_kl, {', '.join(_F_DIVERGENCES)}")
    if averaged := [loss for loss in losses if loss in _AVERAGED]:
        raise ValueError(
            f"f_divergence_type {divergence!r} with {averaged[0]}: no shaping here is both that and averaged"
        )
    shaping, reads = _F_DIVERGENCES[divergence]
    return {"name": shaping, **reads(settings)}
