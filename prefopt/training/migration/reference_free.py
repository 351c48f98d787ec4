"""The settings of TRL's ORPO and CPO trainers, and of SimPO's code, as rows of the zoo."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from prefopt.training.migration.notes import Notes

TELLING = {"simpo_gamma": "cpo", "cpo_alpha": "cpo", "gamma_beta_ratio": "simpo", "alpha": "cpo"}
"""Settings that only one method has -> the method."""

_NLL = "TRL's likelihood is a mean over all chosen tokens of the batch, here over a response, then over pairs"


def _orpo(settings: Mapping[str, Any], notes: Notes) -> dict[str, Any]:
    notes.changed(
        "beta",
        "it weighs the odds ratio, objective.lam here; TRL's likelihood takes in the prompt, here the response alone",
    )
    return {"zoo": "orpo", "lam": settings.get("beta", 0.1)}


def _cpo(settings: Mapping[str, Any], notes: Notes) -> dict[str, Any]:
    loss, beta = settings.get("loss_type", "sigmoid"), settings.get("beta", 0.1)
    loss = loss[0] if isinstance(loss, list) and len(loss) == 1 else loss
    if loss == "simpo":
        return _simpo(settings, notes)
    if loss not in ("sigmoid", "hinge"):
        raise ValueError(f"loss_type {loss!r} of CPO has no row here; sigmoid, hinge and simpo have one")
    if settings.get("alpha"):
        raise ValueError("alpha: AlphaPO's transformed rewards have no row here; leave alpha out")
    objective: dict[str, Any] = {"zoo": "cpo", "beta": beta, "nll_weight": settings.get("cpo_alpha", 1.0)}
    notes.changed("cpo_alpha", f"objective.nll_weight; {_NLL}")
    if loss == "hinge":
        objective["loss"] = "hinge"
    elif settings.get("label_smoothing"):
        objective["loss"] = {"name": "logistic", "label_smoothing": settings["label_smoothing"]}
    return objective


def _simpo(settings: Mapping[str, Any], notes: Notes) -> dict[str, Any]:
    """TRL's CPO with loss_type simpo, and SimPO's own code, whose margin is a ratio to beta."""
    if settings.get("alpha"):
        raise ValueError("alpha: AlphaPO's transformed rewards have no row here; leave alpha out")
    of_trl = settings.get("loss_type") in ("simpo", ["simpo"])
    beta = settings.get("beta", 0.1 if of_trl else 2.0)
    if (ratio := settings.get("gamma_beta_ratio")) is not None:
        gamma = ratio * beta
        notes.changed("gamma_beta_ratio", f"objective.gamma, which is the ratio times beta: {gamma:g}")
    else:
        gamma = settings.get("simpo_gamma", 0.5 if of_trl else 0.25 * beta)
    objective: dict[str, Any] = {"zoo": "simpo", "beta": beta, "gamma": gamma}
    if weight := settings.get("cpo_alpha", 1.0 if of_trl else 0.0):
        objective |= {"zoo": "cpo_simpo", "nll_weight": weight}
        notes.changed("cpo_alpha", f"objective.nll_weight, 1 by TRL's default; {_NLL}")
    if settings.get("label_smoothing"):
        objective["loss"] = {"name": "logistic", "label_smoothing": settings["label_smoothing"], "margin": gamma}
    return objective


METHODS: Mapping[str, Callable[[Mapping[str, Any], Notes], dict[str, Any]]] = {
    "orpo": _orpo,
    "cpo": _cpo,
    "simpo": _simpo,
}
"""Methods without a reference -> their objective."""
