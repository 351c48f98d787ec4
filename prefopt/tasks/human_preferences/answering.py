"""Tasks in which a policy answers held-out prompts, after training on human preferences between two answers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, final

from pydantic import Field
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prefopt.scoring import PreferenceModel
from prefopt.tasks.base import Evaluation, HeldOutPrompt, Material, Metric
from prefopt.tasks.generation.generate import GENERATION_METRICS, Generation, generate, sample_texts
from prefopt.tasks.held_out import COMMON
from prefopt.tasks.human_preferences.pairs import PreferencesTask
from prefopt.tasks.human_preferences.win_rates import (
    AGREEMENT,
    Against,
    agreement,
    read_or_make,
    truncate,
    win_rate_metric,
    win_rates,
)
from prefopt.tasks.judges import AnyJudge
from prefopt.tasks.preference_data.sources import as_text

__all__ = ["AnsweringTask"]


class AnsweringTask(PreferencesTask):
    """The fields of all tasks whose policies answer prompts, beside those of `PreferencesTask`.

    temperatures  at which the policy answers besides: figures of these answers have the name of the metric, @ and the
                  temperature
    stop          an answer's text ends where one of these begins
    judge         decides which of two answers is better; null: no win rates
    against       the answers that the policy's are compared with: `chosen`, which the held-out data prefers, or
                  `reference`, the reference's own samples
    """

    temperatures: tuple[Annotated[float, Field(ge=0)], ...] = ()
    stop: tuple[str, ...] = ()
    judge: AnyJudge = None
    against: Against = "chosen"

    @property
    @abstractmethod
    def answer_metrics(self) -> tuple[Metric, ...]:
        """The metrics that `measure` may give values of; the first is the headline where there is no judge."""

    @abstractmethod
    def measure(
        self, prompts: Sequence[HeldOutPrompt], texts: Sequence[Sequence[str]]
    ) -> Mapping[str, Sequence[float | None]]:
        """The figures of the answers to each prompt, by metric; None where one is not defined."""

    @property
    @final
    def metrics(self) -> tuple[Metric, ...]:
        judged = () if self.judge is None else (win_rate_metric(self.against),)
        common = {metric.name for metric in COMMON}
        at_temperatures = (
            replace(metric, name=f"{metric.name}@{t:g}", what=f"{metric.what}; at temperature {t:g}")
            for t in self.temperatures
            for metric in (*judged, *self.answer_metrics)
            if metric.name not in common
        )
        return (*judged, *(AGREEMENT for _ in judged), *self.answer_metrics, *at_temperatures, *GENERATION_METRICS)

    @final
    def check_material(self, folder: Path) -> None:
        if self.judge is not None:
            agreement(self.judge, folder)

    @final
    def evaluate(
        self, model: PreferenceModel, reference: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, material: Material
    ) -> Evaluation:
        held_out = material.read_prompts()
        prompts = [prompt.prompt for prompt in held_out]

        def answers(policy: PreTrainedModel, generation: Generation) -> list[list[str]]:
            # From the same seed for all: a policy that has not moved answers as the reference does, and ties.
            return self._truncate(sample_texts(policy, tokenizer, prompts, generation, seed=material.seed))

        generations = generate(model.policy, reference, tokenizer, prompts, self.generation, seed=material.seed)
        texts = self._truncate(generations.texts)
        settings = {f"@{t:g}": self.generation.model_copy(update={"temperature": t}) for t in self.temperatures}
        figures: dict[str, Sequence[float | None]] = dict(generations.figures)
        for suffix, generation in {"": self.generation, **settings}.items():
            ours = answers(model.policy, generation) if suffix else texts
            figures |= {name + suffix: values for name, values in self.measure(held_out, ours).items()}
            if self.judge is not None:
                theirs = self._chosen(held_out)
                if self.against == "reference":
                    file = material.folder / f"reference-answers{suffix}.json"
                    theirs = read_or_make(file, partial(answers, reference, generation))
                figures["win_rate" + suffix] = win_rates(self.judge, held_out, ours, theirs)
        evaluation = Evaluation.by_prompt(held_out, texts, figures)
        if self.judge is None:
            return evaluation
        return replace(evaluation, values={**evaluation.values, AGREEMENT.name: agreement(self.judge, material.folder)})

    def _chosen(self, prompts: Sequence[HeldOutPrompt]) -> list[list[str]]:
        """The chosen responses, once for each sample. They end at the stops as well, unless nothing were left: some
        transcripts go on for several turns."""
        chosen = [as_text(prompt.row["chosen"]) for prompt in prompts]
        return [[truncate(text, self.stop) or text] * self.generation.samples for text in chosen]

    def _truncate(self, texts: Sequence[Sequence[str]]) -> list[list[str]]:
        return [[truncate(text, self.stop) for text in group] for group in texts]
