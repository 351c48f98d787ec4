"""Responses that somebody rated already: rows of prompt, text and reward."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

from pydantic import BaseModel, ConfigDict, Field

from prefopt.tasks.preference_data.texts import rows_with
from prefopt.tasks.sentiment.pairs import Scored

__all__ = ["Rated"]

_NO_SPACE_BEFORE = ".,;:!?')"


@final
class Rated(BaseModel):
    """Rows with the columns `prompt`, `text` and `reward`.

    source  a file, folder or hub name that `prefopt.data.read_rows` takes
    split   of a hub data set
    words   a response is cut to its first so many words; null: it is taken whole
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    split: str = "train"
    words: int | None = Field(default=None, ge=1)

    def read(self) -> Mapping[str, list[Scored]]:
        """Prompt -> its responses and their rewards. A response has a space before it, where it does not begin with one
        or with a mark that has none. Raises DataError."""
        found: dict[str, list[Scored]] = {}
        for fields in rows_with(self.source, self.split, ("prompt", "text", "reward")):
            # In reviews from the web a line break is written as a tag.
            text = " ".join(str(fields["text"]).replace("<br />", " ").split()[: self.words])
            joint = "" if text[:1] in _NO_SPACE_BEFORE else " "
            found.setdefault(str(fields["prompt"]), []).append(Scored(joint + text, float(fields["reward"])))
        return found
