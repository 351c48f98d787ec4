"""From pairs to the material of a task: a split by prompt, its files, and a reference that has learned from them."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from prefopt.data import ChatPair, DataError, Pair
from prefopt.tasks.models.sft import Sft, supervised
from prefopt.tasks.preference_data.forms import Compared

__all__ = ["as_prompt", "as_row", "prompt_key", "reference_of", "split_by_prompt"]

_REFERENCE = "reference"

T = TypeVar("T")


def split_by_prompt(
    items: Sequence[T],
    prompt: Callable[[T], str],
    *,
    held_out: int,
    train: int | None,
    seed: int,
    held_out_from: Sequence[T] | None = None,
) -> tuple[list[T], list[T]]:
    """Items for training, in a random order, and held-out ones, of which no two share a prompt: figures of items with
    one prompt would not be independent.

    No prompt of a held-out item is trained on. With `held_out_from`, held-out items are drawn from there, and their
    prompts are left out of training. `train` limits the number of items for training. The same seed splits the same
    items alike. Raises DataError where there are too few prompts.
    """
    draw = random.Random(f"split {seed}")
    grouped: dict[str, list[T]] = {}
    for item in items if held_out_from is None else held_out_from:
        grouped.setdefault(prompt(item), []).append(item)
    prompts = list(grouped)
    if len(prompts) < held_out:
        raise DataError(
            f"{held_out:,} held-out pairs are asked for, each of a prompt of its own, but there are {len(prompts):,} "
            "prompts; lower `held_out`, or give more data"
        )
    draw.shuffle(prompts)
    apart = [draw.choice(grouped[each]) for each in prompts[:held_out]]
    kept_out = set(prompts[:held_out])
    rest = [item for item in items if prompt(item) not in kept_out]
    if not rest:
        raise DataError(f"{held_out:,} held-out pairs leave no prompt to train on; lower `held_out`, or give more data")
    draw.shuffle(rest)
    return rest[:train], apart


def prompt_key(compared: Compared) -> str:
    """The prompt, to tell prompts apart by."""
    return json.dumps(compared.pair.prompt)


def as_row(compared: Compared) -> dict[str, Any]:
    """The pair as a row whose prompt is given, with the scores that `odpo` reads, where there are any."""
    pair = compared.pair
    parts = {"prompt": pair.prompt, "chosen": pair.chosen, "rejected": pair.rejected}
    row: dict[str, Any] = {name: part if isinstance(part, str) else list(part) for name, part in parts.items()}
    if compared.scores is not None:
        row["score_chosen"], row["score_rejected"] = compared.scores
    return row


def as_prompt(compared: Compared) -> dict[str, Any]:
    """The row of a held-out prompt; its `chosen` is what others are set against, the first of the references."""
    prompt = compared.pair.prompt
    return {
        "prompt": prompt if isinstance(prompt, str) else list(prompt),
        "post": compared.post,
        "references": list(compared.references),
        "chosen": compared.references[0],
    }


def reference_of(model: str, pairs: Iterable[Compared], folder: Path, sft: Sft | None, seed: int) -> str:
    """The model that the policy starts from: as it is, or, with a supervised step, written into the folder after it
    has learned the prompts with their chosen responses, each once.
    """
    if sft is None:
        return model
    tokenizer = AutoTokenizer.from_pretrained(model)
    texts = list(dict.fromkeys(_chosen_text(each.pair, tokenizer) for each in pairs))
    supervised(model, texts, folder / _REFERENCE, sft, seed)
    return str(folder / _REFERENCE)


def _chosen_text(pair: Pair, tokenizer: PreTrainedTokenizerBase) -> str:
    """Prompt and chosen response without the special tokens around them, which the supervised step puts there."""
    if not isinstance(pair, ChatPair):
        return pair.prompt + pair.chosen
    messages: Any = [*pair.prompt, *pair.chosen]
    text = str(tokenizer.apply_chat_template(messages, tokenize=False)).rstrip()
    return text.removeprefix(tokenizer.bos_token or "").removesuffix(tokenizer.eos_token or "")
