"""The task: pairs of a positive and a negative sentence, and how well weights single out the words of a list."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, final

from pydantic import Field
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prefopt.data import EncodingConfig, prepare, read_rows
from prefopt.data.token_texts import token_texts
from prefopt.scoring import PreferenceModel
from prefopt.scoring.batches import scored_batches
from prefopt.tasks.base import HELD_OUT, PROMPTS, TRAIN, Evaluation, Material, Metric, Task, write_jsonl
from prefopt_words.material import PROMPT, sentence_pairs, train_reference, word_list
from prefopt_words.scoring import LEVELS, pair_aurocs

__all__ = ["WordsTask"]

_BATCH = 16

_VALUES = {"w": "the weight w", "surprisal": "-log pi_ref", "shift": "|log pi - log pi_ref|"}
"""What it is ranked by: the mask, and two values that tell words apart without any."""


@final
class WordsTask(Task):
    """A positive sentence chosen and a negative one rejected; the words of a list are those that should weigh most.

    data             folder of nltk_sentence_polarity.zip, nltk_opinion_lexicon.zip and nltk_movie_reviews.zip
    measured_on      the held-out pairs, or the development pairs, of which neither is trained on
    held_out, development   how many pairs that is
    reference_steps  training steps of the reference

    Split and reference are the same for all seeds.
    """

    name: Literal["words"] = "words"
    data: str
    measured_on: Literal["held_out", "development"] = "held_out"
    held_out: int = Field(default=1000, ge=1)
    development: int = Field(default=500, ge=1)
    reference_steps: int = Field(default=800, ge=1)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return (
            *(
                Metric(
                    f"auroc_{level}_{name}", "higher", f"P(a listed word is larger) + P(equal) / 2: {what}, of {value}"
                )
                for name, value in _VALUES.items()
                for level, (_, what) in LEVELS.items()
            ),
            Metric("listed_w", "neither", "largest weight w of a listed word's tokens, mean over a pair"),
            Metric("other_w", "neither", "largest weight w of another word's tokens, mean over a pair"),
        )

    @property
    def marks(self) -> Callable[[Sequence[str]], list[bool]]:
        listed = word_list(Path(self.data))
        return lambda tokens: LEVELS["token"][0](tokens, [0.0] * len(tokens), listed)[1]

    def make(self, folder: Path, seed: int) -> str:
        data = Path(self.data)
        rows = sentence_pairs(data)
        sizes = (self.held_out, self.held_out + self.development)
        train, measured = rows[sizes[1] :], {"held_out": rows[: sizes[0]], "development": rows[sizes[0] : sizes[1]]}
        write_jsonl(folder / TRAIN, train)
        write_jsonl(folder / HELD_OUT, measured[self.measured_on])
        write_jsonl(folder / PROMPTS, [{"prompt": PROMPT}])
        train_reference(data, train, folder / "reference", self.reference_steps)
        return str(folder / "reference")

    def evaluate(
        self, model: PreferenceModel, reference: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, material: Material
    ) -> Evaluation:
        listed, values = word_list(Path(self.data)), defaultdict[str, dict[str, float]](dict)
        rows, _ = prepare(read_rows(material.held_out), tokenizer, EncodingConfig(), description="held-out pairs")
        batches = scored_batches(model, rows, pad_token_id=int(tokenizer.pad_token_id), batch_size=_BATCH)
        item = 0
        for pairs, _, output in batches:
            log_ratios = output.tokens.logps - output.tokens.ref_logps
            layers = {"w": output.weights, "surprisal": -output.tokens.ref_logps, "shift": log_ratios.abs()}
            for index, pair in enumerate(pairs):
                responses = [
                    (texts, {name: layer[row, : len(texts)].tolist() for name, layer in layers.items()})
                    for row, texts in _responses(pair, index, len(pairs), tokenizer)
                ]
                for name, value in _pair_metrics(responses, listed):
                    values[name][f"pair {item}"] = value
                item += 1
        return Evaluation(values, {})


def _responses(
    pair: Mapping[str, Any], index: int, pairs: int, tokenizer: PreTrainedTokenizerBase
) -> Iterator[tuple[int, list[str]]]:
    """The row of either response in the batch, and its tokens' texts without the end-of-text token."""
    for side, row in (("chosen", index), ("rejected", index + pairs)):
        ids = pair[f"{side}_ids"]
        yield row, token_texts(pair["prompt_ids"], ids, tokenizer)[: len(ids) - (ids[-1] == tokenizer.eos_token_id)]


def _pair_metrics(
    responses: Sequence[tuple[Sequence[str], Mapping[str, Sequence[float]]]], listed: Collection[str]
) -> Iterator[tuple[str, float]]:
    for name in _VALUES:
        for level, value in pair_aurocs([(tokens, values[name]) for tokens, values in responses], listed).items():
            yield f"auroc_{level}_{name}", value
    largest, _ = LEVELS["largest"]
    scored = [largest(tokens, values["w"], listed) for tokens, values in responses]
    for name, flag in (("listed_w", True), ("other_w", False)):
        weights = [
            weight for part, flags in scored for weight, is_listed in zip(part, flags, strict=True) if is_listed is flag
        ]
        if weights:
            yield name, fmean(weights)
