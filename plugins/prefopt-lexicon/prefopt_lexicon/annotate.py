"""Marking the words of a lexicon in rows of preference data, as spans of characters."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from prefopt.data import BadRow, DataError, SourceRow, read_rows, response_text, to_pair

__all__ = ["Counts", "annotate", "annotate_file", "pattern", "words"]

SIDES: tuple[Literal["chosen", "rejected"], ...] = ("chosen", "rejected")
SHOWN = 10


def words(lexicon: Iterable[str], *, case_sensitive: bool = False) -> re.Pattern[str]:
    """What matches these words and phrases as whole words, the longest of them first.

    Whitespace within a phrase matches any. Raises ValueError where there is no word.
    """
    phrases = sorted(
        {tuple(line.split()) for line in lexicon if line.strip()}, key=lambda phrase: -len(" ".join(phrase))
    )
    if not phrases:
        raise ValueError("a lexicon without words; write one word or phrase a line")
    choices = "|".join(r"\s+".join(map(re.escape, phrase)) for phrase in phrases)
    # Not \b, which wants a letter on one side and so never ends "c++".
    return pattern(rf"(?<!\w)(?:{choices})(?!\w)", case_sensitive=case_sensitive)


def pattern(expression: str, *, case_sensitive: bool = False) -> re.Pattern[str]:
    """What matches the regular expression. Raises ValueError where it is none."""
    try:
        return re.compile(expression, re.NOFLAG if case_sensitive else re.IGNORECASE)
    except re.error as error:
        raise ValueError(f"{expression!r} is no regular expression: {error}") from error


def annotate(row: SourceRow | BadRow, matches: re.Pattern[str], *, column: str = "lexicon") -> SourceRow | BadRow:
    """The row with what matches in its responses, as spans in the fields chosen_COLUMN and rejected_COLUMN.

    Characters are counted in the response as the row holds it: in the content of its message, or in the text, which
    begins with the prompt where that is no field of its own. A row that prefopt cannot read, that has these fields
    already or has a response of several messages comes back as a BadRow.
    """
    if isinstance(row, BadRow):
        return row
    pair = to_pair(row, {})
    if isinstance(pair, BadRow):
        return pair
    marked: dict[str, object] = {}
    for side in SIDES:
        field = f"{side}_{column}"
        if field in row.fields:
            return row.bad(field, "found the field already", "choose another name for the column, or remove the field")
        held = response_text(pair, side, {})
        if held is None:
            problem = f"found a response of {len(getattr(pair, side))} messages"
            return row.bad(side, problem, "keep to responses of a single message, the only ones that take spans")
        spans = (match.span() for match in matches.finditer(held.text))
        marked[field] = [{"start": start, "end": end} for start, end in spans if max(start, held.begins) < end]
    return SourceRow(row.where, {**row.fields, **marked})


@dataclass(frozen=True)
class Counts:
    """Of a file that was marked: its rows, those without any match, and the matches on each side."""

    rows: int
    unmarked: int
    chosen: int
    rejected: int

    def __str__(self) -> str:
        return (
            f"{self.rows} rows, of which {self.unmarked} without a match; "
            f"{self.chosen} matches in chosen responses, {self.rejected} in rejected ones"
        )


def annotate_file(
    source: Path, target: Path, matches: re.Pattern[str], *, column: str = "lexicon", overwrite: bool = False
) -> Counts:
    """Mark a file of rows, into another of one JSON object a line, or the same one.

    `source` is in one of the formats that `prefopt.data.read_rows` reads. Raises DataError, which lists the first ten
    bad rows, where there are any, and FileExistsError where `target` is there and not to be overwritten; it is as it
    was then.
    """
    if target.exists() and not overwrite:
        raise FileExistsError(f"{target} is there already; name another file, or replace it by --overwrite")
    bad: list[BadRow] = []
    match_counts: list[list[int]] = []
    unfinished = target.with_name(f"{target.name}.unfinished")
    try:
        with unfinished.open("w", encoding="utf-8") as file:
            for row in (annotate(row, matches, column=column) for row in read_rows(source)):
                if isinstance(row, BadRow):
                    bad.append(row)
                    continue
                file.write(json.dumps(dict(row.fields), ensure_ascii=False) + "\n")
                spans = (row.fields[f"{side}_{column}"] for side in SIDES)
                match_counts.append([len(side) for side in spans if isinstance(side, list)])
            file.flush()
            os.fsync(file.fileno())
        if bad:
            shown = "".join(f"\n  {row}" for row in bad[:SHOWN])
            raise DataError(f"{source}: {len(bad)} of {len(bad) + len(match_counts)} rows cannot be marked{shown}")
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)
    chosen, rejected = (sum(counts[side] for counts in match_counts) for side in range(len(SIDES)))
    return Counts(len(match_counts), sum(not any(counts) for counts in match_counts), chosen, rejected)
