"""Tasks in which a policy answers held-out prompts, after training on preferences of people between two answers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, final

from pydantic import Field
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prefopt.scoring import PreferenceModel
from prefopt.tasks.base import Evaluation, Material, Metric
from prefopt.tasks.generation.generate import WRITTEN, Generation, sample, write
from prefopt.tasks.held_out import COMMON
from prefopt.tasks.human_preferences.pairs import PreferencesTask
from prefopt.tasks.human_preferences.win_rates import (
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
from prefopt.tasks.judges import AnyJudge
from prefopt.tasks.preference_data.sources import as_text

__all__ = ["AnsweringTask"]


class AnsweringTask(PreferencesTask):
    """What these tasks have in common, beside the fields of `PreferencesTask`.

    temperatures  at which the policy is asked besides: figures of these answers have the name of the metric, @ and the
                  temperature
    stop          an answer's text ends where one of these begins
    judge         who says which of two answers is better; null: nobody
    against       whose answers the policy's are set against: `chosen`, what the held-out data prefers, or `reference`,
                  the reference's own samples
    """

    temperatures: tuple[Annotated[float, Field(ge=0)], ...] = ()
    stop: tuple[str, ...] = ()
    judge: AnyJudge = None
    against: Against = "chosen"

    @property
    @abstractmethod
    def own(self) -> tuple[Metric, ...]:
        """The metrics that `measure` may give values of; the first is the headline where there is no judge."""

    @abstractmethod
    def measure(
        self, questions: Sequence[Asked], texts: Sequence[Sequence[str]]
    ) -> Mapping[str, Sequence[float | None]]:
        """The task's own figures of the answers to each prompt, by metric; None where one is not defined."""

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
    def try_out(self, folder: Path) -> None:
        if self.judge is not None:
            try_judge(self.judge, folder)

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


def _at(temperature: float) -> str:
    return f"@{temperature:g}"
