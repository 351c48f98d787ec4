"""The summarization task: people's choices between two summaries, held-out win rates, ROUGE and diversity."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, Self, final

from pydantic import model_validator

from prefopt.tasks.base import HeldOutPrompt, Metric
from prefopt.tasks.generation.generate import prompt_means
from prefopt.tasks.generation.sampling import Generation
from prefopt.tasks.human_preferences.answering import AnsweringTask
from prefopt.tasks.preference_data.forms import Template
from prefopt.tasks.summarization import measures


@final
class SummarizationTask(AnsweringTask):
    """Pairs of summaries of a post, such as TL;DR.

    Rows are pairs (`prompt`, `chosen`, `rejected`), rated summaries (`prompt`, `responses`, `rewards`: two that are
    rated unequally make a pair; also one JSON object that maps posts to the other two) or comparisons as in OpenAI's
    summarize_from_feedback (`info`, `summaries`, `choice`). Held-out pairs and prompts share no post with training. A
    post's references are what its author wrote, where the row says so, or the summaries rated best, or the chosen one;
    `against: chosen` takes the first of them. The fields of `PreferencesTask`, `AnsweringTask`, and

    template    the prompt of a post, with slots {post} and, where rows have them, {title} and {subreddit}
    bert_score  a model for bert-score, which is then measured; null: it is not
    summac      whether SummaC-Conv is measured

    >>> SummarizationTask(model="gpt2", data="tldr.jsonl").headline
    'rougeL'
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
    def prompt_template(self) -> Template:
        return Template(self.template)

    @property
    def answer_metrics(self) -> tuple[Metric, ...]:
        of_models = ((measures.BERT_SCORE, self.bert_score is not None), (measures.SUMMAC, self.summac))
        return (*measures.METRICS, *(metric for metric, wanted in of_models if wanted))

    def check(self) -> None:
        """Raises ImportError."""
        measures.rouge()
        measures.self_bleu()
        self._model_scores()

    def _model_scores(self) -> dict[str, tuple[str, Callable[[Any, Sequence[str]], list[float]]]]:
        """metric -> the field of a prompt's row that texts are compared with, and the function that does it."""
        scores: dict[str, Any] = {}
        if self.bert_score is not None:
            scores["bert_score"] = "references", measures.bert_score(self.bert_score)
        if self.summac:
            scores["summac"] = "post", measures.summac()
        return scores

    def measure(
        self, prompts: Sequence[HeldOutPrompt], texts: Sequence[Sequence[str]]
    ) -> dict[str, list[float | None]]:
        posts, references = ([prompt.row[field] for prompt in prompts] for field in ("post", "references"))
        columns = measures.figures(posts, references, texts)
        rows = [prompt.row for prompt, group in zip(prompts, texts, strict=True) for _ in group]
        for name, (field, score) in self._model_scores().items():
            scores = score([row[field] for row in rows], [text for group in texts for text in group])
            columns[name] = list(prompt_means(scores, texts))
        return columns
