"""Random TokenBatches made from logits with plain torch, with rubbish wherever there is padding."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import cycle, islice

import torch
from torch import Tensor

from prefopt import Objective, TokenBatch
from prefopt.component import PreferenceLoss, weights_and_penalty
from prefopt.weightings.sparse.gates import Gate

RUBBISH = (float("nan"), float("inf"), -float("inf"), 1e30, -1e30)
KINDS = ("mlp", "attn", "resid", "mlp", "logits", "attn", "attn")


def rubbish(like: Tensor) -> Tensor:
    """A tensor of that shape made of nan, infinities and huge numbers."""
    return like.new_tensor(list(islice(cycle(RUBBISH), like.numel()))).view_as(like)


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

    def tokens(self) -> TokenBatch:
        """As a TokenBatch, with the forward KL as its divergence."""
        mask, ids = self.mask, torch.where(self.mask, self.token_ids, 0)[..., None]
        logps, ref_logps = self.logits.log_softmax(-1), self.ref_logits.log_softmax(-1)
        divergence = (ref_logps.exp() * (ref_logps - logps)).sum(-1)

        def padded(values: Tensor, where: Tensor) -> Tensor:
            return torch.where(where, values, rubbish(values)) if self.dirty else values

        return TokenBatch(
            logps=padded(logps.gather(-1, ids)[..., 0], mask),
            ref_logps=padded(ref_logps.gather(-1, ids)[..., 0], mask),
            mask=mask,
            token_ids=torch.where(mask, self.token_ids, -(10**9)),
            divergence=padded(divergence, mask),
            log_collision=padded((logps.detach().exp() ** 2).sum(-1).log(), mask),
            ref_hidden_states=padded(self.states, mask[None, :, :, None]),
            ref_token_states=padded(self.token_states, mask[None, :, :, None]),
            ref_embeddings=padded(self.embeddings, mask[None, :, :, None]),
            ref_activations=padded(self.activations, mask[None]),
            activation_kinds=KINDS,
            columns=scores(self.ref_logits[:, 0, 0]),
        )


def scores(levels: Tensor) -> dict[str, Tensor]:
    """The columns score_chosen and score_rejected [B] from any numbers [N], the chosen response's the higher."""
    chosen, rejected = levels.detach().tanh().chunk(2)
    return {"score_chosen": chosen + 2.5, "score_rejected": rejected}


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

    return Case(
        lengths=lengths,
        logits=(2 * normal(rows, width, vocabulary)).requires_grad_(),
        ref_logits=2 * normal(rows, width, vocabulary),
        token_ids=torch.randint(vocabulary, (rows, width), generator=draw),
        states=normal(layers, rows, width, hidden),
        token_states=normal(layers, rows, width, hidden),
        activations=normal(len(KINDS), rows, width),
        embeddings=normal(1, rows, width, hidden),
    )


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
