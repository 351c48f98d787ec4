"""The split of pairs into those for training and held-out ones, by prompt."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence

from prefopt.data import DataError
from prefopt.tasks.preference_data.forms import Compared


def split_by_prompt(
    pairs: Sequence[Compared],
    *,
    held_out: int,
    train: int | None,
    seed: int,
    held_out_from: Sequence[Compared] | None = None,
) -> tuple[list[Compared], list[Compared]]:
    """Pairs for training, in a random order, and held-out ones, of which no two share a prompt: figures of pairs with
    one prompt would not be independent.

    No prompt of a held-out pair is trained on. With `held_out_from`, held-out pairs are drawn from there, and their
    prompts are left out of training. `train` limits the number of pairs for training. The same seed splits the same
    pairs alike. Raises DataError where there are too few prompts.
    """
    draw = random.Random(f"split {seed}")
    by_prompt: dict[str, list[Compared]] = {}
    for pair in pairs if held_out_from is None else held_out_from:
        by_prompt.setdefault(_key(pair), []).append(pair)
    prompts = list(by_prompt)
    if len(prompts) < held_out:
        raise DataError(
            f"{held_out:,} held-out pairs are asked for, each of a prompt of its own, but there are {len(prompts):,} "
            "prompts; lower `held_out`, or give more data"
        )
    draw.shuffle(prompts)
    apart = [draw.choice(by_prompt[prompt]) for prompt in prompts[:held_out]]
    held_out_prompts = set(prompts[:held_out])
    rest = [pair for pair in pairs if _key(pair) not in held_out_prompts]
    if not rest:
        raise DataError(f"{held_out:,} held-out pairs leave no prompt to train on; lower `held_out`, or give more data")
    draw.shuffle(rest)
    return rest[:train], apart


def _key(pair: Compared) -> str:
    return json.dumps(pair.pair.prompt)
