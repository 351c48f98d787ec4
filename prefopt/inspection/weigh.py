"""From a saved run and prepared pairs to the numbers of every response token."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, final

import datasets
from torch import Tensor

from prefopt.data import DataError
from prefopt.data.token_texts import decode, token_texts
from prefopt.inspection.layers import Layer
from prefopt.scoring.batches import scored_batches
from prefopt.scoring.forward import causal_lm
from prefopt.training import SavedRun

__all__ = ["Response", "WeighedPair", "refuse_unknown_tokens", "weigh"]


@final
@dataclass(frozen=True)
class Response:
    """A response: its tokens' ids, the text that each adds, and by layer a number for each; its reward, as trained."""

    ids: list[int]
    pieces: list[str]
    numbers: dict[str, list[float]]
    reward: float
    truncated: bool


@final
@dataclass(frozen=True)
class WeighedPair:
    """A pair: its place in the data set and in the source, its prompt as text, and both responses."""

    row: int
    where: str
    prompt: str
    chosen: Response
    rejected: Response

    @property
    def sides(self) -> tuple[tuple[str, Response], tuple[str, Response]]:
        """Both responses with their names."""
        return ("chosen", self.chosen), ("rejected", self.rejected)


def weigh(run: SavedRun, pairs: datasets.Dataset, layers: Sequence[Layer], *, batch_size: int) -> Iterator[WeighedPair]:
    """Every pair of a data set of `prepare`, in its order, as the objective sees it. Raises NonFiniteError."""
    pad_token_id = int(run.tokenizer.pad_token_id)
    for rows, _, output in scored_batches(run.model, pairs, pad_token_id=pad_token_id, batch_size=batch_size):
        numbers = {layer.name: layer.read(output) for layer in layers}
        rewards = output.rewards.tolist()
        for place, row in enumerate(rows):
            chosen, rejected = (
                _response(run, row, side, {name: of[at] for name, of in numbers.items()}, rewards[at])
                for side, at in (("chosen", place), ("rejected", place + len(rows)))
            )
            yield WeighedPair(row["row"], row["where"], decode(row["prompt_ids"], run.tokenizer), chosen, rejected)


def _response(run: SavedRun, row: Mapping[str, Any], side: str, numbers: dict[str, Tensor], reward: float) -> Response:
    ids = row[f"{side}_ids"]
    return Response(
        ids=ids,
        pieces=token_texts(row["prompt_ids"], ids, run.tokenizer),
        numbers={name: values[: len(ids)].tolist() for name, values in numbers.items()},
        reward=reward,
        truncated=row[f"{side}_truncated"],
    )


def refuse_unknown_tokens(run: SavedRun, pairs: datasets.Dataset) -> None:
    """Raise DataError where the run's tokenizer makes tokens that one of its models has no embedding for."""
    models = {"policy": run.model.policy} | ({} if run.reference is None else {"reference": run.model.reference_model})
    sizes = {role: causal_lm(model).get_input_embeddings().weight.shape[0] for role, model in models.items()}
    role, known = min(sizes.items(), key=itemgetter(1))
    for row in pairs:
        largest = max(max(row[f"{part}_ids"]) for part in ("prompt", "chosen", "rejected"))
        if largest >= known:
            raise DataError(
                f"{row['where']}: the tokenizer in {run.folder} makes it token {largest:,}, but the {role} has "
                f"embeddings for {known:,}; the tokenizer is not this model's: put the right one into that folder"
            )
