"""Batches of a prepared data set's rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from torch import Tensor

from prefopt.columns import Column
from prefopt.tokens import PreferenceBatch


@final
@dataclass(frozen=True)
class PreferenceCollator:
    """Rows of `prepare`'s data set -> the fields of a PreferenceBatch as a mapping of tensors.

    pad_token_id  fills the padding, which the masks exclude
    columns       the extra columns to include, of those that the data set was prepared with

    >>> collator = PreferenceCollator(pad_token_id=0)
    """

    pad_token_id: int
    columns: Sequence[Column] = ()

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """B rows -> prompt_ids [B, P], chosen_ids [B, Tc], rejected_ids [B, Tr] and the other fields, by name.

        Raises ValueError for no rows, KeyError where a row lacks a column.
        """
        return PreferenceBatch.from_ids(
            [row["prompt_ids"] for row in rows],
            [row["chosen_ids"] for row in rows],
            [row["rejected_ids"] for row in rows],
            pad_token_id=self.pad_token_id,
            chosen_truncated=[row["chosen_truncated"] for row in rows],
            rejected_truncated=[row["rejected_truncated"] for row in rows],
            rows=[row["row"] for row in rows],
            chosen_masked=[row.get("chosen_masked", ()) for row in rows],
            rejected_masked=[row.get("rejected_masked", ()) for row in rows],
            columns={key: [row[key] for row in rows] for column in self.columns for key in column.keys},
        ).as_mapping()
