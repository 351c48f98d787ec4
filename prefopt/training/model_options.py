"""Keyword arguments of `from_pretrained` that can be judged without a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from prefopt.validation import did_you_mean

_DTYPES = ("auto", "bfloat16", "float16", "float32", "float64")
"""What is named as right; others that torch has for fractions are taken too."""


def reject_unknown_options(options: Mapping[str, Any]) -> None:
    """Raise ValueError for a dtype that torch lacks, or that no weights can have, and an attention that transformers
    lacks; both before weights are read."""
    for name in ("dtype", "torch_dtype"):
        for value in _values(options.get(name)):
            _check_dtype(name, value)
    implementations = ["eager", *ALL_ATTENTION_FUNCTIONS.valid_keys()]
    for value in _values(options.get("attn_implementation")):
        is_kernel = isinstance(value, str) and ("/" in value or value.startswith("paged|"))  # of the hub
        if value not in implementations and not is_kernel:
            raise ValueError(_wrong("attn_implementation", value, implementations))


def _check_dtype(name: str, value: object) -> None:
    dtype = getattr(torch, value, None) if isinstance(value, str) else value
    if value != "auto" and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise ValueError(_wrong(name, value, _DTYPES))


def _values(option: object) -> Iterable[object]:
    """The option, or its values for the parts of a model; none where it is not given."""
    parts = option.values() if isinstance(option, Mapping) else (option,)
    return [part for part in parts if part is not None]


def _wrong(name: str, value: object, options: Iterable[str]) -> str:
    names = list(options)
    return (
        f"{name} of model_init_kwargs (model.init in a run file): {value!r} is none of {', '.join(names)}."
        f"{did_you_mean(str(value), names)}"
    )
