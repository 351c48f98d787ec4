"""The ranges of the numbers among a run's arguments, beyond which they have no sense."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class _Range(NamedTuple):
    words: str
    holds: Callable[[float], bool]


_POSITIVE = _Range("a number above 0", lambda value: value > 0)
_NOT_NEGATIVE = _Range("0 or a number above it", lambda value: value >= 0)
_COUNT = _Range("1 or more", lambda value: value >= 1)
_SHARE = _Range("from 0 to 1", lambda value: 0 <= value <= 1)
_DECAY = _Range("from 0 to below 1", lambda value: 0 <= value < 1)
_SEED = _Range("from 0 to 4294967295", lambda value: 0 <= value < 2**32)

_RANGES: Mapping[str, _Range] = {
    **dict.fromkeys(
        ("learning_rate", "mask_learning_rate", "weight_decay", "mask_weight_decay", "max_grad_norm", "warmup_steps"),
        _NOT_NEGATIVE,
    ),
    **dict.fromkeys(
        ("dataloader_num_workers", "router_aux_loss_coef", "eval_delay", "eval_steps", "max_skipped_steps"),
        _NOT_NEGATIVE,
    ),
    "max_skipped_steps": _NOT_NEGATIVE,
    **dict.fromkeys(("adam_epsilon", "logging_steps", "save_steps"), _POSITIVE),
    **dict.fromkeys(("adam_beta1", "adam_beta2"), _DECAY),
    **dict.fromkeys(
        ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"), _COUNT
    ),
    **dict.fromkeys(("save_total_limit", "ref_model_sync_steps", "logits_budget_mb"), _COUNT),
    "ref_model_mixup_alpha": _SHARE,
    **dict.fromkeys(("seed", "data_seed"), _SEED),
}


def reject_out_of_range(arguments: Any) -> None:
    """Raise ValueError for an argument that is out of its range, not finite, or asks for no step; None is left out."""
    for name, (words, holds) in _RANGES.items():
        value = getattr(arguments, name)
        if isinstance(value, (int, float)) and not (math.isfinite(value) and holds(value)):
            raise ValueError(f"{name}: {value} is out of range; it is {words}")
    steps, epochs = arguments.max_steps, arguments.num_train_epochs
    if steps == 0 or steps < -1:
        raise ValueError(f"max_steps: {steps} trains nothing; it is 1 or more, or -1 for num_train_epochs")
    if steps == -1 and not (math.isfinite(epochs) and epochs > 0):
        raise ValueError(f"num_train_epochs: {epochs} trains nothing, or never ends; it is a number above 0")
