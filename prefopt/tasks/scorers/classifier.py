"""A text classifier: the probability of one of its labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, final

from pydantic import Field

from prefopt.tasks.scorers.base import Scorer
from prefopt.tasks.scorers.sequence_classification import load, logits
from prefopt.validation import did_you_mean

__all__ = ["ClassifierScorer"]


@final
class ClassifierScorer(Scorer):
    """p(label | text) of a Hugging Face text classifier, in [0, 1].

    model        name or folder of a model for sequence classification
    label        the label that counts as good, as the model's `id2label` has it
    with_prompt  whether the text is prompt and response; else it is the response alone
    batch_size   texts at a time
    max_length   tokens of a text; what is beyond them is cut
    """

    name: Literal["classifier"] = "classifier"
    model: str
    label: str
    with_prompt: bool = False
    batch_size: int = Field(default=32, ge=1)
    max_length: int = Field(default=512, ge=1)

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        model, tokenizer = load(self.model, "right")
        labels = {str(name): index for index, name in model.config.id2label.items()}
        if len(labels) < 2:
            raise ValueError(f"scorer classifier: {self.model} has one label only; is it a reward_model?")
        if self.label not in labels:
            near = did_you_mean(self.label, labels)
            raise ValueError(
                f"scorer classifier: {self.model} has no label {self.label!r}.{near} Labels: {', '.join(labels)}."
            )
        texts = responses
        if self.with_prompt:
            texts = [prompt + response for prompt, response in zip(prompts, responses, strict=True)]
        values = logits(model, tokenizer, texts, batch_size=self.batch_size, max_length=self.max_length)
        return [float(p) for p in values.softmax(-1)[:, labels[self.label]]]
