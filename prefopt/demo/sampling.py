"""Completions: sampled from a model, scored by the words, and made into preference pairs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prefopt.data import EncodingConfig, encode_prompt
from prefopt.data.token_texts import decode
from prefopt.demo.progress import Stage
from prefopt.tasks.generation.sampling import completions
from prefopt.tasks.scorers.word_lists import Lexicon

__all__ = ["Prompt", "Sample", "preference_pairs", "sample"]


@dataclass(frozen=True)
class Prompt:
    """A prompt as text and as the model reads it."""

    text: str
    ids: tuple[int, ...]

    @classmethod
    def of(cls, text: str, tokenizer: PreTrainedTokenizerBase) -> Prompt:
        """The text's tokens, without the end-of-text token that some tokenizers add."""
        return cls(text, tuple(encode_prompt(text, tokenizer, EncodingConfig())))


@dataclass(frozen=True)
class Sample:
    """A completion: its text, its ids with the end-of-text token where it got that far, and the score of the text."""

    prompt: Prompt
    text: str
    ids: tuple[int, ...]
    score: float


def sample(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    lexicon: Lexicon,
    *,
    per_prompt: int,
    max_new_tokens: int,
    seed: int,
    stage: Stage,
) -> list[Sample]:
    """`per_prompt` completions of each prompt, drawn from the model's whole distribution at temperature 1.

    Those of a prompt stand next to each other. The stage moves by one for every prompt.
    """
    found = completions(
        model,
        tokenizer,
        [prompt.ids for prompt in prompts],
        per_prompt=per_prompt,
        max_new_tokens=max_new_tokens,
        seed=seed,
        advance=stage.advance,
    )
    return [_sample(prompts[row // per_prompt], answer, tokenizer, lexicon) for row, answer in enumerate(found)]


def _sample(prompt: Prompt, ids: list[int], tokenizer: PreTrainedTokenizerBase, lexicon: Lexicon) -> Sample:
    words = ids[:-1] if ids[-1] == tokenizer.eos_token_id else ids
    before = decode(prompt.ids, tokenizer)
    text = decode([*prompt.ids, *words], tokenizer)[len(before) :]
    return Sample(prompt, text, tuple(ids), lexicon.score(text))


def preference_pairs(samples: Sequence[Sample], per_prompt: int) -> list[dict[str, str]]:
    """Rows with prompt, chosen and rejected: a prompt's best completion against its worst, its second best against its
    second worst, and so on while the scores differ. Completions without a word are left out.
    """
    rows = []
    for group in _groups(samples, per_prompt):
        ranked = sorted((one for one in group if one.text.strip()), key=lambda one: -one.score)
        for best, worst in zip(ranked[: len(ranked) // 2], reversed(ranked), strict=False):
            if best.score > worst.score:
                rows.append({"prompt": best.prompt.text, "chosen": best.text, "rejected": worst.text})
    return rows


def _groups(samples: Sequence[Sample], size: int) -> Iterator[Sequence[Sample]]:
    for start in range(0, len(samples), size):
        yield samples[start : start + size]
