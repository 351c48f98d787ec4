"""What a policy writes on held-out prompts: its scores, its distance from the reference, and intervals over prompts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from benchmarks.real.sampling import generate, sequence_kl
from benchmarks.real.scorers import Scorer
from prefopt.comparison.statistics import bootstrap

__all__ = ["Written", "by_prompt", "estimate", "written"]


class Written(NamedTuple):
    """Figures of each prompt, by name, and the first sample of some prompts."""

    figures: dict[str, dict[str, float]]
    examples: dict[str, str]


def estimate(values: Iterable[float]) -> dict[str, float]:
    """The mean of one value a prompt and a 95% bootstrap interval: prompts are drawn with replacement."""
    return bootstrap(torch.tensor(list(values)), seed=0).model_dump()


def by_prompt(prompts: Sequence[str], values: Sequence[float]) -> dict[str, float]:
    """The mean of the values of each prompt."""
    groups: dict[str, list[float]] = {}
    for prompt, value in zip(prompts, values, strict=True):
        groups.setdefault(prompt, []).append(value)
    return {prompt: fmean(group) for prompt, group in groups.items()}


def written(
    policy: PreTrainedModel,
    reference: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    scorers: Mapping[str, Scorer],
    *,
    samples: int,
    tokens: int,
    end: int,
    batch_size: int = 32,
    seed: int = 0,
) -> Written:
    """Sample from the policy on each prompt and judge what it wrote."""
    asked = [prompt for prompt in prompts for _ in range(samples)]
    texts: list[str] = []
    figures: dict[str, list[float]] = {"sequence KL": [], "tokens": [], "distinct words": []}
    torch.manual_seed(seed)
    for start in range(0, len(asked), batch_size):
        batch = generate(policy, tokenizer, asked[start : start + batch_size], tokens=tokens, end=end)
        figures["sequence KL"] += sequence_kl(policy, reference, batch).tolist()
        for ids in batch.rows():
            texts.append(tokenizer.decode(ids, skip_special_tokens=True))
            figures["tokens"].append(float(len(ids)))
    figures["distinct words"] = [_distinct(text) for text in texts]
    for name, score in scorers.items():
        figures[name] = score(texts)
    return Written(
        {name: by_prompt(asked, values) for name, values in figures.items()},
        {asked[i]: texts[i] for i in range(0, min(len(asked), 3 * samples), samples)},
    )


def _distinct(text: str) -> float:
    """The share of a text's words that are not repeats; low where a policy says one thing over and over."""
    words = text.lower().split()
    return len(set(words)) / len(words) if words else 1.0
