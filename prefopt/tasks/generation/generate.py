"""A policy's samples on held-out prompts, and the metrics of them that every task can have."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import NamedTuple, final

import torch
from pydantic import BaseModel, ConfigDict, Field
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prefopt.data import EncodingConfig, encode_prompt
from prefopt.data.token_texts import decode
from prefopt.tasks.base import Metric
from prefopt.tasks.generation.sampling import completions, end_token_ids, sequence_kl
from prefopt.tasks.preference_data.sources import Prompt
from prefopt.tasks.quiet import quiet

__all__ = ["GENERATION_METRICS", "Generation", "Generations", "generate", "mean_by_prompt", "sample_texts"]

GENERATION_METRICS = (
    Metric(
        "sequence_kl",
        "lower",
        "KL(policy || reference) on the policy's own samples at temperature 1, nats a response, exact by token",
    ),
    Metric("tokens", "neither", "tokens of the policy's samples, the end of the text included"),
    Metric("ended", "neither", "share of samples that the policy ended, before they were cut"),
)
"""The figures of `generate`."""

_BATCH = 16


@final
class Generation(BaseModel):
    """How a policy is sampled.

    samples            of each prompt
    max_new_tokens     a sample is cut after so many
    temperature        0 takes the likeliest token each time, which makes all samples of a prompt the same
    top_p              share of the distribution that is drawn from
    max_prompt_length  in tokens; a longer prompt loses its beginning
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    samples: int = Field(default=2, ge=1)
    max_new_tokens: int = Field(default=64, ge=1)
    temperature: float = Field(default=1.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_prompt_length: int | None = Field(default=None, ge=1)


class Generations(NamedTuple):
    """Samples prompt by prompt.

    figures  metric of GENERATION_METRICS -> mean over the samples of each prompt
    texts    without the end-of-text token
    ids      with it
    """

    figures: dict[str, list[float]]
    texts: list[list[str]]
    ids: list[list[list[int]]]


def generate(
    policy: PreTrainedModel,
    reference: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    generation: Generation,
    *,
    seed: int,
) -> Generations:
    """Sample from the policy on each prompt, and measure its distance from the reference there.

    The distance is that of samples at temperature 1: with other settings, as many of these are drawn besides.
    """
    prompt_ids = _encode(tokenizer, prompts, generation)
    samples = plain = _sample_ids(policy, tokenizer, prompt_ids, generation, seed)
    if generation.temperature != 1 or generation.top_p != 1:
        whole = generation.model_copy(update={"temperature": 1.0, "top_p": 1.0})
        plain = _sample_ids(policy, tokenizer, prompt_ids, whole, seed + 1)
    ends = set(end_token_ids(policy, tokenizer))
    figures = {
        "sequence_kl": _distances(policy, reference, prompt_ids, plain),
        "tokens": torch.tensor([[float(len(ids)) for ids in group] for group in samples]),
        "ended": torch.tensor([[float(ids[-1] in ends) for ids in group] for group in samples]),
    }
    means = {name: values.mean(-1).tolist() for name, values in figures.items()}
    return Generations(means, _decode(policy, tokenizer, prompt_ids, samples), samples)


def sample_texts(
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    generation: Generation,
    *,
    seed: int,
    end: str = "",
) -> list[list[str]]:
    """The texts of `generate` alone; those that the policy ended have `end` at their end."""
    prompt_ids = _encode(tokenizer, prompts, generation)
    samples = _sample_ids(policy, tokenizer, prompt_ids, generation, seed)
    return _decode(policy, tokenizer, prompt_ids, samples, end)


def mean_by_prompt(values: Iterable[float], texts: Sequence[Sequence[object]]) -> list[float]:
    """The mean over each prompt's texts of values that come text by text."""
    remaining = iter(values)
    return [fmean(next(remaining) for _ in group) for group in texts]


def _encode(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt], generation: Generation) -> list[list[int]]:
    config = EncodingConfig(max_prompt_length=generation.max_prompt_length)
    return [encode_prompt(prompt, tokenizer, config) for prompt in prompts]


def _sample_ids(
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt_ids: Sequence[Sequence[int]],
    generation: Generation,
    seed: int,
) -> list[list[list[int]]]:
    settings = generation.model_dump(include={"max_new_tokens", "temperature", "top_p"})
    size = generation.samples
    with quiet():
        samples = completions(policy, tokenizer, prompt_ids, per_prompt=size, seed=seed, **settings)
    return [samples[start : start + size] for start in range(0, len(samples), size)]


def _decode(
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt_ids: Sequence[Sequence[int]],
    samples: Sequence[Sequence[list[int]]],
    end: str = "",
) -> list[list[str]]:
    """What the ids add to the text of the prompt, its first space included."""
    ends = set(end_token_ids(policy, tokenizer))

    def text(prompt: Sequence[int], ids: list[int]) -> str:
        ended = ids[-1] in ends
        whole = decode([*prompt, *(ids[:-1] if ended else ids)], tokenizer)
        return whole[len(decode(prompt, tokenizer)) :] + (end if ended else "")

    return [[text(prompt, ids) for ids in group] for prompt, group in zip(prompt_ids, samples, strict=True)]


def _distances(
    policy: PreTrainedModel,
    reference: PreTrainedModel,
    prompt_ids: Sequence[Sequence[int]],
    samples: Sequence[list[list[int]]],
) -> torch.Tensor:
    """The sequence KL of each sample, [prompts, samples]. Two share a row; one without a partner shares it with the
    first of its prompt."""
    size = len(samples[0])
    even = [[*group, *group[: size % 2]] for group in samples]
    prompts = [prompt for prompt, group in zip(prompt_ids, even, strict=True) for _ in group]
    sums = sequence_kl(policy, reference, prompts, [ids for group in even for ids in group], batch_size=_BATCH)
    return sums.view(len(even), -1)[:, :size].contiguous()
