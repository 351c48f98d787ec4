"""Where the rows of a task come from, and which of their pairs it takes."""

from __future__ import annotations

import hashlib
from typing import Annotated, Self, final

from pydantic import BeforeValidator, Field, model_validator

from prefopt.data import OnBadRows, Pair, content_text
from prefopt.sampling import Prompt
from prefopt.validation import Settings

_Share = Annotated[float, Field(ge=0, le=1)]


@final
class Source(Settings):
    """Rows of preference data: a file, a folder, or a data set of the hub.

    name         path, or the hub's name
    split        of a folder or of the hub; a file is read whole
    columns      field -> the column that holds it, where that has another name
    on_bad_rows  stop: rows that cannot be used are an error; quarantine: they are set aside, in a file of the material
    part         takes only the prompts in this part of all, drawn by a hash of their text: [0, 0.5] and [0.5, 1] share
                 no prompt, so that one can train what judges the other
    """

    name: str
    split: str = "train"
    columns: dict[str, str] = Field(default_factory=dict)
    on_bad_rows: OnBadRows = "stop"
    part: tuple[_Share, _Share] = (0.0, 1.0)

    @model_validator(mode="after")
    def _has_a_part(self) -> Self:
        if self.part[0] >= self.part[1]:
            raise ValueError(f"`part` is from {self.part[0]} to {self.part[1]}, which is nothing")
        return self

    def takes(self, prompt: str) -> bool:
        """Whether the prompt is in the part."""
        position = int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:8]) / 2**64
        return self.part[0] <= position < self.part[1]


Rows = Annotated[
    Source,
    BeforeValidator(
        lambda value: {"name": value} if isinstance(value, str) else value, json_schema_input_type=str | Source
    ),
]
"""A field for a `Source`, which may be given by its name alone."""


@final
class Longest(Settings):
    """The length of the pairs that are taken, in words, as whitespace parts them; null is without limit.

    prompt    most words of the prompt
    response  most words of either response
    """

    prompt: int | None = Field(default=None, ge=1)
    response: int | None = Field(default=None, ge=1)

    def keeps(self, pair: Pair) -> bool:
        """Whether the pair is not longer."""
        prompt, *responses = (len(as_text(part).split()) for part in (pair.prompt, pair.chosen, pair.rejected))
        limits = ((self.prompt, prompt), (self.response, max(responses)))
        return all(most is None or words <= most for most, words in limits)


def as_text(part: Prompt) -> str:
    """Text as it is; one message as its content, several as a transcript."""
    if isinstance(part, str):
        return part
    if len(part) == 1:
        return content_text(part[0])
    return "\n\n".join(f"{message['role']}: {content_text(message)}" for message in part)
