"""How the pairs of a batch are laid out as rows of tokens, padded on the right.

Two rows a pair, [prompt | chosen] and [prompt | rejected], as any causal LM takes them; or one, [prompt | chosen |
rejected], whose prompt is computed once, and in which other pairs may follow. The rows R are then N = 2B, or B at most.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from prefopt.scoring.packing import Places, one_each
from prefopt.scoring.prefix import CHOSEN, PROMPT, REJECTED, SEGMENTS, Prefix
from prefopt.tokens import PreferenceBatch

__all__ = ["Layout"]


@final
@dataclass(frozen=True, eq=False)
class Layout:
    """Rows for the models, and where the M response tokens of the batch stand in them.

    input_ids, attention_mask [R, S]; mask, token_ids, columns [N, T] as in TokenBatch
    predicting, own [M]   positions in the flattened [R * S] rows that predict each response token, and of the token
                          itself, in the order in which `mask` walks over the batch
    prefix                where the responses of a pair share their row, or several pairs do
    """

    input_ids: Tensor
    attention_mask: Tensor
    mask: Tensor
    token_ids: Tensor
    predicting: Tensor
    own: Tensor
    columns: Mapping[str, Tensor]
    prefix: Prefix | None = None

    @classmethod
    def of(cls, batch: PreferenceBatch) -> Layout:
        """The chosen rows first, then the rejected ones."""
        prompt_mask = batch.prompt_mask.repeat(2, 1)
        prompts = prompt_mask.sum(-1)
        mask, token_ids = (
            _stacked(batch.chosen_mask, batch.rejected_mask),
            _stacked(batch.chosen_ids, batch.rejected_ids),
        )
        shape = (mask.shape[0], int((prompts + mask.sum(-1)).max()))
        starts = torch.arange(shape[0], device=mask.device) * shape[1]
        at_prompt, own = _from(starts, prompt_mask)[prompt_mask], _from(starts + prompts, mask)[mask]
        input_ids = _rows(shape, 0, (at_prompt, batch.prompt_ids.repeat(2, 1)[prompt_mask]), (own, token_ids[mask]))
        return cls(
            input_ids,
            _rows(shape, 0, (at_prompt, torch.ones_like(at_prompt)), (own, torch.ones_like(own))),
            mask,
            token_ids,
            predicting=own - 1,
            own=own,
            columns=_columns(batch.columns),
        )

    @classmethod
    def shared(cls, batch: PreferenceBatch, places: Places | None = None) -> Layout:
        """One row a pair, or several pairs in a row at their places, without gaps. The same M response tokens in the
        same order as in `of`."""
        mask, token_ids = (
            _stacked(batch.chosen_mask, batch.rejected_mask),
            _stacked(batch.chosen_ids, batch.rejected_ids),
        )
        prompt_mask = batch.prompt_mask
        prompts, chosen = prompt_mask.sum(-1), batch.chosen_mask.sum(-1)
        rows, starts = torch.tensor(places or one_each(batch.pairs), device=mask.device)
        shape = (int(rows.max()) + 1, int((starts + batch.lengths).max()))
        starts = rows * shape[1] + starts  # [B] of each pair in the flattened rows
        after_prompt = (starts + prompts).repeat(2)
        in_row = _from(torch.cat([starts + prompts, starts + prompts + chosen]), mask)
        at_prompt, own = _from(starts, prompt_mask)[prompt_mask], in_row[mask]
        # The prompt's last position predicts the first token of both responses.
        steps = _from(torch.zeros_like(after_prompt), mask)
        before = torch.where(steps == 0, after_prompt[:, None], in_row) - 1
        first = SEGMENTS * torch.arange(batch.pairs, device=mask.device)[:, None]
        of_prompt = (first + PROMPT).expand_as(prompt_mask)[prompt_mask]
        of_response = torch.cat([first + CHOSEN, first + REJECTED]).expand_as(mask)[mask]
        padding = SEGMENTS * batch.pairs
        segments = _rows(shape, padding, (at_prompt, of_prompt), (own, of_response))
        along_prompt = _from(torch.zeros_like(starts), prompt_mask)[prompt_mask]
        along_response = _from(prompts.repeat(2), mask)[mask]
        return cls(
            _rows(shape, 0, (at_prompt, batch.prompt_ids[prompt_mask]), (own, token_ids[mask])),
            (segments != padding).to(token_ids.dtype),
            mask,
            token_ids,
            predicting=before[mask],
            own=own,
            columns=_columns(batch.columns),
            prefix=Prefix(segments, _rows(shape, 0, (at_prompt, along_prompt), (own, along_response))),
        )

    def inputs(self, dtype: torch.dtype, attention: str | None = None) -> dict[str, Any]:
        """The arguments of a call to a model whose states are of this dtype, with attention of this implementation."""
        if self.prefix is None:
            return {"input_ids": self.input_ids, "attention_mask": self.attention_mask}
        return {
            "input_ids": self.input_ids,
            "attention_mask": self.prefix.mask(attention, dtype),
            "position_ids": self.prefix.position_ids,
        }

    @property
    def width(self) -> int:
        """S, the length of the rows with their padding."""
        return self.input_ids.shape[1]

    @property
    def labels(self) -> Tensor:
        """[M] the response tokens themselves."""
        return self.token_ids[self.mask]

    def gather(self, states: Tensor, positions: Tensor) -> Tensor:
        """states [R, S, ...] at positions [M] -> [M, ...]."""
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


def _from(starts: Tensor, mask: Tensor) -> Tensor:
    """starts [n] + 0, 1, ... along mask [n, T] -> [n, T]."""
    return starts[:, None] + torch.arange(mask.shape[1], device=mask.device)


def _rows(shape: tuple[int, int], fill: int, *parts: tuple[Tensor, Tensor]) -> Tensor:
    """[R, S] of `fill`, but for (positions in the flattened rows, values there)."""
    rows = parts[0][1].new_full(shape, fill)
    for positions, values in parts:
        rows.view(-1)[positions] = values
    return rows


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
