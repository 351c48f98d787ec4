"""Tasks in which a policy answers held-out prompts, after training on preferences of people between two answers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Self, final

from pydantic import Field, model_validator
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prefopt.comparison.answers import (
    AGREEMENT,
    Against,
    Asked,
    agreement,
    asked,
    cut,
    kept,
    try_judge,
    win_rate,
    win_rates,
)
from prefopt.comparison.forms import Compared, Template, read_compared
from prefopt.comparison.held_out import COMMON
from prefopt.comparison.judges import AnyJudge
from prefopt.comparison.material import as_prompt, as_row, prompt_key, reference_of, split_by_prompt, write_rows
from prefopt.comparison.sft import Sft
from prefopt.comparison.sources import Longest, Rows, Source, as_text
from prefopt.comparison.task import HELD_OUT, PROMPTS, TRAIN, Evaluation, Material, Metric, Task
from prefopt.comparison.written import WRITTEN, Generation, sample, write
from prefopt.scoring import PreferenceModel

__all__ = ["AnsweringTask"]


class AnsweringTask(Task):
    """What these tasks have in common: where pairs come from, how they are split, and who judges the answers.

    model          the reference, and the policy before training: a name or folder for `from_pretrained`
    data           rows to train on: a path or a name of the hub, or a mapping with `name` and other fields of `Source`
    held_out_data  rows for the held-out pairs; null: they are taken from `data`
    pairs          most pairs to train on; null: all
    held_out       held-out pairs, each of a prompt of its own
    prompts        of the held-out pairs' prompts, how many the policy answers
    longest        most words of the prompt and of a response of the pairs that are taken
    sft            the supervised step that makes the reference of `model`, on prompts and chosen responses; null: none
    generation     how the policy is asked
    temperatures   at which it is asked besides: figures of these answers have the name of the metric, @ and the
                   temperature
    stop           an answer's text ends where one of these begins
    judge          who says which of two answers is better; null: nobody
    against        whose answers the policy's are set against: `chosen`, what the held-out data prefers, or `reference`,
                   the reference's own samples
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
    temperatures: tuple[Annotated[float, Field(ge=0)], ...] = ()
    stop: tuple[str, ...] = ()
    judge: AnyJudge = None
    against: Against = "chosen"

    @property
    @abstractmethod
    def around(self) -> Template:
        """What is put around a prompt of the data."""

    @property
    @abstractmethod
    def own(self) -> tuple[Metric, ...]:
        """The metrics that `measure` may give values of; the first is the headline where there is no judge."""

    @abstractmethod
    def check(self) -> None:
        """Raise for what `measure` will need and cannot have here."""

    @abstractmethod
    def measure(
        self, questions: Sequence[Asked], texts: Sequence[Sequence[str]]
    ) -> Mapping[str, Sequence[float | None]]:
        """The task's own figures of the answers to each prompt, by metric; None where one is not defined."""

    @model_validator(mode="after")
    def _enough_held_out(self) -> Self:
        if self.prompts > self.held_out:
            raise ValueError(
                f"`prompts` is {self.prompts}, but there are only {self.held_out} held-out pairs to take them from"
            )
        return self

    @property
    @final
    def metrics(self) -> tuple[Metric, ...]:
        first = () if self.judge is None else (win_rate(self.against),)
        common = {metric.name for metric in COMMON}
        again = [metric for metric in (*first, *self.own) if metric.name not in common]
        warmer = (
            replace(metric, name=metric.name + _at(temperature), what=f"{metric.what}; at temperature {temperature:g}")
            for temperature in self.temperatures
            for metric in again
        )
        return (*first, *(AGREEMENT for _ in first), *self.own, *warmer, *WRITTEN)

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
        if self.judge is not None:
            try_judge(self.judge, folder)
        return reference_of(self.model, train, folder, self.sft, seed)

    @final
    def evaluate(
        self,
        model: PreferenceModel,
        reference: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        material: Material,
    ) -> Evaluation:
        questions = asked(material)
        prompts = [each.prompt for each in questions]

        def answers(of: PreTrainedModel, generation: Generation) -> list[list[str]]:
            # From the same seed for all: a policy that has not moved answers as the reference does, and ties.
            return self._ended(sample(of, tokenizer, prompts, generation, seed=material.seed))

        written = write(model.policy, reference, tokenizer, prompts, self.generation, seed=material.seed)
        texts = self._ended(written.texts)
        at = {"": (self.generation, texts)}
        for temperature in self.temperatures:
            generation = self.generation.model_copy(update={"temperature": temperature})
            at[_at(temperature)] = generation, answers(model.policy, generation)
        figures: dict[str, Sequence[float | None]] = dict(written.figures)
        for where, (generation, found) in at.items():
            figures |= {name + where: of for name, of in self.measure(questions, found).items()}
            if self.judge is not None:
                kept_in = material.folder / f"reference-answers{where}.json"
                theirs = self._theirs(questions, kept_in, partial(answers, reference, generation))
                figures["win_rate" + where] = win_rates(self.judge, questions, found, theirs)
        values = {
            name: {each.item: value for each, value in zip(questions, of, strict=True) if value is not None}
            for name, of in figures.items()
        }
        if self.judge is not None:
            values[AGREEMENT.name] = agreement(material)
        return Evaluation(values, {each.text: of for each, of in zip(questions, texts, strict=True)})

    def _theirs(
        self, questions: Sequence[Asked], kept_in: Path, reference: Callable[[], list[list[str]]]
    ) -> list[list[str]]:
        """The answers that the policy's are set against; the reference is asked once for each material.

        Chosen ones end at the stops as well, unless nothing were left: some transcripts go on for several turns.
        """
        if self.against == "chosen":
            chosen = [as_text(each.row["chosen"]) for each in questions]
            return [[cut(text, self.stop) or text] * self.generation.samples for text in chosen]
        return kept(kept_in, reference)

    def _ended(self, texts: Sequence[Sequence[str]]) -> list[list[str]]:
        return [[cut(text, self.stop) for text in of] for of in texts]

    def _pairs(self, source: Source, folder: Path) -> list[Compared]:
        return read_compared(source, self.around, self.longest, folder=folder)


def _at(temperature: float) -> str:
    return f"@{temperature:g}"
