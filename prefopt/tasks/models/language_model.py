"""Language models: a tokenizer of words for small ones, and the training of any on texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    DataCollatorForSeq2Seq,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
)

__all__ = ["train_language_model", "word_tokenizer"]


def word_tokenizer(texts: Sequence[str], *, positions: int) -> PreTrainedTokenizerFast:
    """One token a word, with the space before it, and one a punctuation mark; decoding gives the text back."""
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


def train_language_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    folder: Path,
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    show: Callable[[Trainer], None],
    max_length: int | None = None,
    end_token: str | None = None,
) -> None:
    """Train the model on the texts and write it with its tokenizer to the folder.

    Each text is ended by `end_token`, or else by the tokenizer's end-of-text token if it has one, and then cut at
    `max_length` tokens. `show` is given the trainer before it begins.
    """
    end = end_token or tokenizer.eos_token or ""
    cut: Any = {} if max_length is None else {"truncation": True, "max_length": max_length}
    ids: Any = tokenizer([text + end for text in texts], **cut)["input_ids"]
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(folder),
            max_steps=steps,
            per_device_train_batch_size=batch_size,
            learning_rate=learning_rate,
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
        # Labels are padded apart from ids: where the end of a text is also what pads, the end has to be learned still.
        data_collator=DataCollatorForSeq2Seq(tokenizer),
    )
    show(trainer)
    trainer.train()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
