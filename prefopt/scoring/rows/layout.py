"""Layout of a batch's pairs as R rows of S tokens, padded on the right.

Two rows a pair, [prompt | chosen] and [prompt | rejected], R = N = 2B, as any causal LM takes them; or shared rows,
[prompt | chosen | rejected], whose prompt is computed once and which other pairs may follow, R <= B.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, final

import torch
from torch import Tensor

from prefopt.scoring.rows.attention_mask import CHOSEN, PROMPT, REJECTED, SEGMENTS, Prefix
from prefopt.scoring.rows.packing import Placement, one_per_row
from prefopt.tokens import PreferenceBatch


@final
@dataclass(frozen=True, eq=False)
class Layout:
    """Rows for the models, and the positions of the M response tokens in them.

    input_ids, attention_mask [R, S]; mask, token_ids, columns [N, T] as in TokenBatch
    query_positions [M]   positions in the flattened [R * S] rows that predict the response tokens, in the order of
                          `mask`
    label_positions [M]   positions of the tokens themselves
    token_positions [M]   positions of the response tokens in the flattened [N * T]
    prefix                of shared rows; None with two rows a pair
    """

    input_ids: Tensor
    attention_mask: Tensor
    mask: Tensor
    token_ids: Tensor
    query_positions: Tensor
    label_positions: Tensor
    token_positions: Tensor
    columns: Mapping[str, Tensor]
    prefix: Prefix | None = None

    @classmethod
    def two_rows(cls, batch: PreferenceBatch) -> Layout:
        """A row for each response, the chosen ones first."""
        prompts = batch.prompt_mask.sum(-1)
        shape = (2 * batch.pairs, longest_row(batch))
        starts = torch.arange(shape[0], device=prompts.device) * shape[1]
        return cls._from_starts(batch, shape, starts, starts + prompts.repeat(2), shared=False)

    @classmethod
    def shared(cls, batch: PreferenceBatch, placement: Placement | None = None) -> Layout:
        """One row a pair, or several pairs in a row as placed. The M response tokens have the order of `two_rows`."""
        prompts, chosen = batch.prompt_mask.sum(-1), batch.chosen_mask.sum(-1)
        rows, in_row = torch.tensor(placement or one_per_row(batch.pairs), device=prompts.device)
        shape = (int(rows.max()) + 1, int((in_row + batch.lengths).max()))
        starts = rows * shape[1] + in_row
        responses = torch.cat([starts + prompts, starts + prompts + chosen])
        return cls._from_starts(batch, shape, starts.repeat(2), responses, shared=True)

    @classmethod
    def _from_starts(
        cls, batch: PreferenceBatch, shape: tuple[int, int], prompt_starts: Tensor, starts: Tensor, *, shared: bool
    ) -> Layout:
        """From the starts [N] of each response and its prompt in the flattened rows of this shape."""
        mask = _stack(batch.chosen_mask, batch.rejected_mask)
        scored = mask
        if batch.chosen_scored is not None and batch.rejected_scored is not None:
            # Models read the turns of others inside a response; no TokenBatch holds them.
            scored = _stack(batch.chosen_scored, batch.rejected_scored)
        token_ids = _stack(batch.chosen_ids, batch.rejected_ids)
        prompt_mask = batch.prompt_mask.repeat(2, 1)
        prompts = prompt_mask.sum(-1, keepdim=True)
        prompt_steps, steps = (torch.arange(m.shape[1], device=m.device).expand_as(m) for m in (prompt_mask, mask))
        prompt_positions, positions = prompt_starts[:, None] + prompt_steps, starts[:, None] + steps
        # The prompt's last position predicts the first token of every response to it.
        query_positions = torch.where(steps == 0, prompt_starts[:, None] + prompts, positions) - 1
        no_pair = SEGMENTS * batch.pairs
        pairs = torch.arange(0, no_pair, SEGMENTS, device=mask.device)[:, None]

        def aligned(values: Tensor) -> Tensor:
            return values if scored is mask else _left_aligned(values, scored)

        def rows(padding: int, prompt_values: Tensor, response_values: Tensor) -> Tensor:
            values = token_ids.new_full(shape, padding)
            values.view(-1)[prompt_positions[prompt_mask]] = prompt_values.expand_as(prompt_mask)[prompt_mask]
            values.view(-1)[positions[mask]] = response_values.expand_as(mask)[mask]
            return values

        segments = rows(no_pair, (pairs + PROMPT).repeat(2, 1), torch.cat([pairs + CHOSEN, pairs + REJECTED]))
        kept = aligned(scored)
        return cls(
            input_ids=rows(0, batch.prompt_ids.repeat(2, 1), token_ids),
            attention_mask=(segments != no_pair).to(token_ids.dtype),
            mask=kept,
            token_ids=aligned(token_ids),
            query_positions=query_positions[scored],
            label_positions=positions[scored],
            token_positions=kept.flatten().nonzero()[:, 0],
            columns={name: aligned(v) if v.dim() > 1 else v for name, v in _columns(batch.columns).items()},
            prefix=Prefix(segments, rows(0, prompt_steps, prompts + steps)) if shared else None,
        )

    def to(self, device: torch.device) -> Layout:
        """The same layout on another device; the host does not wait for CUDA."""
        if self.mask.device == device:
            return self

        # Of memory that is not pinned CUDA takes a copy before it goes on; others read it later, when it may be freed.
        non_blocking = device.type == "cuda"

        def moved(values: Any) -> Any:
            return values.to(device, non_blocking=non_blocking) if isinstance(values, Tensor) else values

        fields = {name: moved(values) for name, values in vars(self).items()}
        fields["columns"] = {name: moved(values) for name, values in self.columns.items()}
        if self.prefix is not None:
            fields["prefix"] = Prefix(moved(self.prefix.segments), moved(self.prefix.position_ids))
        return Layout(**fields)

    def inputs(self, dtype: torch.dtype, attention: str | None = None) -> dict[str, Any]:
        """Keyword arguments of a model's forward, for states of this dtype and an attention implementation."""
        if self.prefix is None:
            return {"input_ids": self.input_ids, "attention_mask": self.attention_mask}
        return {
            "input_ids": self.input_ids,
            "attention_mask": self.prefix.mask(attention, dtype),
            "position_ids": self.prefix.position_ids,
        }

    @property
    def shape(self) -> tuple[int, int]:
        """R, S."""
        return self.input_ids.shape[0], self.width

    @property
    def width(self) -> int:
        """S."""
        return self.input_ids.shape[1]

    @property
    def pairs(self) -> int:
        """B, or the pairs of a group where the layout was narrowed to one."""
        return self.mask.shape[0] // 2

    @property
    def labels(self) -> Tensor:
        """The response tokens [M]."""
        return self.token_ids.flatten()[self.token_positions]

    @property
    def responses_per_position(self) -> Tensor:
        """How many responses a position belongs to, [R, S]: 0 for padding, 2 for a prompt that both of a pair share."""
        if self.prefix is None:
            return self.attention_mask
        return self.attention_mask * (1 + (self.prefix.segments % SEGMENTS == PROMPT))

    def gather(self, states: Tensor, positions: Tensor) -> Tensor:
        """states [R, S, ...] at positions [M] -> [M, ...]."""
        return states.flatten(0, 1)[positions]

    def scatter(self, values: Tensor) -> Tensor:
        """values [M, ...] of the response tokens -> [N, T, ...], zero elsewhere."""
        rows = values.new_zeros(self.mask.numel(), *values.shape[1:])
        rows[self.token_positions] = values
        return rows.view(*self.mask.shape, *values.shape[1:])

    def stack(self, layers: Sequence[Tensor], positions: Tensor) -> Tensor:
        """`scatter` of `gather` of the states [R, S, H] of each layer -> [L, N, T, H], without a copy of all of them
        beside it."""
        index = positions.new_zeros(self.mask.numel())  # padding copies position 0, and is zeroed at the end
        index[self.token_positions] = positions
        dtype = reduce(torch.promote_types, (layer.dtype for layer in layers))
        width = layers[0].shape[-1]
        stack = layers[0].new_empty(len(layers), len(index), width, dtype=dtype)
        for number, layer in enumerate(layers):
            stack[number] = layer.flatten(0, 1).index_select(0, index)
        stack = stack.view(len(layers), *self.mask.shape, width)
        return stack if len(positions) == len(index) else stack.masked_fill_(~self.mask[..., None], 0)


def longest_row(batch: PreferenceBatch) -> int:
    """Tokens of the longest prompt and response: S of two rows a pair."""
    responses = torch.maximum(batch.chosen_mask.sum(-1), batch.rejected_mask.sum(-1))
    return int((batch.prompt_mask.sum(-1) + responses).max())


def _stack(chosen: Tensor, rejected: Tensor) -> Tensor:
    """[B, Tc] and [B, Tr] as one [N, T], padded with zeros on the right."""
    length = max(chosen.shape[1], rejected.shape[1])
    return torch.cat([torch.nn.functional.pad(side, (0, length - side.shape[1])) for side in (chosen, rejected)])


def _left_aligned(values: Tensor, scored: Tensor) -> Tensor:
    """The scored entries of [N, T] at the left of their rows."""
    order = scored.to(torch.int8).argsort(dim=-1, descending=True, stable=True)
    return values.gather(-1, order)


def _columns(columns: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """ "pair:NAME" [B] as NAME [B]; "chosen:NAME" and "rejected:NAME" as NAME [N, T]."""
    by_name = {}
    for key, values in columns.items():
        side, _, name = key.partition(":")
        if side != "rejected":
            by_name[name] = _stack(values, columns[f"rejected:{name}"]) if side == "chosen" else values
    return by_name
