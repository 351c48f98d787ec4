"""TRL's loss settings as an objective: one loss as its row of the zoo, several as a mixture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any, final

from prefopt import zoo
from prefopt.objective_config import ObjectiveConfig
from prefopt.training.migration.notes import Notes, Settings
from prefopt.training.migration.reference_free import METHODS, TELLING
from prefopt.zoo.parameters import without_unread

SETTINGS = (
    frozenset(
        """loss_type loss_weights beta label_smoothing f_divergence_type f_alpha_divergence_coef ld_alpha discopop_tau
use_weighting rpo_alpha reference_free""".split()
    )
    | TELLING.keys()
)
"""The settings that `migrate_objective` reads."""

_OF_OTHERS = {
    **dict.fromkeys(("desirable_weight", "undesirable_weight"), "KTO"),
    **dict.fromkeys(("num_generations", "reward_funcs", "scale_rewards"), "GRPO"),
    **dict.fromkeys(("packing", "max_seq_length", "assistant_only_loss", "completion_only_loss"), "SFT"),
    **dict.fromkeys(("num_ppo_epochs", "reward_model_path"), "PPO"),
    "center_rewards_coefficient": "reward modelling",
}
"""Settings of trainers that do not train on pairs alone -> the trainer."""
_NEAREST = {"kto": ". Of pairs, loss_type apo_zero is KTO's loss of both responses, with its reference point at 0"}
"""A trainer without a counterpart -> the loss that is nearest to its own."""
_NAMES_OF_OTHERS = ("kto", "sft", "grpo", "ppo", "rloo")

_ROWS = {
    "sigmoid": "dpo",
    "hinge": "hinge",
    "ipo": "ipo",
    "exo_pair": "exo",
    "nca_pair": "nca",
    "bco_pair": "bco_pair",
    "robust": "robust",
    "sppo_hard": "sppo",
    "aot": "aot_paired",
    "aot_unpaired": "aot",
    "apo_zero": "apo_zero",
    "apo_down": "apo_down",
    "discopop": "discopop",
    "sigmoid_norm": "dpo_norm",
}
"""TRL's loss -> the zoo's row."""

_READS_SMOOTHING = frozenset({"exo_pair", "robust", "aot", "aot_unpaired"})

_F_DIVERGENCES = {
    "forward_kl": "f_forward_kl",
    "js_divergence": "f_jensen_shannon",
    "alpha_divergence": "f_alpha",
}
"""TRL's f-divergence -> the reward shaping."""

_AVERAGED = frozenset({"ipo", "sigmoid_norm"})

_TARGETS = {"squared": "margin", "sppo": "target"}
"""The squared losses -> their target m. Their rows have beta 1: (x - m)^2 = (beta x - beta m)^2 / beta^2."""


def migrate_objective(settings: Settings, notes: Notes, *, method: str | None, source: str) -> dict[str, Any]:
    """The `objective` of a run file.

    method  dpo, orpo, cpo or simpo; None: what the settings or their names tell
    source  the name of the file that they are from

    Raises ValueError where a loss has no row in the zoo, or where no single objective equals the mixture.
    """
    method = method or _method(settings, notes, source)
    if method not in ("dpo", *METHODS):
        raise ValueError(f"method {method!r} is none of dpo, {', '.join(METHODS)}{_nearest(method)}")
    read_settings = _Recorded(settings)
    objective = _dpo(read_settings, notes) if method == "dpo" else METHODS[method](read_settings, notes)
    row = objective.get("zoo", "a mixture")
    if "zoo" in objective:  # a loss that is written out in full has what the row's parameters say
        objective = without_unread(zoo.ZOO[row], objective)
    for name in sorted(SETTINGS & settings.keys()):
        if settings[name] is None or notes.named(name):
            continue
        if name in read_settings.read or not settings[name]:
            notes.carried_over(name, f"objective ({row})")
        else:
            notes.no_counterpart(name, f"nothing of this loss ({row}) reads it")
    return objective


@final
class _Recorded(Mapping[str, Any]):
    """Settings that know which of them were `read`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.read.add(name)
        return self._settings[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._settings)

    def __len__(self) -> int:
        return len(self._settings)


def _method(settings: Settings, notes: Notes, source: str) -> str:
    """What the settings tell, or else the names of their file, folder and model. Raises ValueError where it is a
    trainer that does not train on pairs."""
    for name, trainer in _OF_OTHERS.items():
        if settings.get(name):
            raise ValueError(
                f"{name} is a setting of {trainer}, which has no counterpart: a run trains on preference pairs; leave "
                f"it out, or give --method dpo{_nearest(trainer)}"
            )
    for name, method in TELLING.items():
        if settings.get(name) is not None:
            return "simpo" if settings.get("loss_type") == "simpo" else method
    if settings.get("loss_type") == "simpo":
        return "simpo"
    names = [source, str(settings.get("output_dir", "")), str(settings.get("hub_model_id", ""))]
    words = {
        word for name in names for part in PurePath(name).parts for word in part.lower().replace("_", "-").split("-")
    }
    if "dpo" not in words and (named := [method for method in METHODS if method in words]):
        notes.changed(
            "the trainer", f"read as {named[0].upper()}'s, which is in its names; if not so, give --method dpo"
        )
        return named[0]
    if not words & {"dpo", "ipo", "pref"} and (others := [other for other in _NAMES_OF_OTHERS if other in words]):
        raise ValueError(
            f"{others[0].upper()} is in the names of these settings, and has no counterpart: a run trains on "
            f"preference pairs; if they are of a preference trainer, give --method dpo{_nearest(others[0])}"
        )
    return "dpo"


def _nearest(name: str) -> str:
    return _NEAREST.get(name.lower().removesuffix("_pair"), "")


def _dpo(settings: Mapping[str, Any], notes: Notes) -> dict[str, Any]:
    losses = settings.get("loss_type", "sigmoid")
    losses = [losses] if isinstance(losses, str) else list(losses)
    weights = [float(weight) for weight in settings.get("loss_weights") or [1.0] * len(losses)]
    if len(weights) != len(losses):
        raise ValueError(f"loss_weights {weights} are not as many as the losses in loss_type: {', '.join(losses)}")
    weighted = [(loss, weight) for loss, weight in zip(losses, weights, strict=True) if loss != "sft"]
    sft_weight = sum(weight for loss, weight in zip(losses, weights, strict=True) if loss == "sft")
    if not weighted:
        raise ValueError("loss_type sft alone is no preference loss: there is no objective for it here")
    rows = [_zoo_row(loss, settings, notes) for loss, _ in weighted]
    alone = len(rows) == 1 and weighted[0][1] == 1.0
    objective = dict(rows[0]) if alone else _mixture(rows, weighted, settings)
    if settings.get("use_weighting"):
        loss = objective.get("loss") or zoo.build(rows[0]).loss.model_dump(mode="json")
        objective["loss"] = {"name": "on_policy_weighted", "loss": loss}
    if sft_weight:
        objective["regularizers"] = [{"name": "nll", "weight": sft_weight}]
        notes.changed(
            "loss_type",
            "TRL's sft is a mean over all chosen tokens of the batch, here over a response, then over pairs",
        )
        if settings.get("use_weighting"):
            notes.changed(
                "use_weighting", "TRL weighs the sft term too; here the weights apply to the preference loss only"
            )
    elif alpha := settings.get("rpo_alpha"):
        objective["regularizers"] = [{"name": "nll", "weight": float(alpha)}]
    if settings.get("reference_free"):
        objective["reference_free"] = True
    if settings.get("f_divergence_type", "reverse_kl") != "reverse_kl":
        objective["shaping"] = _shaping(settings, losses)
    if settings.get("ld_alpha") is not None:
        objective["weighting"] = {"name": "length_desensitised", "alpha": settings["ld_alpha"]}
    return objective


def _zoo_row(loss: str, settings: Mapping[str, Any], notes: Notes) -> dict[str, Any]:
    if loss not in _ROWS:
        raise ValueError(f"loss_type {loss!r} has no row here. Those that have: {', '.join(_ROWS)}{_nearest(loss)}")
    fields = {"zoo": _ROWS[loss], "beta": settings.get("beta", 0.1)}
    if loss == "discopop" and "discopop_tau" in settings:
        fields["tau"] = settings["discopop_tau"]
    if loss in _READS_SMOOTHING and "label_smoothing" in settings:
        fields["label_smoothing"] = settings["label_smoothing"]
    elif settings.get("label_smoothing"):
        notes.no_counterpart("label_smoothing", f"TRL ignores it with {loss}; `zoo: cdpo` smooths the sigmoid loss")
    return fields


def _mixture(
    rows: list[dict[str, Any]], weighted: list[tuple[str, float]], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Rows of the zoo as one objective, all at TRL's beta."""
    configs = [zoo.build(row) for row in rows]
    if any(config.shaping != configs[0].shaping for config in configs):
        averaged = ", ".join(loss for loss, _ in weighted if loss in _AVERAGED)
        others = ", ".join(loss for loss, _ in weighted if loss not in _AVERAGED)
        raise ValueError(
            f"loss_type mixes {averaged}, of log-ratios averaged over the response, with {others}, of their sum; "
            "an objective here has one reward shaping, so there is none that is this mixture"
        )
    beta = settings.get("beta", 0.1)
    parts = [_rescaled(beta, config, weight) for config, (_, weight) in zip(configs, weighted, strict=True)]
    losses, weights = zip(*parts, strict=True)
    mixture = {"name": "mixture", "losses": list(losses), "weights": list(weights)}
    return {"beta": beta, "shaping": configs[0].shaping.model_dump(mode="json"), "loss": mixture}


def _rescaled(beta: float, config: ObjectiveConfig, weight: float) -> tuple[dict[str, Any], float]:
    """The loss of a row and its weight, for rewards at this beta."""
    fields = config.loss.model_dump(mode="json")
    if config.beta == beta:
        return fields, weight
    target = _TARGETS[config.loss.name]
    return fields | {target: fields[target] * beta}, weight / beta**2


def _shaping(settings: Mapping[str, Any], losses: list[str]) -> dict[str, Any]:
    divergence = settings["f_divergence_type"]
    if divergence not in _F_DIVERGENCES:
        raise ValueError(f"f_divergence_type {divergence!r} is none of reverse_kl, {', '.join(_F_DIVERGENCES)}")
    if averaged := [loss for loss in losses if loss in _AVERAGED]:
        raise ValueError(
            f"f_divergence_type {divergence!r} with {averaged[0]}: no shaping here is both that and averaged"
        )
    order = {"a": settings.get("f_alpha_divergence_coef", 0.5)} if divergence == "alpha_divergence" else {}
    return {"name": _F_DIVERGENCES[divergence], **order}
