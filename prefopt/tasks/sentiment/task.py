"""The sentiment task: a reference's own continuations of reviews, of which a scorer prefers the more positive ones."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Literal, Self, final

import torch
from pydantic import Field, model_validator
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
)

from prefopt.scoring import PreferenceModel
from prefopt.tasks.base import HELD_OUT, PROMPTS, TRAIN, Evaluation, Material, Metric, Task, write_jsonl
from prefopt.tasks.generation.generate import GENERATION_METRICS, Generation, generate, mean_by_prompt
from prefopt.tasks.models.sft import Sft, supervised
from prefopt.tasks.models.small_model import train_small_model
from prefopt.tasks.models.without_eos import save_unended
from prefopt.tasks.preference_data.texts import SomeTexts, TextsOrTemplates
from prefopt.tasks.quiet import quiet
from prefopt.tasks.scorers import VaderScorer, WordsScorer
from prefopt.tasks.scorers.base import Scorer
from prefopt.tasks.scorers.corpus import corpus_prompts, corpus_reviews
from prefopt.tasks.scorers.registry import AnyScorer
from prefopt.tasks.sentiment.pairs import Pairing, Scored, sampled, split
from prefopt.tasks.sentiment.rated import Rated

__all__ = ["SentimentTask"]


@final
class SentimentTask(Task):
    """Pairs of the reference's own samples, ranked by one scorer; what policies write is judged by a second one.

    model             name or folder; null: a small model, trained here on the generated corpus
    end_token         what the model ends a text with, where it is not the tokenizer's end-of-text token
    reviews, reference_steps   size of the generated corpus; steps of training the small model on it
    sft, sft_texts    a supervised step before everything else, and what it trains on (see `Sft`, `Texts`)
    prompts           what is to be continued (see `Texts`, `Templates`); null: beginnings of the generated corpus
    rated             rated responses in the place of prompts, samples and scorer (see `Rated`)
    scorer            ranks the samples; null: words for the generated corpus, else vader; for `rated`, which is ranked
                      already, nobody
    second            judges what policies write, and has no part in the pairs; null, for the generated corpus: vader
    train_prompts, held_out   prompts whose samples make pairs for training, at most; held-out prompts
    samples           of each prompt, from which pairs are made
    pairing           which of them make pairs (see `Pairing`)
    generation        how policies are asked (see `Generation`); its `max_new_tokens` is that of the pairs too

    The seed decides which prompts are held out, and every sample.
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

    @model_validator(mode="after")
    def _holds_together(self) -> Self:
        if self.model is None:
            for field in ("prompts", "rated", "sft", "end_token"):
                if getattr(self, field) is not None:
                    raise ValueError(
                        f"`{field}` is set, but `model` is not: the small model that is trained here knows only the "
                        f"generated corpus. Set `model` as well, or leave `{field}` out"
                    )
        else:
            if (self.prompts is None) == (self.rated is None):
                raise ValueError("`model` is set: set one of `prompts` and `rated`, which say what it is asked")
            if self.second is None:
                raise ValueError("`model` is set: set `second`, the scorer that judges what policies write")
        if (self.sft is None) != (self.sft_texts is None):
            raise ValueError("set `sft` and `sft_texts` both, or neither")
        if self.judging == self.ranking:
            raise ValueError(
                f"`second` is what ranks the pairs, {self.judging.name}: it would not show where a policy has learned "
                "to please that scorer alone. Take another"
            )
        return self

    @property
    def ranking(self) -> Scorer | None:
        """The scorer that ranks the samples; None where rated responses are ranked already and none is named."""
        if self.scorer is not None or self.rated is not None:
            return self.scorer
        return WordsScorer() if self.model is None else VaderScorer()

    @property
    def judging(self) -> Scorer:
        """The scorer that had no part in the pairs."""
        return self.second or VaderScorer()

    @property
    def metrics(self) -> tuple[Metric, ...]:
        found = [Metric("reward", "higher", f"score of the samples by {self.judging.name}, which ranked no pair")]
        if self.ranking is not None:
            words = "which ranked the pairs" if self.rated is None else "which ranked no pair either"
            found.append(Metric("proxy_reward", "neither", f"score of the samples by {self.ranking.name}, {words}"))
        distinct = Metric("distinct_words", "higher", "share of a sample's words that are no repeats")
        return (*found, *GENERATION_METRICS, distinct)

    def make(self, folder: Path, seed: int) -> str:
        for scorer in filter(None, (self.ranking, self.judging)):
            scorer.score(["It was"], [" good."])  # what it lacks is found out now, not after the first training
        rated = None if self.rated is None else self.rated.read()
        asked = list(rated) if rated is not None else self._prompts(seed)
        train, held_out = split(asked, held_out=self.held_out, train=self.train_prompts, seed=seed)
        reference = folder / "reference"
        end = self._write_reference(reference, seed)
        for name, part, what in ((TRAIN, train, "training prompts"), (HELD_OUT, held_out, "held-out prompts")):
            responses = (
                self._sampled(reference, part, end, 2 * seed + (name == HELD_OUT))
                if rated is None
                else {prompt: rated[prompt] for prompt in part}
            )
            write_jsonl(folder / name, self.pairing.of(responses, what))
        write_jsonl(folder / PROMPTS, ({"prompt": prompt} for prompt in held_out))
        return str(reference)

    def evaluate(
        self, model: PreferenceModel, reference: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, material: Material
    ) -> Evaluation:
        held_out = material.read_prompts()
        prompts = [prompt.text for prompt in held_out]
        generations = generate(model.policy, reference, tokenizer, prompts, self.generation, seed=material.seed)
        texts = generations.texts
        figures = dict(generations.figures)
        figures["reward"] = _means(self.judging, prompts, texts)
        if self.ranking is not None:
            figures["proxy_reward"] = _means(self.ranking, prompts, texts)
        figures["distinct_words"] = [fmean(map(_distinct, group)) for group in texts]
        return Evaluation.by_prompt(held_out, texts, figures)

    def _prompts(self, seed: int) -> list[str]:
        return corpus_prompts(seed) if self.prompts is None else self.prompts.read()

    def _write_reference(self, folder: Path, seed: int) -> str:
        """Write the model that policies start from; return what ends a text."""
        steps = folder.parent / "steps"
        base = self.model
        if base is None:
            base = str(steps / "small")
            with quiet():
                train_small_model(
                    corpus_reviews(self.reviews, seed),
                    Path(base),
                    steps=self.reference_steps,
                    seed=seed,
                    show=lambda trainer: trainer.remove_callback(PrinterCallback),
                )
        if self.sft is not None and self.sft_texts is not None:
            supervised(base, self.sft_texts.read(), steps / "sft", self.sft, seed, end_token=self.end_token)
            base = str(steps / "sft")
        end = save_unended(base, folder, end_token=self.end_token)
        shutil.rmtree(steps, ignore_errors=True)
        return end

    def _sampled(self, reference: Path, prompts: Sequence[str], end: str, seed: int) -> Mapping[str, Sequence[Scored]]:
        assert self.ranking is not None
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(reference)
            model = AutoModelForCausalLM.from_pretrained(reference, dtype="auto")
            return sampled(
                model.eval().to("cuda" if torch.cuda.is_available() else "cpu"),
                tokenizer,
                prompts,
                self.ranking,
                end=end,
                samples=self.samples,
                max_new_tokens=self.generation.max_new_tokens,
                seed=seed,
            )


def _means(scorer: Scorer, prompts: Sequence[str], texts: Sequence[Sequence[str]]) -> list[float]:
    """The mean score of each prompt's texts."""
    asked = [prompt for prompt, of in zip(prompts, texts, strict=True) for _ in of]
    return mean_by_prompt(scorer.score(asked, [text for of in texts for text in of]), texts)


def _distinct(text: str) -> float:
    words = text.lower().split()
    return len(set(words)) / len(words) if words else 1.0
