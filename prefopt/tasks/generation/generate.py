"""What a policy writes on held-out prompts, and the figures of it that every task can have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import NamedTuple, final

import torch
from pydantic import BaseModel, ConfigDict, Field
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prefopt.data import EncodingConfig, encode_prompt
from prefopt.data.token_texts import decode
from prefopt.tasks.base import Metric
from prefopt.tasks.generation.sampling import completions, endings, per_prompt, sequence_kl
from prefopt.tasks.quiet import quiet

__all__ = ["WRITTEN", "Generation", "Prompt", "Written", "means", "sample", "write"]

Prompt = str | Sequence[Mapping[str, str]]
"""Text, or messages for the chat template."""

WRITTEN = (
    Metric(
        "sequence_kl",
        "lower",
        "KL(policy || reference) on the policy's own samples at temperature 1, nats a response, exact by token",
    ),
    Metric("tokens", "neither", "tokens of the policy's samples, the end of the text included"),
    Metric("ended", "neither", "share of samples that the policy ended, before they were cut"),
)
"""The figures of `write`."""

_BATCH = 16
_PLAIN = {"temperature": 1.0, "top_p": 1.0}


@final
class Generation(BaseModel):
    """How a policy is asked: samples of each prompt, their greatest length, and how they are drawn.

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

    @property
    def plain(self) -> bool:
        """Whether samples come from the policy's own distribution."""
        return self.temperature == 1 and self.top_p == 1


class Written(NamedTuple):
    """Figures of each prompt by metric, means over its samples; the samples as text and as ids, those of a prompt
    together. Text is without the end-of-text token, ids are with it."""

    figures: dict[str, list[float]]
    texts: list[list[str]]
    ids: list[list[list[int]]]


def write(
    policy: PreTrainedModel,
    reference: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    generation: Generation,
    *,
    seed: int,
) -> Written:
    """Sample from the policy on each prompt, and measure how far it is from the reference there.

    The distance is that of plain samples: where others are asked for, as many are drawn for it besides.
    """
    asked = _encoded(tokenizer, prompts, generation)
    ends = set(endings(policy, tokenizer))
    found = plain = _drawn(policy, tokenizer, asked, generation, seed)
    if not generation.plain:
        plain = _drawn(policy, tokenizer, asked, generation.model_copy(update=_PLAIN), seed + 1)
    distances = _distances(policy, reference, asked, plain, generation.samples)
    figures = {
        "sequence_kl": distances,
        "tokens": torch.tensor([float(len(ids)) for ids in found]),
        "ended": torch.tensor([float(ids[-1] in ends) for ids in found]),
    }
    return Written(
        {name: per_prompt(values, generation.samples).tolist() for name, values in figures.items()},
        _texts(policy, tokenizer, asked, found, generation.samples),
        [found[start : start + generation.samples] for start in range(0, len(found), generation.samples)],
    )


def sample(
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    generation: Generation,
    *,
    seed: int,
    end: str = "",
) -> list[list[str]]:
    """The texts of `write`, and no more; those that the policy ended have `end` at their end."""
    asked = _encoded(tokenizer, prompts, generation)
    found = _drawn(policy, tokenizer, asked, generation, seed)
    return _texts(policy, tokenizer, asked, found, generation.samples, end)


def means(values: Iterable[float], texts: Sequence[Sequence[object]]) -> list[float]:
    """The mean over each prompt's texts of values that come text by text."""
    rest = iter(values)
    return [fmean(next(rest) for _ in of) for of in texts]


def _encoded(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt], generation: Generation) -> list[list[int]]:
    config = EncodingConfig(max_prompt_length=generation.max_prompt_length)
    return [encode_prompt(prompt, tokenizer, config) for prompt in prompts]


def _drawn(
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    asked: Sequence[Sequence[int]],
    generation: Generation,
    seed: int,
) -> list[list[int]]:
    """The samples as ids, those of a prompt next to each other."""
    with quiet():
        return completions(
            policy,
            tokenizer,
            asked,
            per_prompt=generation.samples,
            max_new_tokens=generation.max_new_tokens,
            temperature=generation.temperature,
            top_p=generation.top_p,
            seed=seed,
        )


def _texts(
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    asked: Sequence[Sequence[int]],
    found: Sequence[Sequence[int]],
    size: int,
    end: str = "",
) -> list[list[str]]:
    ends = set(endings(policy, tokenizer))
    texts = [
        _text(asked[row // size], ids[:-1], tokenizer) + end
        if ids[-1] in ends
        else _text(asked[row // size], ids, tokenizer)
        for row, ids in enumerate(found)
    ]
    return [texts[start : start + size] for start in range(0, len(texts), size)]


def _text(prompt: Sequence[int], ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> str:
    """What the ids add to the text of the prompt, its first space included."""
    return decode([*prompt, *ids], tokenizer)[len(decode(prompt, tokenizer)) :]


def _distances(
    policy: PreTrainedModel,
    reference: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    size: int,
) -> torch.Tensor:
    """The sequence KL of each response, [M]. Two share a row; a last one without a partner shares it with itself."""
    even = size + size % 2
    rows = [
        [*responses[start : start + size], *([responses[start]] * (size % 2))]
        for start in range(0, len(responses), size)
    ]
    asked = [prompt for prompt in prompts for _ in range(even)]
    found = sequence_kl(policy, reference, asked, [ids for row in rows for ids in row], batch_size=_BATCH)
    return found.view(-1, even)[:, :size].flatten()
