"""What a run in several processes needs of its arguments."""

from __future__ import annotations

import importlib.util
import logging
import os
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import parse_flag_from_env

from prefopt.launch import WORLD_SIZES, started_processes

_LOG = logging.getLogger(__name__)

_WHOLE_POLICY = "stage3_gather_16bit_weights_on_model_save"


_SPLITS = {
    "ACCELERATE_USE_PARALLELISM_CONFIG": "parallelism_config",
    "ACCELERATE_USE_MEGATRON_LM": "megatron_lm_config",
}
"""Variable of accelerate's launcher -> the part of its configuration that splits rows, layers or weights."""


def settle_launch(args: Any) -> None:
    """Have the arguments say in which precision a launcher's configuration has the run train, where they say nothing.
    Raises ValueError for what else it asks for and no step here does, and for what DeepSpeed cannot do, whether it is
    asked for by the run or by that configuration.

    args  PreferenceConfig, before Trainer's own checks
    """
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if precision in ("bf16", "fp16") and not (args.bf16 or args.fp16):
        setattr(args, precision, True)
    _reject_unread_launch(precision, args)
    _warn_of_lone_process()
    if args.deepspeed is None and not parse_flag_from_env("ACCELERATE_USE_DEEPSPEED"):
        return
    if args.max_skipped_steps:
        raise ValueError("max_skipped_steps: DeepSpeed takes the step before its numbers are judged; leave it out")
    can_train = torch.accelerator.is_available() or args.use_cpu or parse_flag_from_env("ACCELERATE_USE_CPU")
    if started_processes() > 1 and not can_train:
        raise ValueError("deepspeed: its processes would wait for accelerators, and there are none; give use_cpu: true")
    if args.deepspeed is None and importlib.util.find_spec("deepspeed") is None:
        raise ValueError(
            "deepspeed: the launcher's configuration asks for it, and the package is not installed; pip install "
            "deepspeed, or spread the model by FSDP2, which needs no package"
        )
    _warn_of_stale_build()


def _warn_of_lone_process() -> None:
    """Say where accelerate was to start several processes, which it does on CPUs by MPI alone, and started one."""
    is_launched = "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_PORT" in os.environ
    if is_launched and not any(name in os.environ for name in ("LOCAL_RANK", *WORLD_SIZES)):
        _LOG.warning(
            "accelerate was to start several processes, and this is the only one, with its own pairs as the global "
            "batch: on CPUs it starts them by MPI alone; torchrun --nproc_per_node 2 -m prefopt train starts two"
        )


def _warn_of_stale_build() -> None:
    """Say where a build of an operator has been begun: DeepSpeed waits for its end, for ever where it was killed."""
    from torch.utils.cpp_extension import get_default_build_root

    root = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root())
    for lock in root.glob("**/lock"):
        _LOG.warning(
            "%s: an operator is being built there, or was when its process was killed, and DeepSpeed may wait for it "
            "for ever; remove that file where nothing is being built",
            lock,
        )


def _reject_unread_launch(precision: str, args: Any) -> None:
    for variable, name in _SPLITS.items():
        if parse_flag_from_env(variable):
            raise ValueError(
                f"{name}, of the launcher's configuration, is refused: a batch of pairs cannot be split along its "
                "tokens. Leave it out, and spread the models themselves (fsdp_config with fsdp_version: 2)"
            )
    if precision not in ("no", "bf16", "fp16"):
        raise ValueError(
            f"mixed_precision: {precision}, of the launcher's configuration, is refused: no step is tried in it; use "
            "bf16, or no"
        )
    compiler = os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no").lower()
    if compiler != "no" and not (args.torch_compile or args.torch_compile_backend or args.torch_compile_mode):
        raise ValueError(
            f"dynamo_config, of the launcher's configuration, is refused: policy, reference and objective are each "
            f"compiled by torch_compile: true and torch_compile_backend: {compiler}; set these, or leave it out"
        )


def reject_lone_processes(args: Any) -> None:
    """Raise ValueError where more processes were started than train together: each would train a run of its own.

    args  PreferenceConfig, after Trainer's own checks
    """
    started = started_processes()
    if started > 1 and (together := args.world_size) < started:
        raise ValueError(
            f"{started} processes were started, as WORLD_SIZE or its like says, and only {together} would train "
            "together, so that several runs would write to one folder; without accelerators give use_cpu: true (and "
            "ddp_backend: gloo), or start one process"
        )


_OF_LOADERS = {
    "dispatch_batches": (True, "batches of pairs have their own lengths, and cannot be put together to be dispatched"),
    "split_batches": (True, "per_device_train_batch_size is of one process, in the plan and in checkpoints too"),
    "even_batches": (False, "one with a batch more than the others would wait for them for ever"),
}
"""Option of accelerate's loaders -> the value that several processes cannot have, and why."""


def reject_uneven_loaders(args: Any) -> None:
    """Raise ValueError for options of accelerate's loaders that processes which train together cannot have.

    args  PreferenceConfig, after Trainer's own checks
    """
    if started_processes() == 1 or args.world_size == 1:
        return
    for name, (value, why) in _OF_LOADERS.items():
        if getattr(args.accelerator_config, name) is value:
            raise ValueError(f"accelerator_config: {name} is {value} on several processes, and {why}; leave it out")


def settle_zero(args: Any) -> None:
    """Have ZeRO-3 gather the policy where it is saved. Raises ValueError for what it cannot do.

    args  PreferenceConfig, after Trainer's own checks
    """
    plugin = getattr(args, "deepspeed_plugin", None)
    if plugin is None or plugin.zero_stage != 3:
        return
    if args.reference_cache is not None:
        raise ValueError(
            "reference_cache: ZeRO-3 gathers the reference only in steps of training, and a cache is filled before; "
            "leave it out, or use ZeRO-2"
        )
    if args.sync_ref_model:
        raise ValueError(
            "sync_ref_model: under ZeRO-3 no process has weights to interpolate, and the reference would not follow; "
            "use ZeRO-2, or leave it out"
        )
    settings = plugin.deepspeed_config["zero_optimization"]
    if settings.setdefault(_WHOLE_POLICY, True) is False:
        raise ValueError(
            f"deepspeed: zero_optimization.{_WHOLE_POLICY} is false, and no policy would be saved; leave it out"
        )
