"""SparsePO's weights, and the choices around them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Literal, Self, final

from pydantic import Field, model_validator
from torch import Tensor

from prefopt.component import Signal, TokenWeighting
from prefopt.tokens import TokenBatch
from prefopt.weightings.budgets import Rescale, mean_one
from prefopt.weightings.sparse.gates import GATES
from prefopt.weightings.sparse.initial import INITIALISERS
from prefopt.weightings.sparse.mask import SparseMask

GateName = Literal["relu", "softplus", "sigmoid", "hard_concrete", "binary", "top_k"]
ScaleName = Literal["free", "mean_one"]
Layers = Literal["all", "last"] | Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)]


def _free(weights: Tensor, tokens: TokenBatch) -> Tensor:
    return weights


SCALES: Mapping[str, Rescale] = MappingProxyType({"free": _free, "mean_one": mean_one})


@final
class SparseWeighting(TokenWeighting):
    """w_t = scale(gate(sum_l c_l a_l)), a_l = relu(u_l . LN(h_l) + b_l) over layers l of the reference.

    The parameters u, b, c and those of LN (one LayerNorm for all layers) are learned. The defaults are published:
    relu gate, all layers, the position that predicts y_t, no scale.

    position      whose states h are: "predicting", those that predict y_t, a function of the context that cannot see
                  y_t; "token", those at y_t's own position; or "embedding", what the first layer is given there: y_t
                  itself and, where the model adds it, its place. That is one h, as of one layer
    layers        "all", "last" (then c = 1), or numbers from 1 to L
    architecture  "linear", or "two_layer": u_l reads gelu(V_l LN(h_l) + d_l), `hidden_width` numbers
    gate          "relu"; "softplus"; "sigmoid"; "hard_concrete" (zeros and ones, drawn in training); "binary"; "top_k"
                  (the `share` of a response's tokens that score highest). Only under "relu" has a_l its relu
    init          "published": u and c (and V) from N(0, 0.02), so weights of relu start near 0, some seeds all-zero; or
                  "near_one": u = 0, b where the gate is at or near one, c = 1/L up to 2^-20 with sum c = 1
    scale         "free"; "mean_one": over the mean of the response, so that beta keeps its meaning. Where all its
                  weights are zero they stay so
    floor         the least mean weight of a response, before the scale: where it would be less, the response's scores
                  are raised by one number until it is that (see `raised`). So a mask neither dies nor loses its scale,
                  and an L1 acts above the floor alone. Of "relu", whose a_l has no relu then; 0: no floor. At most
                  100, beyond which the scores are lost in rounding
    l0            adds l0 sum_t P(w_t is not 0) over both responses to the loss of a pair; "hard_concrete" and "binary"
    dropout       acts on a_l and on gate(...) in training

    Source: SparsePO (arXiv 2410.05102), its mask over all layers and its variants; hard concrete gates and their L0
    penalty, arXiv 1712.01312; the other gates, scales and starts, this package.

    >>> sum(p.numel() for p in SparseWeighting(layers="last").build(num_layers=2, hidden_size=8).parameters())
    25
    """

    name: Literal["sparse"] = "sparse"
    position: Literal["predicting", "token", "embedding"] = "predicting"
    layers: Layers = "all"
    architecture: Literal["linear", "two_layer"] = "linear"
    hidden_width: int = Field(default=200, ge=1)
    gate: GateName = "relu"
    share: float = Field(default=0.2, gt=0, le=1)
    init: Literal["published", "near_one"] = "published"
    scale: ScaleName = "free"
    floor: float = Field(default=0.0, ge=0, le=100)
    l0: float = Field(default=0.0, ge=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)

    @property
    def requires(self) -> frozenset[Signal]:
        return frozenset({_STATES[self.position]})

    @property
    def expected_failures(self) -> Mapping[str, str]:
        if (self.gate, self.init, self.floor) != ("relu", "published", 0) or self.layers == "last":
            return {}
        reason = "as published: where every mixer weight c_l is negative, the outer relu is zero everywhere"
        return {"no_dead_start": f"{reason}; init near_one or a floor starts alive"}

    def build(self, *, num_layers: int, hidden_size: int) -> SparseMask:
        """The learned mask for a reference of that many layers and that hidden size.

        Raises ValueError where the reference has no such layer.
        """
        num_layers = _DEPTHS[self.position](num_layers)
        numbers = _LAYERS[self.layers](num_layers) if isinstance(self.layers, str) else self.layers
        if missing := [number for number in numbers if number > num_layers]:
            raise ValueError(
                f"sparse: layers: there is no layer {missing[0]}; the reference has {num_layers} layers, numbered "
                "from 1"
            )
        mask = SparseMask(
            num_layers,
            hidden_size,
            states=_STATES[self.position],
            layers=[number - 1 for number in numbers],
            mixes=self.layers != "last",
            hidden=self.hidden_width if _HAS_HIDDEN_LAYER[self.architecture] else None,
            gate=GATES[self.gate](self.share),
            scale=SCALES[self.scale],
            floor=self.floor,
            l0=self.l0,
            dropout=self.dropout,
        )
        INITIALISERS[self.init](mask)
        return mask

    @model_validator(mode="after")
    def _every_field_is_read(self) -> Self:
        for field, (by, values) in _READ_WITH.items():
            default = type(self).model_fields[field].default
            if getattr(self, field) != default and getattr(self, by) not in values:
                raise ValueError(
                    f"{field} is read only with {by} {' or '.join(values)}, and {by} is {getattr(self, by)}; leave "
                    f"{field} at {default}, or change {by}"
                )
        if isinstance(self.layers, tuple) and len(set(self.layers)) < len(self.layers):
            raise ValueError(f"layers: each once, got {self.layers}")
        return self


_STATES = MappingProxyType(
    {"predicting": Signal.REF_HIDDEN_STATES, "token": Signal.REF_TOKEN_STATES, "embedding": Signal.REF_EMBEDDINGS}
)
_DEPTHS: Mapping[str, Callable[[int], int]] = MappingProxyType(
    {"predicting": lambda layers: layers, "token": lambda layers: layers, "embedding": lambda layers: 1}
)
_LAYERS: Mapping[str, Callable[[int], Sequence[int]]] = MappingProxyType(
    {"all": lambda number: range(1, number + 1), "last": lambda number: (number,)}
)
_HAS_HIDDEN_LAYER = MappingProxyType({"linear": False, "two_layer": True})
_READ_WITH = MappingProxyType(
    {
        "hidden_width": ("architecture", ("two_layer",)),
        "layers": ("position", ("predicting", "token")),
        "share": ("gate", ("top_k",)),
        "floor": ("gate", ("relu",)),
        "l0": ("gate", ("hard_concrete", "binary")),
    }
)
