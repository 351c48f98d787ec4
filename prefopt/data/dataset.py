"""One pass over the rows: validate, encode, count, and gather what is usable in a data set of token ids."""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, TextIO, get_args

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

__all__ = ["DataReport", "LengthReport", "OnBadRows", "prepare"]

OnBadRows = Literal["stop", "quarantine"]

LISTED = 10
"""How many bad rows the message of an error lists."""

CHUNK = 1000
"""Pairs that are held as Python lists before they go to Arrow, where a token takes 4 bytes instead of some 36."""

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


@dataclass(frozen=True)
class LengthReport:
    """Lengths in tokens, after truncation; of the quantiles, half and 95% of the pairs are not longer."""

    minimum: int
    median: int
    quantile_95: int
    maximum: int

    def __str__(self) -> str:
        most = f"half up to {self.median:,}, 95% up to {self.quantile_95:,}"
        return f"{self.minimum:,} to {self.maximum:,}, {most}"


@dataclass(frozen=True)
class DataReport:
    """What became of the rows; every count is of rows or, as one row is one pair, of pairs.

    rows = kept + quarantined + dropped_identical. `responses_truncated` counts pairs of which either response was cut.
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
        """The report in words, for the console; what did not happen is not mentioned."""
        happened = {
            "bad rows set aside in the quarantine file": self.quarantined,
            "pairs dropped: both responses are the same tokens": self.dropped_identical,
            "prompts cut at their beginning": self.prompts_truncated,
            "pairs with a response cut at its end": self.responses_truncated,
            "pairs whose prompt ends inside a token of a response; the boundary was moved": self.boundaries_moved,
        }
        lengths = {"prompt": self.prompt_length, "chosen": self.chosen_length, "rejected": self.rejected_length}
        return [
            f"{self.rows:,} rows read, {self.kept:,} pairs kept",
            *(f"{count:,} {what}" for what, count in happened.items() if count),
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
    """The usable rows as a data set of token ids, and the report on all of them.

    Columns: `row` (0, 1, 2, ... in the data set), `length` (tokens of prompt and both responses, for samplers that
    group by it), `prompt_ids`, `chosen_ids`, `rejected_ids`, `chosen_truncated`, `rejected_truncated`, `where`.
    `description` names the data in messages and on the progress bar, which shows on a terminal; `total`, where known,
    is the number of rows. `columns` is that of `to_pair`, for the fields of the `extra` columns too, which an
    objective reads (`ObjectiveConfig.columns`); the data set has them under their `keys`.

    Bad rows: "stop" reads to the end and raises a DataError that lists the first ten; "quarantine" writes each as a
    line of JSON to the file `quarantine`, replacing what it held, and goes on. DataError also where no row is usable.
    """
    columns = columns or {}
    check_columns(columns, extra)
    if on_bad_rows not in get_args(OnBadRows):
        raise ValueError(f"on_bad_rows: '{on_bad_rows}' is none of {', '.join(get_args(OnBadRows))}")
    if on_bad_rows == "quarantine" and quarantine is None:
        raise ValueError("on_bad_rows is 'quarantine', but no quarantine file is named")
    set_aside = quarantine if on_bad_rows == "quarantine" else None

    bad = _BadRows()
    pairs = _Pairs(datasets.Features({**FEATURES, **features(extra)}))
    count = identical = 0
    console = Console(stderr=True)
    hidden = not console.is_terminal or datasets.are_progress_bars_disabled()
    with (
        nullcontext() if set_aside is None else _created(set_aside) as file,
        Progress(console=console, transient=True, disable=hidden) as progress,
    ):
        for row in progress.track(rows, total=total, description=escape(description)):
            count += 1
            encoded = row if isinstance(row, BadRow) else _encoded(row, tokenizer, config, columns, extra)
            if encoded is None:
                identical += 1
            elif isinstance(encoded, BadRow):
                bad.add(encoded, file)
            else:
                pairs.add(encoded, row.where)

    if bad.count and set_aside is None:
        raise DataError(
            f"{description}: {bad.count:,} of {count:,} rows cannot be used; mend them, or set them aside with "
            f"on_bad_rows = 'quarantine'\n{bad.listing()}"
        )
    if not pairs.count:
        reasons = [f"{identical:,} have two responses that are the same tokens"] if identical else []
        reasons += [f"{bad.count:,} are in {set_aside}"] if bad.count else []
        listing = f"\n{bad.listing()}" if bad.count else ""
        raise DataError(
            f"{description}: no usable pair in {count:,} rows; {', '.join(reasons) or 'it is empty'}{listing}"
        )
    report = DataReport(
        rows=count,
        kept=pairs.count,
        quarantined=bad.count,
        dropped_identical=identical,
        prompts_truncated=pairs.prompts_truncated,
        responses_truncated=pairs.responses_truncated,
        boundaries_moved=pairs.boundaries_moved,
        prompt_length=_lengths(pairs.prompt_lengths),
        chosen_length=_lengths(pairs.chosen_lengths),
        rejected_length=_lengths(pairs.rejected_lengths),
    )
    return pairs.dataset(), report


def _encoded(
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


class _BadRows:
    """The bad rows so far: how many, and the first few of them."""

    def __init__(self) -> None:
        self.count = 0
        self.first: list[BadRow] = []

    def add(self, row: BadRow, file: TextIO | None) -> None:
        self.count += 1
        if len(self.first) < LISTED:
            self.first.append(row)
        if file is not None:
            fields = {"where": row.where, "field": row.field, "problem": row.problem, "remedy": row.remedy}
            content = dict(row.content) if isinstance(row.content, Mapping) else row.content
            # Values that only Arrow and Parquet have, such as dates, are written as text.
            file.write(json.dumps({**fields, "row": content}, ensure_ascii=False, default=str) + "\n")

    def listing(self) -> str:
        more = self.count - len(self.first)
        return "\n".join([f"  {row}" for row in self.first] + ([f"  ... and {more:,} more"] if more else []))


class _Pairs:
    """The encoded pairs so far, with what the report needs of them."""

    def __init__(self, features: datasets.Features) -> None:
        self.count = self.prompts_truncated = self.responses_truncated = self.boundaries_moved = 0
        self.prompt_lengths, self.chosen_lengths, self.rejected_lengths = array("q"), array("q"), array("q")
        self._features = features
        self._chunk: list[dict[str, object]] = []
        self._parts: list[datasets.Dataset] = []

    def add(self, pair: EncodedPair, where: str) -> None:
        fields = {name: value for name, value in vars(pair).items() if name in FEATURES}
        length = len(pair.prompt_ids) + len(pair.chosen_ids) + len(pair.rejected_ids)
        self._chunk.append({"row": self.count, "length": length, "where": where, **fields, **pair.columns})
        self.count += 1
        self.prompts_truncated += pair.prompt_truncated
        self.responses_truncated += pair.chosen_truncated or pair.rejected_truncated
        self.boundaries_moved += pair.boundary_moved
        self.prompt_lengths.append(len(pair.prompt_ids))
        self.chosen_lengths.append(len(pair.chosen_ids))
        self.rejected_lengths.append(len(pair.rejected_ids))
        if len(self._chunk) == CHUNK:
            self._flush()

    def dataset(self) -> datasets.Dataset:
        self._flush()
        return datasets.concatenate_datasets(self._parts)

    def _flush(self) -> None:
        if self._chunk:
            self._parts.append(datasets.Dataset.from_list(self._chunk, features=self._features))
            self._chunk = []


def _created(path: Path) -> TextIO:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Half a UTF-16 pair, which UTF-8 cannot write, becomes \udXXX: the very escape that JSON has for it.
    return path.open("w", encoding="utf-8", errors="backslashreplace")


def _lengths(lengths: array[int]) -> LengthReport:
    ordered = sorted(lengths)
    median, quantile_95 = (ordered[math.ceil(len(ordered) * percent / 100) - 1] for percent in (50, 95))
    return LengthReport(ordered[0], median, quantile_95, ordered[-1])
