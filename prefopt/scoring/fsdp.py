"""Models whose parameters are spread over processes: what is made whole while a step reads it.

The engine calls a model's backbone and reads its head, and FSDP2 gathers parameters as the modules that it has wrapped
are called. So a step runs as a forward pass of those modules that it would otherwise pass by.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

__all__ = ["as_forward", "own_type", "whole"]

_T = TypeVar("_T")


def as_forward(model: nn.Module, backbone: nn.Module, head: nn.Module, function: Callable[[], _T]) -> _T:
    """Call `function` as a forward pass of those FSDP2 modules that a call of the backbone does not enter: in `model`
    around it, and the head. Their parameters are then whole in it and in its backward, and gradients are reduced as in
    any other forward pass. What it returns that requires gradient has to be in tuples or dataclasses.
    """
    for module in reversed(_passed_by(model, backbone, head)):
        function = _as_forward_of(module, function)
    return function()


def whole(tensor: Tensor) -> Tensor:
    """A parameter as every process of its mesh would have it alone: itself, but where it is a DTensor, gathered.

    Where it trains, its processes are taken to compute the same from it, as those of tensor parallelism do: each keeps
    its shard of the gradient. Inside `as_forward`, no parameter is spread over processes that compute different things.
    """
    if not _distributed():
        return tensor
    from torch.distributed.tensor import DTensor, Replicate

    if not isinstance(tensor, DTensor):
        return tensor
    return tensor.full_tensor(grad_placements=[Replicate()] * tensor.device_mesh.ndim)


def own_type(module: nn.Module) -> type[nn.Module]:
    """The module's class, without what FSDP2 puts in front of it."""
    kind = type(module)
    return kind.__bases__[-1] if _is_fsdp(module) else kind


def _passed_by(model: nn.Module, backbone: nn.Module, head: nn.Module) -> list[nn.Module]:
    """FSDP2 modules around the backbone, the outermost first, and the head where it is one of its own."""
    if not _distributed():
        return []
    names = {module: name for name, module in model.named_modules()}
    around = [module for module, name in names.items() if f"{names[backbone]}.".startswith(f"{name}." if name else "")]
    return [module for module in (*around, head) if module is not backbone and _is_fsdp(module)]


def _as_forward_of(module: Any, function: Callable[[], _T]) -> Callable[[], _T]:
    from torch.distributed.fsdp import register_fsdp_forward_method

    def call() -> _T:
        module._step = function
        try:
            register_fsdp_forward_method(module, "_step")
            return module._step()
        finally:
            del module._step

    return call


def _is_fsdp(module: nn.Module) -> bool:
    if not _distributed():
        return False
    from torch.distributed.fsdp import FSDPModule

    return isinstance(module, FSDPModule)


def _distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
