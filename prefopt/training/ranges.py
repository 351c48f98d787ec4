"""The ranges of the numbers among a run's arguments, beyond which they have no sense."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from numbers import Integral, Real
from types import NoneType
from typing import Any, NamedTuple, get_args, get_type_hints

_MOST = 2**31 - 1
"""The largest whole number: libraries count in C, and no run gets there."""

_MOST_WORKERS = 1024
"""Processes that load data, which are all started at once."""


class _Range(NamedTuple):
    words: str
    holds: Callable[[float], bool]


_POSITIVE = _Range("a number above 0", lambda value: value > 0)
_NOT_NEGATIVE = _Range("0 or a number above it", lambda value: value >= 0)
_COUNT = _Range("1 or more", lambda value: value >= 1)
_WORKERS = _Range(f"from 0 to {_MOST_WORKERS}", lambda value: 0 <= value <= _MOST_WORKERS)
_PROCESSES = _Range(f"from 1 to {_MOST_WORKERS}", lambda value: 1 <= value <= _MOST_WORKERS)
_SHARE = _Range("from 0 to 1", lambda value: 0 <= value <= 1)
_DECAY = _Range("from 0 to below 1", lambda value: 0 <= value < 1)
_SEED = _Range("from 0 to 4294967295", lambda value: 0 <= value < 2**32)

_SEEDS = ("seed", "data_seed")

_OF_NUMBERS = {int, float, NoneType}

_RANGES: Mapping[str, _Range] = {
    **dict.fromkeys(
        ("learning_rate", "mask_learning_rate", "weight_decay", "mask_weight_decay", "max_grad_norm", "warmup_steps"),
        _NOT_NEGATIVE,
    ),
    **dict.fromkeys(
        ("router_aux_loss_coef", "eval_delay", "eval_steps", "max_skipped_steps"),
        _NOT_NEGATIVE,
    ),
    "dataloader_num_workers": _WORKERS,
    "dataset_num_proc": _PROCESSES,
    **dict.fromkeys(("adam_epsilon", "logging_steps", "save_steps"), _POSITIVE),
    **dict.fromkeys(("adam_beta1", "adam_beta2"), _DECAY),
    **dict.fromkeys(
        ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"), _COUNT
    ),
    **dict.fromkeys(("save_total_limit", "ref_model_sync_steps", "logits_budget_mb"), _COUNT),
    "ref_model_mixup_alpha": _SHARE,
    **dict.fromkeys(_SEEDS, _SEED),
}


def reject_out_of_range(arguments: Any) -> None:
    """Raise ValueError for an argument that is no number where one is needed, out of its range, not finite, or asks for
    no step; None is left out."""
    for name, types in _numbers(type(arguments)).items():
        value = getattr(arguments, name)
        if value is None:
            continue
        is_whole, is_number = isinstance(value, Integral), isinstance(value, Real) and not isinstance(value, bool)
        if not is_number or not (is_whole or float in types):
            shown = str(value).lower() if isinstance(value, bool) else repr(value)
            raise ValueError(f"{name}: a {'' if float in types else 'whole '}number is needed, not {shown}")
        if name in _RANGES and not ((is_whole or math.isfinite(value)) and _RANGES[name].holds(value)):
            raise ValueError(f"{name}: {value} is out of range; it is {_RANGES[name].words}")
        if is_whole and float not in types and name not in _SEEDS and abs(value) > _MOST:
            raise ValueError(f"{name}: {value} is out of range; it is {_MOST} at most")
    steps, epochs = arguments.max_steps, arguments.num_train_epochs
    if steps == 0 or steps < -1:
        raise ValueError(f"max_steps: {steps} trains nothing; it is 1 or more, or -1 for num_train_epochs")
    if steps == -1 and not 0 < epochs <= _MOST:  # as NaN is not
        raise ValueError(f"num_train_epochs: {epochs} trains nothing, or never ends; it is a number above 0")


def _numbers(arguments: type) -> dict[str, set[object]]:
    """Name of each field that takes numbers and nothing else but None -> its types."""
    hints = {name: {*(get_args(hint) or (hint,))} for name, hint in get_type_hints(arguments).items()}
    names = {field.name for field in fields(arguments)}
    return {
        name: types for name, types in hints.items() if name in names and types & {int, float} and types <= _OF_NUMBERS
    }
