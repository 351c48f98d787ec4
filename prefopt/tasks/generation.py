"""What is measured of samples of a policy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prefopt.divergences import ReverseKL
from prefopt.objective_config import DivergenceTerm, ObjectiveConfig
from prefopt.progress import tracked
from prefopt.sampling import Generation, Prompt, decode_samples, encode_prompts, end_token_ids, sample_ids
from prefopt.scoring import PreferenceModel
from prefopt.tasks.base import Metric
from prefopt.tokens import PreferenceBatch, masked_sum

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
    prompt_ids = encode_prompts(tokenizer, prompts, generation)
    samples = whole = sample_ids(policy, tokenizer, prompt_ids, generation, seed)
    if generation.temperature != 1 or generation.top_p != 1:
        settings = generation.model_copy(update={"temperature": 1.0, "top_p": 1.0})
        whole = sample_ids(policy, tokenizer, prompt_ids, settings, seed + 1)
    ends = end_token_ids(policy, tokenizer)
    figures = {
        "sequence_kl": sequence_kl(policy, reference, prompt_ids, whole),
        "tokens": torch.tensor([[float(len(ids)) for ids in group] for group in samples]),
        "ended": torch.tensor([[float(ids[-1] in ends) for ids in group] for group in samples]),
    }
    # The mean over a prompt's samples: prompts are independent, samples of one are not.
    means = {name: values.mean(-1).tolist() for name, values in figures.items()}
    return Generations(means, decode_samples(policy, tokenizer, prompt_ids, samples), samples)


def prompt_means(values: Iterable[float], texts: Sequence[Sequence[object]]) -> list[float]:
    """The mean over each prompt's texts of values that come text by text."""
    remaining = iter(values)
    return [fmean(next(remaining) for _ in group) for group in texts]


@torch.no_grad()
def sequence_kl(
    policy: PreTrainedModel,
    reference: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    samples: Sequence[Sequence[Sequence[int]]],
    *,
    batch_size: int = 16,
) -> Tensor:
    """sum_t KL(policy || reference) at every token of each sample, exact over the vocabulary, in nats.

    [prompts, samples of each]. `batch_size` is in pairs of samples, which share a row; a last one without a partner
    shares it with the first of its prompt.
    """
    objective = ObjectiveConfig(divergence=DivergenceTerm(measure=ReverseKL()))
    model = PreferenceModel(policy, reference, objective).eval()
    even = [[*group, *group[: len(group) % 2]] for group in samples]
    pairs = [
        (prompt, group[index], group[index + 1])
        for prompt, group in zip(prompts, even, strict=True)
        for index in range(0, len(group), 2)
    ]
    sums = []
    for start in tracked(range(0, len(pairs), batch_size), "distance of samples"):
        columns = zip(*pairs[start : start + batch_size], strict=True)
        tokens = model.score(PreferenceBatch.from_ids(*columns, pad_token_id=0).to(policy.device))
        assert tokens.divergence is not None
        sums.append(torch.stack(masked_sum(tokens.divergence, tokens.mask).chunk(2), dim=-1).flatten())
    return torch.cat(sums).cpu().view(len(even), -1)[:, : len(samples[0])].contiguous()
