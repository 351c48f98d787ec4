"""Scorers of Hugging Face models of sequence classification: classifiers and reward models."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Literal, final

import torch
from pydantic import Field
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from prefopt.data.quiet import quiet
from prefopt.progress import tracked
from prefopt.tasks.scorers.base import Scorer
from prefopt.training.trainer_inputs import ensure_pad_token
from prefopt.validation import did_you_mean


@final
class ClassifierScorer(Scorer):
    """p(label | text) of a text classifier, in [0, 1].

    model        name or folder of a model for sequence classification
    label        the label that counts as good, as the model's `id2label` has it
    with_prompt  whether the text is prompt and response; else it is the response alone
    batch_size   texts at a time
    max_length   tokens of a text; those beyond are cut

    >>> ClassifierScorer(model="lvwerra/distilbert-imdb", label="POSITIVE").max_length
    512
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
        texts = list(map(str.__add__, prompts, responses)) if self.with_prompt else responses
        logits = _logits(model, tokenizer, texts, self.batch_size, self.max_length)
        return [float(p) for p in logits.softmax(-1)[:, labels[self.label]]]


@final
class RewardModelScorer(Scorer):
    """The one logit of a reward model, any real number.

    It reads the prompt as a user's message and the response as the assistant's, through the chat template of its
    tokenizer; without one, the response after the prompt. A text that is too long loses its beginning.

    model       name or folder of a model for sequence classification with one label
    batch_size  texts at a time
    max_length  tokens of a text

    >>> RewardModelScorer(model="OpenAssistant/reward-model-deberta-v3-base").batch_size
    8
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

        def text(prompt: str, response: str) -> str:
            messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
            return str(tokenizer.apply_chat_template(messages, tokenize=False)) if chat else prompt + response

        texts = list(map(text, prompts, responses))
        # A chat template writes the special tokens itself.
        logits = _logits(model, tokenizer, texts, self.batch_size, self.max_length, add_special_tokens=not chat)
        return [float(value) for value in logits[:, 0]]


@functools.lru_cache(maxsize=2)
def load(name: str, truncation_side: Literal["left", "right"]) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model, on a GPU where there is one, and its tokenizer.

    Raises ValueError where the checkpoint has no classifier, whose weights would then be drawn at random.
    """
    with quiet():
        loaded: Any = AutoModelForSequenceClassification.from_pretrained(name, dtype="auto", output_loading_info=True)
        model, info = loaded
        tokenizer = ensure_pad_token(AutoTokenizer.from_pretrained(name, truncation_side=truncation_side))
    if absent := sorted(info["missing_keys"]):
        raise ValueError(
            f"{name}: the checkpoint is no model of sequence classification, as it has no weights for "
            f"{', '.join(absent[:3])}; name one that was trained to classify"
        )
    if model.config.pad_token_id is None:  # by which a causal model finds the last token of a row
        model.config.pad_token_id = tokenizer.pad_token_id
    return model.eval().to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer


@torch.inference_mode()
def _logits(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    batch_size: int,
    max_length: int,
    **settings: bool,
) -> Tensor:
    """[M, labels], float32, on the CPU. A text is cut at `max_length` tokens, at the tokenizer's truncation side."""
    batches = [torch.empty(0, model.config.num_labels)]
    for start in tracked(range(0, len(texts), batch_size), "scoring texts"):
        part = list(texts[start : start + batch_size])
        batch = tokenizer(part, padding=True, truncation=True, max_length=max_length, return_tensors="pt", **settings)
        batches.append(model(**batch.to(model.device)).logits.float().cpu())
    return torch.cat(batches)
