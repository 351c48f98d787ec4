"""The generated corpus: reviews of films and products from a small grammar, in which every sentiment word is known.

review   = 2 to 4 sentences of one kind (film, product) and one mood (positive, negative, mixed)
sentence = neutral, or of the mood, or now and then against it
prompt   = the beginning of a sentence, up to where it takes a side
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import product
from types import MappingProxyType

from prefopt.tasks.scorers.word_lists import Lexicon

__all__ = ["WORDS", "corpus_prompts", "corpus_reviews"]


@dataclass(frozen=True)
class _Kind:
    """Words that only reviews of one kind use."""

    nouns: str
    positive: str
    negative: str
    neutral: str
    facts: tuple[str, ...]


_ADJECTIVES = MappingProxyType(
    {
        1: "great wonderful excellent lovely superb brilliant delightful charming perfect fantastic".split(),
        -1: "terrible awful poor horrible dreadful disappointing bad annoying useless pathetic".split(),
        0: "new long short ordinary quiet simple modern usual recent plain".split(),
    }
)
_VERBS = MappingProxyType(
    {
        1: "loved enjoyed admired adored treasured".split(),
        -1: "hated disliked regretted despised resented".split(),
        0: "noticed mentioned discussed compared described".split(),
    }
)
_EFFECTS = MappingProxyType(
    {
        1: "delighted impressed amazed".split(),
        -1: "disappointed irritated bored".split(),
        0: "surprised reminded".split(),
    }
)
_FILM = _Kind(
    nouns="film plot acting ending soundtrack script cast dialogue story pacing direction scenery",
    positive="gripping moving funny thrilling",
    negative="dull boring shallow tedious",
    neutral="silent foreign subtitled",
    facts=(
        "We watched it {when} with my {person}.",
        "It runs for about {number} hours.",
        "My {person} chose it {when}.",
        "They filmed it in {place}.",
    ),
)
_PRODUCT = _Kind(
    nouns="phone laptop kettle chair jacket screen battery keyboard lamp camera case charger",
    positive="sturdy reliable comfortable handy",
    negative="flimsy faulty clumsy shoddy",
    neutral="grey wooden portable",
    facts=(
        "It came in a {colour} box {when}.",
        "I bought it in {place} {when}.",
        "It cost about {number} euros.",
        "My {person} has the same one in {colour}.",
    ),
)
_KINDS = (_FILM, _PRODUCT)

_REMARKS = (
    "The {noun} was {degree} {adjective}",
    "I thought the {noun} was {adjective} and {adjective2}",
    "We found the {noun} {degree} {adjective}",
    "My {person} said the {noun} was {adjective}",
    "After {number} days the {noun} was still {adjective}",
    "In the end the {noun} was {degree} {adjective}",
    "It was a {degree} {adjective} {noun}",
    "The {adjective} {noun} {effect} my {person}",
    "My {person} {verb} that {adjective} {noun}",
    "I {verb} the {noun}",
    "The {noun} {effect} my {person}",
)
# After some remarks, so that a word that takes a side is not told by its place before the full stop.
_TAILS = (" {when}", " in {place}", " for {number} days")
_PROMPTS = (
    "The {noun} was",
    "I thought the {noun} was",
    "We found the {noun}",
    "My {person} said the {noun} was",
    "After {number} days the {noun} was still",
    "In the end the {noun} was",
)

_FILLERS = MappingProxyType(
    {
        "person": "brother sister mother father neighbour friend cousin colleague".split(),
        "number": "two three four five six ten".split(),
        "when": ["on Monday", "on Friday", "last week", "last month", "in the evening", "this morning"],
        "place": "Paris Bristol London Madrid Athens Boston".split(),
        "colour": "red blue green white yellow brown".split(),
        "degree": "very really rather truly fairly".split(),
    }
)


def _lean(sign: int, own: str) -> frozenset[str]:
    words = [*_ADJECTIVES[sign], *_VERBS[sign], *_EFFECTS[sign]]
    return frozenset(words + [word for kind in _KINDS for word in getattr(kind, own).split()])


WORDS = Lexicon(positive=_lean(1, "positive"), negative=_lean(-1, "negative"))
"""The sentiment words of the grammar: all of them, and the ground truth for what a mask should find."""


def corpus_reviews(count: int, seed: int) -> list[str]:
    """That many reviews; the same for the same seed."""
    rng = random.Random(f"reviews {seed}")
    return [_review(rng) for _ in range(count)]


def corpus_prompts(seed: int) -> list[str]:
    """Every beginning of a sentence that the grammar leaves open, once each, in an order that the seed decides."""
    prompts = set()
    for kind, template in product(_KINDS, _PROMPTS):
        slots = [name for name in ("person", "number") if f"{{{name}}}" in template]
        for noun, *fill in product(kind.nouns.split(), *(_FILLERS[name] for name in slots)):
            prompts.add(template.format(noun=noun, **dict(zip(slots, fill, strict=True))))
    ordered = sorted(prompts)
    random.Random(f"prompts {seed}").shuffle(ordered)
    return ordered


def _review(rng: random.Random) -> str:
    kind = rng.choice(_KINDS)
    mood = rng.choices((1, -1, 0), weights=(0.45, 0.45, 0.1))[0]
    return " ".join(_sentence(rng, kind, mood) for _ in range(rng.randint(2, 4)))


def _sentence(rng: random.Random, kind: _Kind, mood: int) -> str:
    """A fact, or a remark that is neutral, of the mood, or against it."""
    if rng.random() < 0.25:
        return rng.choice(kind.facts).format(**_fill(rng))
    sign = 0 if rng.random() < 0.2 else (mood or rng.choice((1, -1))) * (1 if rng.random() < 0.85 else -1)
    own = {1: kind.positive, -1: kind.negative, 0: kind.neutral}[sign].split()
    first, second = rng.sample(_ADJECTIVES[sign] + own, 2)
    remark = rng.choice(_REMARKS) + (rng.choice(_TAILS) if rng.random() < 0.4 else "") + "."
    return remark.format(
        noun=rng.choice(kind.nouns.split()),
        adjective=first,
        adjective2=second,
        verb=rng.choice(_VERBS[sign]),
        effect=rng.choice(_EFFECTS[sign]),
        **_fill(rng),
    )


def _fill(rng: random.Random) -> dict[str, str]:
    return {name: rng.choice(words) for name, words in _FILLERS.items()}
