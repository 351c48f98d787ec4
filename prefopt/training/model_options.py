"""Keyword arguments of `from_pretrained` that can be judged without a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available, is_kernels_available

from prefopt.validation import did_you_mean

_DTYPES = ("auto", "bfloat16", "float16", "float32", "float64")
"""What is named as right; others that torch has for fractions are taken too."""

_PLACEMENTS = ("auto", "balanced", "balanced_low_0", "sequential", "disk")
"""Of device_map, beside devices."""

_PACKAGES: Mapping[object, tuple[Callable[[], bool], str]] = {
    "flash_attention_2": (is_flash_attn_2_available, "flash-attn"),
    "flash_attention_3": (is_flash_attn_3_available, "flash-attn 3"),
}
"""Attention -> whether its package is here, and the package; transformers may take its code from the hub's kernels."""

_WHERE = "of model_init_kwargs (model.init in a run file)"


def reject_unknown_options(options: Mapping[str, Any]) -> None:
    """Raise ValueError for a dtype that torch lacks, or that no weights can have, an attention that transformers lacks
    or that is not installed, and a device that is not here; all before weights are read."""
    for name in ("dtype", "torch_dtype"):
        for value in _values(options.get(name)):
            _check_dtype(name, value)
    implementations = ["eager", *ALL_ATTENTION_FUNCTIONS.valid_keys()]
    for value in _values(options.get("attn_implementation")):
        is_kernel = isinstance(value, str) and ("/" in value or value.startswith("paged|"))  # of the hub
        if value not in implementations and not is_kernel:
            raise _wrong("attn_implementation", value, implementations)
        is_here, package = _PACKAGES.get(value, (lambda: True, ""))
        if not (is_here() or is_kernels_available()):
            raise ValueError(
                f"attn_implementation {_WHERE}: {value!r} needs the package {package}, which is not installed; install "
                "it, or take sdpa"
            )
    for value in _values(options.get("device_map")):
        _check_device(value)


def _check_device(value: object) -> None:
    if isinstance(value, str) and value in _PLACEMENTS:
        return
    try:
        device = torch.device(value) if isinstance(value, str | int | torch.device) else None
    except RuntimeError:
        device = None
    if device is None:
        raise _wrong("device_map", value, ("cpu", "cuda:0", *_PLACEMENTS))
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if device.type not in ("cpu", "meta", accelerator and accelerator.type):
        raise ValueError(f"device_map {_WHERE}: there is no device {str(device)!r} here; leave it out, or take cpu")


def _check_dtype(name: str, value: object) -> None:
    dtype = getattr(torch, value, None) if isinstance(value, str) else value
    if value != "auto" and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise _wrong(name, value, _DTYPES)


def _values(option: object) -> Iterable[object]:
    """The option, or its values for the parts of a model; none where it is not given."""
    parts = option.values() if isinstance(option, Mapping) else (option,)
    return [part for part in parts if part is not None]


def _wrong(name: str, value: object, options: Iterable[str]) -> ValueError:
    names = list(options)
    return ValueError(f"{name} {_WHERE}: {value!r} is none of {', '.join(names)}.{did_you_mean(str(value), names)}")
