"""The small model of the generated corpus: a tokenizer of words and a Llama of three layers, trained on its texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from transformers import LlamaConfig, LlamaForCausalLM, Trainer, set_seed

from prefopt.tasks.models.language_model import train_language_model, word_tokenizer

__all__ = ["train_small_model"]

_LAYERS, _WIDTH, _HEADS, _POSITIONS = 3, 96, 4, 256
_BATCH, _LEARNING_RATE = 32, 3e-3


def train_small_model(
    texts: Sequence[str], folder: Path, *, steps: int, seed: int, show: Callable[[Trainer], None]
) -> None:
    """Train the small model on the texts and write it, with its tokenizer, to the folder.

    `show` is given the trainer before it begins.
    """
    set_seed(seed)
    tokenizer = word_tokenizer(texts, positions=_POSITIONS)
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
    train_language_model(
        model,
        tokenizer,
        texts,
        folder,
        steps=steps,
        batch_size=_BATCH,
        learning_rate=_LEARNING_RATE,
        seed=seed,
        show=show,
    )
