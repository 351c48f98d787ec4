"""The small reference: a word-level tokenizer and a Llama of three layers, trained on the generated corpus."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    DataCollatorForLanguageModeling,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
    set_seed,
)

from prefopt.demo.progress import Stage, show_training

__all__ = ["train_reference", "word_tokenizer"]

_LAYERS, _WIDTH, _HEADS, _POSITIONS = 3, 96, 4, 256
_BATCH, _LEARNING_RATE = 32, 3e-3


def word_tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """One token a word, with the space before it, and one a punctuation mark; decoding gives the text back."""
    backend = Tokenizer(models.WordLevel(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(prepend_scheme="always"), pre_tokenizers.Punctuation("isolated")]
    )
    backend.decoder = decoders.Metaspace(prepend_scheme="always")
    special = ["<pad>", "<unk>", "</s>"]
    backend.train_from_iterator(texts, trainers.WordLevelTrainer(special_tokens=special, show_progress=False))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", unk_token="<unk>", eos_token="</s>", model_max_length=_POSITIONS
    )


def train_reference(texts: Sequence[str], folder: Path, *, steps: int, seed: int, stage: Stage) -> None:
    """Train the small model on the texts and write it, with its tokenizer, to the folder."""
    set_seed(seed)
    tokenizer = word_tokenizer(texts)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            num_hidden_layers=_LAYERS,
            hidden_size=_WIDTH,
            intermediate_size=2 * _WIDTH,
            num_attention_heads=_HEADS,
            max_position_embeddings=_POSITIONS,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    ids: Any = tokenizer([text + tokenizer.eos_token for text in texts])["input_ids"]
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(folder),
            max_steps=steps,
            per_device_train_batch_size=_BATCH,
            learning_rate=_LEARNING_RATE,
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
    show_training(trainer, stage, {"loss": "loss"})
    trainer.train()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
