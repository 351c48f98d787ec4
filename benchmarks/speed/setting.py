"""What every contender is given: the shape of the work, the two models and the token ids, from seeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from prefopt import PreferenceBatch
from prefopt.objective import Objective
from prefopt.objective_config import ObjectiveConfig

__all__ = ["BATCHES", "BETA", "LENGTHS", "PAD", "Setting", "batches", "models", "objective", "rows"]

BETA = 0.1
BATCHES = 2
"""Batches that a contender has in memory; steps take them in turn."""

PAD = 0

LENGTHS: Mapping[str, tuple[int, int]] = MappingProxyType(
    {"192+64": (192, 64), "128+128": (128, 128), "32+224": (32, 224)}
)
"""Tokens of the prompt and of each response: heavy in prompts, balanced, heavy in responses."""

Row = dict[str, list[int]]


@dataclass(frozen=True)
class Setting:
    """A batch of `pairs` pairs, whose prompts have `prompt` tokens and whose responses have `response` each, for a
    Llama with tied embeddings, on a device of torch and in one of its dtypes."""

    prompt: int
    response: int
    pairs: int = 4
    vocabulary: int = 50_257
    hidden: int = 256
    layers: int = 8
    device: str = "cpu"
    dtype: str = "float32"

    @property
    def tokens(self) -> int:
        """Tokens of a batch that has a row for each response."""
        return 2 * self.pairs * (self.prompt + self.response)

    @property
    def config(self) -> LlamaConfig:
        """Of both models."""
        heads = max(1, self.hidden // 64)
        return LlamaConfig(
            vocab_size=self.vocabulary,
            hidden_size=self.hidden,
            intermediate_size=-(-self.hidden * 8 // 3 // 32) * 32,
            num_hidden_layers=self.layers,
            num_attention_heads=heads,
            num_key_value_heads=heads,
            max_position_embeddings=self.prompt + 2 * self.response,
            tie_word_embeddings=True,
            pad_token_id=PAD,
            bos_token_id=1,
            eos_token_id=2,
        )

    @property
    def whole_logits(self) -> int:
        """Bytes of the float32 logits of every token of the batch."""
        return 4 * self.tokens * self.vocabulary


def models(setting: Setting) -> tuple[LlamaForCausalLM, LlamaForCausalLM]:
    """The policy and the reference, whose weights differ by noise."""
    torch.manual_seed(0)
    policy, reference = (LlamaForCausalLM(setting.config).to(torch.float32) for _ in range(2))
    reference.load_state_dict(policy.state_dict())
    reference.requires_grad_(False)
    _move(policy, 0.005)
    for model in (policy, reference):
        model.to(setting.device, getattr(torch, setting.dtype))
    return policy, reference


def objective(config: ObjectiveConfig, setting: Setting) -> Objective:
    """The objective, what it learns moved from its start, so that masks are alive and tokens differ in weight."""
    torch.manual_seed(1)
    built = Objective(config, num_layers=setting.layers, hidden_size=setting.hidden)
    _move(built, 0.3)
    return built.to(setting.device)


def rows(setting: Setting) -> list[list[Row]]:
    """Token ids of the batches, pair by pair. All lengths are exact: nobody pads."""
    generator = torch.Generator().manual_seed(2)

    def ids(length: int) -> list[int]:
        return torch.randint(3, setting.vocabulary, (length,), generator=generator).tolist()

    return [
        [
            {
                "prompt_ids": ids(setting.prompt),
                "chosen_ids": ids(setting.response),
                "rejected_ids": ids(setting.response),
            }
            for _ in range(setting.pairs)
        ]
        for _ in range(BATCHES)
    ]


def batches(setting: Setting) -> list[PreferenceBatch]:
    """The same as batches of prefopt's."""
    fields = ("prompt_ids", "chosen_ids", "rejected_ids")
    return [
        PreferenceBatch.from_ids(*([row[field] for row in batch] for field in fields), pad_token_id=PAD).to(
            setting.device
        )
        for batch in rows(setting)
    ]


@torch.no_grad()
def _move(module: nn.Module, size: float) -> None:
    """Add uniform noise from 0 to `size` to every parameter, less its mean where the parameter is not of one axis."""
    for parameter in module.parameters():
        noise = size * torch.rand_like(parameter)
        parameter.add_(noise - size / 2 if isinstance(module, LlamaForCausalLM) else noise)
