"""The summarization task: people's choices between two summaries of a post, and what is measured of a summary."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any, Literal, Self, final

import torch
from pydantic import model_validator

from prefopt.sampling import Generation
from prefopt.tasks.base import HeldOutPrompt, Metric
from prefopt.tasks.generation import prompt_means
from prefopt.tasks.human_preferences.answering import AnsweringTask
from prefopt.tasks.optional import needed
from prefopt.tasks.preference_data.forms import Template

_ROUGE = ("rouge1", "rouge2", "rougeL")
_RUN = 3
"""Words in a row that count as copied."""

_WORD = re.compile(r"\w+(?:['’]\w+)*")

METRICS = (
    Metric("rougeL", "higher", "F1 of the longest common subsequence with the best of the post's references, stemmed"),
    Metric("rouge1", "higher", "F1 of the words shared with the best of the post's references, stemmed"),
    Metric("rouge2", "higher", "F1 of the pairs of words shared with the best of the post's references, stemmed"),
    Metric("self_bleu", "lower", "BLEU of a sample against the post's other samples, 0 to 1; 1: all are alike"),
    Metric("words", "neither", "words of a summary"),
    Metric("compression", "neither", "words of a summary over those of its post"),
    Metric("copied", "neither", f"share of the runs of {_RUN} words of a summary that are in its post, case aside"),
)

BERT_SCORE = Metric("bert_score", "higher", "BERTScore F1 with the best of the post's references")
SUMMAC = Metric("summac", "higher", "SummaC-Conv: how far the post supports the summary, 0 to 1")


def figures(
    posts: Sequence[str], references: Sequence[Sequence[str]], texts: Sequence[Sequence[str]]
) -> dict[str, list[float | None]]:
    """METRICS of each post, means over its samples; None where no sample has the figure."""
    score, diversity = rouge(), self_bleu()
    columns: dict[str, list[float | None]] = {metric.name: [] for metric in METRICS}
    for post, best_of, samples in zip(posts, references, texts, strict=True):
        scores = [score(best_of, text) for text in samples]
        words = fmean(len(text.split()) for text in samples)
        shares = [share for text in samples if (share := copied(text, post)) is not None]
        values = {
            **{name: fmean(f1[name] for f1 in scores) for name in _ROUGE},
            "self_bleu": diversity(samples),
            "words": words,
            "compression": words / len(post.split()) if post.split() else None,
            "copied": fmean(shares) if shares else None,
        }
        for name, value in values.items():
            columns[name].append(value)
    return columns


def rouge() -> Callable[[Sequence[str], str], dict[str, float]]:
    """(references, text) -> F1 of ROUGE-1, ROUGE-2 and ROUGE-L, each with the best of the references, in [0, 1].

    Lin, "ROUGE: A Package for Automatic Evaluation of Summaries", 2004, as rouge-score has it, with Porter's stemmer.
    """
    with needed("task summarization", "rouge-score", "summarization"):
        from rouge_score.rouge_scorer import RougeScorer

    best: Any = RougeScorer(list(_ROUGE), use_stemmer=True).score_multi
    return lambda references, text: {name: float(f.fmeasure) for name, f in best(list(references), text).items()}


def self_bleu() -> Callable[[Sequence[str]], float | None]:
    """samples -> mean_i BLEU(y_i; all y_j with j != i), in [0, 1]; None for a single sample.

    Zhu et al., "Texygen", SIGIR 2018, over all samples of a model; here over the samples of one prompt. BLEU is
    sacrebleu's of a sentence: 13a tokens, up to four in a row or as many as the sample has, exponential smoothing.
    """
    with needed("task summarization", "sacrebleu", "summarization"):
        from sacrebleu.metrics import BLEU

    bleu: Any = BLEU(effective_order=True)

    def mean(samples: Sequence[str]) -> float | None:
        if len(samples) < 2:
            return None
        others = ([*samples[:index], *samples[index + 1 :]] for index in range(len(samples)))
        return fmean(bleu.sentence_score(text, rest).score / 100 for text, rest in zip(samples, others, strict=True))

    return mean


def bert_score(model: str) -> Callable[[Sequence[Sequence[str]], Sequence[str]], list[float]]:
    """(references of each text, texts) -> F1 of greedily matched contextual embeddings with the best reference.

    Zhang et al., "BERTScore: Evaluating Text Generation with BERT", ICLR 2020. `model` is bert-score's model_type.
    """
    with needed("task summarization, field `bert_score`,", "bert-score", "bert-score"):
        from bert_score import score

    return lambda references, texts: list(
        map(float, score(list(texts), list(map(list, references)), model_type=model)[2])
    )


def summac() -> Callable[[Sequence[str], Sequence[str]], list[float]]:
    """(post of each text, texts) -> SummaC-Conv's probability that the post supports the summary.

    Laban et al., "SummaC: Re-Visiting NLI-based Models for Inconsistency Detection in Summarization", TACL 2022.
    """
    try:
        from summac.model_summac import SummaCConv
    except ImportError as error:
        raise ImportError(
            f"task summarization, field `summac`, needs summac, which cannot be imported ({error}). Its release "
            "asks for a huggingface-hub too old for transformers: pip install --no-deps summac; pip install nltk"
        ) from error
    return lambda posts, texts: [float(p) for p in _summac(SummaCConv).score(list(posts), list(texts))["scores"]]


@functools.cache
def _summac(cls: Any) -> Any:
    # The setting of its authors, whose weights come with it: they are of the model trained on VitaminC.
    device = "cuda" if torch.cuda.is_available() else "cpu"
    settings = {"bins": "percentile", "granularity": "sentence", "nli_labels": "e", "start_file": "default"}
    return cls(models=["vitc"], device=device, agg="mean", **settings)


def copied(text: str, post: str) -> float | None:
    """The share of the text's runs of words that are in the post; None where it has too few words for one."""
    runs, post_runs = _runs(text), set(_runs(post))
    return sum(run in post_runs for run in runs) / len(runs) if runs else None


def _runs(text: str) -> list[tuple[str, ...]]:
    words = [word.lower() for word in _WORD.findall(text)]
    return [tuple(words[start : start + _RUN]) for start in range(len(words) - _RUN + 1)]


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
        of_models = ((BERT_SCORE, self.bert_score is not None), (SUMMAC, self.summac))
        return (*METRICS, *(metric for metric, wanted in of_models if wanted))

    def check(self) -> None:
        """Raises ImportError."""
        rouge()
        self_bleu()
        self._model_scores()

    def _model_scores(self) -> dict[str, tuple[str, Callable[[Any, Sequence[str]], list[float]]]]:
        """metric -> the field of a prompt's row that texts are compared with, and the function that does it."""
        scores: dict[str, Any] = {}
        if self.bert_score is not None:
            scores["bert_score"] = "references", bert_score(self.bert_score)
        if self.summac:
            scores["summac"] = "post", summac()
        return scores

    def measure(
        self, prompts: Sequence[HeldOutPrompt], texts: Sequence[Sequence[str]]
    ) -> dict[str, list[float | None]]:
        posts, references = ([prompt.row[field] for prompt in prompts] for field in ("post", "references"))
        columns = figures(posts, references, texts)
        rows = [prompt.row for prompt, group in zip(prompts, texts, strict=True) for _ in group]
        for name, (field, score) in self._model_scores().items():
            scores = score([row[field] for row in rows], [text for group in texts for text in group])
            columns[name] = list(prompt_means(scores, texts))
        return columns
