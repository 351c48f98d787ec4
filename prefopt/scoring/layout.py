"""How the pairs of a batch are laid out as rows of tokens: the two-row layout, [prompt | response] padded on the
right."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from prefopt.tokens import PreferenceBatch

__all__ = ["Layout"]


@final
@dataclass(frozen=True, eq=False)
class Layout:
    """Rows for the models, and where the M response tokens of the batch stand in them.

    input_ids, attention_mask [N, S]; mask, token_ids, columns [N, T] as in TokenBatch
    predicting, own [M]   positions in the flattened [N * S] rows that predict each response token, and of the token
                          itself, in the order in which `mask` walks over the batch
    """

    input_ids: Tensor
    attention_mask: Tensor
    mask: Tensor
    token_ids: Tensor
    predicting: Tensor
    own: Tensor
    columns: Mapping[str, Tensor]

    @classmethod
    def of(cls, batch: PreferenceBatch) -> Layout:
        """The chosen rows first, then the rejected ones."""
        prompt_mask = batch.prompt_mask.repeat(2, 1)
        prompt_lengths = prompt_mask.sum(-1)
        mask = _stacked(batch.chosen_mask, batch.rejected_mask)
        token_ids = _stacked(batch.chosen_ids, batch.rejected_ids)
        steps = torch.arange(mask.shape[1], device=mask.device)
        columns = prompt_lengths[:, None] + steps
        width = int((prompt_lengths + mask.sum(-1)).max())
        row_starts = torch.arange(mask.shape[0], device=mask.device)[:, None] * width
        own = (row_starts + columns)[mask]
        input_ids = token_ids.new_zeros(mask.shape[0], width)
        attention_mask = torch.zeros_like(input_ids)
        prompt_columns = torch.arange(prompt_mask.shape[1], device=mask.device)
        at_prompt = (row_starts + prompt_columns)[prompt_mask]
        input_ids.view(-1)[at_prompt] = batch.prompt_ids.repeat(2, 1)[prompt_mask]
        input_ids.view(-1)[own] = token_ids[mask]
        attention_mask.view(-1)[at_prompt] = 1
        attention_mask.view(-1)[own] = 1
        return cls(
            input_ids, attention_mask, mask, token_ids, predicting=own - 1, own=own, columns=_columns(batch.columns)
        )

    @property
    def labels(self) -> Tensor:
        """[M] the response tokens themselves."""
        return self.token_ids[self.mask]

    def gather(self, states: Tensor, positions: Tensor) -> Tensor:
        """states [N, S, ...] at positions [M] -> [M, ...]."""
        return states.flatten(0, 1)[positions]

    def scatter(self, values: Tensor) -> Tensor:
        """values [M, ...] of the response tokens -> [N, T, ...], zero elsewhere."""
        rows = values.new_zeros(*self.mask.shape, *values.shape[1:])
        rows[self.mask] = values
        return rows


def _stacked(chosen: Tensor, rejected: Tensor) -> Tensor:
    """[B, Tc] and [B, Tr] as one [N, T], padded with zeros on the right."""
    length = max(chosen.shape[1], rejected.shape[1])
    return torch.cat([torch.nn.functional.pad(side, (0, length - side.shape[1])) for side in (chosen, rejected)])


def _columns(columns: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of a PreferenceBatch, "pair:NAME" [B] or "chosen:NAME" and "rejected:NAME", as NAME [B] or [N, T]."""
    found = {}
    for key, values in columns.items():
        name = key.partition(":")[2]
        other = columns.get(f"rejected:{name}")
        if other is None:
            found[name] = values
        elif values is not other:
            found[name] = _stacked(values, other)
    return found
