"""One pass over the rows: validate, encode, count, and collect the usable ones in a data set of token ids."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from itertools import islice
from pathlib import Path
from typing import Literal, TextIO, get_args

import datasets
from datasets.fingerprint import get_temporary_cache_files_directory
from transformers import PreTrainedTokenizerBase

from prefopt.columns import Column
from prefopt.data.encode import EncodingConfig
from prefopt.data.fields import check_columns
from prefopt.data.growing import GrowingDataset
from prefopt.data.parallel import mapping
from prefopt.data.report import DataReport
from prefopt.data.row_encoder import Outcome, RowEncoder
from prefopt.data.rows import BadRow, DataError, SourceRow
from prefopt.data.tally import Record, Tally, schema
from prefopt.progress import tracked
from prefopt.whole_files import naming_full_disk, publish_file, sha256, unfinished_name

OnBadRows = Literal["stop", "quarantine"]
"""What becomes of rows that cannot be used: an error that lists them, or a file in which they are set aside."""

_CHUNK = 1000
"""Pairs held as Python lists before they go to Arrow, where a token takes 4 bytes instead of some 36."""


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
    num_proc: int | None = None,
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
    num_proc     processes that encode rows; the result is the same whatever their number
    total        the number of rows, where it is known

    Raises DataError where no row is usable, too, where a pair is too long and `config.on_too_long` is "stop", and where
    the file of bad rows holds others that may not be replaced.
    """
    columns = columns or {}
    check_columns(columns, extra)
    if on_bad_rows not in get_args(OnBadRows):
        raise ValueError(f"on_bad_rows: {on_bad_rows!r} is none of {', '.join(get_args(OnBadRows))}")
    if on_bad_rows == "quarantine" and quarantine is None:
        raise ValueError("on_bad_rows is 'quarantine', but no quarantine file is named")
    set_aside = quarantine if on_bad_rows == "quarantine" else None
    encoder = RowEncoder(tokenizer, config, columns, extra)
    tally = Tally(config.on_too_long)

    def records(outcomes: Iterable[tuple[SourceRow | BadRow, Outcome]], file: TextIO | None) -> Iterator[Record]:
        for row, outcome in outcomes:
            record = tally.add(row, outcome)
            if isinstance(record, BadRow) and file is not None:
                file.write(bad_row_line(record))
            elif isinstance(record, dict):
                yield record

    tracked_rows = tracked(rows, description, total, hidden=datasets.are_progress_bars_disabled())
    collected = GrowingDataset(schema(extra))
    with (
        mapping(encoder, num_proc or 1) as encoded,
        nullcontext() if set_aside is None else _created(set_aside, overwrite=overwrite, dry_run=dry_run) as file,
    ):
        usable = records(encoded(tracked_rows), file)
        while chunk := list(islice(usable, _CHUNK)):
            collected.add(chunk)

    tally.require_usable(description, set_aside)
    return collected.dataset(), tally.report()


def bad_row_line(row: BadRow) -> str:
    """A row that cannot be used, as a line of the quarantine file."""
    fields = vars(row) | {"row": dict(row.content) if isinstance(row.content, Mapping) else row.content}
    del fields["content"]
    # Values that only Arrow and Parquet have, such as dates, are written as text.
    return json.dumps(fields, ensure_ascii=False, default=str) + "\n"


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
