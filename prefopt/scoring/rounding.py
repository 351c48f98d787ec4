"""What rounding explains: how far a model's numbers move when each of its modules rounds once more.

A tolerance in nats does not tell rounding from error: in bfloat16 both are a few hundredths of a nat. The spread that a
model shows under disturbances of the size of its own rounding does: orders of summation and paddings move
log-probabilities by up to 0.6 of it, errors of tiny models by 3 and more.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from prefopt.scoring.lm_head.head import Head
from prefopt.scoring.lm_head.precision import wide

_UNITS = {
    torch.float64: 2.0**-23,
    torch.float32: 2.0**-20,
    torch.float16: 2.0**-11,
    torch.bfloat16: 2.0**-8,
    torch.int8: 2.0**-6,
    torch.float8_e4m3fn: 2.0**-4,
}
"""Relative rounding in a dtype. Norms and softmax of most architectures round to float32 also in a float64 model, and
sums in float32 lose some of its last bits. Of 8 bits: activations are rounded as the weights are."""

_MATMUL_UNITS = {"highest": _UNITS[torch.float32], "high": 2.0**-11, "medium": _UNITS[torch.bfloat16]}
"""That of float32 under torch.set_float32_matmul_precision."""

_SPREADS = 2.0
"""Most spreads that rounding explains."""

_VOCABULARY = 4096
"""Most entries of the vocabulary at which a head is compared in full precision."""


def rounding_unit(model: nn.Module) -> float:
    """The coarsest relative rounding among the dtypes that the model computes in: of its parameters, or autocast's."""
    device = next(model.parameters()).device.type
    dtypes = {parameter.dtype for parameter in model.parameters()} & _UNITS.keys()
    if torch.is_autocast_enabled(device):
        dtypes.add(torch.get_autocast_dtype(device))
    units = _UNITS | {torch.float32: _MATMUL_UNITS[torch.get_float32_matmul_precision()]}
    return max((units[dtype] for dtype in dtypes), default=_UNITS[torch.bfloat16])


@contextmanager
def disturbed(model: nn.Module, unit: float) -> Iterator[None]:
    """A context in which the output of each innermost module is off by a relative `unit`, up or down: what one more
    rounding at each of them does. The direction is drawn for each feature, and is that of all tokens: what moves a
    token is as large as with directions of its own, and of logits no copies are made but one. Torch's own random state
    is left alone."""
    generators: dict[torch.device, torch.Generator] = {}

    def disturb(module: nn.Module, args: Any, output: Any) -> Any:
        if not isinstance(output, Tensor) or not output.is_floating_point() or not output.ndim:
            return output
        if output.device not in generators:
            generators[output.device] = torch.Generator(output.device).manual_seed(0)
        generator = generators[output.device]
        up = torch.randint(0, 2, output.shape[-1:], generator=generator, device=output.device, dtype=torch.bool)
        # A unit is a power of two, which a dtype that rounds by it still has; it has no 1 + unit.
        return torch.addcmul(output, output, torch.where(up, unit, -unit).to(output.dtype))

    innermost = [module for module in model.modules() if next(module.children(), None) is None]
    hooks = [module.register_forward_hook(disturb) for module in innermost]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def difference(values: Tensor, plain: Tensor, disturbed_values: Tensor) -> float | None:
    """The largest difference of values to those of the plain forward pass; None where the spread of the disturbed ones
    explains it, on the whole and at its largest. Shapes are equal, and any.

    NaN of the plain forward pass is compared with nothing: the step that it is in ends with an error anyway.
    """
    if bool(plain.isnan().any()):
        values = torch.where(values.isnan(), plain, values)
    finite = plain.isfinite() & disturbed_values.isfinite()
    values, plain, disturbed_values = (
        tensor[finite].to(wide(tensor.dtype)) for tensor in (values, plain, disturbed_values)
    )
    if not values.numel():
        return None
    errors = (values - plain).abs()
    floor = 8 * torch.finfo(torch.float32).eps * (1 + plain.abs())
    spreads = (disturbed_values - plain).abs() + floor
    typical = errors.square().mean() <= (_SPREADS * spreads.square().mean().sqrt()) ** 2
    largest = errors.max() <= _SPREADS * spreads.max()
    return None if bool(typical & largest) else errors.max().item()


def is_head_of(hidden: Tensor, logits: Tensor, head: Head, unit: float) -> bool:
    """Whether logits [C, V] are the head's of hidden states [C, H] in full precision, up to the rounding of the head
    alone. The states have to be those that the model's own head got, so that no layer's rounding is in between.

    NaN is compared with nothing.
    """
    vocabulary = len(head.weight)
    count = min(vocabulary, _VOCABULARY)
    ids = torch.arange(count, device=logits.device) * vocabulary // count
    with torch.autocast(logits.device.type, enabled=False):
        exact = head.map(lambda tensor: tensor[ids].to(wide(tensor.dtype))).logits(hidden.to(wide(hidden.dtype)))
    errors = logits[:, ids].to(exact.dtype) - exact
    return not errors.norm() > _SPREADS * unit * exact.norm()
