"""Functions over logits that torch.compile fuses into one pass, and that run as they are written where it cannot."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable
from functools import cache
from types import FunctionType
from typing import Any, ParamSpec, TypeVar, cast

import torch

_T = TypeVar("_T")
_P = ParamSpec("_P")

COMPILED = frozenset({"cuda", "xpu"})
"""Devices on which the passes are compiled."""

_as_written: set[tuple[Hashable, ...]] = set()
"""Functions and forms that torch.compile did not take."""


def fuses(device: str) -> bool:
    """Whether passes over logits are fused on a device of this type."""
    return device in COMPILED and _compiles(device)


def run_fused(function: Callable[_P, _T], form: Hashable, *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """function(*args, **kwargs) as one pass. Of each form, such as a divergence and a dtype, it is compiled on its own:
    torch compiles a function for eight kinds of arguments at most, and calls it as it is written for others."""
    if (function, form) not in _as_written:
        try:
            return cast("Callable[_P, _T]", _compiled(function, form))(*args, **kwargs)
        except Exception as error:
            if not _is_of_compiler(error):
                raise
            _as_written.add((function, form))
            _warn(f"torch.compile fails on them with {form}", error)
    return function(*args, **kwargs)


@cache
def _compiles(device: str) -> bool:
    """Whether torch.compile works on a device, which it needs a compiler for; a warning says why not."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's of itself, and of products, of which there are none in a pass
            torch.compile(lambda values: values.exp().sum(-1))(torch.ones(2, 3, device=device))
    except Exception as error:
        _warn(f"torch.compile fails on {device}", error)
        return False
    return True


@cache
def _compiled(function: Callable[_P, _T], form: Hashable) -> Callable[_P, _T]:
    assert isinstance(function, FunctionType)
    # What torch has compiled, it keeps with the code.
    copy: Any = FunctionType(function.__code__.replace(), function.__globals__, function.__name__)
    return cast("Callable[_P, _T]", torch.compile(copy, dynamic=True))


def _is_of_compiler(error: Exception) -> bool:
    from torch._dynamo.exc import TorchDynamoException  # it takes a second to import

    return isinstance(error, TorchDynamoException)


def _warn(what: str, error: Exception) -> None:
    reason = str(error).strip().partition("\n")[0]
    warnings.warn(
        f"passes over logits are not fused, since {what} ({type(error).__name__}: {reason}): right, but a step takes "
        "more time and memory",
        stacklevel=3,
    )
