"""Language models that tasks train: a small Llama, supervised fine-tuning, and copies without an end-of-text token."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self, final

import datasets
from pydantic import Field, model_validator
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    PrinterCallback,
    Trainer,
    TrainingArguments,
    set_seed,
)

from prefopt.data.quiet import quiet
from prefopt.progress import shown
from prefopt.training.callbacks import StepReport
from prefopt.training.trainer_inputs import ensure_pad_token
from prefopt.validation import Settings


@final
class Sft(Settings):
    """The length and rate of supervised fine-tuning.

    steps, epochs  length of training; one of the two is set
    batch_size     texts per step
    learning_rate  the peak, after a linear warm-up over 5% of the steps and before a cosine decay
    max_length     tokens; a longer text is truncated and then has no end-of-text token

    >>> Sft(epochs=2, batch_size=16).total_steps(100)
    13
    """

    steps: int | None = Field(default=None, ge=1)
    epochs: float | None = Field(default=None, gt=0)
    batch_size: int = Field(default=16, ge=1)
    learning_rate: float = Field(default=1e-5, gt=0)
    max_length: int = Field(default=512, ge=2)

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("set one of `steps` and `epochs`, the length of training")
        return self

    def total_steps(self, texts: int) -> int:
        """Training steps on that number of texts."""
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None
        return max(1, math.ceil(self.epochs * texts / self.batch_size))


def supervised(
    model_name: str, texts: Sequence[str], folder: Path, settings: Sft, seed: int, *, end_token: str | None = None
) -> None:
    """Fine-tune a model of `from_pretrained` on the texts; write it and its tokenizer, with a padding token, to the
    folder. Raises ValueError without texts."""
    if not texts:
        raise ValueError("the supervised step has no texts to train on")
    with quiet():
        tokenizer = ensure_pad_token(AutoTokenizer.from_pretrained(model_name))
        model = AutoModelForCausalLM.from_pretrained(model_name, dtype="float32")
        train_language_model(model, tokenizer, texts, folder, settings, seed, end_token=end_token)


def train_language_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    folder: Path,
    settings: Sft,
    seed: int,
    *,
    end_token: str | None = None,
) -> None:
    """Minimise -sum_t log pi(y_t | y_<t), mean over the tokens of the texts; write model and tokenizer to the folder.

    Every text ends with `end_token` or, without one, with the tokenizer's end-of-text token if it has one, and is then
    truncated.
    """
    end = end_token or tokenizer.eos_token or ""
    ids: Any = tokenizer([text + end for text in texts], truncation=True, max_length=settings.max_length)["input_ids"]
    steps = settings.total_steps(len(texts))
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(folder),
            max_steps=steps,
            per_device_train_batch_size=settings.batch_size,
            learning_rate=settings.learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=max(1, steps // 20),
            weight_decay=0.01,
            logging_steps=max(1, steps // 20),
            save_strategy="no",
            dataloader_pin_memory=False,
            report_to="none",
            disable_tqdm=True,
            seed=seed,
        ),
        train_dataset=datasets.Dataset.from_dict({"input_ids": ids, "labels": ids}),
        # Labels are padded apart from ids, so that an end-of-text token which is also the padding token is learned.
        data_collator=DataCollatorForSeq2Seq(tokenizer),
    )
    trainer.remove_callback(PrinterCallback)
    with shown("fine-tuning", steps) as report:
        trainer.add_callback(StepReport("fine-tuning", report))
        trainer.train()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def save_without_eos(model: str, folder: Path, *, end_token: str | None = None) -> str:
    """Write the model into the folder with a tokenizer that has no end-of-text token; return the text of that token.

    Encoding a response appends the tokenizer's end-of-text token, but a truncated response must not be trained to end.
    Under this tokenizer a response ends only if its text ends with the returned one; sampling still stops there, as the
    generation settings name the token. `end_token` replaces the tokenizer's own end-of-text token.

    Raises ValueError without an end-of-text token, or if the tokenizer reads it as several tokens.
    """
    with quiet():
        tokenizer = ensure_pad_token(AutoTokenizer.from_pretrained(model))
        copy = AutoModelForCausalLM.from_pretrained(model, dtype="auto")
    end = end_token or tokenizer.eos_token
    if end is None:
        raise ValueError(f"{model}: the tokenizer has no end-of-text token; name what ends a text with `end_token`")
    # Encoded behind a word, as at the end of a text.
    end_id: Any = tokenizer(f"x{end}", add_special_tokens=False)["input_ids"][-1]
    if tokenizer.convert_tokens_to_ids(end) != end_id or end_id == tokenizer.unk_token_id:
        raise ValueError(f"{model}: the tokenizer does not read {end!r} as one token, so that it cannot be `end_token`")
    copy.generation_config.eos_token_id = end_id
    tokenizer.eos_token = None
    with quiet():
        copy.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return str(end)


_POSITIONS, _BATCH, _LEARNING_RATE = 256, 32, 3e-3


def word_tokenizer(texts: Sequence[str], *, positions: int) -> PreTrainedTokenizerFast:
    """One token per word, with the space before it, and per punctuation mark; decoding is exact."""
    backend = Tokenizer(models.WordLevel(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(prepend_scheme="always"), pre_tokenizers.Punctuation("isolated")]
    )
    backend.decoder = decoders.Metaspace(prepend_scheme="always")
    special = ["<pad>", "<unk>", "</s>"]
    backend.train_from_iterator(texts, trainers.WordLevelTrainer(special_tokens=special, show_progress=False))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", unk_token="<unk>", eos_token="</s>", model_max_length=positions
    )


def small_llama(tokenizer: PreTrainedTokenizerBase, *, positions: int, **fields: Any) -> LlamaForCausalLM:
    """An untrained Llama of 3 layers and 96 units for the tokenizer; `fields` are further ones of its LlamaConfig."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            num_hidden_layers=3,
            hidden_size=96,
            intermediate_size=192,
            num_attention_heads=4,
            max_position_embeddings=positions,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            **fields,
        )
    )


def train_small_model(texts: Sequence[str], folder: Path, *, steps: int, seed: int) -> None:
    """Train a small Llama with a tokenizer of words on the texts; write both to the folder."""
    set_seed(seed)
    tokenizer = word_tokenizer(texts, positions=_POSITIONS)
    settings = Sft(steps=steps, batch_size=_BATCH, learning_rate=_LEARNING_RATE)
    train_language_model(small_llama(tokenizer, positions=_POSITIONS), tokenizer, texts, folder, settings, seed)
