"""The planted task: pairs of the generated language, a reference that speaks it, and measures against the truth."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Literal, Self, final

import datasets
import torch
from pydantic import Field, model_validator
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel, PreTrainedTokenizerBase, set_seed

from prefopt.data import EncodingConfig, prepare, read_rows
from prefopt.data.quiet import quiet
from prefopt.sampling import Generation
from prefopt.scoring import PreferenceModel
from prefopt.scoring.batches import scored_batches
from prefopt.tasks.base import HELD_OUT, PROMPTS, TRAIN, Evaluation, Material, Metric, Task, write_jsonl
from prefopt.tasks.generation import GENERATION_METRICS, generate
from prefopt.tasks.held_out import pair_weights
from prefopt.tasks.models import Sft, train_language_model, word_tokenizer
from prefopt.tasks.planted.language import Language, Style
from prefopt.tasks.planted.pairs import PROMPT_WORDS, Accidents, Generator
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


_SIZES = {"n_layer": 2, "n_embd": 32, "n_head": 2}
_TEXTS, _BATCH, _LEARNING_RATE = 8000, 32, 5e-3


@final
class PlantedTask(Task):
    """Pairs in which a rule says which tokens matter, so that weights and samples can be held against the truth.

    Prompts are 4 plain words of a generated language, responses go on with words of which some bear worth (see
    `Language`). The better response of a pair is chosen. The rows have the true weights as a token column, `weights`.

    pairs, held_out, prompts   training pairs; held-out pairs; held-out prompts that the policy answers
    shortest, longest          words of a response, drawn evenly
    bearing                    share of words that bear worth
    strength                   1: all bearing phrases of a better response are good, of a worse one bad; 0: as it comes
    span                       words of a bearing phrase
    combinations               share of bearing phrases that are a negation and a word worth nothing without it
    noise                      share of training pairs with the wrong label
    spurious, spurious_share   how much, from 0 to 1, some worthless words go with the label in training; their share
    length_bias                how much, from 0 to 1, the greater length goes with the label in training
    fillers                    share of worthless fillers among words beyond the first `shortest`
    reference_steps            of training the reference on texts of the language
    samples                    of each held-out prompt

    Held-out pairs have the right labels, in which spurious words and lengths have no part.

    >>> PlantedTask(span=2).language(seed=0).reward("w1 good0a good0b w2 bad1a".split())
    1
    """

    name: Literal["planted"] = "planted"
    pairs: int = Field(default=2048, ge=1)
    held_out: int = Field(default=128, ge=1)
    prompts: int = Field(default=128, ge=1)
    shortest: int = Field(default=24, ge=1)
    longest: int = Field(default=24, ge=1)
    bearing: float = Field(default=0.125, gt=0, lt=1)
    strength: float = Field(default=1.0, ge=0, le=1)
    span: int = Field(default=1, ge=1, le=4)
    combinations: float = Field(default=0.0, ge=0, le=1)
    noise: float = Field(default=0.0, ge=0, lt=0.5)
    spurious: float = Field(default=0.0, ge=0, le=1)
    spurious_share: float = Field(default=0.04, ge=0, lt=0.25)
    length_bias: float = Field(default=0.0, ge=0, le=1)
    fillers: float = Field(default=0.0, ge=0, le=1)
    reference_steps: int = Field(default=300, ge=1)
    samples: int = Field(default=2, ge=1)

    @model_validator(mode="after")
    def _holds_together(self) -> Self:
        if self.longest < self.shortest:
            raise ValueError(f"`longest` is {self.longest}, which is less than `shortest`, {self.shortest}")
        for field in ("length_bias", "fillers"):
            if getattr(self, field) and self.longest == self.shortest:
                raise ValueError(f"`{field}` is set, but every response has {self.shortest} words; raise `longest`")
        if self.spurious and not self.spurious_share:
            raise ValueError("`spurious` is set, but `spurious_share` leaves no spurious words; raise it")
        return self

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return METRICS

    def language(self, seed: int) -> Language:
        """The language of a seed: the same words and the same worth in all settings but `span`."""
        return Language.generate(seed, span=self.span)

    def make(self, folder: Path, seed: int) -> str:
        language = self.language(seed)
        style = Style(self.bearing, 0.5, self.combinations, self.spurious_share, self.fillers, self.shortest)
        generator = Generator(language, style, self.longest, self.strength)
        draw = random.Random(f"planted pairs {seed}")
        accidents = Accidents(self.noise, self.spurious, self.length_bias)
        write_jsonl(folder / PROMPTS, ({"prompt": " ".join(words)} for words in generator.prompts(draw, self.prompts)))
        write_jsonl(folder / HELD_OUT, generator.pairs(draw, self.held_out, Accidents()))
        write_jsonl(folder / TRAIN, generator.pairs(draw, self.pairs, accidents))
        count = min(_TEXTS, _BATCH * self.reference_steps)
        texts = list(generator.texts(random.Random(f"planted texts {seed}"), count))
        self._train_reference(texts, language, folder / "reference", seed)
        return str(folder / "reference")

    def evaluate(
        self, model: PreferenceModel, reference: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, material: Material
    ) -> Evaluation:
        language = self.language(material.seed)
        prompts = [prompt._replace(item=prompt.text) for prompt in material.read_prompts()]
        generation = Generation(samples=self.samples, max_new_tokens=self.longest + 1)
        texts = [prompt.text for prompt in prompts]
        with quiet():
            columns = model.objective.config.columns
            rows = read_rows(material.held_out)
            pairs, _ = prepare(rows, tokenizer, EncodingConfig(), description="held-out pairs", extra=columns)
            metrics = pair_metrics(model, pairs, tokenizer, language)
            generations = generate(model.policy, reference, tokenizer, texts, generation, seed=material.seed)
        reward = [fmean(language.reward(token_words(ids, tokenizer)) for ids in group) for group in generations.ids]
        sampled = Evaluation.by_prompt(prompts, generations.texts, generations.figures | {"reward": reward})
        by_pair = {name: {f"pair {row}": v for row, v in enumerate(values)} for name, values in metrics.items()}
        return Evaluation({**by_pair, **sampled.values}, sampled.samples)

    def _train_reference(self, texts: list[str], language: Language, folder: Path, seed: int) -> None:
        positions = PROMPT_WORDS + self.longest + 1
        set_seed(seed)
        tokenizer = word_tokenizer([" ".join(language.words)], positions=positions)
        model = GPT2LMHeadModel(
            GPT2Config(
                vocab_size=len(tokenizer),
                n_positions=positions,
                activation_function="relu",
                bos_token_id=None,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
                **_SIZES,
                **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0),
            )
        )
        with quiet():
            settings = Sft(steps=self.reference_steps, batch_size=_BATCH, learning_rate=_LEARNING_RATE)
            train_language_model(model, tokenizer, texts, folder, settings, seed)
