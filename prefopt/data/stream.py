"""Pairs of a stream of rows, which are read, checked and encoded as they are trained on; memory does not grow."""

from __future__ import annotations

import hashlib
import json
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count, islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, final

import datasets
from torch.utils.data import IterableDataset

from prefopt.data.dataset import bad_row_line
from prefopt.data.report import DataReport
from prefopt.data.row_encoder import RowEncoder
from prefopt.data.rows import BadRow, DataError, SourceRow
from prefopt.data.tally import Record, Tally

T = TypeVar("T")

_RECENT = 2**14
"""Pairs whose positions and digests are held."""

_PATIENCE = 100_000
"""Rows in a row of which none is usable, before that is an error."""


def shuffled(rows: Iterable[T], size: int, seed: str) -> Iterator[T]:
    """The rows, each drawn from the next `size` ones."""
    draw, iterator = random.Random(seed), iter(rows)
    buffer = list(islice(iterator, size))
    for row in iterator:
        index = draw.randrange(len(buffer))
        yield buffer[index]
        buffer[index] = row
    draw.shuffle(buffer)
    yield from buffer


class _Seen(NamedTuple):
    """A pair that was read: its number and source, and the digest of all pairs up to it."""

    row: int
    where: str
    digest: str


@final
class PairStream(IterableDataset[Record]):
    """Rows of a data set of `prepare`, without end: where the rows end, they are read again. An iteration begins with
    the first row.

    rows         the number of a pass, 0, 1, ... -> its rows
    description  names them in messages
    quarantine   the file in which rows that cannot be used are set aside; None: the first one raises DataError
    overwrite    whether that file may hold others, which are removed
    is_main      whether this process writes that file
    recent       pairs whose sources and digests are held, at least

    Iterating raises DataError for a row that cannot be used, where the rows have no usable pair, and where they cannot
    be read again.
    """

    def __init__(
        self,
        rows: Callable[[int], Iterable[SourceRow | BadRow]],
        encoder: RowEncoder,
        *,
        description: str,
        quarantine: Path | None = None,
        overwrite: bool = False,
        is_main: bool = True,
        recent: int = 0,
    ) -> None:
        self._rows, self._encoder, self._description = rows, encoder, description
        self._quarantine, self._overwrite, self._is_main = quarantine, overwrite, is_main
        self._recent = deque[_Seen](maxlen=max(recent, _RECENT))
        self._tally = Tally(encoder.config.on_too_long)
        self._expected: tuple[int, str, Exception] | None = None
        self.check: Callable[[Record], None] = lambda record: None

    def __iter__(self) -> Iterator[Record]:
        tally = self._tally = Tally(self._encoder.config.on_too_long)
        self._recent.clear()
        digest = ""
        set_aside = None if self._quarantine is None else _Quarantine(self._quarantine, overwrite=self._overwrite)
        self._overwrite = False  # once
        for number in count():
            before, unusable = tally.kept, 0
            for row in self._rows(number):
                record = tally.add(row, self._encoder(row))
                unusable = 0 if isinstance(record, dict) else unusable + 1
                if isinstance(record, BadRow):
                    if set_aside is None:
                        raise DataError(f"{self._description}: {record}")
                    if number == 0 and self._is_main:
                        set_aside.add(record)
                if unusable == _PATIENCE:
                    raise DataError(f"{self._description}: none of {unusable:,} rows is a usable pair; mend the data")
                if not isinstance(record, dict):
                    continue
                self.check(record)
                digest = _digest(digest, record)
                self._recent.append(_Seen(record["row"], record["where"], digest))
                self._compare(tally.kept, digest)
                yield record
            if tally.kept == before:
                tally.require_usable(self._description, self._quarantine)
                raise DataError(
                    f"{self._description}: it ends after {before:,} pairs and cannot be read again, and training takes "
                    "more; set max_steps lower, or give a stream that begins anew when it is iterated"
                )

    @property
    def kept(self) -> int:
        """The pairs that this iteration has read so far."""
        return self._tally.kept

    def report(self) -> DataReport | None:
        """What became of the rows that this iteration has read, those of later passes again; None without a pair."""
        return self._tally.report() if self.kept else None

    def sources(self, rows: Sequence[int]) -> list[str]:
        """The file and line of pairs by their numbers, of those that were read last."""
        where = {seen.row: seen.where for seen in self._recent}
        return [where.get(row, f"pair {row} of {self._description}") for row in rows]

    def digest(self, pairs: int) -> str | None:
        """Of the first so many pairs, in their order; None where that is not held."""
        if pairs == 0:
            return ""
        return next((seen.digest for seen in reversed(self._recent) if seen.row == pairs - 1), None)

    def expect(self, pairs: int, digest: str, error: Exception) -> None:
        """Let iterating raise the error where the first so many pairs have another digest."""
        self._expected = (pairs, digest, error)

    def _compare(self, pairs: int, digest: str) -> None:
        if self._expected is not None and self._expected[0] == pairs and self._expected[1] != digest:
            raise self._expected[2]


def _digest(before: str, record: Record) -> str:
    """Of all that training reads of the pairs so far."""
    fields = {name: value for name, value in record.items() if name != "where"}
    return hashlib.sha256(f"{before}{json.dumps(fields, sort_keys=True)}".encode()).hexdigest()


@final
class _Quarantine:
    """A file that rows are added to as they come. Lines that a run which is resumed has written have to be the same."""

    def __init__(self, path: Path, *, overwrite: bool) -> None:
        self._path = path
        if overwrite:
            path.unlink(missing_ok=True)
        self._lines = _lines(path)

    def add(self, row: BadRow) -> None:
        """Write the row. Raises DataError where another one has its place."""
        # Half of a UTF-16 pair, which UTF-8 cannot write, becomes \udXXX, JSON's escape for it.
        line = bad_row_line(row).encode("utf-8", errors="backslashreplace").decode("utf-8")
        before = next(self._lines, "")
        if before == line:
            return
        if before and not (line.startswith(before) and next(self._lines, None) is None):
            raise DataError(
                f"{self._path} holds other rows than those that are set aside now; move it, or have it replaced with "
                "--overwrite (overwrite_output_dir)"
            )
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line[len(before) :])  # a run that was killed may have cut the last line


def _lines(path: Path) -> Iterator[str]:
    """The lines of a file, whole or cut."""
    if path.is_file():
        with path.open(encoding="utf-8", newline="\n") as file:
            yield from file


def is_stream(data: Any) -> bool:
    """Whether these are rows without a known end."""
    return isinstance(data, IterableDataset | datasets.IterableDataset)
