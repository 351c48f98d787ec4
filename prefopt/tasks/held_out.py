"""The evaluation that all tasks share: rewards, weights and divergence of a policy on held-out pairs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, final

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prefopt.data import EncodingConfig, prepare, read_rows
from prefopt.data.pairs import SIDES
from prefopt.data.token_texts import decode, response_token_texts
from prefopt.divergences import ForwardKL
from prefopt.mask_health import MaskHealth
from prefopt.metrics import MetricSums
from prefopt.objective import ObjectiveOutput
from prefopt.objective_config import DivergenceTerm, ObjectiveConfig
from prefopt.progress import tracked
from prefopt.scoring import PreferenceModel
from prefopt.scoring.batches import scored_batches
from prefopt.tasks.base import Material, Metric
from prefopt.tasks.ranking import auroc
from prefopt.tokens import TokenBatch, masked_mean

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
"""The metrics of every task."""

AUROC = tuple(
    Metric(f"auroc_{name}", "higher", f"P(a marked token has the larger {name}) + P(equal) / 2, over a held-out pair")
    for name in ("w", "v")
)
"""Metrics of tasks that mark tokens."""

Marks = Callable[[Sequence[str]], list[bool]]

_HEAT_MAPS = 4
"""Held-out pairs, the first ones, that have a heat map in the record."""


@final
@dataclass(frozen=True)
class HeldOut:
    """values     metric of COMMON or AUROC -> held-out pair -> value; those of v need a divergence term
    profiles   "divergence/chosen", "divergence/rejected" -> mean KL(reference || policy) in nats at the first response
               token, the second, ..., over the pairs that are so long
    heat_maps  for the first pairs: the prompt's text and, for chosen and rejected, `tokens` (text), `w`, `v` (null
               without a divergence term), `divergence` and `log_ratio`, log policy - log reference, a value per token;
               and `marked`, a flag per token, if the task marks tokens
    mask_faults  what is wrong with a learned mask: the fault -> its words
    """

    values: dict[str, dict[str, float]]
    profiles: dict[str, list[float]]
    heat_maps: list[dict[str, Any]]
    mask_faults: dict[str, str]


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
    marks: Marks | None = None,
) -> HeldOut:
    """Measure a policy on the held-out pairs: by its own objective, and by its divergence from the reference, which is
    the same for all objectives."""
    rows_read, extra = read_rows(material.held_out), model.objective.config.columns
    pairs, _ = prepare(rows_read, tokenizer, encoding, description="held-out pairs", columns=columns, extra=extra)
    distance = ObjectiveConfig(divergence=DivergenceTerm(measure=ForwardKL()))
    distance_model = PreferenceModel(model.policy, reference, distance).eval()
    values: dict[str, dict[str, float]] = {}
    total, sums = 0, MetricSums()
    profiles: dict[str, list[list[float]]] = {side: [] for side in SIDES}
    heat_maps: list[dict[str, Any]] = []
    batches = scored_batches(model, pairs, pad_token_id=int(tokenizer.pad_token_id), batch_size=batch_size)
    for rows, batch, output in tracked(batches, "held-out pairs", math.ceil(len(pairs) / batch_size)):
        sums.add(output.metrics)
        distances = distance_model.score(batch)
        items = [f"pair {total + index}" for index in range(len(rows))]
        total += len(rows)
        for name, metric in _pair_metrics(output).items():
            values.setdefault(name, {}).update(zip(items, metric, strict=True))
        for item, row, weights in zip(items, rows, pair_weights(output), strict=True):
            if marks is not None:
                texts = (response_token_texts(row, side, tokenizer) for side in SIDES)
                marked = torch.tensor([mark for tokens in texts for mark in marks(tokens)])
                for name, tensor in weights.items():
                    if (value := auroc(tensor, marked)) is not None:
                        values.setdefault(f"auroc_{name}", {})[item] = value
        for index, profile in enumerate(_response_values(distances.divergence, distances.mask)):
            profiles[SIDES[index // len(rows)]].append(profile)
        heat_maps += [
            _heat_map(row, (index, index + len(rows)), output, distances, tokenizer, marks)
            for index, row in enumerate(rows[: _HEAT_MAPS - len(heat_maps)])
        ]
    return HeldOut(
        values,
        {f"divergence/{side}": _mean_by_position(responses) for side, responses in profiles.items()},
        heat_maps,
        {}
        if model.mask_metrics.watch is None
        else MaskHealth.from_metrics(sums.means()).faults(model.objective.config.beta),
    )


def pair_weights(output: ObjectiveOutput) -> list[dict[str, Tensor]]:
    """For each pair of a batch "w" and, with a divergence term, "v" -> its tokens' weights, the chosen response's
    first, on the CPU."""
    pairs, mask = len(output.rewards) // 2, output.tokens.mask
    weights = {"w": output.weights, "v": output.divergence_weights}
    return [
        {
            name: torch.cat([tensor[row][mask[row]] for row in (index, index + pairs)]).cpu()
            for name, tensor in weights.items()
            if tensor is not None
        }
        for index in range(pairs)
    ]


def _pair_metrics(output: ObjectiveOutput) -> dict[str, list[float]]:
    """metric -> its value for every pair of a batch."""
    chosen, rejected = output.rewards.chunk(2)
    metrics = {"accuracy": (chosen > rejected).float() + (chosen == rejected).float() / 2}
    mask = torch.cat(output.tokens.mask.chunk(2), dim=-1)
    for suffix, weights in (("w", output.weights), ("v", output.divergence_weights)):
        if weights is not None:
            pair_weights = torch.cat(weights.float().chunk(2), dim=-1)
            metrics[f"mean_{suffix}"] = masked_mean(pair_weights, mask)
            metrics[f"sparsity_{suffix}"] = masked_mean((pair_weights == 0).float(), mask)
    return {name: values.tolist() for name, values in metrics.items()}


def _response_values(values: Tensor | None, mask: Tensor) -> list[list[float]]:
    """[N, T] -> a list of values for every response, without the padding."""
    assert values is not None
    return [row[tokens].tolist() for row, tokens in zip(values.float().cpu(), mask.cpu(), strict=True)]


def _mean_by_position(responses: Sequence[Sequence[float]]) -> list[float]:
    columns = ([value for value in column if value is not None] for column in zip_longest(*responses))
    return [sum(column) / len(column) for column in columns]


def _heat_map(
    row: Mapping[str, Any],
    responses: tuple[int, int],
    output: ObjectiveOutput,
    distances: TokenBatch,
    tokenizer: PreTrainedTokenizerBase,
    marks: Marks | None,
) -> dict[str, Any]:
    """A pair's heat map; `responses` are the rows of the chosen and the rejected response in the batch's tensors."""
    layers = {
        "w": output.weights,
        "v": output.divergence_weights,
        "divergence": distances.divergence,
        "log_ratio": distances.logps - distances.ref_logps,
    }
    heat_map: dict[str, Any] = {"prompt": decode(row["prompt_ids"], tokenizer)}
    for side, response in zip(SIDES, responses, strict=True):
        mask = distances.mask[response]
        tokens = response_token_texts(row, side, tokenizer)
        heat_map[side] = {"tokens": tokens} | ({} if marks is None else {"marked": marks(tokens)})
        heat_map[side] |= {
            name: None if values is None else values[response][mask].float().tolist() for name, values in layers.items()
        }
    return heat_map
