"""The summarization task: people's choices between two summaries, held-out win rates, ROUGE and diversity."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from statistics import fmean
from typing import Literal, Self, TypeVar, final

from pydantic import model_validator

from prefopt.comparison.answering import AnsweringTask
from prefopt.comparison.answers import Asked
from prefopt.comparison.forms import Template
from prefopt.comparison.summarization.measures import METRICS, figures, rouge, self_bleu
from prefopt.comparison.summarization.models import (
    BERT_SCORE,
    SUMMAC,
    bert_score,
    entailment,
    require_bert_score,
    require_summac,
)
from prefopt.comparison.task import Metric
from prefopt.comparison.written import Generation

__all__ = ["SummarizationTask"]

T = TypeVar("T")


@final
class SummarizationTask(AnsweringTask):
    """Pairs of summaries of a post, such as TL;DR.

    Rows are pairs (`prompt`, `chosen`, `rejected`), rated summaries (`prompt`, `responses`, `rewards`: two that are
    rated unequally make a pair; also one JSON object that maps posts to the other two) or comparisons as in OpenAI's
    summarize_from_feedback (`info`, `summaries`, `choice`). Held-out pairs and prompts share no post with training. A
    post's references are what its author wrote, where the row says so, or the summaries rated best, or the chosen one;
    `against: chosen` takes the first of them. The fields of `AnsweringTask`, and

    template    the prompt of a post, with places for {post} and, where rows have them, {title} and {subreddit}
    bert_score  a model for bert-score, which is then measured; null: it is not
    summac      whether SummaC-Conv is measured
    """

    name: Literal["summarization"] = "summarization"
    generation: Generation = Generation(max_new_tokens=64)
    stop: tuple[str, ...] = ("\n\n",)
    template: str = "{post}\n\nTL;DR:"
    bert_score: str | None = None
    summac: bool = False

    @model_validator(mode="after")
    def _can_be_filled(self) -> Self:
        Template(self.template)
        return self

    @property
    def around(self) -> Template:
        return Template(self.template)

    @property
    def own(self) -> tuple[Metric, ...]:
        by_models = ((BERT_SCORE, self.bert_score is not None), (SUMMAC, self.summac))
        return (*METRICS, *(metric for metric, wanted in by_models if wanted))

    def check(self) -> None:
        rouge()
        self_bleu()
        if self.bert_score is not None:
            require_bert_score()
        if self.summac:
            require_summac()

    def measure(self, questions: Sequence[Asked], texts: Sequence[Sequence[str]]) -> dict[str, list[float | None]]:
        posts, references = ([each.row[field] for each in questions] for field in ("post", "references"))
        found = figures(posts, references, texts)
        sizes, flat = [len(of) for of in texts], list(chain.from_iterable(texts))
        if self.bert_score is not None:
            found["bert_score"] = _means(bert_score(self.bert_score, _repeated(references, sizes), flat), sizes)
        if self.summac:
            found["summac"] = _means(entailment(_repeated(posts, sizes), flat), sizes)
        return found


def _repeated(values: Sequence[T], sizes: Sequence[int]) -> list[T]:
    return [value for value, size in zip(values, sizes, strict=True) for _ in range(size)]


def _means(values: Sequence[float], sizes: Sequence[int]) -> list[float | None]:
    """The mean of the first so many values, of the next, and so on."""
    rest = iter(values)
    return [fmean(next(rest) for _ in range(size)) for size in sizes]
