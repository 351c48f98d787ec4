"""One pass over the rows: validate, encode, count, and collect the usable ones in a data set of token ids."""

from __future__ import annotations

import json
import math
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Literal, Self, TextIO, get_args

import datasets
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from transformers import PreTrainedTokenizerBase

from prefopt.columns import Column
from prefopt.data.column_values import features, read_column_values
from prefopt.data.encode import EncodedPair, EncodingConfig, encode_pair
from prefopt.data.pairs import check_columns, to_pair
from prefopt.data.rows import BadRow, DataError, SourceRow

OnBadRows = Literal["stop", "quarantine"]

_LISTED = 10
"""Bad rows in the message of an error."""

_CHUNK = 1000
"""Pairs held as Python lists before they go to Arrow, where a token takes 4 bytes instead of some 36."""

FEATURES = datasets.Features(
    {
        "row": datasets.Value("int64"),
        "length": datasets.Value("int32"),
        "prompt_ids": datasets.List(datasets.Value("int32")),
        "chosen_ids": datasets.List(datasets.Value("int32")),
        "rejected_ids": datasets.List(datasets.Value("int32")),
        "chosen_truncated": datasets.Value("bool"),
        "rejected_truncated": datasets.Value("bool"),
        "where": datasets.Value("string"),
    }
)
"""The columns of a prepared data set, without extra columns."""


@dataclass(frozen=True)
class LengthReport:
    """Lengths in tokens, after truncation: minimum, maximum and the 50% and 95% quantiles."""

    minimum: int
    median: int
    quantile_95: int
    maximum: int

    @classmethod
    def from_lengths(cls, lengths: Iterable[int]) -> Self:
        """The report of these lengths, of which there is at least one."""
        ordered = sorted(lengths)
        median, quantile_95 = (ordered[math.ceil(len(ordered) * percent / 100) - 1] for percent in (50, 95))
        return cls(ordered[0], median, quantile_95, ordered[-1])

    def __str__(self) -> str:
        most = f"half up to {self.median:,}, 95% up to {self.quantile_95:,}"
        return f"{self.minimum:,} to {self.maximum:,}, {most}"


@dataclass(frozen=True)
class DataReport:
    """Counts of rows and, as one row is one pair, of pairs: rows = kept + quarantined + dropped_identical.

    `responses_truncated` counts pairs with either response truncated.
    """

    rows: int
    kept: int
    quarantined: int
    dropped_identical: int
    prompts_truncated: int
    responses_truncated: int
    boundaries_moved: int
    prompt_length: LengthReport
    chosen_length: LengthReport
    rejected_length: LengthReport

    def to_dict(self) -> dict[str, object]:
        """The fields by name, ready for JSON."""
        return asdict(self)

    def lines(self) -> list[str]:
        """The report as text, without counts of zero."""
        counts = {
            "bad rows set aside in the quarantine file": self.quarantined,
            "pairs dropped: both responses are the same tokens": self.dropped_identical,
            "prompts cut at their beginning": self.prompts_truncated,
            "pairs with a response cut at its end": self.responses_truncated,
            "pairs whose prompt ends inside a token of a response; the boundary was moved": self.boundaries_moved,
        }
        lengths = {"prompt": self.prompt_length, "chosen": self.chosen_length, "rejected": self.rejected_length}
        return [
            f"{self.rows:,} rows read, {self.kept:,} pairs kept",
            *(f"{count:,} {what}" for what, count in counts.items() if count),
            *(f"tokens of {name}: {length}" for name, length in lengths.items()),
        ]


def prepare(
    rows: Iterable[SourceRow | BadRow],
    tokenizer: PreTrainedTokenizerBase,
    config: EncodingConfig,
    *,
    description: str,
    columns: Mapping[str, str] | None = None,
    extra: Sequence[Column] = (),
    on_bad_rows: OnBadRows = "stop",
    quarantine: Path | None = None,
    total: int | None = None,
) -> tuple[datasets.Dataset, DataReport]:
    """The usable rows as a data set of token ids, and the report on all rows.

    Columns: `row` (0, 1, 2, ... in the data set), `length` (tokens of prompt and both responses, for samplers that
    group by it), `prompt_ids`, `chosen_ids`, `rejected_ids`, `chosen_truncated`, `rejected_truncated`, `where`.

    description  names the data in messages and on the progress bar, which shows on a terminal
    columns      as for `to_pair`, for the fields of the extra columns too
    extra        the columns that an objective reads (`ObjectiveConfig.columns`), stored under their `keys`
    on_bad_rows  "stop" reads to the end and raises a DataError that lists the first ten; "quarantine" writes each as a
                 line of JSON to the file `quarantine`, replacing what it held
    total        the number of rows, where it is known

    Raises DataError where no row is usable, too.
    """
    columns = columns or {}
    check_columns(columns, extra)
    if on_bad_rows not in get_args(OnBadRows):
        raise ValueError(f"on_bad_rows: '{on_bad_rows}' is none of {', '.join(get_args(OnBadRows))}")
    if on_bad_rows == "quarantine" and quarantine is None:
        raise ValueError("on_bad_rows is 'quarantine', but no quarantine file is named")
    set_aside = quarantine if on_bad_rows == "quarantine" else None
    schema = datasets.Features({**FEATURES, **features(extra)})
    counts: Counter[str] = Counter()
    lengths = {name: array("q") for name in ("prompt", "chosen", "rejected")}
    first_bad: list[BadRow] = []

    def records(rows: Iterable[SourceRow | BadRow], file: TextIO | None) -> Iterator[dict[str, object]]:
        for row in rows:
            counts["rows"] += 1
            pair = row if isinstance(row, BadRow) else _encode(row, tokenizer, config, columns, extra)
            if pair is None:
                counts["dropped_identical"] += 1
            elif isinstance(pair, BadRow):
                counts["quarantined"] += 1
                if len(first_bad) < _LISTED:
                    first_bad.append(pair)
                if file is not None:
                    file.write(_to_json(pair) + "\n")
            else:
                sizes = {name: len(getattr(pair, f"{name}_ids")) for name in lengths}
                for name, size in sizes.items():
                    lengths[name].append(size)
                fields = {name: value for name, value in vars(pair).items() if name in FEATURES}
                position = {"row": counts["kept"], "length": sum(sizes.values()), "where": row.where}
                yield {**position, **fields, **pair.columns}
                counts["kept"] += 1
                counts["prompts_truncated"] += pair.prompt_truncated
                counts["responses_truncated"] += pair.chosen_truncated or pair.rejected_truncated
                counts["boundaries_moved"] += pair.boundary_moved

    console = Console(stderr=True)
    hidden = not console.is_terminal or datasets.are_progress_bars_disabled()
    chunks = []
    with (
        nullcontext() if set_aside is None else _create(set_aside) as file,
        Progress(console=console, transient=True, disable=hidden) as progress,
    ):
        usable = records(progress.track(rows, total=total, description=escape(description)), file)
        while chunk := list(islice(usable, _CHUNK)):
            chunks.append(datasets.Dataset.from_list(chunk, features=schema))

    _require_usable(description, counts, first_bad, set_aside)
    report = DataReport(
        rows=counts["rows"],
        kept=counts["kept"],
        quarantined=counts["quarantined"],
        dropped_identical=counts["dropped_identical"],
        prompts_truncated=counts["prompts_truncated"],
        responses_truncated=counts["responses_truncated"],
        boundaries_moved=counts["boundaries_moved"],
        prompt_length=LengthReport.from_lengths(lengths["prompt"]),
        chosen_length=LengthReport.from_lengths(lengths["chosen"]),
        rejected_length=LengthReport.from_lengths(lengths["rejected"]),
    )
    return datasets.concatenate_datasets(chunks), report


def _encode(
    row: SourceRow,
    tokenizer: PreTrainedTokenizerBase,
    config: EncodingConfig,
    columns: Mapping[str, str],
    extra: Sequence[Column],
) -> EncodedPair | BadRow | None:
    pair = to_pair(row, columns)
    if isinstance(pair, BadRow):
        return pair
    values = read_column_values(pair, columns, extra)
    return values if isinstance(values, BadRow) else encode_pair(pair, tokenizer, config, values)


def _require_usable(
    description: str, counts: Mapping[str, int], first_bad: Sequence[BadRow], quarantine: Path | None
) -> None:
    rows, bad, identical = counts["rows"], counts["quarantined"], counts["dropped_identical"]
    more = [f"... and {bad - _LISTED:,} more"] if bad > _LISTED else []
    listing = "".join(f"\n  {line}" for line in (*first_bad, *more))
    if bad and quarantine is None:
        raise DataError(
            f"{description}: {bad:,} of {rows:,} rows cannot be used; mend them, or set them aside with "
            f"on_bad_rows = 'quarantine'{listing}"
        )
    if not counts["kept"]:
        reasons = [f"{identical:,} have two responses that are the same tokens"] if identical else []
        reasons += [f"{bad:,} are in {quarantine}"] if bad else []
        summary = ", ".join(reasons) or "it is empty"
        raise DataError(f"{description}: no usable pair in {rows:,} rows; {summary}{listing}")


def _to_json(row: BadRow) -> str:
    fields = vars(row) | {"row": dict(row.content) if isinstance(row.content, Mapping) else row.content}
    del fields["content"]
    # Values that only Arrow and Parquet have, such as dates, are written as text.
    return json.dumps(fields, ensure_ascii=False, default=str)


def _create(path: Path) -> TextIO:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Half of a UTF-16 pair, which UTF-8 cannot write, becomes \udXXX, JSON's escape for it.
    return path.open("w", encoding="utf-8", errors="backslashreplace")
