"""Where the rows of a task come from: files, folders or the hub, read to the end before anything is trained."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Self, TypeVar, final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from prefopt.data import BadRow, DataError, OnBadRows, Pair, SourceRow, read_rows, to_pair

__all__ = ["Longest", "Rows", "Source", "as_text", "read_pair", "usable"]

_LISTED = 10
"""How many bad rows the message of an error lists."""

_QUARANTINE = "bad-rows.jsonl"

T = TypeVar("T")


@final
class Source(BaseModel):
    """Rows of preference data: a file, a folder, or a data set of the hub.

    name         path, or the hub's name
    split        of a folder or of the hub; a file is read whole
    columns      field -> the column that holds it, where that has another name
    on_bad_rows  stop: rows that cannot be used are an error; quarantine: they are set aside, in a file of the material
    part         takes only the prompts in this part of all, drawn by a hash of their text: [0, 0.5] and [0.5, 1] share
                 no prompt, so that one can train what judges the other
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    split: str = "train"
    columns: dict[str, str] = Field(default_factory=dict)
    on_bad_rows: OnBadRows = "stop"
    part: tuple[Annotated[float, Field(ge=0, le=1)], Annotated[float, Field(ge=0, le=1)]] = (0.0, 1.0)

    @model_validator(mode="after")
    def _has_a_part(self) -> Self:
        if self.part[0] >= self.part[1]:
            raise ValueError(f"`part` is from {self.part[0]} to {self.part[1]}, which is nothing")
        return self

    def rows(self) -> Iterator[SourceRow | BadRow]:
        """The rows one by one; those that are no objects come as bad ones. Raises DataError where there is no such
        source."""
        return read_rows(self.name, split=self.split)

    def takes(self, prompt: str) -> bool:
        """Whether the prompt is in the part."""
        place = int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:8]) / 2**64
        return self.part[0] <= place < self.part[1]


def _in_full(value: object) -> object:
    return {"name": value} if isinstance(value, str) else value


Rows = Annotated[Source, BeforeValidator(_in_full)]
"""A field for a `Source`, which may be given by its name alone."""


@final
class Longest(BaseModel):
    """Which pairs are short enough to be taken, in words, as whitespace parts them; null is without limit.

    prompt    most words of the prompt
    response  most words of either response
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: int | None = Field(default=None, ge=1)
    response: int | None = Field(default=None, ge=1)

    def keeps(self, pair: Pair) -> bool:
        """Whether the pair is not longer."""
        prompt, *responses = (len(as_text(part).split()) for part in (pair.prompt, pair.chosen, pair.rejected))
        return (self.prompt is None or prompt <= self.prompt) and (
            self.response is None or max(responses) <= self.response
        )


def as_text(part: str | Sequence[Mapping[str, str]]) -> str:
    """Text as it is; one message as its content, several as a transcript."""
    if isinstance(part, str):
        return part
    if len(part) == 1:
        return part[0]["content"]
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in part)


def usable(
    rows: Iterable[SourceRow | BadRow],
    read: Callable[[SourceRow], Iterable[T] | BadRow],
    *,
    description: str,
    on_bad_rows: OnBadRows,
    folder: Path | None,
) -> list[T]:
    """What `read` makes of every row.

    Bad rows stop: DataError lists the first ten, each with file and line, so that nothing is trained on data of which a
    part was left out in silence. Or they are set aside: left out, and added to a file in the folder, if there is one.
    DataError too where nothing is left.
    """
    found: list[T] = []
    bad: list[BadRow] = []
    count = 0
    for row in rows:
        count += 1
        made = row if isinstance(row, BadRow) else read(row)
        if isinstance(made, BadRow):
            bad.append(made)
        else:
            found += made
    listing = "\n".join(f"  {row}" for row in bad[:_LISTED])
    listing += f"\n  ... and {len(bad) - _LISTED:,} more" if len(bad) > _LISTED else ""
    if bad and on_bad_rows == "stop":
        raise DataError(
            f"{description}: {len(bad):,} of {count:,} rows cannot be used; mend them, or set them aside with "
            f"on_bad_rows: quarantine\n{listing}"
        )
    if bad and folder is not None:
        with (folder / _QUARANTINE).open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.writelines(json.dumps(dataclasses.asdict(row), default=str) + "\n" for row in bad)
    if not found:
        raise DataError(f"{description}: no usable pair in {count:,} rows" + (f"\n{listing}" if listing else ""))
    return found


def read_pair(row: SourceRow, columns: Mapping[str, str]) -> Iterable[Pair] | BadRow:
    """The pair of a row, as `prefopt.data.to_pair` reads it, which must have a prompt for a policy to answer."""
    pair = to_pair(row, columns)
    if isinstance(pair, BadRow):
        return pair
    if isinstance(pair.prompt, str) and not pair.prompt.strip():
        field = columns.get("prompt", "prompt")
        field = field if field in row.fields else columns.get("chosen", "chosen")
        return row.bad(field, "found no prompt", "give the row one: held-out prompts are what a policy answers")
    return [pair]
