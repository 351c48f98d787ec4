"""Tasks whose pairs are preferences that somebody gave: where they come from, how they are split, and the reference."""

from __future__ import annotations

from pathlib import Path
from typing import Self, final

from pydantic import Field, model_validator

from prefopt.tasks.base import HELD_OUT, PROMPTS, TRAIN, Task, write_rows
from prefopt.tasks.generation.generate import Generation
from prefopt.tasks.models.sft import Sft
from prefopt.tasks.preference_data.forms import Compared, Template, read_compared
from prefopt.tasks.preference_data.sources import Longest, Rows, Source
from prefopt.tasks.preference_data.split import as_prompt, as_row, prompt_key, reference_of, split_by_prompt

__all__ = ["PreferencesTask"]


class PreferencesTask(Task):
    """What these tasks have in common.

    model          the reference, and the policy before training: a name or folder for `from_pretrained`
    data           rows to train on: a path or a name of the hub, or a mapping with `name` and other fields of `Source`
    held_out_data  rows for the held-out pairs; null: they are taken from `data`
    pairs          most pairs to train on; null: all
    held_out       held-out pairs, each of a prompt of its own
    prompts        of the held-out pairs' prompts, how many the policy answers
    longest        most words of the prompt and of a response of the pairs that are taken
    sft            the supervised step that makes the reference of `model`, on prompts and chosen responses; null: none
    generation     how the policy is asked
    """

    model: str
    data: Rows
    held_out_data: Rows | None = None
    pairs: int | None = Field(default=None, ge=1)
    held_out: int = Field(default=256, ge=1)
    prompts: int = Field(default=128, ge=1)
    longest: Longest = Longest()
    sft: Sft | None = None
    generation: Generation = Generation()

    @property
    def around(self) -> Template:
        """What is put around a prompt of the data; nothing, unless the task says otherwise."""
        return Template("{post}")

    @model_validator(mode="after")
    def _enough_held_out(self) -> Self:
        if self.prompts > self.held_out:
            raise ValueError(
                f"`prompts` is {self.prompts}, but there are only {self.held_out} held-out pairs to take them from"
            )
        return self

    @final
    def make(self, folder: Path, seed: int) -> str:
        self.check()
        train, held_out = split_by_prompt(
            self._pairs(self.data, folder),
            prompt_key,
            held_out=self.held_out,
            train=self.pairs,
            seed=seed,
            held_out_from=None if self.held_out_data is None else self._pairs(self.held_out_data, folder),
        )
        write_rows(folder / TRAIN, map(as_row, train))
        write_rows(folder / HELD_OUT, map(as_row, held_out))
        write_rows(folder / PROMPTS, map(as_prompt, held_out[: self.prompts]))
        self.try_out(folder)
        return reference_of(self.model, train, folder, self.sft, seed)

    def check(self) -> None:
        """Raise for what measuring will need and cannot have here, before anything is made."""

    def try_out(self, folder: Path) -> None:
        """Raise for what turns out to be of no use on the material, before anything is trained."""

    @final
    def _pairs(self, source: Source, folder: Path) -> list[Compared]:
        return read_compared(source, self.around, self.longest, folder=folder)
