"""What a run trains and is measured on: training pairs, held-out pairs and held-out prompts, sampled or given."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import datasets
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prefopt.data import BadRow, EncodingConfig, SourceRow, prepare, read_rows, to_pair
from prefopt.demo.config import DemoConfig
from prefopt.demo.progress import Stages
from prefopt.demo.sampling import Prompt, preference_pairs, sample
from prefopt.tasks.scorers.corpus import corpus_prompts
from prefopt.tasks.scorers.word_lists import Lexicon

__all__ = ["Material", "given_material", "sampled_material"]

T = TypeVar("T")


@dataclass(frozen=True)
class Material:
    """Training pairs and held-out pairs as data sets of `prepare`, and the prompts for evaluation. No prompt of the
    held-out pairs is among those of the training pairs."""

    train: datasets.Dataset
    held_out: datasets.Dataset
    prompts: list[Prompt]


def sampled_material(
    config: DemoConfig,
    reference: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    lexicon: Lexicon,
    stages: Stages,
) -> Material:
    """Pairs sampled from the reference, for prompts of the corpus or of the user's file; they are written to
    pairs.jsonl and held-out-pairs.jsonl.

    Raises ValueError where the words tell no two completions apart.
    """
    texts = corpus_prompts(config.seed) if config.prompts is None else _lines(config)
    prompts = [Prompt.of(text, tokenizer) for text in texts]
    held_out, rest = _parted(prompts, config)
    asked = {"pairs": rest[: config.train_prompts], "held-out-pairs": held_out}
    with stages.stage("sampling pairs", sum(map(len, asked.values()))) as stage:
        for number, (name, part) in enumerate(asked.items(), start=1):
            samples = sample(
                reference,
                tokenizer,
                part,
                lexicon,
                per_prompt=config.samples_per_prompt,
                max_new_tokens=config.max_new_tokens,
                seed=config.seed + number,
                stage=stage,
            )
            rows = preference_pairs(samples, config.samples_per_prompt)
            if not rows:
                raise ValueError(
                    f"{name}: all {len(samples)} completions of {len(part)} prompts scored the same, so that none is "
                    f"better than another. Name in `words` such as the model writes, or raise `samples_per_prompt` or "
                    f"`max_new_tokens`, or give `pairs`."
                )
            lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            (config.out / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    # After the stage: preparing data shows a bar of its own.
    train, kept = (_prepared(list(read_rows(config.out / f"{name}.jsonl")), tokenizer, name) for name in asked)
    return Material(train, kept, held_out)


def given_material(config: DemoConfig, tokenizer: PreTrainedTokenizerBase) -> Material:
    """The user's pairs, a part of them held out by prompt; evaluation asks the user's prompts, or those held out."""
    assert config.pairs is not None
    by_prompt: dict[str, list[SourceRow | BadRow]] = {}
    for row in read_rows(config.pairs):
        pair = row if isinstance(row, BadRow) else to_pair(row, {})
        by_prompt.setdefault("" if isinstance(pair, BadRow) else str(pair.prompt), []).append(row)
    order = sorted(by_prompt)
    random.Random(f"pairs {config.seed}").shuffle(order)
    held_out, rest = _parted(order, config)
    train = _prepared([row for prompt in rest for row in by_prompt[prompt]], tokenizer, "pairs")
    kept = _prepared([row for prompt in held_out for row in by_prompt[prompt]], tokenizer, "held-out pairs")
    if config.prompts is not None:
        prompts = [Prompt.of(text, tokenizer) for text in _lines(config)][: config.held_out_prompts]
    else:
        unique = dict.fromkeys(tuple(row["prompt_ids"]) for row in kept.to_list())
        prompts = [Prompt(str(tokenizer.decode(ids)), ids) for ids in unique]
    return Material(train, kept, prompts)


def _lines(config: DemoConfig) -> list[str]:
    """The prompts of the user's file, once each, in an order that the seed decides."""
    assert config.prompts is not None
    lines = config.prompts.read_text(encoding="utf-8").splitlines()
    unique = sorted({line.strip() for line in lines if line.strip()})
    random.Random(f"prompts {config.seed}").shuffle(unique)
    return unique


def _parted(items: Sequence[T], config: DemoConfig) -> tuple[list[T], list[T]]:
    """The held-out ones and the rest. Raises ValueError where there are not two."""
    if len(items) < 2:
        source = config.pairs if config.pairs is not None else config.prompts
        raise ValueError(f"{source}: {len(items)} different prompts; at least 2 are needed, of which one is held out")
    held_out = max(1, min(config.held_out_prompts, len(items) // 4))
    return list(items[:held_out]), list(items[held_out:])


def _prepared(
    rows: Sequence[SourceRow | BadRow], tokenizer: PreTrainedTokenizerBase, description: str
) -> datasets.Dataset:
    dataset, _ = prepare(rows, tokenizer, EncodingConfig(), description=description, total=len(rows))
    return dataset
