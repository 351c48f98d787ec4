"""Named objectives: each function is a row of the table and returns an ObjectiveConfig, with parameters in its paper's
words.

Written out below, r is log pi - log pi_ref of a response token, k = KL(pi_ref || pi) at its position, c the chosen
response, j the rejected one, and sums run over response tokens.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ValidationError, validate_call

from prefopt.divergences import ForwardKL
from prefopt.losses import HingeLoss, LogisticLoss, SquaredLoss
from prefopt.objective import DivergenceTerm, ObjectiveConfig
from prefopt.regularizers import MaskL1
from prefopt.shapings import MeanShaping, PositiveShaping
from prefopt.validation import did_you_mean, explain
from prefopt.weightings import ActivationWeighting, SparseWeighting
from prefopt.weightings.activation import SiteKind

__all__ = ["ZOO", "build", "cdpo", "dpo", "dpop", "hinge", "ipo", "mapo", "simpo", "sparsepo", "tdpo1", "tdpo2"]


def dpo(beta: float = 0.1) -> ObjectiveConfig:
    """loss = -log sigmoid(beta (sum r_c - sum r_j)).

    Direct preference optimisation. Source: arXiv 2305.18290 eq. 7; beta 0.1 is its default.
    """
    return ObjectiveConfig(beta=beta)


def cdpo(beta: float = 0.1, label_smoothing: float = 0.1) -> ObjectiveConfig:
    """loss = -(1 - e) log sigmoid(z) - e log sigmoid(-z), z = beta (sum r_c - sum r_j), e = label_smoothing.

    Conservative DPO: labels are wrong with probability e. Source: Mitchell 2023, "A note on DPO with noisy preferences
    and relationship to IPO", eq. 3.
    """
    return ObjectiveConfig(beta=beta, loss=LogisticLoss(label_smoothing=label_smoothing))


def hinge(beta: float = 0.1) -> ObjectiveConfig:
    """loss = max(0, 1 - beta (sum r_c - sum r_j)).

    SLiC-HF's hinge on DPO's rewards. Source: arXiv 2305.10425, its rank calibration loss; on rewards, RSO, arXiv
    2309.06657.
    """
    return ObjectiveConfig(beta=beta, loss=HingeLoss())


def ipo(beta: float = 0.1) -> ObjectiveConfig:
    """loss = (mean r_c - mean r_j - 1 / (2 beta))^2, with means over each response's tokens.

    Identity preference optimisation, length-averaged, as its authors confirm. beta is the paper's tau and enters the
    loss alone: rewards and margins are reported as plain mean log-ratios. Source: arXiv 2310.12036 eq. 17.
    """
    return ObjectiveConfig(beta=1.0, shaping=MeanShaping(), loss=SquaredLoss(margin=1 / (2 * beta)))


def simpo(beta: float = 2.0, gamma: float = 1.0) -> ObjectiveConfig:
    """loss = -log sigmoid(beta (mean log pi_c - mean log pi_j) - gamma), with means over each response's tokens.

    Simple preference optimisation, without a reference. Source: arXiv 2405.14734 eq. 6; beta 2 and gamma 1 lie in the
    range of its settings.
    """
    return ObjectiveConfig(beta=beta, shaping=MeanShaping(), loss=LogisticLoss(margin=gamma), reference_free=True)


def dpop(beta: float = 0.3, lam: float = 50.0) -> ObjectiveConfig:
    """loss = -log sigmoid(beta (sum r_c - sum r_j - lam max(0, -sum r_c))).

    DPO-Positive (Smaug): the chosen response may not fall below the reference. Source: arXiv 2402.13228 eq. 3; beta 0.3
    and lam 50 are its settings.
    """
    return ObjectiveConfig(beta=beta, shaping=PositiveShaping(lam=lam))


def tdpo1(beta: float = 0.1) -> ObjectiveConfig:
    """loss = -log sigmoid(beta (sum r_c - sum r_j) - beta (sum k_j - sum k_c)).

    Token-level DPO with the sequential KL of both responses. Source: arXiv 2404.11999, its L_TDPO1.
    """
    return ObjectiveConfig(beta=beta, divergence=DivergenceTerm(measure=ForwardKL()))


def tdpo2(beta: float = 0.1, alpha: float = 0.5) -> ObjectiveConfig:
    """loss = -log sigmoid(beta (sum r_c - sum r_j) - alpha beta (sum k_j - stopgrad(sum k_c))).

    Token-level DPO whose chosen KL passes no gradient. Source: arXiv 2404.11999, its L_TDPO2; alpha 0.5
    is its setting.
    """
    return ObjectiveConfig(beta=beta, divergence=DivergenceTerm(measure=ForwardKL(), alpha=alpha, detach_chosen=True))


def mapo(beta: float = 0.1, sites: tuple[SiteKind, ...] = ("mlp", "attn", "resid", "logits")) -> ObjectiveConfig:
    """loss = -log sigmoid(beta (sum m r_c - sum m r_j) - beta (sum m k_j - sum m k_c)).

    The weights m come from the reference's activations. Source: MaPO, in arXiv 2410.05102.
    """
    return ObjectiveConfig(
        beta=beta, weighting=ActivationWeighting(sites=sites), divergence=DivergenceTerm(measure=ForwardKL())
    )


def sparsepo(
    beta: float = 0.1, shared: bool = True, l1_reward: float = 0.001, l1_divergence: float = 0.001
) -> ObjectiveConfig:
    """loss = -log sigmoid(beta (sum w r_c - sum w r_j) - beta (sum v k_j - sum v k_c)) + L1, w and v learned masks.

    shared=True is SparsePO-common (v = w, one mask), False is SparsePO-independent (a mask each). L1 charges l1_reward
    for w and l1_divergence for v, over both responses of the pair; a common mask is charged the mean of the two, once.
    Source: arXiv 2410.05102; the L1 weights are those of its dialogue setting.
    """
    share = 0.5 if shared else 1.0
    return ObjectiveConfig(
        beta=beta,
        weighting=SparseWeighting(),
        divergence=DivergenceTerm(measure=ForwardKL(), weighting=None if shared else SparseWeighting()),
        regularizers=(MaskL1(reward=share * l1_reward, divergence=share * l1_divergence),),
    )


def build(spec: object) -> ObjectiveConfig:
    """The objective that a run file describes: a name of the zoo, a mapping, or an ObjectiveConfig itself.

    A mapping with `zoo: NAME` is that row; its other keys are the row's parameters, then fields of ObjectiveConfig
    laid over it, slot by slot: `{zoo: sparsepo, beta: 0.5, weighting: {position: token}}`. A slot that names another
    component is replaced whole. A mapping without `zoo` is an ObjectiveConfig. Raises ValueError with the names that
    would be right.
    """
    if isinstance(spec, ObjectiveConfig):
        return spec
    fields = {"zoo": spec} if isinstance(spec, str) else spec
    if not isinstance(fields, Mapping):
        raise ValueError(f"an objective is a name of the zoo or a mapping, got {spec!r}")
    if "zoo" not in fields:
        return _validated(fields)
    name = fields["zoo"]
    if name not in ZOO:
        raise ValueError(
            f"no objective named {name!r} in the zoo.{did_you_mean(str(name), ZOO)} Zoo: {', '.join(ZOO)}."
        )
    parameters = inspect.signature(ZOO[name]).parameters
    own = {key: value for key, value in fields.items() if key in parameters}
    slots = {key: value for key, value in fields.items() if key not in parameters and key != "zoo"}
    names = [*parameters, *ObjectiveConfig.model_fields]
    if unknown := [key for key in slots if key not in names]:
        raise ValueError(
            f"{unknown[0]}: {name} has no such parameter, and objectives no such slot."
            f"{did_you_mean(unknown[0], names)} Parameters: {', '.join(parameters)}. "
            f"Slots: {', '.join(ObjectiveConfig.model_fields)}."
        )
    try:
        row = validate_call(ZOO[name])(**own)
    except ValidationError as error:
        raise ValueError(" ".join(explain(error, ObjectiveConfig))) from error
    return _validated(_laid_over(row.model_dump(), slots)) if slots else row


def _validated(fields: Mapping[str, object]) -> ObjectiveConfig:
    try:
        return ObjectiveConfig.model_validate(dict(fields))
    except ValidationError as error:
        raise ValueError(" ".join(explain(error, ObjectiveConfig))) from error


def _laid_over(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, change in changes.items():
        below = base.get(key)
        merged[key] = change
        if isinstance(below, Mapping) and isinstance(change, Mapping):
            same_component = change.get("name", below.get("name")) == below.get("name")
            merged[key] = _laid_over(below, change) if same_component else change
    return merged


ZOO: Mapping[str, Callable[..., ObjectiveConfig]] = types.MappingProxyType(
    {row.__name__: row for row in (dpo, cdpo, hinge, ipo, simpo, dpop, tdpo1, tdpo2, mapo, sparsepo)}
)
"""Every named objective, by name."""
