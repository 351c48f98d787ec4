"""A small language model to train: a tokenizer of words and a Llama of 3 layers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase, PreTrainedTokenizerFast, set_seed

from prefopt.tasks.models.sft import Sft, train_language_model

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
