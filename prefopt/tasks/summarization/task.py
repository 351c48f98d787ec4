"""The summarization task: people's choices between two summaries, held-out win rates, ROUGE and diversity."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Literal, Self, TypeVar, final

from pydantic import model_validator

from prefopt.tasks.base import Metric
from prefopt.tasks.generation.generate import Generation, means
from prefopt.tasks.human_preferences.answering import AnsweringTask
from prefopt.tasks.human_preferences.win_rates import Asked
from prefopt.tasks.preference_data.forms import Template
from prefopt.tasks.summarization.measures import METRICS, figures, rouge, self_bleu
from prefopt.tasks.summarization.models import (
    BERT_SCORE,
    SUMMAC,
    bert_score,
    entailment,
    require_bert_score,
    require_summac,
)

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
        flat = list(chain.from_iterable(texts))
        if self.bert_score is not None:
            found["bert_score"] = list(means(bert_score(self.bert_score, _repeated(references, texts), flat), texts))
        if self.summac:
            found["summac"] = list(means(entailment(_repeated(posts, texts), flat), texts))
        return found


def _repeated(values: Sequence[T], texts: Sequence[Sequence[str]]) -> list[T]:
    """The value of each prompt, as often as it has texts."""
    return [value for value, of in zip(values, texts, strict=True) for _ in of]
