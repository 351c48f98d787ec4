"""How the pairs of a batch are laid out as rows of tokens, padded on the right.

Two rows a pair, [prompt | chosen] and [prompt | rejected], as any causal LM takes them; or one, [prompt | chosen |
rejected], whose prompt is computed once. The rows R are then N = 2B or B.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from prefopt.tokens import PreferenceBatch

__all__ = ["Layout"]

_PROMPT, _REJECTED, _PADDING = 0, 2, 3  # 1 is the chosen response


@final
@dataclass(frozen=True, eq=False)
class Prefix:
    """What keeps the two responses of a row apart.

    segments [R, S]      what each position belongs to: the prompt, one of the responses, or padding
    position_ids [R, S]  counted along [prompt | response] for both, so that the rejected one's go on from the prompt
    """

    segments: Tensor
    position_ids: Tensor

    def attention_mask(self, dtype: torch.dtype) -> Tensor:
        """[R, 1, S, S] what is added to attention scores: 0 where the row's position sees the column's.

        Every position sees the prompt and its own segment, up to itself. So does padding: a row of attention that
        saw nothing would be NaN.
        """
        queries, keys = self.segments[:, None, :, None], self.segments[:, None, None, :]
        steps = torch.arange(self.segments.shape[1], device=self.segments.device)
        hidden = (keys != queries).logical_and_(keys != _PROMPT).logical_or_(steps[:, None] < steps)
        return torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill_(hidden, torch.finfo(dtype).min)


@final
@dataclass(frozen=True, eq=False)
class Layout:
    """Rows for the models, and where the M response tokens of the batch stand in them.

    input_ids, attention_mask [R, S]; mask, token_ids, columns [N, T] as in TokenBatch
    predicting, own [M]   positions in the flattened [R * S] rows that predict each response token, and of the token
                          itself, in the order in which `mask` walks over the batch
    prefix                where the responses of a pair share their row
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

    @classmethod
    def shared(cls, batch: PreferenceBatch) -> Layout:
        """One row a pair, packed without gaps. The same M response tokens in the same order as in `of`."""
        mask = _stacked(batch.chosen_mask, batch.rejected_mask)
        token_ids = _stacked(batch.chosen_ids, batch.rejected_ids)
        prompts, chosen, rejected = (m.sum(-1) for m in (batch.prompt_mask, batch.chosen_mask, batch.rejected_mask))
        ends = prompts + chosen + rejected
        width = int(ends.max())
        first_row = torch.arange(batch.pairs, device=mask.device)[:, None] * width
        row_starts = first_row.repeat(2, 1)
        starts = torch.cat([prompts, prompts + chosen])[:, None]  # [N, 1] of each response in its row
        steps = torch.arange(mask.shape[1], device=mask.device)
        own = (row_starts + starts + steps)[mask]
        # The prompt's last position predicts the first token of both responses.
        before = torch.where(steps == 0, prompts.repeat(2)[:, None], starts + steps) - 1
        columns = torch.arange(width, device=mask.device)
        boundaries = torch.stack([prompts, prompts + chosen, ends])[..., None]
        segments = (columns >= boundaries).sum(0)
        restarted = torch.where(segments == _REJECTED, columns - chosen[:, None], columns)
        input_ids = token_ids.new_zeros(batch.pairs, width)
        prompt_columns = torch.arange(batch.prompt_mask.shape[1], device=mask.device)
        input_ids.view(-1)[(first_row + prompt_columns)[batch.prompt_mask]] = batch.prompt_ids[batch.prompt_mask]
        input_ids.view(-1)[own] = token_ids[mask]
        return cls(
            input_ids,
            (segments != _PADDING).to(input_ids.dtype),
            mask,
            token_ids,
            predicting=(row_starts + before)[mask],
            own=own,
            columns=_columns(batch.columns),
            prefix=Prefix(segments, torch.where(segments == _PADDING, 0, restarted)),
        )

    def inputs(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """The arguments of a call to a model whose states are of this dtype."""
        if self.prefix is None:
            return {"input_ids": self.input_ids, "attention_mask": self.attention_mask}
        return {
            "input_ids": self.input_ids,
            "attention_mask": self.prefix.attention_mask(dtype),
            "position_ids": self.prefix.position_ids,
        }

    @property
    def width(self) -> int:
        """S, the length of the rows with their padding."""
        return self.input_ids.shape[1]

    @property
    def pairs(self) -> int:
        """B, or those of which the responses are asked for."""
        return self.mask.shape[0] // 2

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
