"""The LM head of a causal LM as tensors, z = softcap(scale (W h + b)), and its gradient."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Self, final

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from prefopt.scoring.fsdp import full_tensor, unwrapped_type
from prefopt.scoring.lm_head.precision import add_product, multiply, wide
from prefopt.scoring.zero import is_partitioned

_SCALES = ("logit_scale", "lm_head_multiplier", "output_multiplier")
_SOFTCAPS = ("final_logit_softcapping", "output_logit_soft_cap")
"""The names in configurations of what models multiply logits by, and of their softcap."""


@final
class UnsupportedHeadError(ValueError):
    """The head of a model is not a linear map that can be applied to gathered hidden states."""


@final
@dataclass(frozen=True, eq=False)
class Head:
    """z = softcap tanh(scale (W h + b) / softcap); z = scale (W h + b) where softcap is None.

    weight [V, H]; bias [V] or None
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None

    @classmethod
    def from_model(cls, model: PreTrainedModel) -> Head:
        """The head of a Hugging Face causal LM, with scale and softcap under the configuration's usual names; the
        verification on the first batch detects a model that scales its logits otherwise.

        Raises UnsupportedHeadError where it is not a plain linear layer, as under an adapter or quantised.
        """
        layer = model.get_output_embeddings()
        layer_type = unwrapped_type(layer)
        if layer_type is not nn.Linear:
            kind = f"{layer_type.__module__}.{layer_type.__qualname__}"  # adapters have a Linear of their own
            raise UnsupportedHeadError(f"the head of {type(model).__name__} is a {kind}, not a plain nn.Linear")
        if is_partitioned(layer) and not layer.weight.numel():
            raise UnsupportedHeadError(
                f"the head's weight of {type(model).__name__} is partitioned by DeepSpeed ZeRO-3, and gathered only in "
                "the forward pass of the engine"
            )
        config = model.config.get_text_config()
        scale = math.prod(_number(config, name) or 1.0 for name in _SCALES) / (_number(config, "logits_scaling") or 1.0)
        softcap = next(filter(None, (_number(config, name) for name in _SOFTCAPS)), None)
        bias = None if layer.bias is None else full_tensor(layer.bias)
        return cls(full_tensor(layer.weight), bias, scale, softcap)

    @property
    def parameters(self) -> tuple[Tensor, Tensor | None]:
        """Weight and bias."""
        return self.weight, self.bias

    def map(self, function: Callable[[Tensor], Tensor]) -> Head:
        """The head with a function applied to weight and bias, such as a slice of the vocabulary."""
        return replace(self, weight=function(self.weight), bias=None if self.bias is None else function(self.bias))

    def split(self, sizes: list[int]) -> list[Head]:
        """The head by blocks of the vocabulary, of so many token ids each."""
        weights = torch.split(self.weight, sizes)
        biases = [None] * len(weights) if self.bias is None else torch.split(self.bias, sizes)
        return [Head(*tensors, self.scale, self.softcap) for tensors in zip(weights, biases, strict=True)]

    def logits(self, hidden: Tensor, out: Tensor | None = None) -> Tensor:
        """hidden [C, H] -> z [C, V], in float32 or wider; written to `out` where given."""
        if out is None:
            out = hidden.new_empty(len(hidden), len(self.weight), dtype=wide(hidden.dtype))
        product = multiply(out, hidden, self.weight.T)
        if self.bias is not None:
            product = product.add_(self.bias)
        if self.scale != 1.0:
            product = product.mul_(self.scale)
        if self.softcap is not None:
            product = product.div_(self.softcap).tanh_().mul_(self.softcap)
        return product

    def slope(self, logits: Tensor) -> Tensor | None:
        """dz/d(scale (W h + b)) at logits z, of any shape; None where it is 1."""
        return slope_of_softcap(logits, self.softcap)

    def product_gradient(self, gradient: Tensor, slope: Tensor | None) -> Tensor:
        """dL/d(W h + b) from dL/dz, in place, of any shape."""
        if slope is not None:
            gradient = gradient.mul_(slope)
        return gradient.mul_(self.scale) if self.scale != 1.0 else gradient

    @torch.no_grad()
    def mean_logits(self, hidden: Tensor) -> Tensor:
        """Mean of z over the vocabulary, hidden [M, H] -> [M]; without [M, V] logits where z is linear."""
        if self.softcap is None:
            dtype = wide(hidden.dtype)
            bias = 0.0 if self.bias is None else self.bias.to(dtype).mean()
            return self.scale * (hidden.to(dtype) @ self.weight.to(dtype).mean(0) + bias)
        return torch.cat([logits.mean(-1) for logits in self.logit_chunks(hidden)])

    def logit_chunks(self, hidden: Tensor) -> Iterator[Tensor]:
        """z [C, V] in float32 or wider, some of the tokens of hidden [M, H] at a time."""
        return (self.logits(chunk) for chunk in torch.split(hidden, 128))


def slope_of_softcap(logits: Tensor, softcap: float | None) -> Tensor | None:
    """dz/du of z = softcap tanh(u / softcap), from z; None where there is no softcap."""
    return None if softcap is None else 1 - (logits / softcap).clamp(-1, 1).square()


def _number(config: PreTrainedConfig, name: str) -> float | None:
    """A number of the configuration; MPT's scale may be "inv_sqrt_d_model", which its model does not read."""
    number = getattr(config, name, None)
    return number if isinstance(number, int | float) else None


@final
@dataclass(eq=False)
class HeadGradient:
    """Accumulated gradients of a head, weight [V, H] and bias [V]; None where frozen or absent.

    written  whether they hold a sum. Memory is uninitialised before: the first chunk of tokens writes its products
             there, others add theirs, and nothing is filled with zeros first
    """

    weight: Tensor | None
    bias: Tensor | None
    written: bool = False

    @property
    def bytes(self) -> int:
        """The memory that they take."""
        return sum(tensor.nbytes for tensor in self._sums)

    @classmethod
    def blank(cls, head: Head, *, weight: bool = True, bias: bool = True) -> Self:
        """Nothing yet, in float32 or wider, for the parameters that require gradient and are selected."""

        def memory(tensor: Tensor | None) -> Tensor | None:
            if tensor is None or not tensor.requires_grad:
                return None
            return torch.empty_like(tensor, dtype=wide(tensor.dtype))

        return cls(memory(head.weight if weight else None), memory(head.bias if bias else None))

    def blank_copy(self) -> HeadGradient:
        """Nothing yet, for the same parameters."""
        weight, bias = (None if tensor is None else torch.empty_like(tensor) for tensor in self.parameters)
        return HeadGradient(weight, bias)

    def add(self, block: slice, d_product: Tensor, hidden: Tensor, d_logits: Tensor) -> None:
        """Add the gradients of C tokens in a block of the vocabulary, from hidden [C, H] and dL/d(W h + b) [C, V'] in
        the precision of the product (`d_product`) and of the sum (`d_logits`), which may be the same. The blocks of a
        chunk cover the vocabulary, in any order or at the same time; `end_chunk` follows."""
        if self.weight is not None:
            (add_product if self.written else multiply)(self.weight[block], d_product.T, hidden)
        if self.bias is not None:
            total = d_logits.sum(0, dtype=self.bias.dtype)
            self.bias[block] = self.bias[block].add_(total) if self.written else total

    def end_chunk(self) -> None:
        """All blocks of a chunk have been added."""
        self.written = True

    def add_scaled(self, other: HeadGradient, factor: Tensor) -> None:
        """Add the other's gradients, of the same parameters, times a factor []."""
        if not other.written:
            return
        for total, gradient in zip(self._sums, other._sums, strict=True):
            if self.written:
                total.addcmul_(gradient, factor)
            else:
                torch.mul(gradient, factor, out=total)
        self.written = other.written

    def in_precision_of(self, head: Head) -> tuple[Tensor | None, Tensor | None]:
        """Weight and bias in the dtype of the head's, as autograd requires; zero where there was no token."""
        if not self.written:
            for tensor in self._sums:
                tensor.zero_()
        return (
            None if self.weight is None else self.weight.to(head.weight.dtype),
            None if self.bias is None or head.bias is None else self.bias.to(head.bias.dtype),
        )

    @property
    def parameters(self) -> tuple[Tensor | None, Tensor | None]:
        """Weight and bias."""
        return self.weight, self.bias

    @property
    def _sums(self) -> list[Tensor]:
        return [tensor for tensor in self.parameters if tensor is not None]
