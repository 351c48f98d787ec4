"""Whether learned weights single out the words that decide the labels."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from prefopt.comparison.ranking import auroc
from prefopt.data import EncodingConfig, PreferenceCollator, prepare, read_rows
from prefopt.demo.sampling import pieces
from prefopt.objective import Objective
from prefopt.scoring import PreferenceModel
from prefopt.tokens import PreferenceBatch

__all__ = ["found_words", "word_tokens"]


@torch.inference_mode()
def found_words(
    folder: Path,
    reference: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: str,
    max_length: int | None,
    *,
    batch_size: int = 8,
) -> dict[str, dict[str, float]]:
    """For w and v, by prompt: the AUROC of a token's weight as a test of whether it belongs to a word of VADER's list.

    0.5 is a mask that knows nothing. Empty where the objective in `folder` learned nothing. Prompts without such words,
    or with nothing else, are left out.
    """
    objective = Objective.load(folder)
    if not objective.state_dict():
        return {}
    lexicon = SentimentIntensityAnalyzer().lexicon
    rows, _ = prepare(read_rows(pairs), tokenizer, EncodingConfig(max_length=max_length), description="held out")
    # The masks read the reference alone, so it may stand in for the policy.
    model = PreferenceModel(reference, reference, objective).eval()
    seen: dict[str, list[tuple[Tensor, Tensor, Tensor]]] = {}
    for fields in DataLoader(rows, batch_size=batch_size, collate_fn=PreferenceCollator(tokenizer.pad_token_id)):
        batch = PreferenceBatch.from_mapping(fields)
        output = model(batch)
        mask, w = output.tokens.mask, output.weights
        v = w if output.divergence_weights is None else output.divergence_weights
        for place, (row, side) in enumerate(_places(batch)):
            prompt, ids = rows[row]["prompt_ids"], rows[row][f"{side}_ids"]
            words = word_tokens(pieces(prompt, ids, tokenizer), lexicon)
            seen.setdefault(tokenizer.decode(prompt), []).append((w[place][mask[place]], v[place][mask[place]], words))
    scores: dict[str, dict[str, float]] = {"w": {}, "v": {}}
    for prompt, responses in seen.items():
        w, v, words = (torch.cat(parts) for parts in zip(*responses, strict=True))
        for name, weights in (("w", w), ("v", v)):
            if (score := auroc(weights, words)) is not None:
                scores[name][prompt] = score
    return scores


def _places(batch: PreferenceBatch) -> Iterator[tuple[int, str]]:
    """Row and side of each response, in the order of a batch's responses."""
    for side in ("chosen", "rejected"):
        for row in batch.rows.tolist():
            yield row, side


def word_tokens(texts: Sequence[str], words: Collection[str]) -> Tensor:
    """Which tokens, given by their texts, have a letter in one of the words: [T] bool."""
    whole = "".join(texts)
    spans = [match.span() for match in re.finditer(r"[A-Za-z']+", whole) if match.group().lower() in words]
    flags, position = [], 0
    for text in texts:
        begin, position = position + len(text) - len(text.lstrip()), position + len(text)
        flags.append(any(first < position and begin < last for first, last in spans))
    return torch.tensor(flags, dtype=torch.bool)
