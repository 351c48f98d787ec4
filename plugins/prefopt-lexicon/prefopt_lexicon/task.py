"""The marked task: the pairs of another task, with the words of a lexicon marked in their responses."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, final

from pydantic import AfterValidator, Field

from prefopt.tasks import AnnotatedTask
from prefopt.tasks.base import HELD_OUT, TRAIN
from prefopt_lexicon.annotate import annotate_file, words

__all__ = ["MarkedTask"]


def _some_words(phrases: tuple[str, ...]) -> tuple[str, ...]:
    words(phrases)
    return phrases


@final
class MarkedTask(AnnotatedTask):
    """Another task, whose responses have the words of a lexicon marked, in training and held-out pairs.

    task     the inner task
    words    words and phrases, as `prefopt-lexicon --words` takes them, one an item
    column   the rows get chosen_COLUMN and rejected_COLUMN, spans of characters, which `lexicon` reads
    """

    name: Literal["marked"] = "marked"
    words: Annotated[tuple[str, ...], AfterValidator(_some_words)]
    column: str = Field(default="lexicon", min_length=1)

    @property
    def annotations(self) -> tuple[str, ...]:
        return (self.column,)

    def annotate(self, folder: Path, reference: str, seed: int) -> None:
        for name in (TRAIN, HELD_OUT):
            annotate_file(folder / name, folder / name, words(self.words), column=self.column, overwrite=True)
