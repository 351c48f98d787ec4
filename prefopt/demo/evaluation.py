"""What is measured of a trained policy: on its own samples, and on held-out pairs."""

from __future__ import annotations

from collections.abc import Sequence

import datasets
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prefopt.data import PreferenceCollator
from prefopt.data.pieces import pieces
from prefopt.demo.lexicon import Lexicon
from prefopt.demo.results import Response, WeighedPair
from prefopt.demo.sampling import Sample
from prefopt.divergences import ReverseKL
from prefopt.objective import DivergenceTerm, ObjectiveConfig
from prefopt.scoring import PreferenceModel
from prefopt.tokens import PreferenceBatch, masked_sum

__all__ = ["per_prompt", "sentiment_tokens", "sequence_kl", "weigh"]


@torch.no_grad()
def sequence_kl(
    policy: PreTrainedModel, reference: PreTrainedModel, samples: Sequence[Sample], *, batch_size: int
) -> Tensor:
    """sum_t KL(policy || reference) at every token of each sample, exact over the vocabulary, [M].

    Each even sample and the one after it must complete the same prompt.
    """
    objective = ObjectiveConfig(divergence=DivergenceTerm(measure=ReverseKL()))
    model = PreferenceModel(policy, reference, objective).eval()
    sums = []
    for start in range(0, len(samples), 2 * batch_size):
        part = samples[start : start + 2 * batch_size]
        firsts, seconds = part[::2], part[1::2]
        batch = PreferenceBatch.from_ids(
            [one.prompt.ids for one in firsts],
            [one.ids for one in firsts],
            [one.ids for one in seconds],
            pad_token_id=0,
        )
        tokens = model.score(batch.to(policy.device))
        assert tokens.divergence is not None
        halves = masked_sum(tokens.divergence, tokens.mask).chunk(2)
        sums.append(torch.stack(halves, dim=-1).flatten())
    return torch.cat(sums).cpu()


def per_prompt(values: Tensor, size: int) -> Tensor:
    """[M] of samples -> [M / size], the mean over each prompt's samples: these are independent, samples are not."""
    return values.view(-1, size).mean(-1)


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
    texts = pieces(prompt, ids, tokenizer)
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
