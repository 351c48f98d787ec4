"""What is measured of every policy, whatever the task: its rewards, weights and divergence on held-out pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prefopt.data import EncodingConfig, PreferenceCollator, prepare, read_rows
from prefopt.data.pieces import decoded, pieces
from prefopt.divergences import ForwardKL
from prefopt.objective import DivergenceTerm, ObjectiveConfig, ObjectiveOutput
from prefopt.scoring import PreferenceModel
from prefopt.tasks.base import Material, Metric
from prefopt.tokens import PreferenceBatch, TokenBatch, masked_mean

__all__ = ["ACCURACY", "COMMON", "HeldOut", "held_out"]

ACCURACY = Metric(
    "accuracy", "higher", "share of held-out pairs whose chosen response has the higher reward; a tie is half"
)

COMMON = (
    ACCURACY,
    Metric("mean_w", "neither", "mean weight w of the log-ratios, over the tokens of a held-out pair"),
    Metric("sparsity_w", "neither", "share of weights w that are exactly 0, over the tokens of a held-out pair"),
    Metric("mean_v", "neither", "mean weight v of the divergence, over the tokens of a held-out pair"),
    Metric("sparsity_v", "neither", "share of weights v that are exactly 0, over the tokens of a held-out pair"),
)

_SIDES = ("chosen", "rejected")
_SHOWN = 4
"""Held-out pairs whose tokens are kept one by one."""


@final
@dataclass(frozen=True)
class HeldOut:
    """values     metric of COMMON -> held-out pair -> figure; mean_v and sparsity_v where there is a divergence term
    profiles   "divergence/chosen", "divergence/rejected" -> mean KL(reference || policy) in nats at the first response
               token, the second, ..., over the pairs that are so long
    heat_maps  for the first pairs: the prompt's text and, for chosen and rejected, `tokens` (text), `w`, `v` (null
               without a divergence term), `divergence` and `log_ratio`, log policy - log reference, a value a token
    """

    values: dict[str, dict[str, float]]
    profiles: dict[str, list[float]]
    heat_maps: list[dict[str, Any]]


@torch.no_grad()
def held_out(
    model: PreferenceModel,
    reference: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    material: Material,
    encoding: EncodingConfig,
    *,
    batch_size: int,
    columns: Mapping[str, str] | None = None,
) -> HeldOut:
    """Measure a policy on the held-out pairs: by its own objective, and by its divergence from the reference, which is
    the same for all objectives."""
    pairs, _ = prepare(
        read_rows(material.held_out),
        tokenizer,
        encoding,
        description="held-out pairs",
        columns=columns,
        extra=model.objective.config.columns,
    )
    collate = PreferenceCollator(int(tokenizer.pad_token_id), model.objective.config.columns)
    ruler = PreferenceModel(model.policy, reference, ObjectiveConfig(divergence=DivergenceTerm(measure=ForwardKL())))
    device = next(model.policy.parameters()).device
    values: dict[str, list[float]] = {}
    curves: dict[str, list[list[float]]] = {side: [] for side in _SIDES}
    heat_maps: list[dict[str, Any]] = []
    for start in range(0, len(pairs), batch_size):
        rows = pairs.select(range(start, min(start + batch_size, len(pairs)))).to_list()
        batch = PreferenceBatch.from_mapping(collate(rows)).to(device)
        output, said = model.eval()(batch), ruler.eval().score(batch)
        for name, figures in _figures(output).items():
            values.setdefault(name, []).extend(figures)
        for place, row in enumerate(_by_token(said.divergence, said.mask)):
            curves[_SIDES[place // len(rows)]].append(row)
        heat_maps += [
            _heat_map(row, place, len(rows), output, said, tokenizer)
            for place, row in enumerate(rows[: max(0, _SHOWN - len(heat_maps))])
        ]
    return HeldOut(
        {name: {f"pair {place}": value for place, value in enumerate(of)} for name, of in values.items()},
        {f"divergence/{side}": _mean_by_position(rows) for side, rows in curves.items()},
        heat_maps,
    )


def _figures(output: ObjectiveOutput) -> dict[str, list[float]]:
    """The metrics of each pair of a batch."""
    chosen, rejected = output.rewards.chunk(2)
    found = {"accuracy": (chosen > rejected).float() + (chosen == rejected).float() / 2}
    mask = torch.cat(output.tokens.mask.chunk(2), dim=-1)
    for which, weights in (("w", output.weights), ("v", output.divergence_weights)):
        if weights is not None:
            of_pair = torch.cat(weights.float().chunk(2), dim=-1)
            found[f"mean_{which}"] = masked_mean(of_pair, mask)
            found[f"sparsity_{which}"] = masked_mean((of_pair == 0).float(), mask)
    return {name: figures.tolist() for name, figures in found.items()}


def _by_token(values: Tensor | None, mask: Tensor) -> list[list[float]]:
    """[N, T] -> the values of each response, as many as it has tokens."""
    assert values is not None
    return [row[kept].tolist() for row, kept in zip(values.float().cpu(), mask.cpu(), strict=True)]


def _mean_by_position(rows: Sequence[Sequence[float]]) -> list[float]:
    longest = max(map(len, rows), default=0)
    at = [[row[place] for row in rows if place < len(row)] for place in range(longest)]
    return [sum(values) / len(values) for values in at]


def _heat_map(
    row: Mapping[str, Any],
    place: int,
    pairs: int,
    output: ObjectiveOutput,
    said: TokenBatch,
    tokenizer: PreTrainedTokenizerBase,
) -> dict[str, Any]:
    found: dict[str, Any] = {"prompt": decoded(row["prompt_ids"], tokenizer)}
    figures = {
        "w": output.weights,
        "v": output.divergence_weights,
        "divergence": said.divergence,
        "log_ratio": said.logps - said.ref_logps,
    }
    for side, at in zip(_SIDES, (place, place + pairs), strict=True):
        kept = said.mask[at]
        found[side] = {"tokens": pieces(row["prompt_ids"], row[f"{side}_ids"], tokenizer)} | {
            name: None if values is None else values[at][kept].float().tolist() for name, values in figures.items()
        }
    return found
