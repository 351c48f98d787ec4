"""The sentiment task: continuations of reviews sampled from the reference, ranked by a scorer of sentiment."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Literal, Self, final

from pydantic import Field, model_validator
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prefopt.data.quiet import quiet
from prefopt.sampling import Generation
from prefopt.scoring import PreferenceModel
from prefopt.tasks.base import HELD_OUT, PROMPTS, TRAIN, Evaluation, Material, Metric, Task, write_jsonl, write_split
from prefopt.tasks.generation import GENERATION_METRICS, generate, prompt_means
from prefopt.tasks.held_out import AUROC
from prefopt.tasks.models import Sft, save_without_eos, supervised, train_small_model
from prefopt.tasks.preference_data.forms import QUARANTINE, Template, read_compared
from prefopt.tasks.preference_data.sources import Rows, Source
from prefopt.tasks.preference_data.split import split_by_prompt
from prefopt.tasks.preference_data.texts import SomeTexts, TextsOrTemplates
from prefopt.tasks.scorers.base import LexicalScorer, Scorer
from prefopt.tasks.scorers.corpus import corpus_prompts, corpus_reviews
from prefopt.tasks.scorers.registry import AnyScorer
from prefopt.tasks.scorers.words import VaderScorer, WordsScorer
from prefopt.tasks.sentiment.pairs import Pairing, Rated, scored_samples, split

_PROMPT_SOURCES = ("prompts", "pairs", "rated")


@final
class SentimentTask(Task):
    """Pairs of samples of the reference, ranked by one scorer; policies are judged by a second one.

    model             name or folder; null: a small model, trained on the generated corpus
    end_token         the model's end-of-text token, if it is not the tokenizer's
    reviews, reference_steps   size of the generated corpus; training steps of the small model
    sft, sft_texts    supervised fine-tuning of the model, and its texts (see `Sft`, `Texts`)
    prompts           what is continued (see `Texts`, `Templates`); null: prompts of the generated corpus
    pairs             preference pairs in place of prompts and samples (see `Source`)
    rated             rated responses in place of prompts and samples (see `Rated`)
    scorer            ranks the samples; null: `words` on the generated corpus, else `vader`, which rank no given pairs
    second            judges what policies write and ranks no pair; null: `vader` on the generated corpus
    lexicon           scorer whose words are the pairs' token column `weights`; null: `scorer`, if it has words
    scorer_judges     `scorer` judges too, in place of `second`: for one that is the truth, such as a list of words
    train_prompts, held_out   prompts that train, at most, and held-out prompts
    samples           per prompt, from which pairs are made
    pairing           which samples make pairs (see `Pairing`)
    generation        sampling from policies (see `Generation`); `max_new_tokens` also holds for the pairs

    The seed determines which prompts are held out, and every sample.

    >>> SentimentTask(scorer="words", scorer_judges=True).headline
    'reward'
    """

    name: Literal["sentiment"] = "sentiment"
    model: str | None = None
    end_token: str | None = None
    reviews: int = Field(default=20_000, ge=10)
    reference_steps: int = Field(default=600, ge=1)
    sft: Sft | None = None
    sft_texts: SomeTexts | None = None
    prompts: TextsOrTemplates | None = None
    rated: Rated | None = None
    scorer: AnyScorer | None = None
    second: AnyScorer | None = None
    train_prompts: int = Field(default=320, ge=1)
    held_out: int = Field(default=64, ge=1)
    samples: int = Field(default=8, ge=2)
    pairing: Pairing = Pairing()
    generation: Generation = Generation(samples=4, max_new_tokens=48)
    # Written down only if set, so that runs without them keep their digests.
    pairs: Rows | None = Field(default=None, exclude_if=lambda value: value is None)
    lexicon: AnyScorer | None = Field(default=None, exclude_if=lambda value: value is None)
    scorer_judges: bool = Field(default=False, exclude_if=lambda value: not value)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.model is None:
            for field in (*_PROMPT_SOURCES, "sft", "end_token"):
                if getattr(self, field) is not None:
                    raise ValueError(
                        f"`{field}` is set, but `model` is not: the small model that is trained here knows only the "
                        f"generated corpus. Set `model` as well, or leave `{field}` out"
                    )
        elif sum(getattr(self, field) is not None for field in _PROMPT_SOURCES) != 1:
            raise ValueError("`model` is set: set one of `prompts`, `pairs` and `rated`, which give its prompts")
        if self.lexicon is not None and (self.pairs is not None or not isinstance(self.lexicon, LexicalScorer)):
            raise ValueError(
                "`lexicon` is a scorer with words, `words` or `vader`, and marks samples and rated responses; your own "
                "`pairs` have their marks in a column"
            )
        if (self.sft is None) != (self.sft_texts is None):
            raise ValueError("set `sft` and `sft_texts` both, or neither")
        if self.scorer_judges:
            if self.second is not None or self.ranking is None:
                raise ValueError("`scorer_judges` is set: set `scorer`, and leave `second` out")
        elif self.model is not None and self.second is None:
            raise ValueError("`model` is set: set `second`, the scorer that judges what policies write")
        elif self.judging == self.ranking:
            raise ValueError(
                f"`second` is what ranks the pairs, {self.judging.name}: it would not show a policy that has learned "
                "to please that scorer alone. Take another, or set `scorer_judges` if it is the truth"
            )
        return self

    @property
    def ranking(self) -> Scorer | None:
        """The scorer that ranks the samples; None for ranked or rated responses without one."""
        if self.scorer is not None or self.rated is not None or self.pairs is not None:
            return self.scorer
        return WordsScorer() if self.model is None else VaderScorer()

    @property
    def _lexicon(self) -> LexicalScorer | None:
        """Whose words are the column `weights`: without `lexicon`, what ranked the samples, if it has words."""
        scorer = self.lexicon or (None if self.rated is not None else self.ranking)
        return scorer if isinstance(scorer, LexicalScorer) else None

    @property
    def judging(self) -> Scorer:
        """The scorer of what policies write."""
        return (self.ranking if self.scorer_judges else self.second) or VaderScorer()

    @property
    def metrics(self) -> tuple[Metric, ...]:
        ranks = self.rated is None and self.pairs is None
        judge = f"score of the samples by {self.judging.name}"
        if not self.scorer_judges:
            judge += ", which ranked no pair"
        metrics = [Metric("reward", "higher", judge)]
        if self.ranking is not None and not self.scorer_judges:
            role = "which ranked the pairs" if ranks else "which ranked no pair either"
            metrics.append(Metric("proxy_reward", "neither", f"score of the samples by {self.ranking.name}, {role}"))
        distinct = Metric("distinct_words", "higher", "share of a sample's words that are no repeats")
        return (*metrics, *GENERATION_METRICS, distinct, *(AUROC if self.marks is not None else ()))

    @property
    def marks(self) -> Callable[[Sequence[str]], list[bool]] | None:
        """Tokens of the words by which `scorer` scores, if it has such words."""
        return self.ranking.marks if isinstance(self.ranking, LexicalScorer) else None

    def make(self, folder: Path, seed: int) -> str:
        for scorer in filter(None, (self.ranking, self.judging)):
            scorer.score(["It was"], [" good."])  # a missing library is an error now, not after the first training
        if self.pairs is not None:
            return self._make_of_pairs(self.pairs, folder, seed)
        rated = None if self.rated is None else self.rated.read()
        if rated is not None:
            prompts = list(rated)
        else:
            prompts = corpus_prompts(seed) if self.prompts is None else self.prompts.read()
        train, held_out = split(prompts, held_out=self.held_out, train=self.train_prompts, seed=seed)
        reference = folder / "reference"
        end = save_without_eos(self._base(folder, seed), reference, end_token=self.end_token)
        generation = Generation(samples=self.samples, max_new_tokens=self.generation.max_new_tokens)
        shutil.rmtree(folder / "steps", ignore_errors=True)
        for name, part, what in ((TRAIN, train, "training prompts"), (HELD_OUT, held_out, "held-out prompts")):
            if rated is None:
                assert self.ranking is not None
                sample_seed = 2 * seed + (name == HELD_OUT)
                responses = scored_samples(reference, part, self.ranking, generation, end=end, seed=sample_seed)
            else:
                responses = {prompt: rated[prompt] for prompt in part}
            write_jsonl(folder / name, self.pairing.all_rows(responses, what, self._lexicon))
        write_jsonl(folder / PROMPTS, ({"prompt": prompt} for prompt in held_out))
        return str(reference)

    def evaluate(
        self, model: PreferenceModel, reference: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, material: Material
    ) -> Evaluation:
        held_out = material.read_prompts()
        prompts, names = [row.prompt for row in held_out], [row.text for row in held_out]
        generations = generate(model.policy, reference, tokenizer, prompts, self.generation, seed=material.seed)
        texts = generations.texts
        metrics = dict(generations.figures)
        metrics["reward"] = _mean_scores(self.judging, names, texts)
        if self.ranking is not None and not self.scorer_judges:
            metrics["proxy_reward"] = _mean_scores(self.ranking, names, texts)
        metrics["distinct_words"] = [fmean(map(_distinct, samples)) for samples in texts]
        return Evaluation.by_prompt(held_out, texts, metrics)

    def _make_of_pairs(self, pairs: Source, folder: Path, seed: int) -> str:
        """The material of given pairs, which end where the tokenizer ends them."""
        compared = read_compared(pairs, Template("{post}"), quarantine=folder / QUARANTINE)
        train, held_out = split_by_prompt(compared, held_out=self.held_out, train=None, seed=seed)
        write_split(folder, train, held_out, held_out)
        return self._base(folder, seed)

    def _base(self, folder: Path, seed: int) -> str:
        """Train the small model, or fine-tune the model, into `folder`/steps; return where the reference is."""
        model = self.model
        if model is None:
            model = str(folder / "steps" / "small")
            with quiet():
                texts = corpus_reviews(self.reviews, seed)
                train_small_model(texts, Path(model), steps=self.reference_steps, seed=seed)
        if self.sft is not None and self.sft_texts is not None:
            tuned = folder / "steps" / "sft"
            supervised(model, self.sft_texts.read(), tuned, self.sft, seed, end_token=self.end_token)
            model = str(tuned)
        return model


def _mean_scores(scorer: Scorer, prompts: Sequence[str], texts: Sequence[Sequence[str]]) -> list[float]:
    """The mean score of every prompt's texts."""
    repeated = [prompt for prompt, samples in zip(prompts, texts, strict=True) for _ in samples]
    return prompt_means(scorer.score(repeated, [text for samples in texts for text in samples]), texts)


def _distinct(text: str) -> float:
    words = text.lower().split()
    return len(set(words)) / len(words) if words else 1.0
