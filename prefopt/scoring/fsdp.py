"""FSDP2 and DTensor: full parameters where a step reads them outside of the modules that gather them.

The engine calls a model's backbone and reads its head's weights, while FSDP2 gathers parameters when a wrapped module
is called. A step therefore runs as a forward pass of the wrapped modules that it would bypass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

_T = TypeVar("_T")


def call_in_forward(model: nn.Module, backbone: nn.Module, head: nn.Module, function: Callable[[], _T]) -> _T:
    """Call `function` as a forward pass of the FSDP2 modules that a call of the backbone bypasses: those around it in
    `model`, and the head. Their parameters are full in it and in its backward, and gradients are reduced as usual.
    Results that require gradient have to be in tuples or dataclasses.
    """
    for module in reversed(_bypassed(model, backbone, head)):
        function = _as_forward_of(module, function)
    return function()


def full_tensor(tensor: Tensor) -> Tensor:
    """The gathered parameter where it is a DTensor, otherwise the parameter itself.

    Each process keeps its shard of the gradient, which is right where the processes of the mesh compute the same, as in
    tensor parallelism. Inside `call_in_forward` no FSDP2 parameter is a DTensor.
    """
    if not _distributed():
        return tensor
    from torch.distributed.tensor import DTensor, Replicate

    if not isinstance(tensor, DTensor):
        return tensor
    return tensor.full_tensor(grad_placements=[Replicate()] * tensor.device_mesh.ndim)


def local_tensor(tensor: Tensor) -> Tensor:
    """This process's part of a DTensor, in the same memory; otherwise the tensor itself."""
    if not _distributed():
        return tensor
    from torch.distributed.tensor import DTensor

    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def ties_of(module: nn.Module) -> dict[str, str]:
    """The names of parameters that are another of the module's too -> the first name of these."""
    names: dict[int, str] = {}
    parameters = module.named_parameters(remove_duplicate=False)
    return {name: first for name, tensor in parameters if (first := names.setdefault(id(tensor), name)) != name}


def tie(module: nn.Module, ties: Mapping[str, str]) -> None:
    """Make parameters one again that have come apart, of those that the module still has."""
    parameters = dict(module.named_parameters(remove_duplicate=False))
    for name, first in ties.items():
        if {name, first} <= parameters.keys():
            owner, _, leaf = name.rpartition(".")
            setattr(module.get_submodule(owner), leaf, parameters[first])


def reshard(model: nn.Module) -> None:
    """Free the gathered parameters of FSDP2, which some modules keep after their forward pass."""
    for module in model.modules():
        if _is_fsdp(module):
            module.reshard()  # type: ignore[operator]


def unwrapped_type(module: nn.Module) -> type[nn.Module]:
    """The module's class, without the one that FSDP2 derives from it."""
    return type(module).__bases__[-1] if _is_fsdp(module) else type(module)


def is_sharded(model: nn.Module) -> bool:
    """Whether FSDP2 has wrapped a module of the model."""
    return any(map(_is_fsdp, model.modules()))


def holds_in_any(model: nn.Module, flag: bool) -> bool:
    """Whether the flag is true in any of the processes that share the model's parameters, which all have to gather them
    where one does; where FSDP2 has not spread the model, the flag itself."""
    if not is_sharded(model):
        return flag
    flags = torch.tensor(float(flag), device=_device_of_collectives(model))
    torch.distributed.all_reduce(flags, torch.distributed.ReduceOp.MAX)
    return bool(flags)


def _device_of_collectives(model: nn.Module) -> torch.device | str:
    """Where processes exchange the parameters: on the accelerators, also where the parts are offloaded to the host."""
    from torch.distributed.tensor import DTensor

    parameters = list(model.parameters())
    meshes = (parameter.device_mesh for parameter in parameters if isinstance(parameter, DTensor))
    mesh = next(meshes, None)
    return parameters[0].device if mesh is None else mesh.device_type


def _bypassed(model: nn.Module, backbone: nn.Module, head: nn.Module) -> list[nn.Module]:
    """The FSDP2 modules around the backbone, outermost first, and the head if it is one."""
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
