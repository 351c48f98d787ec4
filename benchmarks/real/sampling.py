"""Continuations of prompts, and how far the model that wrote them is from the reference."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prefopt.divergences import ReverseKL

__all__ = ["Samples", "generate", "sequence_kl"]


@dataclass(frozen=True, eq=False)
class Samples:
    """One batch of continuations. ids, attention, response [N, S]: token ids, prompts padded on the left; what is not
    padding; what the model wrote, its end token included."""

    ids: Tensor
    attention: Tensor
    response: Tensor

    def rows(self) -> Iterator[list[int]]:
        """The response tokens of each row."""
        for ids, response in zip(self.ids, self.response, strict=True):
            yield ids[response].tolist()


@torch.inference_mode()
def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    tokens: int,
    end: int,
    temperature: float = 1.0,
) -> Samples:
    """One continuation of each prompt, from the model's whole distribution, up to the token `end` or `tokens` long."""
    assert tokenizer.pad_token_id is not None
    lists = [tokenizer(prompt)["input_ids"] for prompt in prompts]
    width = max(len(ids) for ids in lists)
    attention = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in lists])
    padded = torch.tensor([[tokenizer.pad_token_id] * (width - len(ids)) + ids for ids in lists])
    ids = model.generate(
        input_ids=padded,
        attention_mask=attention,
        do_sample=True,
        temperature=temperature,
        top_k=0,
        top_p=1.0,
        max_new_tokens=tokens,
        eos_token_id=end,
        pad_token_id=tokenizer.pad_token_id,
    )
    ended = (ids[:, width:] == end).long()
    written = (ended.cumsum(-1) - ended) == 0
    response = torch.cat([torch.zeros_like(padded, dtype=torch.bool), written], dim=1)
    return Samples(ids, torch.cat([attention, written.long()], dim=1), response)


@torch.inference_mode()
def sequence_kl(policy: PreTrainedModel, reference: PreTrainedModel, samples: Samples) -> Tensor:
    """sum_t KL(policy || reference) at the prefixes of each sample, exact over the vocabulary: [N]."""
    positions = (samples.attention.cumsum(-1) - 1).clamp(min=0)
    rows, columns = samples.response[:, 1:].nonzero(as_tuple=True)
    log_probs = []
    for model in (policy, reference):
        logits = model(input_ids=samples.ids, attention_mask=samples.attention, position_ids=positions).logits
        log_probs.append(logits[rows, columns].float().log_softmax(-1))
    return torch.zeros(len(samples.ids)).index_add(0, rows, ReverseKL()(*log_probs))
