"""Figures of summaries that take a trained model: BERTScore and SummaC."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch

from prefopt.tasks.base import Metric
from prefopt.tasks.optional import needed

__all__ = ["BERT_SCORE", "SUMMAC", "bert_score", "require_bert_score", "require_summac", "summac"]

BERT_SCORE = Metric("bert_score", "higher", "BERTScore F1 with the best of the post's references")
SUMMAC = Metric("summac", "higher", "SummaC-Conv: how far the post supports the summary, 0 to 1")


def require_bert_score() -> Any:
    """bert-score's function. Raises ImportError where it is not installed."""
    with needed("task summarization, field `bert_score`,", "bert-score", "bert-score"):
        from bert_score import score
    return score


def require_summac() -> Any:
    """The class of SummaC-Conv. Raises ImportError where summac is not installed."""
    try:
        from summac.model_summac import SummaCConv
    except ImportError as error:
        raise ImportError(
            f"task summarization, field `summac`, needs summac, which cannot be imported ({error}). Its release "
            "asks for a huggingface-hub too old for transformers: pip install --no-deps summac; pip install nltk"
        ) from error
    return SummaCConv


def bert_score(model: str, references: Sequence[Sequence[str]], texts: Sequence[str]) -> list[float]:
    """F1 of greedily matched contextual embeddings, each text with the best of its references.

    Zhang et al., "BERTScore: Evaluating Text Generation with BERT", ICLR 2020. `model` is bert-score's model_type.
    """
    _, _, f1 = require_bert_score()(list(texts), list(map(list, references)), model_type=model)
    return [float(value) for value in f1]


def summac(posts: Sequence[str], texts: Sequence[str]) -> list[float]:
    """SummaC-Conv's probability that the post supports the summary, from the entailment of its sentences.

    Laban et al., "SummaC: Re-Visiting NLI-based Models for Inconsistency Detection in Summarization", TACL 2022.
    """
    return [float(value) for value in _summac().score(list(posts), list(texts))["scores"]]


@functools.cache
def _summac() -> Any:
    # The setting of its authors, whose weights come with it: they are of the model trained on VitaminC.
    device = "cuda" if torch.cuda.is_available() else "cpu"
    settings = {"bins": "percentile", "granularity": "sentence", "nli_labels": "e", "start_file": "default"}
    return require_summac()(models=["vitc"], device=device, agg="mean", **settings)
