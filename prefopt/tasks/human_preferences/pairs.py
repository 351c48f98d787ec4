"""Tasks whose pairs are preferences that people gave: where they come from, how they are split, and the reference."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self, final

from pydantic import Field, model_validator
from transformers import AutoTokenizer

from prefopt.data import ChatPair
from prefopt.sampling import Generation
from prefopt.tasks.base import Task, write_split
from prefopt.tasks.models import Sft, supervised
from prefopt.tasks.preference_data.forms import QUARANTINE, Compared, Template, read_compared
from prefopt.tasks.preference_data.sources import Longest, Rows, Source
from prefopt.tasks.preference_data.split import split_by_prompt


class PreferencesTask(Task):
    """The fields of all tasks of human preferences.

    model          the reference, and the policy before training: a name or folder for `from_pretrained`
    data           rows to train on: a path or a name of the hub, or a mapping with `name` and other fields of `Source`
    held_out_data  rows for the held-out pairs; null: they are taken from `data`
    pairs          most pairs to train on; null: all
    held_out       held-out pairs, each of a prompt of its own
    prompts        of the held-out pairs' prompts, how many the policy answers
    longest        most words of the prompt and of a response of the pairs that are taken
    sft            the supervised step that makes the reference of `model`, on prompts and chosen responses; null: none
    generation     how the policy is sampled
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
    def prompt_template(self) -> Template:
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
        aside = folder / f"held-out-{QUARANTINE}"
        train, held_out = split_by_prompt(
            self._read(self.data, folder / QUARANTINE),
            held_out=self.held_out,
            train=self.pairs,
            seed=seed,
            held_out_from=None if self.held_out_data is None else self._read(self.held_out_data, aside),
        )
        write_split(folder, train, held_out, held_out[: self.prompts])
        self.check_material(folder)
        return self.model if self.sft is None else self._train_reference(self.sft, train, folder / "reference", seed)

    def check(self) -> None:
        """Raise for what evaluation needs and this environment lacks, before anything is made."""

    def check_material(self, folder: Path) -> None:
        """Raise for what turns out to be of no use on the material, before anything is trained."""

    @final
    def _read(self, source: Source, quarantine: Path) -> list[Compared]:
        return read_compared(source, self.prompt_template, self.longest, quarantine=quarantine)

    @final
    def _train_reference(self, sft: Sft, pairs: Sequence[Compared], folder: Path, seed: int) -> str:
        tokenizer: Any = AutoTokenizer.from_pretrained(self.model)

        def text(compared: Compared) -> str:
            """Prompt and chosen response without the special tokens around them, which `supervised` adds."""
            pair = compared.pair
            if not isinstance(pair, ChatPair):
                return pair.prompt + pair.chosen
            whole = str(tokenizer.apply_chat_template([*pair.prompt, *pair.chosen], tokenize=False)).rstrip()
            return whole.removeprefix(tokenizer.bos_token or "").removesuffix(tokenizer.eos_token or "")

        supervised(self.model, list(dict.fromkeys(map(text, pairs))), folder, sft, seed)
        return str(folder)
