"""Tasks whose pairs are those of another task, with more in their rows."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import final

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prefopt.scoring import PreferenceModel
from prefopt.tasks.base import Evaluation, Material, Metric, Task
from prefopt.tasks.registry import AnyTask


class AnnotatedTask(Task):
    """Another task, whose pairs get columns for components that read them. What is measured is what that task measures.

    task   the inner task
    """

    task: AnyTask

    @abstractmethod
    def annotate(self, folder: Path, reference: str, seed: int) -> None:
        """Add columns to the rows of TRAIN and HELD_OUT in the folder; `reference` is the material's model."""

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
