"""Random TokenBatches made from logits with plain torch, with rubbish wherever there is padding."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field, replace
from itertools import cycle, islice

import torch
from torch import Tensor

from prefopt import Objective, TokenBatch
from prefopt.component import Divergence, PreferenceLoss, SampledDivergence, weights_and_penalty
from prefopt.divergences import ForwardKL
from prefopt.signals import SIGNALS, Signal
from prefopt.weightings.sparse.gates import Gate

RUBBISH = (float("nan"), float("inf"), -float("inf"), 1e30, -1e30)
KINDS = ("mlp", "attn", "resid", "mlp", "logits", "attn", "attn")


def rubbish(like: Tensor) -> Tensor:
    """A tensor of that shape made of nan, infinities and huge numbers."""
    return like.new_tensor(list(islice(cycle(RUBBISH), like.numel()))).view_as(like)


def padded(values: Tensor, mask: Tensor, axis: int) -> Tensor:
    """The values, whose axis of responses is that one, with rubbish off the responses."""
    where = mask.view(*(1,) * axis, *mask.shape, *(1,) * (values.ndim - axis - 2))
    return torch.where(where, values, rubbish(values))


def signals_but(
    given: Container[str], numbers: Callable[..., Tensor], *, rows: int, width: int, layers: int, hidden: int
) -> dict[str, Tensor]:
    """Every signal but those given, from a function that gives numbers of any shape."""
    sizes = {"1": 1, "L": layers, "S": len(KINDS), "N": rows, "T": width, "H": hidden}
    drawn = {}
    for signal, spec in SIGNALS.items():
        shape, function = [sizes[axis] for axis in spec.shape], spec.of_distribution
        if signal not in given:
            values = numbers(*shape) if function is None else function(numbers(*shape, 7).log_softmax(-1))
            drawn[signal.value] = values.abs() if spec.input_gradient else values
    return drawn


DRAWN = {
    "states": Signal.REF_HIDDEN_STATES,
    "token_states": Signal.REF_TOKEN_STATES,
    "embeddings": Signal.REF_EMBEDDINGS,
    "activations": Signal.REF_ACTIVATIONS,
}
"""The fields of a case that are signals."""
OF_LOGITS = (Signal.REF_LOGPS, Signal.DIVERGENCE, Signal.LOG_COLLISION)
"""The signals that a case has by its logits."""


@dataclass
class Case:
    """What two models say of N responses. The lengths of the chosen ones come first; T exceeds every length."""

    lengths: tuple[int, ...]
    logits: Tensor  # [N, T, V], a leaf that takes gradient
    ref_logits: Tensor  # [N, T, V]
    token_ids: Tensor  # [N, T]
    states: Tensor  # [L, N, T, H]
    token_states: Tensor  # [L, N, T, H]
    embeddings: Tensor  # [1, N, T, H]
    activations: Tensor  # [S, N, T]
    dirty: bool = True
    others: Mapping[str, Tensor] = field(default_factory=dict)  # further signals by name

    @property
    def pairs(self) -> int:
        return len(self.lengths) // 2

    @property
    def mask(self) -> Tensor:
        return torch.arange(self.logits.shape[1]) < torch.tensor(self.lengths)[:, None]

    def but(self, **fields: object) -> Case:
        """The same case with some fields replaced, and the policy a fresh leaf."""
        fields = {"logits": self.logits, **fields}
        return replace(self, **{**fields, "logits": fields["logits"].detach().clone().requires_grad_()})  # type: ignore[attr-defined, arg-type]

    @property
    def drawn(self) -> dict[str, Tensor]:
        """The signals that do not follow from the logits, by their names."""
        return {**{signal.value: getattr(self, name) for name, signal in DRAWN.items()}, **self.others}

    def tokens(self, measure: Divergence | None = None) -> TokenBatch:
        """As a TokenBatch, with the forward KL as its divergence where no other is asked for."""
        mask, ids = self.mask, torch.where(self.mask, self.token_ids, 0)[..., None]
        logps, ref_logps = self.logits.log_softmax(-1), self.ref_logits.log_softmax(-1)
        divergence = (ref_logps.exp() * (ref_logps - logps)).sum(-1)
        of_labels = [values.gather(-1, ids)[..., 0] for values in (logps, ref_logps)]
        if measure is not None and measure != ForwardKL():
            divergence = measure(*(of_labels if isinstance(measure, SampledDivergence) else (logps, ref_logps)))
        signals = {
            "logps": of_labels[0],
            "ref_logps": of_labels[1],
            "divergence": divergence,
            "log_collision": (logps.detach().exp() ** 2).sum(-1).log(),
            **self.drawn,
        }
        if self.dirty:
            axes = {signal.value: spec.row_axis for signal, spec in SIGNALS.items()}
            signals = {name: padded(values, mask, axes.get(name, 0)) for name, values in signals.items()}
        return TokenBatch(
            mask=mask,
            token_ids=torch.where(mask, self.token_ids, -(10**9)),
            activation_kinds=KINDS,
            columns=columns_of(self.ref_logits[:, 0, 0], self.ref_logits[..., 0], mask),
            **signals,
        )

    def of_rows(self, rows: list[int]) -> Case:
        """With those responses, in that order."""

        def picked(name: str, values: Tensor) -> Tensor:
            return values[:, rows] if SIGNALS[Signal(name)].row_axis else values[rows]

        return self.but(
            lengths=tuple(self.lengths[row] for row in rows),
            logits=self.logits[rows],
            ref_logits=self.ref_logits[rows],
            token_ids=self.token_ids[rows],
            others={name: picked(name, values) for name, values in self.others.items()},
            **{name: picked(signal, getattr(self, name)) for name, signal in DRAWN.items()},
        )


def columns_of(levels: Tensor, numbers: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """The columns that rows of the zoo read, from any numbers [N] and [N, T], with rubbish off the responses.

    score_chosen, score_rejected [B], the chosen response's the higher; gap_reasoning, gap_answer [B], above 0; weights
    [N, T]; token_rewards [N, T], between -0.5 and 0.5; units in segment, of -1 to 2, and part, of 0 and 1, a 1 first;
    score, quarters, the same within a segment
    """
    levels, numbers = levels.detach(), torch.where(mask, numbers.detach(), 0)
    chosen, rejected = levels.tanh().chunk(2)
    segment = (3 * numbers.abs()).floor() % 4 - 1
    first = torch.arange(mask.shape[1]) == 0
    tokens = {
        "weights": numbers.abs(),
        "token_rewards": numbers.tanh() / 2,
        "segment": segment,
        "part": ((numbers > 0) | first).to(numbers.dtype),
        "score": (4 + 4 * torch.sin(3 * segment + 7 * levels[:, None])).round() / 4,
    }
    gaps = dict(zip(("gap_reasoning", "gap_answer"), (levels.abs() + 0.25).chunk(2), strict=True))
    return {
        "score_chosen": chosen + 2.5,
        "score_rejected": rejected,
        **gaps,
        **{name: padded(values, mask, 0) for name, values in tokens.items()},
    }


def random_case(
    seed: int = 0,
    lengths: tuple[int, ...] = (4, 1, 6, 2, 5, 3),
    *,
    vocabulary: int = 7,
    layers: int = 3,
    hidden: int = 5,
    width: int = 8,
    dtype: torch.dtype = torch.float64,
) -> Case:
    """A case of random logits, states and activations."""
    draw = torch.Generator().manual_seed(seed)
    rows = len(lengths)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=dtype)

    case = Case(
        lengths=lengths,
        logits=(2 * normal(rows, width, vocabulary)).requires_grad_(),
        ref_logits=2 * normal(rows, width, vocabulary),
        token_ids=torch.randint(vocabulary, (rows, width), generator=draw),
        states=normal(layers, rows, width, hidden),
        token_states=normal(layers, rows, width, hidden),
        activations=normal(len(KINDS), rows, width),
        embeddings=normal(1, rows, width, hidden),
    )
    given = (*OF_LOGITS, *DRAWN.values())
    return replace(case, others=signals_but(given, normal, rows=rows, width=width, layers=layers, hidden=hidden))


def batch_of(chosen: Tensor, rejected: Tensor) -> TokenBatch:
    """Responses of one token, whose log-ratios are these [B]; the reference finds all equally likely."""
    logps = torch.cat([chosen, rejected])[:, None]
    mask = torch.ones_like(logps, dtype=torch.bool)
    return TokenBatch(logps=logps, ref_logps=torch.zeros_like(logps), mask=mask, token_ids=mask.long())


def taken(loss: PreferenceLoss, chosen: Tensor, rejected: Tensor) -> Tensor:
    """The loss of these rewards, as at the first step."""
    return loss.build()(chosen, rejected, batch_of(chosen, rejected))


def penalties(objective: Objective, tokens: TokenBatch) -> Tensor:
    """[B], the penalties of the objective's masks for both responses of each pair, a shared mask once."""
    total = torch.zeros(tokens.pairs, dtype=tokens.logps.dtype)
    for mask in (objective.weighting, objective.divergence_weighting):
        penalty = None if mask is None else weights_and_penalty(mask, tokens)[1]
        if penalty is not None:
            total = total + penalty.sum(-1).view(2, -1).sum(0)
    return total


def without_noise(objective: Objective) -> Objective:
    """The objective as in training, but with gates that draw no noise."""
    for module in objective.modules():
        if isinstance(module, Gate):
            module.eval()
    return objective
