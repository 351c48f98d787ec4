"""Labelled sentences as preference pairs, the list of sentiment words, and a reference trained on such text."""

from __future__ import annotations

import random
import zipfile
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, set_seed

from prefopt.tasks.models.language_model import train_language_model

__all__ = ["PROMPT", "Pairs", "lexicon", "make_reference", "pairs", "review_lines"]

PROMPT = "review :"
_DEVELOPMENT, _HELD_OUT = 500, 1000
_VOCABULARY, _LAYERS, _WIDTH, _HEADS, _POSITIONS = 5120, 3, 96, 4, 160
_BATCH, _LEARNING_RATE, _LONGEST = 32, 3e-3, 40

Row = dict[str, str]


@dataclass(frozen=True)
class Pairs:
    """Rows with prompt, chosen and rejected; no sentence is in two of them."""

    train: list[Row]
    development: list[Row]
    held_out: list[Row]


def pairs(data: Path) -> Pairs:
    """Each positive sentence against a negative one of about the same length, so that length decides nothing.

    Raises ValueError where a sentence comes twice, or where the two kinds are not equally many.
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
    rest = _HELD_OUT + _DEVELOPMENT
    return Pairs(train=rows[rest:], development=rows[_HELD_OUT:rest], held_out=rows[:_HELD_OUT])


def lexicon(data: Path) -> frozenset[str]:
    """The words that the opinion lexicon calls positive or negative."""
    return frozenset(
        line
        for kind in ("positive", "negative")
        for line in _lines(data / "nltk_opinion_lexicon.zip", f"opinion_lexicon/{kind}-words.txt")
        if not line.startswith(";")
    )


def review_lines(data: Path) -> list[str]:
    """The sentences of the film reviews, without their labels."""
    path = data / "nltk_movie_reviews.zip"
    with zipfile.ZipFile(path) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".txt") and "/cv" in name)
    return [line for name in names for line in _lines(path, name)]


def make_reference(data: Path, split: Pairs, folder: Path, *, steps: int) -> None:
    """Train a tokenizer and a small Llama on the film reviews and the sentences of the training pairs.

    Neither the labels nor a sentence of the other pairs is used.
    """
    torch.set_num_threads(1)
    set_seed(0)
    sentences = [row[side].strip() for row in split.train for side in ("chosen", "rejected")]
    texts = [f"{PROMPT} {line}" for line in (*review_lines(data), *sentences)]
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=_VOCABULARY,
            special_tokens=["<pad>", "</s>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="</s>", model_max_length=_POSITIONS
    )
    fitting = [text for text in texts if len(tokenizer(text)["input_ids"]) <= _LONGEST]
    print(f"{len(texts) - len(fitting)} of {len(texts)} lines are too long to train the reference on", flush=True)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            num_hidden_layers=_LAYERS,
            hidden_size=_WIDTH,
            intermediate_size=2 * _WIDTH,
            num_attention_heads=_HEADS,
            max_position_embeddings=_POSITIONS,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    draft = folder.with_name(folder.name + ".part")
    train_language_model(
        model,
        tokenizer,
        fitting,
        draft,
        steps=steps,
        batch_size=_BATCH,
        learning_rate=_LEARNING_RATE,
        seed=0,
        show=lambda trainer: None,
    )
    draft.rename(folder)


def _lines(path: Path, name: str) -> list[str]:
    with zipfile.ZipFile(path) as archive:
        text = archive.read(name).decode("utf-8")
    return [line.strip() for line in text.split("\n") if line.strip()]
