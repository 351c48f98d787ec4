"""Fields of transformers' TrainingArguments that are read only together with others, or on some machines."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from accelerate import Accelerator, DistributedType
from accelerate.utils import parse_flag_from_env
from transformers import TrainingArguments
from transformers.integrations.integration_utils import is_trackio_available

from prefopt.launch import started_processes


class Condition(NamedTuple):
    """What a field needs, to be read.

    holds    whether it is there
    needs    in words, after "it needs"
    remedy   what to do where it is not, in which case the field is refused; empty: it has no effect, which is logged
    """

    holds: Callable[[TrainingArguments], bool]
    needs: str
    remedy: str = ""

    @property
    def remark(self) -> str:
        """The need and the remedy."""
        return f"it needs {self.needs}{self.remedy and '; '}{self.remedy}"


_ANOTHER_STEP = ("galore", "apollo", "lomo", "adalomo")
"""Beginnings of the names of optimizers that take another way to a step than gradients of groups of parameters."""

_OPTIONS = {
    "sgd": ("momentum", "dampening", "nesterov"),
    "adagrad": ("lr_decay", "eps"),
    "rmsprop": ("momentum", "alpha", "eps", "centered"),
}
"""Optimizer -> what it reads of optim_args."""

_WITHOUT_BETAS = ("sgd", "adagrad", "rmsprop", "adafactor")
_WITHOUT_ARGS = ("adamw_torch", "adamw_torch_fused", "adamw_torch_xla", "adamw_torch_npu_fused", "adafactor")


def _optimizer(arguments: TrainingArguments) -> str:
    return _text(arguments.optim)


def _text(value: object) -> str:
    """An option, which may be an enumeration's member, as text."""
    return str(getattr(value, "value", value))


def _evaluates(arguments: TrainingArguments) -> bool:
    return _text(arguments.eval_strategy) != "no"


def _on_accelerator(arguments: TrainingArguments) -> bool:
    on_cpu = arguments.use_cpu or parse_flag_from_env("ACCELERATE_USE_CPU")
    return torch.accelerator.is_available() and not on_cpu


def _in_several_processes(arguments: TrainingArguments) -> bool:
    return "LOCAL_RANK" in os.environ or started_processes() > 1


def _uses_ddp(arguments: TrainingArguments) -> bool:
    launched = any(parse_flag_from_env(f"ACCELERATE_USE_{name}") for name in ("FSDP", "DEEPSPEED"))
    return _in_several_processes(arguments) and not (arguments.fsdp or arguments.deepspeed or launched)


def _reports(arguments: TrainingArguments) -> list[str]:
    names = arguments.report_to
    return [name for name in ([names] if isinstance(names, str) else names or []) if name != "none"]


def _reports_to_trackio(arguments: TrainingArguments) -> bool:
    names = _reports(arguments)
    return "trackio" in names or ("all" in names and is_trackio_available())


_LAUNCH = "start them with `accelerate launch`, or leave it out"
_DDP = Condition(_uses_ddp, "several processes with a copy of the model each, without FSDP and DeepSpeed")
_TRACKIO = Condition(_reports_to_trackio, "report_to: trackio")
_EVALUATION = Condition(_evaluates, "eval_strategy")
_CHECKPOINTING = Condition(
    lambda arguments: bool(arguments.gradient_checkpointing or getattr(arguments, "activation_checkpointing", False)),
    "activation_checkpointing or gradient_checkpointing",
)
_BETAS = Condition(lambda arguments: _optimizer(arguments).partition("_")[0] not in _WITHOUT_BETAS, "an Adam (optim)")

CONDITIONS: Mapping[str, Condition] = {
    "fp16": Condition(_on_accelerator, "an accelerator", "use bf16, or none of them: training would be in float32"),
    "tf32": Condition(lambda arguments: not arguments.tf32 or _on_accelerator(arguments), "a GPU", "leave it out"),
    "optim": Condition(
        lambda arguments: not _optimizer(arguments).startswith(_ANOTHER_STEP),
        "groups of the policy's parameters alone, and a step after its gradients were found finite; GaLore, APOLLO and "
        "LOMO have neither",
        "take another, or give PreferenceTrainer an optimizer of your own (optimizers)",
    ),
    "optim_args": Condition(
        lambda arguments: _optimizer(arguments) not in _WITHOUT_ARGS, "an optimizer that reads it, such as sgd"
    ),
    **dict.fromkeys(("adam_beta1", "adam_beta2", "adam_epsilon"), _BETAS),
    **dict.fromkeys(("project", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id"), _TRACKIO),
    **dict.fromkeys(
        ("hub_strategy", "hub_always_push"), Condition(lambda arguments: arguments.push_to_hub, "push_to_hub")
    ),
    "run_name": Condition(lambda arguments: bool(_reports(arguments)), "report_to"),
    "ddp_backend": Condition(_in_several_processes, "several processes", _LAUNCH),
    "fsdp": Condition(_in_several_processes, "several processes", _LAUNCH),
    "ddp_timeout": Condition(
        lambda arguments: _in_several_processes(arguments) and not arguments.use_cpu,
        "several processes, on accelerators",
    ),
    **dict.fromkeys(("ddp_bucket_cap_mb", "ddp_broadcast_buffers", "ddp_find_unused_parameters"), _DDP),
    "fsdp_config": Condition(lambda arguments: bool(arguments.fsdp), "fsdp"),
    "deepspeed": Condition(
        lambda arguments: importlib.util.find_spec("deepspeed") is not None,
        "the package deepspeed",
        "install it, or leave it out (FSDP2 spreads models without it)",
    ),
    **dict.fromkeys(("activation_checkpointing_kwargs", "gradient_checkpointing_kwargs"), _CHECKPOINTING),
    **dict.fromkeys(
        ("eval_delay", "eval_use_gather_object", "metric_for_best_model", "greater_is_better"), _EVALUATION
    ),
    "eval_steps": Condition(lambda arguments: _text(arguments.eval_strategy) == "steps", "eval_strategy: steps"),
    "include_for_metrics": Condition(
        lambda arguments: set(arguments.include_for_metrics) <= {"loss"},
        "`loss` alone",
        "compute_metrics finds a pair's tokens in the data set, by its number in label_ids",
    ),
    "save_steps": Condition(lambda arguments: _text(arguments.save_strategy) == "steps", "save_strategy: steps"),
    "save_total_limit": Condition(lambda arguments: _text(arguments.save_strategy) != "no", "save_strategy"),
    "warmup_steps": Condition(
        lambda arguments: _text(arguments.lr_scheduler_type) not in ("constant", "reduce_lr_on_plateau", "greedy"),
        "a schedule with a warm-up (lr_scheduler_type), such as constant_with_warmup",
    ),
    "lr_scheduler_kwargs": Condition(
        lambda arguments: not _text(arguments.lr_scheduler_type).startswith("constant"),
        "a schedule that reads it (lr_scheduler_type)",
    ),
    "num_train_epochs": Condition(lambda arguments: arguments.max_steps == -1, "max_steps: -1"),
}
"""Field -> what it needs, where it differs from its default."""


def reject_optimizer_options(arguments: TrainingArguments) -> None:
    """Raise ValueError for text of optim_args that has another form, and for options that its optimizer does not read:
    transformers leaves these out, and a weight decay is that of the groups of parameters."""
    pairs = [part.partition("=") for part in (arguments.optim_args or "").replace(" ", "").split(",") if part]
    optimizer = _optimizer(arguments)
    for name, equals, value in pairs:
        if not equals or not value:
            raise ValueError(f"optim_args: found {name!r}; write it as name=value, with commas between several")
        if optimizer in _OPTIONS and name not in _OPTIONS[optimizer]:
            raise ValueError(
                f"optim_args: {optimizer} reads {', '.join(_OPTIONS[optimizer])}, not {name}; leave it out, or set the "
                "training argument of that name"
            )


def reject_unspread(accelerator: Accelerator, args: TrainingArguments) -> None:
    """Raise ValueError where FSDP is asked for, by the run or by a launcher's configuration, and accelerate leaves it
    out, as it does without accelerators: each process would train a copy of the whole model."""
    spreading = (DistributedType.FSDP, DistributedType.XLA)
    asked = args.fsdp or parse_flag_from_env("ACCELERATE_USE_FSDP")
    if asked and accelerator.distributed_type not in spreading:
        raise ValueError(
            f"fsdp: accelerate spreads no model over processes on {accelerator.device.type} "
            f"({accelerator.distributed_type.value}), and each would train a copy of the whole in silence; train on "
            "accelerators, or leave fsdp out"
        )
