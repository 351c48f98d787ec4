"""Labelled film-review sentences as preference pairs, the list of sentiment words, and a reference."""

from __future__ import annotations

import random
import zipfile
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, set_seed

from prefopt.data.quiet import quiet
from prefopt.tasks.models import Sft, small_llama, train_language_model

__all__ = ["PROMPT", "sentence_pairs", "train_reference", "word_list"]

PROMPT = "review :"
_VOCABULARY, _POSITIONS, _LONGEST = 5120, 160, 40

Row = dict[str, str]


def sentence_pairs(data: Path) -> list[Row]:
    """Every positive sentence with a negative one of about the same length, so that length decides nothing; shuffled.

    No sentence is in two pairs. Raises ValueError if one comes twice, or if the two kinds are not equally many.
    """
    draw = random.Random(0)
    ordered: list[list[str]] = []
    seen: set[str] = set()
    for kind in ("pos", "neg"):
        path, name = data / "nltk_sentence_polarity.zip", f"sentence_polarity/rt-polarity.{kind}"
        lines = _lines(path, name)
        for number, line in enumerate(lines, start=1):
            if line in seen:
                raise ValueError(f"{path}: {name}: line {number} is a sentence that came before: {line!r}; remove it")
            seen.add(line)
        draw.shuffle(lines)
        ordered.append(sorted(lines, key=lambda line: len(line.split())))
    rows = [{"prompt": PROMPT, "chosen": f" {good}", "rejected": f" {bad}"} for good, bad in zip(*ordered, strict=True)]
    draw.shuffle(rows)
    return rows


def word_list(data: Path) -> frozenset[str]:
    """The words that the opinion lexicon calls positive or negative."""
    return frozenset(
        line
        for kind in ("positive", "negative")
        for line in _lines(data / "nltk_opinion_lexicon.zip", f"opinion_lexicon/{kind}-words.txt")
        if not line.startswith(";")
    )


def train_reference(data: Path, train: Sequence[Row], folder: Path, steps: int) -> None:
    """Train a BPE tokenizer and a small Llama on the film reviews, without labels, and on the training sentences."""
    path = data / "nltk_movie_reviews.zip"
    with zipfile.ZipFile(path) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".txt") and "/cv" in name)
    reviews = [line for name in names for line in _lines(path, name)]
    sentences = [row[side].strip() for row in train for side in ("chosen", "rejected")]
    texts = [f"{PROMPT} {line}" for line in (*reviews, *sentences)]
    set_seed(0)
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet, special = pre_tokenizers.ByteLevel.alphabet(), ["<pad>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="</s>", model_max_length=_POSITIONS
    )
    fitting = [text for text in texts if len(tokenizer(text)["input_ids"]) <= _LONGEST]
    model = small_llama(tokenizer, positions=_POSITIONS, tie_word_embeddings=True)
    with quiet():
        settings = Sft(steps=steps, batch_size=32, learning_rate=3e-3)
        train_language_model(model, tokenizer, fitting, folder, settings, seed=0)


def _lines(path: Path, name: str) -> list[str]:
    with zipfile.ZipFile(path) as archive:
        text = archive.read(name).decode("utf-8")
    return [line.strip() for line in text.split("\n") if line.strip()]
