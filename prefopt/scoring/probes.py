"""Made-up pairs on which a model's fast path is proven, and what is changed about a model while it is."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from prefopt.scoring.fsdp import local_tensor, reshard
from prefopt.tokens import PreferenceBatch

_IDS = 512
"""Most unlike token ids of the probes."""

_ADAPTER_STEP = 0.1
"""Standard deviation of what is added to an adapter: large enough to show, of the size of trained adapters."""


def probe_batch(token_ids: Sequence[int], longest: int, widest: int, *, seed: int = 0) -> PreferenceBatch:
    """Four pairs of drawn tokens, of up to `longest` tokens of prompt and response and `widest` of a pair.

    1. The shortest prompt and the longest responses. They are equal but for every third token, so that one says much of
       the other.
    2. The longest prompt, and responses of a few tokens and of one.
    3. Responses of unlike lengths.
    4. A few tokens. Where pairs are packed, this one stands in the row of another.
    """
    draw = random.Random(seed)

    def tokens(length: int) -> list[int]:
        return [draw.choice(token_ids) for _ in range(length)]

    longest, widest = max(longest, 4), max(widest, 7)
    half, few, fifth = min(longest, (widest + 1) // 2) - 1, min(3, longest // 2), max(1, longest // 5)
    chosen, others = tokens(half), tokens(half)
    rejected = [others[step] if step % 3 == 1 else token for step, token in enumerate(chosen)]
    pairs = [
        (tokens(1), chosen, rejected),
        (tokens(longest - few), tokens(few), tokens(1)),
        (tokens(fifth), tokens(2 * fifth), tokens(fifth)),
        (tokens(1), tokens(2), tokens(1)),
    ]
    prompts, *responses = zip(*pairs, strict=True)
    return PreferenceBatch.from_ids(prompts, *responses, pad_token_id=0)


def usable_token_ids(models: Iterable[PreTrainedModel]) -> list[int]:
    """Token ids that all models embed and have logits of, without those that a configuration names: padding, images,
    ends of text."""
    models = list(models)
    layers = [layer for model in models for layer in (model.get_input_embeddings(), model.get_output_embeddings())]
    vocabulary = min(layer.weight.shape[0] for layer in layers)
    special = {token for model in models for token in _named_tokens(model.config)}
    count = min(vocabulary, _IDS)
    ids = [step * vocabulary // count for step in range(count)]
    return [token for token in ids if token not in special] or ids


def _named_tokens(config: PreTrainedConfig) -> Iterator[int]:
    for name, value in vars(config).items():
        if isinstance(value, PreTrainedConfig):
            yield from _named_tokens(value)
        elif name.endswith(("token_id", "token_index", "token_ids")):
            yield from (token for token in (value if isinstance(value, list) else [value]) if isinstance(token, int))


@contextmanager
@torch.no_grad()
def moved_adapter(model: nn.Module) -> Iterator[None]:
    """A context in which the trained parameters of an adapter are off their initial values, at which it changes
    nothing. Afterwards they are what they were, bit by bit. Other models are left alone."""
    parameters: list[Tensor] = []
    if hasattr(model, "peft_config"):
        # A partitioned parameter (DeepSpeed ZeRO-3) is not here to be moved.
        parameters = [p for p in model.parameters() if p.requires_grad and not hasattr(p, "ds_id")]
    local = [local_tensor(parameter.data) for parameter in parameters]
    kept = [tensor.clone() for tensor in local]
    try:
        for tensor in local:
            noise = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(tensor.numel()))
            tensor.add_(_ADAPTER_STEP * noise.to(tensor))
        reshard(model)
        yield
    finally:
        for tensor, value in zip(local, kept, strict=True):
            tensor.copy_(value)
        reshard(model)
        torch.clear_autocast_cache()  # which holds casts of the moved parameters
