"""A small language model of words, trained on generated texts: the reference where nothing is to be downloaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    DataCollatorForLanguageModeling,
    PreTrainedModel,
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
    tokenizer: PreTrainedTokenizerFast,
    texts: Sequence[str],
    folder: Path,
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    show: Callable[[Trainer], None],
) -> None:
    """Train the model on the texts, each ended by the end-of-text token, and write it with its tokenizer to the folder.

    `show` is given the trainer before it begins.
    """
    ids: Any = tokenizer([text + tokenizer.eos_token for text in texts])["input_ids"]
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
        train_dataset=datasets.Dataset.from_dict({"input_ids": ids}),
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
    )
    show(trainer)
    trainer.train()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
