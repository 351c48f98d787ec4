"""Rated responses: rows of prompt, text and reward."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

from pydantic import BaseModel, ConfigDict, Field

from prefopt.tasks.preference_data.texts import rows_with
from prefopt.tasks.sentiment.pairs import Scored

_NO_SPACE_BEFORE = ".,;:!?')"


@final
class Rated(BaseModel):
    """Rows with the columns `prompt`, `text` and `reward`.

    source  a file, folder or hub name that `prefopt.data.read_rows` takes
    split   of a hub data set
    words   responses are truncated to that many words; null: not at all
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    split: str = "train"
    words: int | None = Field(default=None, ge=1)

    def read(self) -> Mapping[str, list[Scored]]:
        """Prompt -> its responses and their rewards. A response starts with a space, unless its first character is a
        punctuation mark that takes none. Raises DataError."""
        responses: dict[str, list[Scored]] = {}
        for fields in rows_with(self.source, self.split, ("prompt", "text", "reward")):
            # Reviews from the web have line breaks as tags.
            text = " ".join(str(fields["text"]).replace("<br />", " ").split()[: self.words])
            space = "" if text[:1] in _NO_SPACE_BEFORE else " "
            responses.setdefault(str(fields["prompt"]), []).append(Scored(space + text, float(fields["reward"])))
        return responses
