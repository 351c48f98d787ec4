"""Samples of a policy, as token ids and as texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from pydantic import Field
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from prefopt.data import EncodingConfig, encode_prompt
from prefopt.data.quiet import quiet
from prefopt.data.token_texts import decode
from prefopt.progress import tracked
from prefopt.validation import Settings

Prompt = str | Sequence[Mapping[str, Any]]
"""Text, or messages for the chat template."""

SAMPLING = "sampling"
"""What is done, where its progress is reported."""

_ROWS = 256
"""Samples that are generated at a time."""


@final
class Generation(Settings):
    """How a policy is sampled.

    samples            of each prompt
    max_new_tokens     a sample is cut after so many
    temperature        0 takes the likeliest token each time, which makes all samples of a prompt the same
    top_p              share of the distribution that is drawn from
    max_prompt_length  in tokens; a longer prompt loses its beginning
    chat_template_kwargs   for the chat template, such as those of training
    """

    samples: int = Field(default=2, ge=1)
    max_new_tokens: int = Field(default=64, ge=1)
    temperature: float = Field(default=1.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_prompt_length: int | None = Field(default=None, ge=1)
    # Written down only if set, so that runs without it keep their digests.
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict, exclude_if=lambda value: not value)


@torch.no_grad()
def sample_ids(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    generation: Generation,
    seed: int,
) -> list[list[list[int]]]:
    """The samples of each prompt as token ids, up to and with an end token (see `end_token_ids`)."""
    ends = end_token_ids(model, tokenizer)
    count = generation.samples
    drawn = {"do_sample": True, "temperature": generation.temperature, "top_k": 0, "top_p": generation.top_p}
    settings = GenerationConfig(
        **(drawn if generation.temperature else {"do_sample": False}),
        max_new_tokens=generation.max_new_tokens,
        num_return_sequences=count if generation.temperature else 1,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=ends or None,
    )
    model.eval()
    samples: list[list[int]] = []
    prompts_at_once = max(1, _ROWS // count)
    with quiet(), torch.random.fork_rng():
        torch.manual_seed(seed)
        for start in tracked(range(0, len(prompts), prompts_at_once), SAMPLING):
            part = prompts[start : start + prompts_at_once]
            ids = {"input_ids": list(map(list, part))}
            batch = tokenizer.pad(ids, padding_side="left", return_attention_mask=True, return_tensors="pt")
            rows: Any = model.generate(**batch.to(model.device), generation_config=settings)
            samples += [_until_end(row, ends) for row in rows[:, batch["input_ids"].shape[1] :].tolist()]
    if not generation.temperature:
        return [[sample] * count for sample in samples]
    return [samples[start : start + count] for start in range(0, len(samples), count)]


def end_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that end a text: the tokenizer's end-of-text token, or else those of the model's generation settings.

    A tokenizer has none where responses may be cut at a length: training would add the end to these.
    """
    if tokenizer.eos_token_id is not None:
        return [tokenizer.eos_token_id]
    settings: Any = model.generation_config
    ends = None if settings is None else settings.eos_token_id
    return [] if ends is None else [ends] if isinstance(ends, int) else list(ends)


def _until_end(ids: list[int], ends: Sequence[int]) -> list[int]:
    return next((ids[: index + 1] for index, token in enumerate(ids) if token in ends), ids)


def sample_texts(
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    generation: Generation,
    *,
    seed: int,
    end: str = "",
) -> list[list[str]]:
    """The samples of each prompt as texts, which begin where it ends; `end` stands after those that it ended."""
    prompt_ids = encode_prompts(tokenizer, prompts, generation)
    return decode_samples(
        policy, tokenizer, prompt_ids, sample_ids(policy, tokenizer, prompt_ids, generation, seed), end
    )


def encode_prompts(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt], generation: Generation
) -> list[list[int]]:
    """The prompts as token ids."""
    config = EncodingConfig(
        max_prompt_length=generation.max_prompt_length, chat_template_kwargs=generation.chat_template_kwargs
    )
    return [encode_prompt(prompt, tokenizer, config) for prompt in prompts]


def decode_samples(
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt_ids: Sequence[Sequence[int]],
    samples: Sequence[Sequence[list[int]]],
    end: str = "",
) -> list[list[str]]:
    """What the ids add to the text of the prompt, its first space included; `end` after those that the policy ended."""
    ends = end_token_ids(policy, tokenizer)

    def text(prompt: Sequence[int], ids: list[int]) -> str:
        ended = ids[-1] in ends
        whole = decode([*prompt, *(ids[:-1] if ended else ids)], tokenizer)
        return whole[len(decode(prompt, tokenizer)) :] + (end if ended else "")

    return [[text(prompt, ids) for ids in group] for prompt, group in zip(prompt_ids, samples, strict=True)]
