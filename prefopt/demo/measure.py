"""From samples and weighed pairs to the numbers of a row of the table."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch

from prefopt.comparison.statistics import bootstrap
from prefopt.demo.config import DemoConfig
from prefopt.demo.results import Completion, TokenWeight, WeighedPair
from prefopt.demo.sampling import Sample
from prefopt.tasks.generation.sampling import per_prompt
from prefopt.tasks.planted.ranking import auroc
from prefopt.tasks.scorers.word_lists import Lexicon

__all__ = ["curves", "of_pairs", "of_samples", "of_weights"]

SHOWN = 6
"""Prompts whose completions and pairs are in the results: the first ones, not picked."""

_CURVES = {
    "loss": "loss",
    "rewards/margins": "margin",
    "rewards/accuracies": "accuracy",
    "weights/sparsity": "sparsity",
}
_HEAVIEST, _RARE = 12, 5


def of_samples(samples: Sequence[Sample], config: DemoConfig) -> dict[str, Any]:
    """Fields of Measured that a model's own samples give."""
    scores = per_prompt(torch.tensor([one.score for one in samples]), config.samples_per_prompt)
    shown = samples[:: config.samples_per_prompt][:SHOWN]
    return {
        "reward": bootstrap(scores, seed=config.seed),
        "length": sum(len(one.ids) for one in samples) / len(samples),
        "completions": [Completion(text=one.text, score=one.score) for one in shown],
    }


def of_pairs(pairs: Sequence[WeighedPair]) -> dict[str, Any]:
    """Fields that held-out pairs give of any objective."""
    responses = [response for pair in pairs for response in (pair.chosen, pair.rejected)]
    w = torch.tensor([weight for response in responses for weight in response.weights])
    sentiment = torch.tensor([flag for response in responses for flag in response.sentiment])
    fields = {
        "accuracy": sum(pair.chosen.reward > pair.rejected.reward for pair in pairs) / len(pairs),
        "weight_mean": float(w.mean()),
        "weight_sparsity": float((w == 0).float().mean()),
        "auroc": auroc(w, sentiment),
    }
    if any(response.divergence_weights is not None for response in responses):
        v = torch.tensor([weight for response in responses for weight in response.divergence_weights or ()])
        fields |= {
            "divergence_weight_mean": float(v.mean()),
            "divergence_weight_sparsity": float((v == 0).float().mean()),
        }
    return fields


def of_weights(pairs: Sequence[WeighedPair], lexicon: Lexicon) -> dict[str, Any]:
    """Fields that show learned weights: the heaviest tokens, of those that occur more than now and then, and the first
    pair of each of the first prompts."""
    weights: dict[str, list[float]] = defaultdict(list)
    for response in (response for pair in pairs for response in (pair.chosen, pair.rejected)):
        for piece, weight in zip(response.pieces, response.weights, strict=True):
            weights[piece.strip()].append(weight)
    means = [
        TokenWeight(text=text, weight=sum(found) / len(found), count=len(found), sign=lexicon.sign(text))
        for text, found in weights.items()
        if len(found) >= _RARE
    ]
    means.sort(key=lambda token: (-token.weight, token.text))
    first_of_prompt = {pair.prompt: pair for pair in reversed(pairs)}
    shown = [pair for pair in pairs if first_of_prompt[pair.prompt] is pair]
    return {"heaviest": means[:_HEAVIEST], "pairs": shown[:SHOWN]}


def curves(history: Sequence[dict[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    """Learning curves from a Trainer's log."""
    return {
        label: [(int(logs["step"]), float(logs[name])) for logs in history if name in logs]
        for name, label in _CURVES.items()
    }
