"""What became of rows, counted one after another: records of the pairs that are kept, and the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import datasets

from prefopt.columns import Column
from prefopt.data.column_values import features
from prefopt.data.encode import OnTooLong
from prefopt.data.report import DataReport, LengthReport
from prefopt.data.row_encoder import Outcome
from prefopt.data.rows import BadRow, DataError, SourceRow
from prefopt.data.truncation import TooLong

_LISTED = 10
"""Bad rows in the message of an error."""

_ALIKE = 3
"""Those of them that have one and the same fault."""

FEATURES = datasets.Features(
    {
        "row": datasets.Value("int64"),
        "length": datasets.Value("int32"),
        "prompt_ids": datasets.List(datasets.Value("int32")),
        "chosen_ids": datasets.List(datasets.Value("int32")),
        "rejected_ids": datasets.List(datasets.Value("int32")),
        "chosen_truncated": datasets.Value("bool"),
        "rejected_truncated": datasets.Value("bool"),
        "chosen_masked": datasets.List(datasets.Value("int32")),
        "rejected_masked": datasets.List(datasets.Value("int32")),
        "where": datasets.Value("string"),
    }
)
"""The columns of a prepared data set, without extra columns."""

MASKED = frozenset({"chosen_masked", "rejected_masked"})
"""Those that a data set without turns of others may lack."""

Record = dict[str, Any]
"""A row of a prepared data set."""


def schema(extra: Sequence[Column]) -> datasets.Features:
    """The columns of a prepared data set with these extra columns."""
    return datasets.Features({**FEATURES, **features(extra)})


@final
class Tally:
    """Counts of rows. `kept` pairs are numbered from 0."""

    def __init__(self, on_too_long: OnTooLong) -> None:
        self._on_too_long = on_too_long
        self._counts: Counter[str] = Counter()
        self._left_out: Counter[str] = Counter()
        self._guessed: Counter[str] = Counter()
        self._lengths = {name: Counter[int]() for name in ("prompt", "chosen", "rejected")}
        self._first_bad: list[BadRow] = []
        self._kinds: Counter[tuple[str, str, str]] = Counter()
        self._like_listed = 0

    def _list(self, row: BadRow) -> None:
        """Keep a row for the message, of a kind of fault the first three."""
        kind = (row.field, row.problem, row.remedy)
        if self._kinds[kind] < _ALIKE and self._kinds.total() < _LISTED:
            self._kinds[kind] += 1
            self._first_bad.append(row)
        else:
            self._like_listed += kind in self._kinds

    @property
    def kept(self) -> int:
        """The pairs so far."""
        return self._counts["kept"]

    def add(self, row: SourceRow | BadRow, outcome: Outcome) -> Record | BadRow | None:
        """Count a row: the record of its pair, a row that cannot be used, or None for one that is dropped."""
        pair, counts = outcome.pair, self._counts
        counts["rows"] += 1
        if pair is None:
            counts["dropped_identical"] += 1
            return None
        if isinstance(pair, TooLong) and self._on_too_long == "drop":
            counts["dropped_too_long"] += 1
            return None
        if isinstance(pair, BadRow):
            counts["too_long" if isinstance(pair, TooLong) else "quarantined"] += 1
            self._list(pair)
            return pair
        sizes = {name: len(getattr(pair, f"{name}_ids")) for name in self._lengths}
        for name, size in sizes.items():
            self._lengths[name][size] += 1
        fields = {name: getattr(pair, name) for name in FEATURES if hasattr(pair, name)}
        position = {"row": counts["kept"], "length": sum(sizes.values()), "where": row.where}
        counts["kept"] += 1
        counts.update(pair.counts)
        self._left_out.update((*sorted(pair.left_out), *outcome.unread))
        self._guessed.update(sorted(pair.guessed))
        return {**position, **fields, **pair.columns}

    def report(self) -> DataReport:
        """The report of the rows so far, of which at least one is kept."""
        fields: dict[str, Any] = {name: self._counts[name] for name in DataReport.counts()}
        fields |= {f"{name}_length": LengthReport.from_counts(sizes) for name, sizes in self._lengths.items()}
        left_out, guessed = dict(self._left_out.most_common()), dict(self._guessed.most_common())
        return DataReport(left_out=left_out, guessed=guessed, **fields)

    def require_usable(self, description: str, quarantine: Path | None) -> None:
        """Raise DataError where rows cannot be used and are not set aside, where pairs are too long, and where none is
        kept."""
        counts = self._counts
        rows, bad, identical = counts["rows"], counts["quarantined"], counts["dropped_identical"]
        too_long, dropped = counts["too_long"], counts["dropped_too_long"]
        hidden = bad + too_long - len(self._first_bad)
        alike = " like these" if hidden == self._like_listed else ""
        more = [f"... and {hidden:,} more{alike}"] if hidden else []
        listing = "".join(f"\n  {line}" for line in (*self._first_bad, *more))
        if bad and quarantine is None:
            raise DataError(
                f"{description}: {bad:,} of {rows:,} rows cannot be used; mend them, or have training set them "
                f"aside with on_bad_rows: quarantine{listing}"
            )
        if too_long:
            raise DataError(
                f"{description}: {too_long:,} of {rows:,} pairs are too long, and on_too_long is 'stop'; raise the "
                f"limits, or choose truncate or drop{listing}"
            )
        if not counts["kept"]:
            reasons = [f"{identical:,} have two responses that are the same tokens"] if identical else []
            reasons += [f"{dropped:,} are too long"] if dropped else []
            reasons += [f"{bad:,} are for {quarantine}"] if bad else []
            summary = ", ".join(reasons) or "it is empty"
            raise DataError(f"{description}: no usable pair in {rows:,} rows; {summary}{listing}")
