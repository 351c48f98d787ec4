"""What a run in several processes needs of its arguments."""

from __future__ import annotations

import os
from typing import Any

import torch
from accelerate.utils import get_int_from_env, parse_flag_from_env

MPI = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
"""Variables in which launchers say how many processes they started."""

_WHOLE_POLICY = "stage3_gather_16bit_weights_on_model_save"


def settle_launch(args: Any) -> None:
    """Have the arguments say in which precision a launcher's configuration has the run train, where they say nothing.
    Raises ValueError for what DeepSpeed cannot do, whether it is asked for by the run or by that configuration.

    args  PreferenceConfig, before Trainer's own checks
    """
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if precision in ("bf16", "fp16") and not (args.bf16 or args.fp16):
        setattr(args, precision, True)
    if args.deepspeed is None and not parse_flag_from_env("ACCELERATE_USE_DEEPSPEED"):
        return
    if args.max_skipped_steps:
        raise ValueError("max_skipped_steps: DeepSpeed takes the step before its numbers are judged; leave it out")
    can_train = torch.accelerator.is_available() or args.use_cpu or parse_flag_from_env("ACCELERATE_USE_CPU")
    if get_int_from_env(MPI, 1) > 1 and not can_train:
        raise ValueError("deepspeed: its processes would wait for accelerators, and there are none; give use_cpu: true")


def reject_lone_processes(args: Any) -> None:
    """Raise ValueError where more processes were started than train together: each would train a run of its own.

    args  PreferenceConfig, after Trainer's own checks
    """
    started = get_int_from_env(MPI, 1)
    if started > 1 and (together := args.world_size) < started:
        raise ValueError(
            f"{started} processes were started, as WORLD_SIZE or its like says, and only {together} would train "
            "together, so that several runs would write to one folder; without accelerators give use_cpu: true (and "
            "ddp_backend: gloo), or start one process"
        )


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
    settings = plugin.deepspeed_config["zero_optimization"]
    if settings.setdefault(_WHOLE_POLICY, True) is False:
        raise ValueError(
            f"deepspeed: zero_optimization.{_WHOLE_POLICY} is false, and no policy would be saved; leave it out"
        )
