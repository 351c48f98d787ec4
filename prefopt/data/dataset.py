"""One pass over the rows: validate, encode, count, and collect the usable ones in a data set of token ids."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TextIO, get_args

import datasets
from datasets.fingerprint import get_temporary_cache_files_directory
from rich.markup import escape
from rich.progress import Progress
from transformers import PreTrainedTokenizerBase

from prefopt.columns import Column
from prefopt.data.column_values import features, read_column_values
from prefopt.data.encode import EncodingConfig, encode_pair
from prefopt.data.fields import TEMPLATE_FIELDS, check_columns, holds
from prefopt.data.growing import GrowingDataset
from prefopt.data.messages import texts
from prefopt.data.pairs import Pair, to_pair
from prefopt.data.report import DataReport, LengthReport, column_label
from prefopt.data.rows import BadRow, DataError, SourceRow
from prefopt.data.truncation import EncodedPair, TooLong
from prefopt.printing import PrintableConsole
from prefopt.whole_files import naming_full_disk, publish_file, sha256, unfinished_name

OnBadRows = Literal["stop", "quarantine"]
"""What becomes of rows that cannot be used: an error that lists them, or a file in which they are set aside."""

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
        "chosen_masked": datasets.List(datasets.Value("int32")),
        "rejected_masked": datasets.List(datasets.Value("int32")),
        "where": datasets.Value("string"),
    }
)
"""The columns of a prepared data set, without extra columns."""

MASKED = frozenset({"chosen_masked", "rejected_masked"})
"""Those that a data set without turns of others may lack."""


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
    overwrite: bool = False,
    dry_run: bool = False,
    total: int | None = None,
) -> tuple[datasets.Dataset, DataReport]:
    """The usable rows as a data set of token ids, and the report on all rows. Rows are read one by one, and memory does
    not grow with their number (see `GrowingDataset`).

    Columns: `row` (0, 1, 2, ... in the data set), `length` (tokens of prompt and both responses, for samplers that
    group by it), `prompt_ids`, `chosen_ids`, `rejected_ids`, `chosen_truncated`, `rejected_truncated`, `chosen_masked`,
    `rejected_masked` (positions in the response of the turns of others), `where`.

    description  names the data in messages and on the progress bar, which shows on a terminal
    columns      as for `to_pair`, for the fields of the extra columns too
    extra        the columns that an objective reads (`ObjectiveConfig.columns`), stored under their `keys`
    on_bad_rows  "stop" reads to the end and raises a DataError that lists the first ten; "quarantine" writes each as a
                 line of JSON to the file `quarantine`
    overwrite    whether that file may hold others, which are replaced
    dry_run      whether that file is left as it is, after it was compared with what would be written
    total        the number of rows, where it is known

    Raises DataError where no row is usable, too, where a pair is too long and `config.on_too_long` is "stop", and where
    the file of bad rows holds others that may not be replaced.
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
    left_out: Counter[str] = Counter()
    guessed: Counter[str] = Counter()
    lengths = {name: Counter[int]() for name in ("prompt", "chosen", "rejected")}
    first_bad: list[BadRow] = []
    used = {columns.get(name, name) for column in extra for name in _fields(column)}

    def records(rows: Iterable[SourceRow | BadRow], file: TextIO | None) -> Iterator[dict[str, object]]:
        for row in rows:
            counts["rows"] += 1
            pair = row if isinstance(row, BadRow) else to_pair(row, columns)
            encoded = pair if isinstance(pair, BadRow) else _encode(pair, tokenizer, config, columns, extra)
            if encoded is None:
                counts["dropped_identical"] += 1
            elif isinstance(encoded, TooLong) and config.on_too_long == "drop":
                counts["dropped_too_long"] += 1
            elif isinstance(encoded, BadRow):
                counts["too_long" if isinstance(encoded, TooLong) else "quarantined"] += 1
                if len(first_bad) < _LISTED:
                    first_bad.append(encoded)
                if file is not None:
                    file.write(_to_json(encoded) + "\n")
            else:
                sizes = {name: len(getattr(encoded, f"{name}_ids")) for name in lengths}
                for name, size in sizes.items():
                    lengths[name][size] += 1
                fields = {name: getattr(encoded, name) for name in FEATURES if hasattr(encoded, name)}
                position = {"row": counts["kept"], "length": sum(sizes.values()), "where": row.where}
                yield {**position, **fields, **encoded.columns}
                counts["kept"] += 1
                counts.update(encoded.counts)
                left_out.update(encoded.left_out)
                if isinstance(row, SourceRow) and not isinstance(pair, BadRow):
                    left_out.update(_unread(row.fields, pair.usage.fields | used, columns))
                guessed.update(encoded.guessed)

    console = PrintableConsole(stderr=True)
    hidden = not console.is_terminal or datasets.are_progress_bars_disabled()
    collected = GrowingDataset(schema)
    with (
        nullcontext() if set_aside is None else _created(set_aside, overwrite=overwrite, dry_run=dry_run) as file,
        Progress(console=console, transient=True, disable=hidden) as progress,
    ):
        usable = records(progress.track(rows, total=total, description=escape(description)), file)
        while chunk := list(islice(usable, _CHUNK)):
            collected.add(chunk)

    _require_usable(description, counts, first_bad, set_aside)
    fields: dict[str, Any] = {name: counts[name] for name in DataReport.counts()}
    fields |= {f"{name}_length": LengthReport.from_counts(sizes) for name, sizes in lengths.items()}
    report = DataReport(
        left_out=dict(left_out.most_common()),
        guessed=dict(guessed.most_common()),
        **fields,
    )
    return collected.dataset(), report


def _fields(column: Column) -> tuple[str, ...]:
    """The fields of a row that a column reads, with the one that is its limit."""
    limit = column.at_least
    return (*column.fields, *((limit,) if isinstance(limit, str) else ()))


def _unread(fields: Mapping[str, object], read: Collection[str], columns: Mapping[str, str]) -> Iterator[str]:
    """In words, the columns of a row that nobody reads, and what `columns` renames for nobody."""
    for name, value in fields.items():
        if name not in read and holds(value):
            yield column_label(name, has_text=name in TEMPLATE_FIELDS or bool(texts(value)))
    for role, name in columns.items():
        if name not in read and name not in fields:
            yield f"'{role}: {name}' of columns, which no such row reads"


def _encode(
    pair: Pair,
    tokenizer: PreTrainedTokenizerBase,
    config: EncodingConfig,
    columns: Mapping[str, str],
    extra: Sequence[Column],
) -> EncodedPair | BadRow | None:
    values = read_column_values(pair, columns, extra)
    return values if isinstance(values, BadRow) else encode_pair(pair, tokenizer, config, values)


def _require_usable(
    description: str, counts: Mapping[str, int], first_bad: Sequence[BadRow], quarantine: Path | None
) -> None:
    rows, bad, identical = counts["rows"], counts["quarantined"], counts["dropped_identical"]
    too_long, dropped = counts["too_long"], counts["dropped_too_long"]
    more = [f"... and {bad + too_long - _LISTED:,} more"] if bad + too_long > _LISTED else []
    listing = "".join(f"\n  {line}" for line in (*first_bad, *more))
    if bad and quarantine is None:
        raise DataError(
            f"{description}: {bad:,} of {rows:,} rows cannot be used; mend them, or set them aside with "
            f"on_bad_rows = 'quarantine'{listing}"
        )
    if too_long:
        raise DataError(
            f"{description}: {too_long:,} of {rows:,} pairs are too long, and on_too_long is 'stop'; raise the limits, "
            f"or choose truncate or drop{listing}"
        )
    if not counts["kept"]:
        reasons = [f"{identical:,} have two responses that are the same tokens"] if identical else []
        reasons += [f"{dropped:,} are too long"] if dropped else []
        reasons += [f"{bad:,} are for {quarantine}"] if bad else []
        summary = ", ".join(reasons) or "it is empty"
        raise DataError(f"{description}: no usable pair in {rows:,} rows; {summary}{listing}")


def _to_json(row: BadRow) -> str:
    fields = vars(row) | {"row": dict(row.content) if isinstance(row.content, Mapping) else row.content}
    del fields["content"]
    # Values that only Arrow and Parquet have, such as dates, are written as text.
    return json.dumps(fields, ensure_ascii=False, default=str)


@contextmanager
def _created(path: Path, *, overwrite: bool, dry_run: bool) -> Iterator[TextIO]:
    """A file that has its name once all of it is written; in a dry run, a temporary one. Raises DataError where another
    one has it, with other content, that may not be replaced, and OSError where the disk is full."""
    if dry_run:
        beside = Path(get_temporary_cache_files_directory(), unfinished_name(path).name)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = unfinished_name(path)
    try:
        # Half of a UTF-16 pair, which UTF-8 cannot write, becomes \udXXX, JSON's escape for it.
        with naming_full_disk(path), beside.open("w", encoding="utf-8", errors="backslashreplace") as file:
            yield file
        if not overwrite and path.exists() and path.stat().st_size and sha256(path) != sha256(beside):
            raise DataError(
                f"{path} holds other rows than those that are set aside now, and would be written over; move it, or "
                "have it replaced with --overwrite (overwrite=True, in Python)"
            )
        if not dry_run:
            publish_file(beside, path)
    finally:
        beside.unlink(missing_ok=True)
