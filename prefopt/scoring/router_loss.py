"""The auxiliary loss that keeps the experts of a mixture-of-experts model in use, as transformers computes it."""

from __future__ import annotations

import inspect
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self, final

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from prefopt.metrics import Mean
from prefopt.objective import ObjectiveOutput
from prefopt.scoring.rows.layout import Layout

_LOG = logging.getLogger(__name__)

_ARGUMENTS = ["gate_logits", "num_experts", "top_k", "attention_mask"]


@final
@dataclass(frozen=True)
class RouterLoss:
    """coefficient * E sum_e f_e P_e over E experts: f_e the share of tokens that are routed to expert e, P_e the mean
    probability that the router gives it, over all layers.

    Every response counts its own tokens and those of its prompt, as in two rows a pair. Source: Switch Transformer
    (arXiv 2101.03961) eq. 4-6; `function` is the model's own `load_balancing_loss_func`.
    """

    coefficient: float
    function: Callable[..., Tensor]
    experts: int
    top_k: int

    @classmethod
    def from_model(cls, lm: PreTrainedModel, coefficient: float | None) -> Self | None:
        """The loss of a policy; None where it has none, or the coefficient is 0.

        coefficient  None: `router_aux_loss_coef` of the model's configuration. Raises ValueError for another than 0
                     where transformers computes no such loss for the model, or not in the usual form.
        """
        config, kind = lm.config.get_text_config(), type(lm).__name__
        has_router = hasattr(config, "output_router_logits")
        declared = (getattr(config, "router_aux_loss_coef", None) or 0.0) if has_router else 0.0
        chosen = declared if coefficient is None else coefficient
        if chosen == 0.0:
            return None
        function = getattr(sys.modules[type(lm).__module__], "load_balancing_loss_func", None)
        experts, top_k = (
            getattr(lm, name, None) or getattr(config, name, None) for name in ("num_experts", "num_experts_per_tok")
        )
        if (
            chosen < 0
            or not has_router
            or function is None
            or list(inspect.signature(function).parameters) != _ARGUMENTS
        ):
            reason = (
                "must not be negative" if chosen < 0 else f"has no effect: {kind} has no auxiliary loss that is known"
            )
            if coefficient is not None:
                raise ValueError(f"router_aux_loss_coef is {chosen} and {reason}; leave it out, or set it to 0")
            _LOG.warning("router_aux_loss_coef of the model's configuration %s; it is not added", reason)
            return None
        assert experts is not None
        assert top_k is not None
        _LOG.info("%s: the router's auxiliary loss is added, times %g (router_aux_loss_coef)", kind, chosen)
        return cls(chosen, function, experts, top_k)

    def __call__(self, router_logits: tuple[Tensor, ...], layout: Layout) -> Tensor:
        """router_logits: [R * S, E] of each layer -> [], not yet times the coefficient; 0 without such layers."""
        weights = layout.responses_per_position.to(torch.float32)
        if not router_logits:
            return weights.new_zeros(())
        virtual = len(router_logits[0]) // len(weights) - layout.width  # tokens that an adapter puts before each row
        weights = torch.nn.functional.pad(weights, (virtual, 0), value=1.0)
        return self.function(router_logits, self.experts, self.top_k, weights)

    def added_to(self, output: ObjectiveOutput, loss: Tensor | None) -> ObjectiveOutput:
        """The output with the loss [] of this batch, if any, times the coefficient, and its metric `aux_loss`."""
        if loss is None:
            return output
        metrics = output.metrics | {"aux_loss": Mean.from_values(loss)}
        return replace(output, loss=output.loss + self.coefficient * loss, metrics=metrics)


def require_gradient(router_logits: tuple[Tensor, ...], policy: nn.Module) -> None:
    """Raise ValueError where they have none because layers are recomputed in backward in the reentrant way, which
    returns a layer's output alone to autograd."""
    if all(logits.requires_grad for logits in router_logits):
        return
    layers = [module for module in policy.modules() if getattr(module, "gradient_checkpointing", False)]
    functions = [getattr(layer, "_gradient_checkpointing_func", None) for layer in layers]
    if any(getattr(function, "keywords", {}).get("use_reentrant") for function in functions):
        raise ValueError(
            "the router's auxiliary loss has no gradient where activations are recomputed with use_reentrant: true; "
            "set it to false (gradient_checkpointing_kwargs), or router_aux_loss_coef to 0"
        )
