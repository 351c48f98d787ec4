"""The lm_eval task: what preference training does to the figures of the evaluation harness."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, Self, final

from pydantic import Field, model_validator
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prefopt.scoring import PreferenceModel
from prefopt.tasks.base import Evaluation, Material, Metric
from prefopt.tasks.generation import GENERATION_METRICS, generate
from prefopt.tasks.human_preferences.pairs import PreferencesTask
from prefopt.tasks.lm_eval.harness import Figure, evaluate_harness, figures, load


@final
class LmEvalTask(PreferencesTask):
    """Tasks of EleutherAI's evaluation harness, before training (the reference) and after it (every objective).

    The fields of `PreferencesTask`; the answers to `prompts` are for the policy's distance from the reference. And

    tasks          names of the harness: of tasks, or of groups and tags, which stand for the tasks in them
    include_path   a folder with YAML files of further tasks
    limit          documents of each task; a share below 1; null: all
    num_fewshot    examples before each document; null: as the task says
    batch_size     requests at a time
    chat_template  whether documents go through the tokenizer's chat template

    >>> LmEvalTask.model_fields["held_out"].default
    64
    """

    name: Literal["lm_eval"] = "lm_eval"
    tasks: tuple[str, ...] = Field(min_length=1)
    include_path: str | None = None
    limit: float | None = Field(default=None, gt=0)
    num_fewshot: int | None = Field(default=None, ge=0)
    batch_size: int = Field(default=8, ge=1)
    chat_template: bool = False
    held_out: int = Field(default=64, ge=1)
    prompts: int = Field(default=32, ge=1)

    @model_validator(mode="after")
    def _tasks_exist(self) -> Self:
        try:
            self.figures()
        except ImportError as error:
            raise ValueError(str(error)) from error
        return self

    def figures(self) -> tuple[Figure, ...]:
        """What the harness measures in the tasks, read from their YAML without their data."""
        return figures(self.tasks, self.include_path)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return (*(figure.described for figure in self.figures()), *GENERATION_METRICS)

    def check(self) -> None:
        load(self.figures(), self.include_path)

    def evaluate(
        self, model: PreferenceModel, reference: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, material: Material
    ) -> Evaluation:
        held_out = material.read_prompts()
        prompts = [prompt.prompt for prompt in held_out]
        generations = generate(model.policy, reference, tokenizer, prompts, self.generation, seed=material.seed)
        values = evaluate_harness(
            model.policy,
            tokenizer,
            self.figures(),
            load(self.figures(), self.include_path),
            **self.model_dump(include={"limit", "num_fewshot", "batch_size", "chat_template"}),
        )
        answers = Evaluation.by_prompt(held_out, generations.texts, generations.figures)
        return replace(answers, values={**values, **answers.values})
