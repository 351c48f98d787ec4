"""What is measured of a trained policy on held-out pairs."""

from __future__ import annotations

from collections.abc import Sequence

import datasets
import torch
from transformers import PreTrainedTokenizerBase

from prefopt.data import PreferenceCollator
from prefopt.data.token_texts import token_texts
from prefopt.demo.results import Response, WeighedPair
from prefopt.scoring import PreferenceModel
from prefopt.tasks.scorers.word_lists import Lexicon
from prefopt.tokens import PreferenceBatch

__all__ = ["sentiment_tokens", "weigh"]


@torch.no_grad()
def weigh(
    model: PreferenceModel,
    pairs: datasets.Dataset,
    tokenizer: PreTrainedTokenizerBase,
    lexicon: Lexicon,
    *,
    batch_size: int,
) -> list[WeighedPair]:
    """Rewards and weights of every pair of a data set of `prepare`, as the objective trains on them."""
    model.eval()
    collate = PreferenceCollator(int(tokenizer.pad_token_id), model.objective.config.columns)
    device = next(model.policy.parameters()).device
    found = []
    for start in range(0, len(pairs), batch_size):
        rows = pairs.select(range(start, min(start + batch_size, len(pairs)))).to_list()
        output = model(PreferenceBatch.from_mapping(collate(rows)).to(device))
        v = output.divergence_weights
        sides = [
            _response(
                row["prompt_ids"],
                row[f"{side}_ids"],
                output.weights[place].tolist(),
                None if v is None else v[place].tolist(),
                float(output.rewards[place]),
                tokenizer,
                lexicon,
            )
            for place, (side, row) in enumerate([(side, row) for side in ("chosen", "rejected") for row in rows])
        ]
        for row, chosen, rejected in zip(rows, sides[: len(rows)], sides[len(rows) :], strict=True):
            prompt = str(tokenizer.decode(row["prompt_ids"], clean_up_tokenization_spaces=False))
            found.append(WeighedPair(prompt=prompt, chosen=chosen, rejected=rejected))
    return found


def _response(
    prompt: list[int],
    ids: list[int],
    weights: list[float],
    divergence_weights: list[float] | None,
    reward: float,
    tokenizer: PreTrainedTokenizerBase,
    lexicon: Lexicon,
) -> Response:
    count = len(ids)
    texts = token_texts(prompt, ids, tokenizer)
    return Response(
        pieces=texts,
        weights=weights[:count],
        divergence_weights=None if divergence_weights is None else divergence_weights[:count],
        sentiment=sentiment_tokens(texts, lexicon),
        reward=reward,
    )


def sentiment_tokens(texts: Sequence[str], lexicon: Lexicon) -> list[bool]:
    """Which tokens have a letter in a positive or negative word, however many tokens the word has."""
    spans = [(start, end) for start, end, sign in lexicon.found("".join(texts)) if sign]
    flags, position = [], 0
    for text in texts:
        stop = position + len(text)
        begin = stop - len(text.lstrip())
        flags.append(any(start < stop and begin < end for start, end in spans))
        position = stop
    return flags
