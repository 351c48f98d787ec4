"""The supervised step before a comparison: a model learns the texts of the task, and is the reference then."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Self, final

from pydantic import BaseModel, ConfigDict, Field, model_validator
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback

from prefopt.tasks.models.language_model import train_language_model
from prefopt.tasks.quiet import quiet
from prefopt.training.trainer_inputs import ensure_pad_token

__all__ = ["Sft", "supervised"]


@final
class Sft(BaseModel):
    """How long and how fast a supervised step trains.

    steps, epochs  of the texts; one of the two
    batch_size     texts of a step
    learning_rate  the highest: it rises over a twentieth of the steps, then falls along a cosine
    max_length     tokens of a text, which is cut there; one that is cut has no end-of-text token
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int | None = Field(default=None, ge=1)
    epochs: float | None = Field(default=None, gt=0)
    batch_size: int = Field(default=16, ge=1)
    learning_rate: float = Field(default=1e-5, gt=0)
    max_length: int = Field(default=512, ge=2)

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("set one of `steps` and `epochs`, which say how long to train")
        return self

    def steps_of(self, texts: int) -> int:
        """Steps of training on so many texts."""
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None
        return max(1, math.ceil(self.epochs * texts / self.batch_size))


def supervised(
    model_name: str, texts: Sequence[str], folder: Path, settings: Sft, seed: int, *, end_token: str | None = None
) -> None:
    """Train a model on -sum_t log pi(y_t | y_<t), mean over the tokens of the texts, and write it into the folder.

    model_name: a name or folder for `from_pretrained`. Each text is ended by `end_token`, or else by the tokenizer's
    end-of-text token, where it has one. Model and tokenizer are written, the tokenizer with a padding token. Raises
    ValueError without texts.
    """
    if not texts:
        raise ValueError("the supervised step has no texts to train on")
    with quiet():
        tokenizer = ensure_pad_token(AutoTokenizer.from_pretrained(model_name))
        model = AutoModelForCausalLM.from_pretrained(model_name, dtype="float32")
        train_language_model(
            model,
            tokenizer,
            texts,
            folder,
            steps=settings.steps_of(len(texts)),
            batch_size=settings.batch_size,
            learning_rate=settings.learning_rate,
            seed=seed,
            show=lambda trainer: trainer.remove_callback(PrinterCallback),
            max_length=settings.max_length,
            end_token=end_token,
        )
