"""What a policy writes, and how far it is from its reference there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from prefopt.divergences import ReverseKL
from prefopt.objective import DivergenceTerm, ObjectiveConfig
from prefopt.scoring import PreferenceModel
from prefopt.tokens import PreferenceBatch, masked_sum

__all__ = ["completions", "endings", "per_prompt", "sequence_kl"]

_ROWS = 256
"""Completions that are generated at a time."""


@torch.no_grad()
def completions(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    *,
    per_prompt: int,
    max_new_tokens: int,
    seed: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    advance: Callable[[int], None] = lambda done: None,
) -> list[list[int]]:
    """`per_prompt` completions of each prompt as token ids, up to and with what ends a text (see `endings`); by default
    drawn from the model's whole distribution. A temperature of 0 takes the likeliest token each time.

    Those of a prompt stand next to each other. `advance` is told of every so many prompts that are done.
    """
    ends = endings(model, tokenizer)
    drawn = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": top_p}
    settings = GenerationConfig(
        **(drawn if temperature else {"do_sample": False}),
        max_new_tokens=max_new_tokens,
        num_return_sequences=per_prompt if temperature else 1,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=ends or None,
    )
    model.eval()
    found = []
    at_once = max(1, _ROWS // per_prompt)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for start in range(0, len(prompts), at_once):
            part = prompts[start : start + at_once]
            width = max(len(prompt) for prompt in part)
            padding = [width - len(prompt) for prompt in part]
            ids = [[tokenizer.pad_token_id] * pad + list(p) for pad, p in zip(padding, part, strict=True)]
            mask = [[0] * pad + [1] * (width - pad) for pad in padding]
            rows: Any = model.generate(
                input_ids=torch.tensor(ids, device=model.device),
                attention_mask=torch.tensor(mask, device=model.device),
                generation_config=settings,
            )
            answers = [_ended(answer, ends) for answer in rows[:, width:].tolist()]
            found += answers if temperature else [answer for answer in answers for _ in range(per_prompt)]
            advance(len(part))
    return found


def endings(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that end a text: the tokenizer's end-of-text token, or else what the model's generation settings name.

    A tokenizer has none where responses may be cut at a length: training would give such a one an ending.
    """
    if tokenizer.eos_token_id is not None:
        return [tokenizer.eos_token_id]
    settings: Any = model.generation_config
    named = None if settings is None else settings.eos_token_id
    return [] if named is None else [named] if isinstance(named, int) else list(named)


def _ended(ids: list[int], ends: Sequence[int]) -> list[int]:
    return next((ids[: place + 1] for place, token in enumerate(ids) if token in ends), ids)


@torch.no_grad()
def sequence_kl(
    policy: PreTrainedModel,
    reference: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    *,
    batch_size: int,
) -> Tensor:
    """sum_t KL(policy || reference) at every token of each response, exact over the vocabulary, in nats, [M].

    Each even response and the one after it must answer the same prompt.
    """
    objective = ObjectiveConfig(divergence=DivergenceTerm(measure=ReverseKL()))
    model = PreferenceModel(policy, reference, objective).eval()
    sums = []
    for start in range(0, len(responses), 2 * batch_size):
        stop = start + 2 * batch_size
        batch = PreferenceBatch.from_ids(
            prompts[start:stop:2], responses[start:stop:2], responses[start + 1 : stop : 2], pad_token_id=0
        )
        tokens = model.score(batch.to(policy.device))
        assert tokens.divergence is not None
        halves = masked_sum(tokens.divergence, tokens.mask).chunk(2)
        sums.append(torch.stack(halves, dim=-1).flatten())
    return torch.cat(sums).cpu()


def per_prompt(values: Tensor, size: int) -> Tensor:
    """[M] of samples -> [M / size], the mean over each prompt's samples: these are independent, samples are not."""
    return values.view(-1, size).mean(-1)
