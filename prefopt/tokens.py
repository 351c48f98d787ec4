"""The records that flow through prefopt, and the one legend of tensor shapes.

B  preference pairs                 N = 2B  responses, the B chosen rows first
P  prompt tokens (padded)           T       response tokens (padded)
V  vocabulary                       H       hidden size
L  transformer layers               S       activation sites
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self, final

import torch
from torch import Tensor

__all__ = ["PreferenceBatch", "TokenBatch", "masked_mean", "masked_sum"]


def masked_sum(values: Tensor, mask: Tensor) -> Tensor:
    """Sum over the last axis of the entries that the mask keeps; whatever lies under a false mask, even nan, is
    ignored.

    values [..., T] any float, mask [..., T] bool -> [...].
    """
    return torch.where(mask, values, 0).sum(-1)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the last axis of the entries that the mask keeps; 0 where it keeps none.

    values [..., T] any float, mask [..., T] bool -> [...].
    """
    return masked_sum(values, mask) / mask.sum(-1).clamp(min=1)


@final
@dataclass(frozen=True, eq=False)
class PreferenceBatch:
    """Tokenised preference pairs, each field padded on the right to the longest of the batch.

    prompt_ids [B, P], chosen_ids [B, Tc], rejected_ids [B, Tr]     int64
    prompt_mask, chosen_mask, rejected_mask                         bool, of the same shapes
    chosen_truncated, rejected_truncated [B]                        bool: the response was cut, its end is not in it
    rows [B]                                                        int64: where the pair stands in its data set
    chosen_scored, rejected_scored                                  bool, of the shapes of chosen_ids and rejected_ids:
                                the response's own tokens, which a TokenBatch holds, without the turns of others inside
                                it, which models only read; None where there are no such turns
    columns                     extra columns, float32: [B] under "pair:NAME", [B, Tc] and [B, Tr] under "chosen:NAME"
                                and "rejected:NAME"

    >>> PreferenceBatch.from_ids([[5, 6]], chosen=[[7]], rejected=[[8, 9]], pad_token_id=0).lengths
    tensor([5])
    """

    prompt_ids: Tensor
    prompt_mask: Tensor
    chosen_ids: Tensor
    chosen_mask: Tensor
    rejected_ids: Tensor
    rejected_mask: Tensor
    chosen_truncated: Tensor
    rejected_truncated: Tensor
    rows: Tensor
    chosen_scored: Tensor | None = None
    rejected_scored: Tensor | None = None
    columns: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def from_ids(
        cls,
        prompts: Sequence[Sequence[int]],
        chosen: Sequence[Sequence[int]],
        rejected: Sequence[Sequence[int]],
        *,
        pad_token_id: int,
        chosen_truncated: Sequence[bool] | None = None,
        rejected_truncated: Sequence[bool] | None = None,
        rows: Sequence[int] | None = None,
        chosen_masked: Sequence[Sequence[int]] | None = None,
        rejected_masked: Sequence[Sequence[int]] | None = None,
        columns: Mapping[str, Sequence[float] | Sequence[Sequence[float]]] | None = None,
    ) -> Self:
        """Pad lists of token ids, one prompt and two responses a pair, into a batch.

        `columns` has a number for each pair, or for each response token, under the keys that the field has.
        `chosen_masked` and `rejected_masked` are positions in each response of turns of others, which are not scored.

        Raises ValueError where the lists differ in number, or a prompt or a response is empty: the first response token
        needs a token before it to be predicted from.
        """
        count = len(prompts)
        if not count or len(chosen) != count or len(rejected) != count:
            raise ValueError(
                f"a batch needs as many chosen and rejected responses as prompts, and at least one: "
                f"got {count} prompts, {len(chosen)} chosen, {len(rejected)} rejected"
            )
        padded = {}
        for side, sequences in (("prompt", prompts), ("chosen", chosen), ("rejected", rejected)):
            padded[f"{side}_ids"], padded[f"{side}_mask"] = _pad(side, sequences, pad_token_id)
        if any(chosen_masked or ()) or any(rejected_masked or ()):
            for side, masked in (("chosen", chosen_masked), ("rejected", rejected_masked)):
                padded[f"{side}_scored"] = _without(padded[f"{side}_mask"], masked or [()] * count)
        none = [False] * count
        return cls(
            **padded,
            chosen_truncated=torch.tensor(list(chosen_truncated or none), dtype=torch.bool),
            rejected_truncated=torch.tensor(list(rejected_truncated or none), dtype=torch.bool),
            rows=torch.tensor(list(rows if rows is not None else range(count)), dtype=torch.long),
            columns={key: _column(key, values, padded) for key, values in (columns or {}).items()},
        )

    @classmethod
    def from_mapping(cls, fields: Mapping[str, Tensor]) -> Self:
        """The inverse of `as_mapping`."""
        columns = {key: value for key, value in fields.items() if ":" in key}
        return cls(**{key: value for key, value in fields.items() if ":" not in key}, columns=columns)

    def as_mapping(self) -> dict[str, Tensor]:
        """The fields by name: the form in which data loaders, accelerate and DistributedDataParallel move a batch."""
        fields = {name: value for name, value in vars(self).items() if name != "columns" and value is not None}
        return fields | dict(self.columns)

    def to(self, device: torch.device | str) -> Self:
        """The same batch on another device."""
        return self.from_mapping({name: value.to(device) for name, value in self.as_mapping().items()})

    @property
    def pairs(self) -> int:
        """B."""
        return self.prompt_ids.shape[0]

    @property
    def lengths(self) -> Tensor:
        """[B] int64: the tokens of each pair, prompt and both responses."""
        return self.prompt_mask.sum(-1) + self.chosen_mask.sum(-1) + self.rejected_mask.sum(-1)


class TokenPositions(NamedTuple):
    """The positions [M] in the flattened [N * T] at which a mask [N, T] is true, row by row."""

    mask: Tensor
    flat: Tensor


@final
@dataclass(frozen=True, eq=False)
class TokenBatch:
    """What policy and reference give for every response token, without the prompts. Components must not write to it.

    logps, ref_logps        [N, T]        float32   log-probability of each response token; `logps` carries the policy
                                                    gradient, `ref_logps` is zero where no reference is run
    mask                    [N, T]        bool      true on response tokens, which are left-aligned in their row
    token_ids               [N, T]        int64     the response's own tokens
    divergence              [N, T]        float32   divergence of policy and reference at each response token, >= 0 if
                                                    exact; carries gradient
    log_collision           [N, T]        float32   log sum_v pi(v)^2 at each response token: the log-probability that
                                                    two samples of the policy are equal; no gradient
    last_states             [N, T, H]               last hidden states of the policy at the position that predicts y_t;
                                                    no gradient
    input_gradient          [N, T]        float32   how far the policy's input embedding of y_t moves its highest logit
                                                    after the response: the 1-norm of the gradient
    ref_hidden_states       [L, N, T, H]            reference states at the position that predicts y_t
    ref_token_states        [L, N, T, H]            reference states at y_t's own position
    ref_embeddings          [1, N, T, H]            inputs of the reference's first layer at y_t's own position
    ref_activations         [S, N, T]     float32   mean activation of the reference at each site, where y_t is
                                                    predicted
    activation_kinds        S names                 the kind of each site, such as "mlp", or "mlp.abs" for the mean of
                                                    absolute values
    ref_input_gradient      [N, T]        float32   the reference's `input_gradient`
    columns                 [B] or [N, T] float32   extra columns of the data by name, as the objective declares them
    positions                                       where the response tokens stand; None, or those of another mask:
                                                    read off the mask, for which the host waits on a device

    Rows 0..B-1 are the chosen responses and rows B..N-1 the rejected ones of the same pairs, in the same order. The
    fields after `token_ids` are None unless some component of the objective requires them (see `Signal`).

    >>> TokenBatch(*torch.zeros(2, 4, 3), torch.ones(4, 3) > 0, torch.zeros(4, 3).long()).pairs
    2
    """

    logps: Tensor
    ref_logps: Tensor
    mask: Tensor
    token_ids: Tensor
    divergence: Tensor | None = None
    log_collision: Tensor | None = None
    last_states: Tensor | None = None
    input_gradient: Tensor | None = None
    ref_hidden_states: Tensor | None = None
    ref_token_states: Tensor | None = None
    ref_embeddings: Tensor | None = None
    ref_activations: Tensor | None = None
    ref_input_gradient: Tensor | None = None
    activation_kinds: tuple[str, ...] = ()
    columns: Mapping[str, Tensor] = field(default_factory=dict)
    positions: TokenPositions | None = None

    @property
    def pairs(self) -> int:
        """B."""
        return self.mask.shape[0] // 2

    @property
    def is_chosen(self) -> Tensor:
        """[N] bool: true on the chosen rows."""
        return torch.arange(self.mask.shape[0], device=self.mask.device) < self.pairs

    def at_tokens(self, values: Tensor, axis: int = 0) -> Tensor:
        """The values of the response tokens alone, row by row: [..., N, T, ...] with N at `axis` -> [..., M, ...]."""
        if (positions := self.positions) is None or positions.mask is not self.mask:
            positions = TokenPositions(self.mask, self.mask.flatten().nonzero()[:, 0])
        return values.flatten(axis, axis + 1).index_select(axis, positions.flat)

    def replace(self, **fields: Tensor | None) -> Self:
        """The same batch with some fields replaced."""
        return dataclasses.replace(self, **fields)  # type: ignore[arg-type]


def _pad(field: str, sequences: Sequence[Sequence[int]], pad_token_id: int) -> tuple[Tensor, Tensor]:
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    if int(lengths.min()) == 0:
        pair = int(lengths.argmin())
        raise ValueError(f"{field} of pair {pair} is empty; every prompt and response needs at least one token")
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    ids = torch.full(mask.shape, pad_token_id, dtype=torch.long)
    ids[mask] = torch.tensor([token for sequence in sequences for token in sequence], dtype=torch.long)
    return ids, mask


def _without(mask: Tensor, masked: Sequence[Sequence[int]]) -> Tensor:
    """The mask without each row's positions. Raises ValueError where nothing of a row is left."""
    scored = mask.clone()
    for row, positions in enumerate(masked):
        scored[row, list(positions)] = False
    if not bool(scored.any(-1).all()):
        raise ValueError("a response has no token that is scored; at least one must not be masked")
    return scored


def _column(key: str, values: Sequence[Any], padded: Mapping[str, Tensor]) -> Tensor:
    side = key.partition(":")[0]
    mask = padded.get(f"{side}_mask")
    if mask is None:
        return torch.tensor(values, dtype=torch.float32)
    column = torch.zeros(mask.shape)
    if [len(numbers) for numbers in values] != mask.sum(-1).tolist():
        raise ValueError(f"column {key!r} needs as many numbers as the {side} response has tokens, for every pair")
    column[mask] = torch.tensor([number for numbers in values for number in numbers])
    return column
