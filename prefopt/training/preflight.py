"""What is checked before training: that a step may be cut into batches, and that it starts where theory says."""

from __future__ import annotations

import logging

import torch

from prefopt.objective import Objective, ObjectiveConfig, ObjectiveOutput
from prefopt.scoring import PreferenceModel
from prefopt.training.config import PreferenceConfig

__all__ = [
    "check_initial_loss",
    "reject_mask_rate_without_mask",
    "reject_split_step",
    "reject_unused_options",
]

_LOG = logging.getLogger(__name__)

_TOLERANCE = 1e-4

_DEEPEST = 1000
"""More layers than models have."""


def reject_split_step(objective: ObjectiveConfig | Objective, args: PreferenceConfig) -> None:
    """Raise ValueError where the loss compares the pairs of a step with each other, but no device sees them all."""
    config = objective.config if isinstance(objective, Objective) else objective
    if config.couples_pairs and (args.gradient_accumulation_steps > 1 or args.world_size > 1):
        raise ValueError(
            f"the loss {config.loss.name!r} compares the pairs of a step with each other, so a step cannot be cut into "
            f"{args.gradient_accumulation_steps} batches on {args.world_size} processes. Set "
            "gradient_accumulation_steps to 1, the batch to the size of the step, and use one process."
        )


def reject_unused_options(model: PreferenceModel, args: PreferenceConfig) -> None:
    """Raise ValueError where a setting is meant for a part that this run does not have."""
    if model.reference_free and model.reference is not None:
        raise ValueError("a reference model is given, but the objective is reference-free and would never run it")
    if model.reference_free and args.reference_cache is not None:
        raise ValueError("reference_cache is read only with a reference, and the objective is reference-free")
    if args.sync_ref_model and args.reference_cache is not None:
        raise ValueError("reference_cache keeps what a fixed reference says, and sync_ref_model changes it; drop one")
    reject_mask_rate_without_mask(model.objective.config, args)


def reject_mask_rate_without_mask(objective: ObjectiveConfig, args: PreferenceConfig) -> None:
    """Raise ValueError where a setting is meant for what the objective learns, and it learns nothing."""
    asked = [name for name in ("mask_learning_rate", "mask_weight_decay") if args.differs(name)]
    if asked and not _learns(objective):
        raise ValueError(
            f"{asked[0]} is for what an objective learns, and this one learns nothing; leave it out, or take a "
            "weighting that learns, such as sparse"
        )


def _learns(objective: ObjectiveConfig) -> bool:
    """Whether it has parameters; it is built for a model that has every layer that it may name."""
    with torch.random.fork_rng(devices=()):
        built = Objective(objective, num_layers=_DEEPEST, hidden_size=1)
    return next(built.parameters(), None) is not None


def check_initial_loss(objective: Objective, output: ObjectiveOutput) -> None:
    """Before the first step the loss is what theory says it is at policy = reference, or the log says why not."""
    loss = output.loss.item()
    if objective.config.reference_free:
        _LOG.info("step 0: loss %.6f; reference-free, so theory does not fix it", loss)
        return
    with torch.no_grad():
        expected = objective.at_reference(output.tokens).loss.item()
    if abs(loss - expected) <= _TOLERANCE * max(1.0, abs(expected)):
        _LOG.info("step 0: loss %.6f, as it must be where the policy is the reference", loss)
        return
    tokens = output.tokens
    gap = (tokens.logps - tokens.ref_logps)[tokens.mask].detach().abs()
    _LOG.warning(
        "step 0: loss %.6f, but %.6f where the policy is the reference. The two differ by up to %.2g nats a token "
        "(%.2g on average): they are different models, or were loaded in different precision.",
        *(loss, expected, gap.max().item(), gap.mean().item()),
    )
