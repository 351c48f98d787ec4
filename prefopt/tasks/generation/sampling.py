"""Samples of a policy as token ids, and their KL from a reference."""

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

__all__ = ["completions", "end_token_ids", "per_prompt", "sequence_kl"]

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
    """`per_prompt` completions of each prompt as token ids, those of a prompt next to each other.

    A completion ends with one of `end_token_ids`, or is cut at `max_new_tokens`. Sampling is from the whole
    distribution by default; temperature 0 takes the likeliest token each time. `advance` is called with the number of
    prompts that are done since the last call.
    """
    ends = end_token_ids(model, tokenizer)
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": top_p}
    settings = GenerationConfig(
        **(sampling if temperature else {"do_sample": False}),
        max_new_tokens=max_new_tokens,
        num_return_sequences=per_prompt if temperature else 1,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=ends or None,
    )
    model.eval()
    samples: list[list[int]] = []
    prompts_at_once = max(1, _ROWS // per_prompt)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for start in range(0, len(prompts), prompts_at_once):
            part = prompts[start : start + prompts_at_once]
            width = max(map(len, part))
            padding = [width - len(prompt) for prompt in part]
            ids = [[tokenizer.pad_token_id] * pad + list(p) for pad, p in zip(padding, part, strict=True)]
            mask = [[0] * pad + [1] * (width - pad) for pad in padding]
            rows: Any = model.generate(
                input_ids=torch.tensor(ids, device=model.device),
                attention_mask=torch.tensor(mask, device=model.device),
                generation_config=settings,
            )
            answers = [_until_end(answer, ends) for answer in rows[:, width:].tolist()]
            samples += answers if temperature else [answer for answer in answers for _ in range(per_prompt)]
            advance(len(part))
    return samples


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
