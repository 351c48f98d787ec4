"""What a run under DeepSpeed ZeRO-3 needs of its arguments."""

from __future__ import annotations

from typing import Any

_WHOLE_POLICY = "stage3_gather_16bit_weights_on_model_save"


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
            "leave it out, or use ZeRO-2 or FSDP2"
        )
    settings = plugin.deepspeed_config["zero_optimization"]
    if settings.setdefault(_WHOLE_POLICY, True) is False:
        raise ValueError(
            f"deepspeed: zero_optimization.{_WHOLE_POLICY} is false, and no policy would be saved; leave it out"
        )
