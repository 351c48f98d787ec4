"""The metrics of the planted task: weights against the truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import datasets
import torch
from transformers import PreTrainedTokenizerBase

from prefopt.scoring import PreferenceModel
from prefopt.scoring.batches import scored_batches
from prefopt.tasks.base import Metric
from prefopt.tasks.generation.generate import GENERATION_METRICS
from prefopt.tasks.held_out import pair_weights
from prefopt.tasks.planted.language import Language
from prefopt.tasks.ranking import auroc, average_precision, sparsity_error

_BATCH = 128

_WEIGHTS = {"w": "the weights of log-ratios", "v": "the weights of the divergence"}

_WEIGHT_METRICS = (
    Metric("auroc", "higher", "P(a bearing token has the larger one) + P(equal) / 2, over the tokens of a pair"),
    Metric("ap", "higher", "average precision in finding bearing tokens, over the tokens of a pair"),
    Metric("sparsity_error", "lower", "|share of exact zeros - that of the truth|, over the tokens of a pair"),
)

METRICS = (
    Metric("reward", "higher", "true worth of the policy's samples; a good phrase is 1, a bad one -1"),
    *GENERATION_METRICS,
    *(
        replace(metric, name=f"{metric.name}_{suffix}", what=f"{metric.what}: {weights}")
        for suffix, weights in _WEIGHTS.items()
        for metric in _WEIGHT_METRICS
    ),
)


def token_words(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The words of token ids, one a token, without the mark of the space before."""
    return [str(token).lstrip("▁") for token in tokenizer.convert_ids_to_tokens(list(ids))]


def pair_metrics(
    model: PreferenceModel, pairs: datasets.Dataset, tokenizer: PreTrainedTokenizerBase, language: Language
) -> dict[str, list[float]]:
    """metric -> its value for every pair of a data set of `prepare`, whose chosen responses are the better ones.

    The weights of a pair are measured over the tokens of both its responses together: the loss compares the two, and
    every pair has a bearing token, which not every response has.
    """
    metrics: dict[str, list[float]] = {}
    batches = scored_batches(model, pairs, pad_token_id=int(tokenizer.pad_token_id), batch_size=_BATCH)
    for rows, _, output in batches:
        for row, weights in zip(rows, pair_weights(output), strict=True):
            responses = (token_words(row[f"{side}_ids"], tokenizer) for side in ("chosen", "rejected"))
            truth = torch.tensor([weight for words in responses for weight in language.weights(words)])
            for suffix, predicted in weights.items():
                values = {
                    "auroc": auroc(predicted, truth > 0),
                    "ap": average_precision(predicted, truth > 0),
                    "sparsity_error": sparsity_error(predicted, truth),
                }
                for name, value in values.items():
                    assert value is not None, "the responses of a pair differ in worth"
                    metrics.setdefault(f"{name}_{suffix}", []).append(value)
    return metrics
