"""The names of the metrics that an evaluation will give, known before models are loaded."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from transformers import TrainingArguments

from prefopt.mask_health import wordless_metrics
from prefopt.metrics import objective_metrics
from prefopt.objective import Objective
from prefopt.tokens import PreferenceBatch, TokenBatch
from prefopt.training.metrics import batch_metrics
from prefopt.unit_pairs import UnitPairs, has_baseline
from prefopt.validation import did_you_mean

_OF_EVERY_ONE = ("loss", "runtime", "samples_per_second", "steps_per_second", "aux_loss")
"""Of every evaluation; the last one where the policy is a mixture of experts."""


def reads_metric(args: TrainingArguments) -> bool:
    """Whether a metric of evaluation decides on checkpoints or the learning rate."""
    options = (args.save_strategy, args.lr_scheduler_type)
    strategy, schedule = (str(getattr(option, "value", option)) for option in options)
    decides = args.load_best_model_at_end or strategy == "best" or schedule in ("reduce_lr_on_plateau", "greedy")
    return decides and args.metric_for_best_model is not None


def reject_unknown_metric(objective: Objective, args: TrainingArguments, evaluations: Iterable[str]) -> None:
    """Raise ValueError where no evaluation gives the metric that is read of it.

    evaluations  the names of the data sets; that of one alone is empty
    """
    wanted = args.metric_for_best_model
    names = [
        f"{evaluation}_{name}" if evaluation else name
        for evaluation in evaluations
        for name in sorted({*_OF_EVERY_ONE, *_metric_names(objective)})
    ]
    if names and wanted.removeprefix("eval_") not in names:
        raise ValueError(
            f"metric_for_best_model: an evaluation gives no {wanted!r}.{did_you_mean(wanted, names)} "
            f"Metrics: {', '.join(names)}."
        )


def _metric_names(objective: Objective) -> set[str]:
    """Those of the objective, of its learned masks, and of a batch."""
    term = objective.config.divergence
    mask, values, rewards = torch.ones(2, 1, dtype=torch.bool), torch.zeros(2, 1), torch.zeros(2)
    tokens = TokenBatch(
        logps=values,
        ref_logps=values,
        mask=mask,
        token_ids=torch.zeros(2, 1, dtype=torch.long),
        divergence=None if term is None else values,
    )
    divergence = (None, None) if term is None else (rewards, values)
    names = {*objective_metrics(objective.config.beta, tokens, rewards, divergence[0], values, divergence[1])}
    if objective.config.units is not None:
        shifts = torch.zeros(1, 1) if has_baseline(objective.units) else None
        pairs = UnitPairs(mask.long() - 1, torch.ones(1, 1), mask, "mean", tokens, shifts)
        names |= set(pairs.metrics())
    for name in objective.learned_masks:
        names |= set(wordless_metrics(name, values, tokens, mask[0]))
    return names | set(batch_metrics(PreferenceBatch.from_ids([[0]], [[0]], [[0]], pad_token_id=0)))
