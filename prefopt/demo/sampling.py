"""Completions: sampled from a model, scored by the words, and made into preference pairs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from prefopt.data.pieces import decoded
from prefopt.demo.lexicon import Lexicon
from prefopt.demo.progress import Stage

__all__ = ["Prompt", "Sample", "preference_pairs", "sample"]

_ROWS = 256
"""Completions that are generated at a time."""


@dataclass(frozen=True)
class Prompt:
    """A prompt as text and as the model reads it."""

    text: str
    ids: tuple[int, ...]

    @classmethod
    def of(cls, text: str, tokenizer: PreTrainedTokenizerBase) -> Prompt:
        """The text's tokens, without the end-of-text token that some tokenizers add."""
        ids: list[int] = tokenizer(text)["input_ids"]
        return cls(text, tuple(ids[:-1] if len(ids) > 1 and ids[-1] == tokenizer.eos_token_id else ids))


@dataclass(frozen=True)
class Sample:
    """A completion: its text, its ids with the end-of-text token where it got that far, and the score of the text."""

    prompt: Prompt
    text: str
    ids: tuple[int, ...]
    score: float


@torch.no_grad()
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
    settings = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=max_new_tokens,
        num_return_sequences=per_prompt,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model.eval()
    samples = []
    at_once = max(1, _ROWS // per_prompt)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for start in range(0, len(prompts), at_once):
            part = prompts[start : start + at_once]
            width = max(len(prompt.ids) for prompt in part)
            padding = [width - len(prompt.ids) for prompt in part]
            ids = [[tokenizer.pad_token_id] * pad + list(p.ids) for pad, p in zip(padding, part, strict=True)]
            mask = [[0] * pad + [1] * (width - pad) for pad in padding]
            rows: Any = model.generate(
                input_ids=torch.tensor(ids, device=model.device),
                attention_mask=torch.tensor(mask, device=model.device),
                generation_config=settings,
            )
            for row, answer in enumerate(rows[:, width:].tolist()):
                samples.append(_sample(part[row // per_prompt], answer, tokenizer, lexicon))
            stage.advance(len(part))
    return samples


def _sample(prompt: Prompt, ids: list[int], tokenizer: PreTrainedTokenizerBase, lexicon: Lexicon) -> Sample:
    end = tokenizer.eos_token_id
    if end in ids:
        ids = ids[: ids.index(end) + 1]
    words = ids[:-1] if ids[-1] == end else ids
    before = decoded(prompt.ids, tokenizer)
    text = decoded([*prompt.ids, *words], tokenizer)[len(before) :]
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
