"""Tasks whose pairs are those of another task, with more in their rows."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self, final

from pydantic import model_validator
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prefopt.scoring import PreferenceModel
from prefopt.tasks.base import Evaluation, Material, Metric, Task
from prefopt.tasks.registry import AnyTask


class AnnotatedTask(Task):
    """Another task, whose pairs get columns for components that read them. What is measured is what that task measures.

    task   the inner task
    """

    task: AnyTask

    @property
    @abstractmethod
    def annotations(self) -> tuple[str, ...]:
        """The columns that are added: NAME, of a row the fields chosen_NAME and rejected_NAME."""

    @abstractmethod
    def annotate(self, folder: Path, reference: str, seed: int) -> None:
        """Add columns to the rows of TRAIN and HELD_OUT in the folder; `reference` is the material's model."""

    @property
    @final
    def title(self) -> str:
        """The inner task's, with the columns that this one adds to it."""
        columns = self.annotations
        added = f" with the {'column' if len(columns) == 1 else 'columns'} {', '.join(columns)}" if columns else ""
        return f"{self.task.title}{added} ({self.name})"

    @property
    @final
    def metrics(self) -> tuple[Metric, ...]:
        return self.task.metrics

    @property
    @final
    def headline(self) -> str:
        return self.task.headline

    @property
    @final
    def marks(self) -> Callable[[Sequence[str]], list[bool]] | None:
        return self.task.marks

    @final
    def make(self, folder: Path, seed: int) -> str:
        reference = self.task.make(folder, seed)
        self.annotate(folder, reference, seed)
        return reference

    @final
    def evaluate(
        self, model: PreferenceModel, reference: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, material: Material
    ) -> Evaluation:
        return self.task.evaluate(model, reference, tokenizer, material)

    @model_validator(mode="after")
    def _columns_are_new(self) -> Self:
        inner: Task = self.task
        while isinstance(inner, AnnotatedTask):
            if twice := [column for column in self.annotations if column in inner.annotations]:
                raise ValueError(f"the task {inner.name!r} inside it adds the column {twice[0]!r} too; leave one out")
            inner = inner.task
        return self
