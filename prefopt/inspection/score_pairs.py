"""Pairs scored by a saved run, token by token."""

from __future__ import annotations

from collections.abc import Iterator
from operator import itemgetter

import datasets

from prefopt.data import DataError
from prefopt.data.token_texts import decode, token_texts
from prefopt.inspection.layers import layer_values
from prefopt.pages.token_view import PairTokens, ResponseTokens
from prefopt.scoring.batches import scored_batches
from prefopt.scoring.forward import causal_lm
from prefopt.training import SavedRun


def score_pairs(run: SavedRun, pairs: datasets.Dataset, *, batch_size: int) -> Iterator[PairTokens]:
    """Every pair of a data set of `prepare`, in its order, as the objective weighs it. Raises NonFiniteError."""
    tokenizer = run.tokenizer
    batches = scored_batches(run.model, pairs, pad_token_id=int(tokenizer.pad_token_id), batch_size=batch_size)
    for rows, _, output in batches:
        layers = layer_values(output)
        rewards = output.rewards.tolist()
        for index, row in enumerate(rows):
            responses = {}
            for side, response in (("chosen", index), ("rejected", index + len(rows))):
                ids = row[f"{side}_ids"]
                responses[side] = ResponseTokens(
                    token_texts(row["prompt_ids"], ids, tokenizer),
                    {name: values[response, : len(ids)].tolist() for name, values in layers.items()},
                    ids=ids,
                    reward=rewards[response],
                    truncated=row[f"{side}_truncated"],
                )
            prompt = decode(row["prompt_ids"], tokenizer)
            yield PairTokens(prompt, responses["chosen"], responses["rejected"], row=row["row"], where=row["where"])


def reject_unknown_tokens(run: SavedRun, pairs: datasets.Dataset) -> None:
    """Raise DataError if the run's tokenizer makes tokens that one of its models has no embedding for."""
    models = {"policy": run.model.policy} | ({} if run.reference is None else {"reference": run.model.reference_model})
    sizes = {role: causal_lm(model).get_input_embeddings().weight.shape[0] for role, model in models.items()}
    role, size = min(sizes.items(), key=itemgetter(1))
    for row in pairs:
        largest = max(max(row[f"{part}_ids"]) for part in ("prompt", "chosen", "rejected"))
        if largest >= size:
            raise DataError(
                f"{row['where']}: the tokenizer in {run.folder} makes it token {largest:,}, but the {role} has "
                f"embeddings for {size:,}; the tokenizer is not this model's: put the right one into that folder"
            )
