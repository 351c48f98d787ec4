"""The LM head of a causal LM as plain numbers: logits = softcap(scale (W h + b))."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self, final

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from prefopt.scoring.fsdp import own_type, whole

__all__ = ["Head", "HeadGradient", "UnsupportedHeadError", "wide"]


def wide(dtype: torch.dtype) -> torch.dtype:
    """The precision in which statistics over the vocabulary are taken: float32, or the dtype itself where it is
    wider."""
    return torch.promote_types(dtype, torch.float32)


@final
class UnsupportedHeadError(ValueError):
    """The model's head is not a linear map that can be applied to gathered hidden states."""


@final
@dataclass(frozen=True, eq=False)
class Head:
    """z = softcap tanh(scale (W h + b) / softcap), without the tanh where softcap is None.

    weight [V, H]; bias [V] or None
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None

    @classmethod
    def of(cls, model: PreTrainedModel) -> Head:
        """The head of a Hugging Face causal LM. Raises UnsupportedHeadError where it is not a plain linear layer (an
        adapter sits on it, or it is quantised).

        Scale and softcap come from the configuration, under the names that the library's models use; a model with
        one of its own is found out by the comparison at start-up.
        """
        layer = model.get_output_embeddings()
        own = own_type(layer)
        if own is not nn.Linear:
            kind = f"{own.__module__}.{own.__qualname__}"  # an adapter's is called Linear too
            raise UnsupportedHeadError(f"the head of {type(model).__name__} is a {kind}, not a plain nn.Linear")
        if hasattr(layer.weight, "ds_id"):
            raise UnsupportedHeadError(
                f"the head's weight of {type(model).__name__} is partitioned by DeepSpeed ZeRO-3, which gathers it "
                "only as the model calls its head; with FSDP2 or ZeRO-2 it can be read"
            )
        config = model.config.get_text_config()
        scale = (getattr(config, "logit_scale", None) or 1.0) / (getattr(config, "logits_scaling", None) or 1.0)
        bias = None if layer.bias is None else whole(layer.bias)
        return cls(whole(layer.weight), bias, scale, getattr(config, "final_logit_softcapping", None))

    @property
    def parameters(self) -> tuple[Tensor, Tensor | None]:
        """Weight and bias."""
        return self.weight, self.bias

    def is_as(self, other: Head) -> bool:
        """Whether it is the same head: the same memory, not only equal numbers."""
        tensors = zip(self.parameters, other.parameters, strict=True)
        same = all(
            one is other or (one is not None and other is not None and one.data_ptr() == other.data_ptr())
            for one, other in tensors
        )
        return same and (self.scale, self.softcap) == (other.scale, other.softcap)

    def rows(self, block: slice) -> Head:
        """The head of a part of the vocabulary."""
        return replace(self, weight=self.weight[block], bias=None if self.bias is None else self.bias[block])

    def detach(self) -> Head:
        """The same head, through which no gradient comes to its weights."""
        return replace(self, weight=self.weight.detach(), bias=None if self.bias is None else self.bias.detach())

    def to(self, dtype: torch.dtype) -> Head:
        """The same head with its weights in another precision."""
        return replace(self, weight=self.weight.to(dtype), bias=None if self.bias is None else self.bias.to(dtype))

    def logits(self, hidden: Tensor, out: Tensor | None = None) -> Tensor:
        """hidden [C, H] -> [C, V], in float32 or wider, written to `out` where it is given."""
        if out is not None and out.dtype == hidden.dtype:
            product = torch.mm(hidden, self.weight.T, out=out)
        else:
            narrow = hidden @ self.weight.T
            product = out.copy_(narrow) if out is not None else narrow.to(wide(narrow.dtype))
        if self.bias is not None:
            product = product.add_(self.bias)
        if self.scale != 1.0:
            product = product.mul_(self.scale)
        if self.softcap is not None:
            product = product.div_(self.softcap).tanh_().mul_(self.softcap)
        return product

    def slope(self, logits: Tensor) -> Tensor | None:
        """dz/d(scale (W h + b)) at logits z of any shape; None where it is 1."""
        return None if self.softcap is None else 1 - (logits / self.softcap).clamp(-1, 1).square()

    def through(self, gradient: Tensor, slope: Tensor | None) -> Tensor:
        """dL/d(W h + b) from dL/dz, in place, any shape."""
        if slope is not None:
            gradient = gradient.mul_(slope)
        return gradient.mul_(self.scale) if self.scale != 1.0 else gradient

    @torch.no_grad()
    def mean_logits(self, hidden: Tensor) -> Tensor:
        """The mean of z over the vocabulary, hidden [M, H] -> [M], without the [M, V] logits where z is linear."""
        if self.softcap is None:
            dtype = wide(hidden.dtype)
            bias = 0.0 if self.bias is None else self.bias.to(dtype).mean()
            return self.scale * (hidden.to(dtype) @ self.weight.to(dtype).mean(0) + bias)
        return torch.cat([self.logits(chunk).mean(-1) for chunk in torch.split(hidden, 128)])


@final
@dataclass(frozen=True, eq=False)
class HeadGradient:
    """Where the gradients of a head are added up: weight [V, H] and bias [V], None where they are frozen or absent."""

    weight: Tensor | None
    bias: Tensor | None

    @classmethod
    def of(cls, head: Head, *, weight: bool = True, bias: bool = True) -> Self:
        """Zeros, in the precision in which they are summed, for what takes gradient and is asked for."""
        wanted = (head.weight if weight else None, head.bias if bias else None)
        return cls(
            *(
                torch.zeros_like(each, dtype=wide(each.dtype)) if each is not None and each.requires_grad else None
                for each in wanted
            )
        )

    def add(self, block: slice, d_product: Tensor, hidden: Tensor, d_logits: Tensor) -> None:
        """Add those of C tokens in a part of the vocabulary: dL/d(W h + b) [C, V'], in the precision of the products
        and in that of the sums, and hidden [C, H]."""
        if self.weight is not None:
            total = self.weight[block]
            if total.dtype == d_product.dtype:
                total.addmm_(d_product.T, hidden)
            else:
                total += d_product.T @ hidden
        if self.bias is not None:
            self.bias[block] += d_logits.sum(0)

    def add_labels(self, labels: Tensor, d_labels: Tensor, hidden: Tensor) -> None:
        """Add those of C tokens at one entry each: labels, d_labels [C], hidden [C, H]."""
        if self.weight is not None:
            self.weight.index_add_(0, labels, d_labels[:, None] * hidden)
        if self.bias is not None:
            self.bias.index_add_(0, labels, d_labels)

    def in_precision_of(self, head: Head) -> tuple[Tensor | None, Tensor | None]:
        """Weight and bias as autograd wants them."""
        return (
            None if self.weight is None else self.weight.to(head.weight.dtype),
            None if self.bias is None or head.bias is None else self.bias.to(head.bias.dtype),
        )
