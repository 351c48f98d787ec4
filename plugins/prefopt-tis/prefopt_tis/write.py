"""Rows with their log-ratios, written line by line, so that what was stopped can go on."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO

from prefopt.data import BadRow, DataError, SourceRow, read_rows
from prefopt_tis.encode import Encoder, Question
from prefopt_tis.score import Numbers

__all__ = ["Unfinished", "count", "write"]

SHOWN = 10


@dataclass(frozen=True)
class Unfinished:
    """A file of lines on its way to `target`, with the settings that it is made with beside it.

    A run that was stopped leaves both; one with the same settings goes on behind the last whole line.
    """

    target: Path
    settings: Mapping[str, object]

    @property
    def lines(self) -> Path:
        """The lines so far."""
        return self.target.with_name(f"{self.target.name}.unfinished")

    @property
    def made_with(self) -> Path:
        """The settings, as JSON."""
        return self.target.with_name(f"{self.target.name}.unfinished.json")

    def resume(self) -> int:
        """How many whole lines there are; what was left of a broken one is cut off. Raises DataError where they were
        made with other settings."""
        settings = json.dumps(self.settings, indent=1)
        if not self.lines.exists():
            self.made_with.write_text(settings, encoding="utf-8")
            self.lines.touch()
        elif not self.made_with.exists() or self.made_with.read_text(encoding="utf-8") != settings:
            raise DataError(
                f"{self.lines}: begun with other settings ({self.made_with.name} holds them); give the same ones to go "
                "on with it, or remove it to begin anew"
            )
        whole = 0
        with self.lines.open("rb+") as file:
            end = 0
            for line in file:
                if line.endswith(b"\n"):
                    whole, end = whole + 1, end + len(line)
            file.truncate(end)
        return whole

    def finish(self) -> None:
        """Put the lines in the target's place, once the disk has them."""
        with self.lines.open("rb") as file:
            os.fsync(file.fileno())
        self.lines.replace(self.target)
        self.made_with.unlink()


def count(source: str, encode: Encoder, column: str) -> int:
    """The rows of a source. Raises DataError, which lists the first ten bad ones, where not all can be asked about."""
    bad: list[BadRow] = []
    rows = 0
    for row in read_rows(source):
        rows += 1
        encoded = row if isinstance(row, BadRow) else encode(row, column)
        if isinstance(encoded, BadRow):
            bad.append(encoded)
    if bad:
        shown = "".join(f"\n  {row}" for row in bad[:SHOWN])
        raise DataError(f"{source}: {len(bad)} of {rows} rows cannot be scored{shown}")
    return rows


def write(
    source: str,
    unfinished: Unfinished,
    encode: Encoder,
    score: Callable[[Sequence[Question]], list[Numbers]],
    *,
    column: str,
    batch_size: int,
) -> Iterator[int]:
    """Write the rows of a source with the fields chosen_COLUMN and rejected_COLUMN; yields how many are written, first
    those that a stopped run left. The target is there when all are.

    A row whose two responses are the same tokens, which training leaves out, gets no numbers. Raises DataError where
    the lines that a stopped run left are not of these rows, and FloatingPointError as `score` does.
    """
    written = unfinished.resume()
    rows = read_rows(source)
    with unfinished.lines.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            _refuse_another(next(rows, None), json.loads(line), column, f"{unfinished.lines}:{number}")
    yield written
    with unfinished.lines.open("a", encoding="utf-8") as file:
        while part := [row for row in islice(rows, batch_size) if isinstance(row, SourceRow)]:
            _write(file, part, encode, score, column)
            file.flush()
            written += len(part)
            yield written
    unfinished.finish()


def _write(
    file: IO[str],
    rows: Sequence[SourceRow],
    encode: Encoder,
    score: Callable[[Sequence[Question]], list[Numbers]],
    column: str,
) -> None:
    asked = [encode(row, column) for row in rows]
    questions = [question for question in asked if isinstance(question, Question)]
    answers = iter(score(questions)) if questions else iter(())
    for row, question in zip(rows, asked, strict=True):
        chosen, rejected = next(answers) if isinstance(question, Question) else ([], [])
        fields = {**row.fields, f"chosen_{column}": chosen, f"rejected_{column}": rejected}
        file.write(json.dumps(fields, ensure_ascii=False) + "\n")


def _refuse_another(row: SourceRow | BadRow | None, fields: dict[str, object], column: str, where: str) -> None:
    added = {f"chosen_{column}", f"rejected_{column}"}
    kept = {name: value for name, value in fields.items() if name not in added}
    if not isinstance(row, SourceRow) or json.loads(json.dumps(dict(row.fields))) != kept:
        now = "there is no such row now" if row is None else f"not the row that is at {row.where} now"
        raise DataError(f"{where}: {now}; remove the file to begin anew")
