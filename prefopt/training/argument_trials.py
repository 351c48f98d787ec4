"""Trials of training arguments: what a run builds of them is built in small, before models are loaded."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.checkpoint import checkpoint
from transformers import Trainer, TrainingArguments
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK, get_available_reporting_integrations
from transformers.optimization import get_scheduler

from prefopt.validation import did_you_mean, one_line

_STEPS = 100
"""Of the schedule that is tried, where the run's number of steps is not known yet."""

_UNLISTED = ("flyte",)
"""Reports of which transformers does not tell whether they are installed."""


def reject_unusable(args: TrainingArguments) -> None:
    """Raise ValueError for reports, an optimizer, a schedule, checkpointing or a compiler that cannot be built of these
    arguments, or not here."""
    _reject_reports(args.report_to)
    if _differs(args, "optim", "optim_args"):
        _try_optimizer(args)
    if _differs(args, "lr_scheduler_type", "lr_scheduler_kwargs"):
        _try_schedule(args)
    for name in ("activation_checkpointing_kwargs", "gradient_checkpointing_kwargs"):
        if options := getattr(args, name):
            _try_checkpointing(name, options)
    if args.torch_compile:
        _try_compiler(args)


def _differs(args: TrainingArguments, *names: str) -> bool:
    return any(getattr(args, name) != TrainingArguments.__dataclass_fields__[name].default for name in names)


@contextmanager
def _explained(name: str, value: object, remedy: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # whatever a library raises for arguments that it does not take
        message = f"{name}: {value} cannot be used ({type(error).__name__}: {one_line(error)}); {remedy}"
        raise ValueError(message) from error


def _reject_reports(names: list[str]) -> None:
    here = {*get_available_reporting_integrations(), *_UNLISTED}
    for name in names:
        if name not in INTEGRATION_TO_CALLBACK:
            near = did_you_mean(name, INTEGRATION_TO_CALLBACK)
            raise ValueError(f"report_to: {name!r} is none of {', '.join(INTEGRATION_TO_CALLBACK)}.{near}")
        if name not in here:
            raise ValueError(f"report_to: {name!r} is not installed here; install it, or set report_to to none")


def _dummy() -> nn.Parameter:
    return nn.Parameter(torch.zeros(1))


def _try_optimizer(args: TrainingArguments) -> None:
    name = str(getattr(args.optim, "value", args.optim))
    value = f"{name} with {args.optim_args}" if args.optim_args else name
    with _explained("optim", value, "install what it needs, mend optim_args, or take another, such as adamw_torch"):
        optimizer, options = Trainer.get_optimizer_cls_and_kwargs(args)
        if isinstance(optimizer, type) and issubclass(optimizer, torch.optim.Optimizer):
            optimizer([_dummy()], **options)


def _try_schedule(args: TrainingArguments) -> None:
    name = str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type))
    steps = args.max_steps if args.max_steps > 0 else _STEPS
    value = f"{name} with {args.lr_scheduler_kwargs or 'no lr_scheduler_kwargs'}"
    with _explained("lr_scheduler_type", value, "mend lr_scheduler_kwargs, or take another, such as linear"):
        schedule = get_scheduler(
            args.lr_scheduler_type,
            optimizer=torch.optim.SGD([_dummy()], lr=args.learning_rate),
            num_warmup_steps=args.get_warmup_steps(steps),
            num_training_steps=steps,
            scheduler_specific_kwargs=dict(args.lr_scheduler_kwargs or {}),
        )
        functions: list[Callable[[int], float]] = schedule.lr_lambdas if isinstance(schedule, LambdaLR) else []
        for step in (0, 1, steps // 2, steps):
            if not all(math.isfinite(function(step)) for function in functions):
                raise ValueError(f"the rate of step {step} is not finite")


def _try_checkpointing(name: str, options: Mapping[str, Any]) -> None:
    """transformers takes `every_n_layers` and `offload` for itself, and hands the others to torch."""
    others = {key: value for key, value in options.items() if key not in ("every_n_layers", "offload")}
    layers = options.get("every_n_layers", 1)
    if type(layers) is not int or layers < 1:
        raise ValueError(f"{name}: every_n_layers is {layers!r}; it takes a whole number from 1")
    if options.get("offload") and not torch.accelerator.is_available():
        raise ValueError(
            f"{name}: offload moves activations from an accelerator to the host's memory, and there is no accelerator "
            "here; leave it out"
        )
    remedy = "take every_n_layers, offload or keywords of torch.utils.checkpoint.checkpoint, such as use_reentrant"
    with _explained(name, dict(options), remedy):
        zero = torch.zeros((), requires_grad=True)
        checkpoint(torch.clone, zero, **{"use_reentrant": False} | others)


def _try_compiler(args: TrainingArguments) -> None:
    backend, mode = args.torch_compile_backend, args.torch_compile_mode
    value = f"{backend} in mode {mode}" if mode else backend
    with _explained("torch_compile_backend", value, "take one of torch.compiler.list_backends(), such as inductor"):
        torch.compile(torch.clone, backend=backend, mode=mode)
