"""From a configuration of TRL's DPO trainer to a run file with the same objective, and what does not carry over."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any, final

from prefopt.training.config import PreferenceConfig
from prefopt.training.runfile import RunFile

__all__ = ["Migration", "migrate"]

Settings = Mapping[str, Any]

_MODEL = MappingProxyType(
    {
        "model_name_or_path": ("name",),
        "model_revision": ("init", "revision"),
        "dtype": ("init", "dtype"),
        "torch_dtype": ("init", "dtype"),
        "attn_implementation": ("init", "attn_implementation"),
        "trust_remote_code": ("init", "trust_remote_code"),
        "lora_r": ("peft", "r"),
        "lora_alpha": ("peft", "lora_alpha"),
        "lora_dropout": ("peft", "lora_dropout"),
        "lora_target_modules": ("peft", "target_modules"),
        "lora_modules_to_save": ("peft", "modules_to_save"),
        "lora_task_type": ("peft", "task_type"),
        "use_rslora": ("peft", "use_rslora"),
        "use_dora": ("peft", "use_dora"),
    }
)
_DATA = MappingProxyType(
    {
        "dataset_name": "train",
        "dataset_train_split": "split",
        "dataset_test_split": "eval_split",
        "max_length": "max_length",
    }
)
_TRL_LORA = MappingProxyType({"r": 16, "lora_alpha": 32, "lora_dropout": 0.05})
_TRL_TRAINING = MappingProxyType({"gradient_checkpointing": True, "bf16": True})
_RENAMED = MappingProxyType(
    {
        "gradient_checkpointing": "activation_checkpointing",
        "gradient_checkpointing_kwargs": "activation_checkpointing_kwargs",
    }
)

_SETTLED = MappingProxyType(
    {
        "use_peft": "",
        "disable_dropout": "dropout is always off here, in both models",
        "precompute_ref_log_probs": "the reference runs in every step here: token-level objectives need more of it "
        "than sums",
        "precompute_ref_batch_size": "see precompute_ref_log_probs",
        "padding_free": "has no effect in TRL either",
        "use_liger_kernel": "the head is computed in chunks here in any case",
        "truncation_mode": "here the prompt is cut from the left first, then the responses from the right",
        "dataset_num_proc": "rows are prepared in one process here",
        "pad_to_multiple_of": "padding goes to the longest of the batch here",
        "pad_token": "the tokenizer's own is used here, or its end of text",
        "dataset_config": "no equivalent: give data.train a data set with one configuration, or a folder",
        "router_aux_loss_coef": "no equivalent: the auxiliary loss of mixtures of experts is not added",
        "load_in_4bit": "no equivalent: give model.init a quantization_config",
        "load_in_8bit": "no equivalent: give model.init a quantization_config",
        "activation_offloading": "no equivalent",
        "use_weighting": "no equivalent yet: WPO's pair weights",
    }
)


@final
@dataclass(frozen=True)
class Migration:
    """The run file as a mapping, and a line for each setting that has no equivalent or means something else."""

    run: dict[str, Any]
    notes: tuple[str, ...]


def migrate(settings: Settings) -> Migration:
    """TRL's settings (of its script, model and DPO arguments, in one mapping) as a run file.

    Raises ValueError where there is no row for a loss, or the run file would not be valid for another reason.
    """
    notes: list[str] = []
    run: dict[str, Any] = {"model": {}, "data": {}, "objective": _objective(settings, notes), "training": {}}
    known = {field.name for field in fields(PreferenceConfig)}
    for name, value in settings.items():
        if name in _MODEL:
            section = run["model"]
            *path, last = _MODEL[name]
            for part in path:
                section = section.setdefault(part, {})
            section[last] = value
        elif name in _DATA:
            run["data"][_DATA[name]] = value
        elif name in known:
            run["training"][_RENAMED.get(name, name)] = value
        elif name in _SETTLED:
            notes.extend([f"{name}: {_SETTLED[name]}"] if value and _SETTLED[name] else [])
        elif name not in _READ_BY_OBJECTIVE:
            notes.append(f"{name}: not a setting that is known here; left out")
    _settle_model(run, settings, notes)
    if settings.get("eval_strategy", "no") != "no" and "dataset_name" in settings:
        run["data"]["eval"] = settings["dataset_name"]
    differing = {name: value for name, value in _TRL_TRAINING.items() if name not in settings}
    for name, value in differing.items():
        notes.append(
            f"{name}: TRL's default is {value}, here it is transformers'; set training.{_RENAMED.get(name, name)}"
        )
    run = {section: content for section, content in run.items() if content}
    RunFile.model_validate(run)
    return Migration(run, tuple(notes))


def _settle_model(run: dict[str, Any], settings: Settings, notes: list[str]) -> None:
    adapter = run["model"].pop("peft", {})
    if settings.get("use_peft"):
        run["model"]["peft"] = dict(_TRL_LORA) | adapter
        if adapter.get("lora_dropout", _TRL_LORA["lora_dropout"]):
            notes.append("lora_dropout: dropout is always off here, in the adapter too")
    elif adapter:
        notes.append("lora_*: read only with use_peft, which is not set; left out")


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

_READ_BY_OBJECTIVE = frozenset(
    {"loss_type", "loss_weights", "beta", "label_smoothing", "f_divergence_type", "f_alpha_divergence_coef", "ld_alpha"}
    | {"discopop_tau"}
)


def _objective(settings: Settings, notes: list[str]) -> dict[str, Any]:
    losses = settings.get("loss_type", "sigmoid")
    losses = [losses] if isinstance(losses, str) else list(losses)
    weights = list(settings.get("loss_weights") or [1.0] * len(losses))
    weighed = dict(zip(losses, weights, strict=True))
    likelihood = weighed.pop("sft", None)
    if len(weighed) != 1 or next(iter(weighed.values())) != 1.0:
        raise ValueError(
            f"loss_type {losses} with weights {weights}: what carries over is one loss of weight 1, with or without "
            f"'sft'; "
            "write other mixtures as `loss: {name: mixture, losses: [...], weights: [...]}`"
        )
    (loss,) = weighed
    if loss not in _LOSSES:
        raise ValueError(f"loss_type {loss!r} has no row here. Those that have: {', '.join(_LOSSES)}.")
    row, reads = _LOSSES[loss]
    objective: dict[str, Any] = {"zoo": row, "beta": settings.get("beta", 0.1), **reads(settings)}
    if settings.get("label_smoothing") and "label_smoothing" not in objective:
        notes.append(
            f"label_smoothing: TRL ignores it with {loss}, so it is left out; `zoo: cdpo` smooths the sigmoid loss"
        )
    if likelihood is not None:
        objective["regularizers"] = [{"name": "nll", "weight": likelihood}]
        notes.append(
            "sft: TRL's is a mean over all chosen tokens of the batch, here over each response, then over pairs"
        )
    if settings.get("f_divergence_type", "reverse_kl") != "reverse_kl":
        objective["shaping"] = _shaping(settings, loss)
    if settings.get("ld_alpha") is not None:
        objective["weighting"] = {"name": "length_desensitised", "alpha": settings["ld_alpha"]}
    return objective


def _shaping(settings: Settings, loss: str) -> dict[str, Any]:
    divergence = settings["f_divergence_type"]
    if divergence not in _F_DIVERGENCES:
        raise ValueError(f"f_divergence_type {divergence!r} is none of reverse_kl, {', '.join(_F_DIVERGENCES)}")
    if loss in _AVERAGED:
        raise ValueError(f"f_divergence_type {divergence!r} with {loss}: no shaping here is both that and averaged")
    shaping, reads = _F_DIVERGENCES[divergence]
    return {"name": shaping, **reads(settings)}
