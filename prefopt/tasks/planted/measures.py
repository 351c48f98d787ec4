"""What is measured on the planted task: weights against the truth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import datasets
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from prefopt.data import PreferenceCollator
from prefopt.scoring import PreferenceModel
from prefopt.tasks.base import Metric
from prefopt.tasks.generation.generate import WRITTEN
from prefopt.tasks.planted.language import Language
from prefopt.tasks.planted.ranking import auroc, average_precision, sparsity_error
from prefopt.tokens import PreferenceBatch

__all__ = ["METRICS", "of_pairs", "words_of"]

_BATCH = 128

_WEIGHTS = {"w": "the weights of log-ratios", "v": "the weights of the divergence"}

_JUDGED: dict[str, tuple[Callable[[Tensor, Tensor], float | None], Metric]] = {
    "auroc": (
        lambda weights, truth: auroc(weights, truth > 0),
        Metric("auroc", "higher", "P(a bearing token has the larger one) + P(equal) / 2, over the tokens of a pair"),
    ),
    "ap": (
        lambda weights, truth: average_precision(weights, truth > 0),
        Metric("ap", "higher", "average precision in finding bearing tokens, over the tokens of a pair"),
    ),
    "sparsity_error": (
        sparsity_error,
        Metric("sparsity_error", "lower", "|share of exact zeros - that of the truth|, over the tokens of a pair"),
    ),
}

METRICS = (
    Metric("reward", "higher", "true worth of the policy's samples; a good phrase is 1, a bad one -1"),
    *WRITTEN,
    *(
        Metric(f"{metric.name}_{which}", metric.better, f"{metric.what}: {what}")
        for which, what in _WEIGHTS.items()
        for _, metric in _JUDGED.values()
    ),
)


def words_of(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The words of these tokens, one a token, without the mark of the space before."""
    return [str(token).lstrip("▁") for token in tokenizer.convert_ids_to_tokens(list(ids))]


@torch.no_grad()
def of_pairs(
    model: PreferenceModel, pairs: datasets.Dataset, tokenizer: PreTrainedTokenizerBase, language: Language
) -> dict[str, list[float]]:
    """Figures of each pair of a data set of `prepare`, whose chosen responses are the better ones.

    The weights of a pair are judged over the tokens of both its responses together: it is the two that its loss sets
    against each other, and every pair has a bearing token, as not every response has.
    """
    model.eval()
    collate = PreferenceCollator(int(tokenizer.pad_token_id), model.objective.config.columns)
    device = next(model.policy.parameters()).device
    figures: dict[str, list[float]] = {}
    for start in range(0, len(pairs), _BATCH):
        rows = pairs.select(range(start, min(start + _BATCH, len(pairs)))).to_list()
        output = model(PreferenceBatch.from_mapping(collate(rows)).to(device))
        weights = {"w": output.weights, "v": output.divergence_weights}
        for which, found in weights.items():
            if found is not None:
                for row, truth in enumerate(_truth(rows, tokenizer, language)):
                    places = (row, row + len(rows))
                    tokens = torch.cat([found[place][output.tokens.mask[place]] for place in places]).cpu()
                    for name, (judge, _) in _JUDGED.items():
                        value = judge(tokens, truth)
                        assert value is not None, "the responses of a pair differ in worth"
                        figures.setdefault(f"{name}_{which}", []).append(value)
    return figures


def _truth(rows: Sequence[Any], tokenizer: PreTrainedTokenizerBase, language: Language) -> list[Tensor]:
    """The true weights of the tokens of each pair, chosen response first."""
    sides = ("chosen_ids", "rejected_ids")
    return [
        torch.cat([torch.tensor(language.weights(words_of(row[side], tokenizer))) for side in sides]) for row in rows
    ]
