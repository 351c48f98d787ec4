"""Checks before training: settings that the run cannot honour or does not read, and the loss of the first batch."""

from __future__ import annotations

import logging

import torch

from prefopt.objective import Objective, ObjectiveOutput
from prefopt.objective_config import ObjectiveConfig
from prefopt.scoring import PreferenceModel
from prefopt.training.config import PreferenceConfig

_LOG = logging.getLogger(__name__)

_TOLERANCE = 1e-4

_MORE_LAYERS_THAN_ANY_MODEL = 1000


def reject_split_step(objective: ObjectiveConfig | Objective, args: PreferenceConfig) -> None:
    """Raise ValueError where the loss couples the pairs of a step, but the step is split over batches or processes."""
    config = objective.config if isinstance(objective, Objective) else objective
    if config.couples_pairs and (args.gradient_accumulation_steps > 1 or args.world_size > 1):
        raise ValueError(
            f"the loss {config.loss.name!r} compares the pairs of a step with each other, so a step cannot be split "
            f"into {args.gradient_accumulation_steps} batches on {args.world_size} processes. Set "
            "gradient_accumulation_steps to 1, the batch to the size of the step, and use one process."
        )


def reject_unused_options(model: PreferenceModel, args: PreferenceConfig) -> None:
    """Raise ValueError where an option is for a part that this run does not have."""
    if model.reference_free and model.reference is not None:
        raise ValueError("a reference model is given, but the objective is reference-free and would never run it")
    if model.reference_free and args.reference_cache is not None:
        raise ValueError("reference_cache is read only with a reference, and the objective is reference-free")
    if args.sync_ref_model and args.reference_cache is not None:
        raise ValueError("reference_cache holds outputs of a fixed reference, and sync_ref_model changes it; drop one")
    reject_mask_rate_without_mask(model.objective.config, args)


def reject_mask_rate_without_mask(objective: ObjectiveConfig, args: PreferenceConfig) -> None:
    """Raise ValueError where an option is for the objective's parameters, and it has none."""
    options = [name for name in ("mask_learning_rate", "mask_weight_decay") if args.differs(name)]
    if options and not _has_parameters(objective):
        raise ValueError(
            f"{options[0]} is for what an objective learns, and this one learns nothing; leave it out, or use a "
            "weighting that learns, such as sparse"
        )


def _has_parameters(objective: ObjectiveConfig) -> bool:
    with torch.random.fork_rng(devices=()):
        built = Objective(objective, num_layers=_MORE_LAYERS_THAN_ANY_MODEL, hidden_size=1)
    return next(built.parameters(), None) is not None


def check_initial_loss(objective: Objective, output: ObjectiveOutput) -> None:
    """Log whether the loss of the first batch is the one at policy = reference, and warn where it is not."""
    loss = output.loss.item()
    if objective.config.reference_free:
        _LOG.info("step 0: loss %.6f; the objective is reference-free, so no value is expected", loss)
        return
    with torch.no_grad():
        expected = objective.at_reference(output.tokens).loss.item()
    if abs(loss - expected) <= _TOLERANCE * max(1.0, abs(expected)):
        _LOG.info("step 0: loss %.6f, as expected where the policy equals the reference", loss)
        return
    tokens = output.tokens
    gap = (tokens.logps - tokens.ref_logps)[tokens.mask].detach().abs()
    _LOG.warning(
        "step 0: loss %.6f, but %.6f where the policy is the reference. The two differ by up to %.2g nats a token "
        "(%.2g on average): they are different models, or were loaded in different precision.",
        *(loss, expected, gap.max().item(), gap.mean().item()),
    )
