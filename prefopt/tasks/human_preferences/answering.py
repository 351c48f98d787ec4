"""Tasks in which a policy answers held-out prompts, after training on human preferences between two answers."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, final

from pydantic import Field
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prefopt.data import SourceRow, read_rows
from prefopt.sampling import Generation, sample_texts
from prefopt.scoring import PreferenceModel
from prefopt.tasks.base import HELD_OUT, Evaluation, HeldOutPrompt, Material, Metric
from prefopt.tasks.generation import GENERATION_METRICS, generate, prompt_means
from prefopt.tasks.held_out import COMMON
from prefopt.tasks.human_preferences.pairs import PreferencesTask
from prefopt.tasks.judges import AnyJudge, Judge
from prefopt.tasks.preference_data.sources import as_text
from prefopt.whole_files import publish_text

_THEIRS = {"chosen": "the preferred responses of the held-out data", "reference": "the reference's own samples"}

_AGREEMENT = Metric(
    "judge_agreement",
    "neither",
    "share of held-out pairs of which the judge prefers the chosen response: what its win rates are worth",
)


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
    against: Literal["chosen", "reference"] = "chosen"

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
        what = f"share of samples that the judge prefers to {_THEIRS[self.against]}; a tie is half"
        judged = () if self.judge is None else (Metric("win_rate", "higher", what),)
        common = {metric.name for metric in COMMON}
        at_temperatures = (
            replace(metric, name=f"{metric.name}@{t:g}", what=f"{metric.what}; at temperature {t:g}")
            for t in self.temperatures
            for metric in (*judged, *self.answer_metrics)
            if metric.name not in common
        )
        return (*judged, *(_AGREEMENT for _ in judged), *self.answer_metrics, *at_temperatures, *GENERATION_METRICS)

    @final
    def check_material(self, folder: Path) -> None:
        if self.judge is not None:
            _agreement(self.judge, folder)

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
                    theirs = _read_or_make(file, partial(answers, reference, generation))
                figures["win_rate" + suffix] = _win_rates(self.judge, held_out, ours, theirs)
        evaluation = Evaluation.by_prompt(held_out, texts, figures)
        if self.judge is None:
            return evaluation
        agreement = _agreement(self.judge, material.folder)
        return replace(evaluation, values={**evaluation.values, _AGREEMENT.name: agreement})

    def _chosen(self, prompts: Sequence[HeldOutPrompt]) -> list[list[str]]:
        """The chosen responses, once for each sample. They end at the stops as well, unless nothing were left: some
        transcripts go on for several turns."""
        chosen = [as_text(prompt.row["chosen"]) for prompt in prompts]
        return [[truncate(text, self.stop) or text] * self.generation.samples for text in chosen]

    def _truncate(self, texts: Sequence[Sequence[str]]) -> list[list[str]]:
        return [[truncate(text, self.stop) for text in group] for group in texts]


def truncate(text: str, stops: Sequence[str]) -> str:
    """The text up to where the first of the stops begins, without space at its end."""
    return text[: min((text.find(stop) for stop in stops if stop in text), default=len(text))].rstrip()


def _win_rates(
    judge: Judge, prompts: Sequence[HeldOutPrompt], ours: Sequence[Sequence[str]], theirs: Sequence[Sequence[str]]
) -> list[float]:
    """For each prompt the share of its samples that win, the first over their first and so on; a tie is half."""
    rates = judge.win_rates(
        [prompt.text for prompt, texts in zip(prompts, ours, strict=True) for _ in texts],
        [text for texts in ours for text in texts],
        [text for texts in theirs for text in texts],
    )
    return prompt_means(rates, ours)


def _agreement(judge: Judge, folder: Path) -> dict[str, float]:
    """By held-out pair of the material in the folder: 1 where the judge prefers the chosen response, 0.5 for a tie.

    The verdicts are kept in the folder. Raises what `Judge.check` raises.
    """

    def verdicts() -> list[float]:
        judge.check()
        rows: list[Any] = [row.fields for row in read_rows(folder / HELD_OUT) if isinstance(row, SourceRow)]
        sides = ([as_text(row[field]) for row in rows] for field in ("prompt", "chosen", "rejected"))
        return judge.win_rates(*sides)

    return {f"pair {index}": verdict for index, verdict in enumerate(_read_or_make(folder / "judge.json", verdicts))}


def _read_or_make(path: Path, make: Callable[[], object]) -> Any:
    """The content of a JSON file, which is first written from `make` where it does not exist."""
    if not path.exists():
        publish_text(json.dumps(make()), path)  # runs that share the material may read it at the same time
    return json.loads(path.read_text(encoding="utf-8"))
