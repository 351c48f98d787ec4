"""torch.compile on the parts of a step whose shapes are those of its tensors: models and objective."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

__all__ = ["compile_in_place", "not_compiled"]

_VARIANTS = 64
"""Most compiled forms of a module: with and without gradient, in training and evaluation, shared rows and not, adapters
on and off. Torch's own limit counts those of every module that shares code."""


def compile_in_place(module: nn.Module, *, backend: str | Callable[..., Any], mode: str | None) -> None:
    """Compile the calls of a module, with symbolic sizes; its name, parameters and state stay as they are."""
    limits = {"recompile_limit": _VARIANTS, "isolate_recompiles": True}
    known = inspect.signature(torch.compile).parameters  # releases before 2.12 have one limit for all
    module.compile(
        dynamic=True, backend=backend, mode=mode, **{name: limit for name, limit in limits.items() if name in known}
    )


def not_compiled(module: nn.Module) -> AbstractContextManager[Any]:
    """While the block runs, the module is called as it is written."""
    if module._compiled_call_impl is None:
        return nullcontext()
    return torch.compiler.set_stance("force_eager")
