"""The lm_eval task: what preference training does to the figures of the evaluation harness."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self, final

from pydantic import Field, model_validator
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prefopt.comparison.answers import asked
from prefopt.comparison.forms import Compared, Template, read_compared
from prefopt.comparison.lm_eval.harness import Figure, figures
from prefopt.comparison.lm_eval.measure import load, measured
from prefopt.comparison.material import as_prompt, as_row, prompt_key, reference_of, split_by_prompt, write_rows
from prefopt.comparison.sft import Sft
from prefopt.comparison.sources import Longest, Rows, Source
from prefopt.comparison.task import HELD_OUT, PROMPTS, TRAIN, Evaluation, Material, Metric, Task
from prefopt.comparison.written import WRITTEN, Generation, write
from prefopt.scoring import PreferenceModel

__all__ = ["LmEvalTask"]


@final
class LmEvalTask(Task):
    """Tasks of EleutherAI's evaluation harness, before training (the reference) and after it (every objective).

    tasks          names of the harness: of tasks, or of groups and tags, which stand for the tasks in them
    include_path   a folder with YAML files of further tasks
    limit          documents of each task; a share below 1; null: all
    num_fewshot    examples before each document; null: as the task says
    batch_size     requests at a time
    chat_template  whether documents go through the tokenizer's chat template
    model          the reference, and the policy before training: a name or folder for `from_pretrained`
    data           pairs to train on: a path or a name of the hub, or a mapping with `name` and other fields of `Source`
    held_out_data  rows for the held-out pairs; null: they are taken from `data`
    pairs          most pairs to train on; null: all
    held_out       held-out pairs, each of a prompt of its own
    prompts        of the held-out pairs' prompts, how many the policy answers, for its distance from the reference
    longest        most words of the prompt and of a response of the pairs that are taken
    sft            the supervised step that makes the reference of `model`, on prompts and chosen responses; null: none
    generation     how the policy is asked
    """

    name: Literal["lm_eval"] = "lm_eval"
    tasks: tuple[str, ...] = Field(min_length=1)
    include_path: str | None = None
    limit: float | None = Field(default=None, gt=0)
    num_fewshot: int | None = Field(default=None, ge=0)
    batch_size: int = Field(default=8, ge=1)
    chat_template: bool = False
    model: str
    data: Rows
    held_out_data: Rows | None = None
    pairs: int | None = Field(default=None, ge=1)
    held_out: int = Field(default=64, ge=1)
    prompts: int = Field(default=32, ge=1)
    longest: Longest = Longest()
    sft: Sft | None = None
    generation: Generation = Generation()

    @model_validator(mode="after")
    def _holds_together(self) -> Self:
        if self.prompts > self.held_out:
            raise ValueError(
                f"`prompts` is {self.prompts}, but there are only {self.held_out} held-out pairs to take them from"
            )
        try:
            self.figures()
        except ImportError as error:
            raise ValueError(str(error)) from error
        return self

    def figures(self) -> tuple[Figure, ...]:
        """What the harness measures in the tasks; known without their data."""
        return figures(self.tasks, self.include_path)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return (*(figure.described for figure in self.figures()), *WRITTEN)

    def make(self, folder: Path, seed: int) -> str:
        load(self.figures(), self.include_path)  # what cannot be had is found out before anything is trained
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
        return reference_of(self.model, train, folder, self.sft, seed)

    def evaluate(
        self,
        model: PreferenceModel,
        reference: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        material: Material,
    ) -> Evaluation:
        questions = asked(material)
        prompts = [each.prompt for each in questions]
        written = write(model.policy, reference, tokenizer, prompts, self.generation, seed=material.seed)
        own = measured(
            model.policy,
            tokenizer,
            self.figures(),
            load(self.figures(), self.include_path),
            limit=self.limit,
            num_fewshot=self.num_fewshot,
            batch_size=self.batch_size,
            chat_template=self.chat_template,
        )
        distance = {
            name: {each.item: value for each, value in zip(questions, of, strict=True)}
            for name, of in written.figures.items()
        }
        texts = {each.text: of for each, of in zip(questions, written.texts, strict=True)}
        return Evaluation({**own, **distance}, texts)

    def _pairs(self, source: Source, folder: Path) -> list[Compared]:
        return read_compared(source, Template("{post}"), self.longest, folder=folder)
