"""A reward model: one number for a response in its conversation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, final

from pydantic import Field

from prefopt.tasks.scorers.base import Scorer
from prefopt.tasks.scorers.sequence_classification import load, logits

__all__ = ["RewardModelScorer"]


@final
class RewardModelScorer(Scorer):
    """The one logit of a Hugging Face model of sequence classification, any real number.

    It reads the prompt as a user's message and the response as the assistant's, through the chat template of its
    tokenizer; without one, the response after the prompt. What is too long loses its beginning.

    model       name or folder of a model for sequence classification with one label
    batch_size  texts at a time
    max_length  tokens of a text
    """

    name: Literal["reward_model"] = "reward_model"
    model: str
    batch_size: int = Field(default=8, ge=1)
    max_length: int = Field(default=2048, ge=1)

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        model, tokenizer = load(self.model, "left")
        if model.config.num_labels != 1:
            raise ValueError(
                f"scorer reward_model: {self.model} has {model.config.num_labels} labels, and a reward model has one; "
                "is it a classifier?"
            )
        chat = tokenizer.chat_template is not None
        texts = []
        for prompt, response in zip(prompts, responses, strict=True):
            messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
            rendered = tokenizer.apply_chat_template(messages, tokenize=False) if chat else prompt + response
            texts.append(str(rendered))
        # A template writes the special tokens itself.
        settings: dict[str, Any] = {
            "batch_size": self.batch_size,
            "max_length": self.max_length,
            "special_tokens": not chat,
        }
        return [float(value) for value in logits(model, tokenizer, texts, **settings)[:, 0]]
