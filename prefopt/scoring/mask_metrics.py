"""What a step says of its learned mask: how much of its weight lies on tokens without words, and a warning where it
fails."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import final

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prefopt.data.token_texts import wordless_tokens
from prefopt.mask_health import MaskWatch, wordless_metrics
from prefopt.objective import Objective, ObjectiveOutput


@final
class MaskMetrics:
    """Adds `weights/wordless`, `divergence_weights/wordless` and `wordless/share` to outputs of an objective that has
    learned masks, and has the mask of the log-ratios watched in training.

    tokenizer  tells which tokens have no word; without one they are the special tokens that the model's configuration
               names
    watch      None where the objective learns no such mask
    """

    def __init__(
        self, objective: Objective, policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None
    ) -> None:
        self.tokenizer = tokenizer
        self._masks = tuple(objective.learned_masks)
        self.watch = MaskWatch(objective.config.beta, _warn) if "weights" in self._masks else None
        self._special = {token for config in (policy.config, policy.generation_config) for token in _special(config)}
        self._size = policy.config.get_text_config().vocab_size
        self._wordless: Tensor | None = None

    def added_to(self, output: ObjectiveOutput, *, is_training: bool) -> ObjectiveOutput:
        """The output with these metrics; a step of training is watched."""
        if not self._masks:
            return output
        tokens = output.tokens
        if self._wordless is None:
            self._wordless = self._table().to(tokens.mask.device)
        weights = {"weights": output.weights, "divergence_weights": output.divergence_weights}
        metrics = output.metrics
        for name in self._masks:
            values = weights[name]
            assert values is not None
            metrics = metrics | wordless_metrics(name, values, tokens, self._wordless)
        if self.watch is not None and is_training:
            self.watch.add(metrics)
        return replace(output, metrics=metrics)

    def _table(self) -> Tensor:
        """[V] bool."""
        if self.tokenizer is not None:
            return wordless_tokens(self.tokenizer, max(self._size, len(self.tokenizer)))
        flags = torch.zeros(self._size, dtype=torch.bool)
        flags[[token for token in self._special if 0 <= token < self._size]] = True
        return flags


def _special(config: object) -> list[int]:
    """The ids of the special tokens that a configuration names."""
    values = (getattr(config, f"{name}_token_id", None) for name in ("bos", "eos", "pad"))
    return [token for value in values if value is not None for token in (value if isinstance(value, list) else [value])]


def _warn(text: str) -> None:
    warnings.warn(text, stacklevel=2)
