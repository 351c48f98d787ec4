"""The generated corpus: reviews of films and products from a small grammar that knows its sentiment words.

review   = 2 to 4 sentences of one kind (film, product) and one mood (positive, negative, mixed)
sentence = neutral, of the mood, or (15%) of the opposite mood
prompt   = the beginning of a sentence, up to its sentiment word

The words and sentences are in corpus.yaml.
"""

from __future__ import annotations

import random
from itertools import product
from pathlib import Path
from typing import Any

import yaml

_GRAMMAR: dict[str, Any] = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))


def sentiment_words(sign: int) -> frozenset[str]:
    """All sentiment words of a sign, 1 or -1: the ground truth for the tokens that a mask should select."""
    lists = [_GRAMMAR[part] for part in ("adjectives", "verbs", "effects")]
    return frozenset().union(*(words[sign] for words in [*lists, *(kind["adjectives"] for kind in _GRAMMAR["kinds"])]))


def corpus_reviews(count: int, seed: int) -> list[str]:
    """`count` reviews, determined by the seed."""
    rng = random.Random(f"reviews {seed}")
    return [_review(rng) for _ in range(count)]


def corpus_prompts(seed: int) -> list[str]:
    """All prompts of the grammar, in an order determined by the seed."""
    prompts = set()
    for kind, template in product(_GRAMMAR["kinds"], _GRAMMAR["prompts"]):
        slots = [name for name in ("person", "number") if f"{{{name}}}" in template]
        for noun, *words in product(kind["nouns"], *(_GRAMMAR["fillers"][name] for name in slots)):
            prompts.add(template.format(noun=noun, **dict(zip(slots, words, strict=True))))
    ordered = sorted(prompts)
    random.Random(f"prompts {seed}").shuffle(ordered)
    return ordered


def _review(rng: random.Random) -> str:
    kind = rng.choice(_GRAMMAR["kinds"])
    mood = rng.choices((1, -1, 0), weights=(0.45, 0.45, 0.1))[0]
    return " ".join(_sentence(rng, kind, mood) for _ in range(rng.randint(2, 4)))


def _sentence(rng: random.Random, kind: dict[str, Any], mood: int) -> str:
    """A fact, or a remark: neutral, of the mood, or against it."""
    if rng.random() < 0.25:
        return str(rng.choice(kind["facts"])).format(**_fillers(rng))
    sign = 0 if rng.random() < 0.2 else (mood or rng.choice((1, -1))) * (1 if rng.random() < 0.85 else -1)
    first, second = rng.sample(_GRAMMAR["adjectives"][sign] + kind["adjectives"][sign], 2)
    remark = rng.choice(_GRAMMAR["remarks"]) + (rng.choice(_GRAMMAR["tails"]) if rng.random() < 0.4 else "") + "."
    return str(remark).format(
        noun=rng.choice(kind["nouns"]),
        adjective=first,
        adjective2=second,
        verb=rng.choice(_GRAMMAR["verbs"][sign]),
        effect=rng.choice(_GRAMMAR["effects"][sign]),
        **_fillers(rng),
    )


def _fillers(rng: random.Random) -> dict[str, str]:
    return {name: rng.choice(words) for name, words in _GRAMMAR["fillers"].items()}
