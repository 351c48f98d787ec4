"""Checks before training: settings that the run cannot honour or does not read."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from torch import nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from prefopt.objective import Objective
from prefopt.objective_config import ObjectiveConfig
from prefopt.scoring import PreferenceModel
from prefopt.scoring.compatibility import ModelLimits
from prefopt.training.config import PreferenceConfig
from prefopt.training.evaluation_metrics import reads_metric, reject_unknown_metric
from prefopt.validation import one_line

_LOG = logging.getLogger(__name__)

_ROWS_AT_A_TIME = 1000

_IDS = ("prompt_ids", "chosen_ids", "rejected_ids")

_OF_THE_OPTIMIZER = """optim optim_args learning_rate weight_decay adam_beta1 adam_beta2 adam_epsilon
mask_learning_rate mask_weight_decay""".split()

_MORE_LAYERS_THAN_ANY_MODEL = 1000


def reject_split_step(config: ObjectiveConfig, args: PreferenceConfig) -> None:
    """Raise ValueError where the loss couples the pairs of a step, but the step is split over batches or processes."""
    if args.n_gpu > 1:
        raise ValueError(
            f"one process sees {args.n_gpu} GPUs, and Trainer would copy the model to all, which splits no pairs. "
            "Start a process for each (`accelerate launch`, `torchrun`), or set CUDA_VISIBLE_DEVICES to one"
        )
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


def reject_other_types(objective: object, **data: object) -> None:
    """Raise TypeError where an objective is given by its name, or data by that of a file."""
    if not isinstance(objective, ObjectiveConfig | Objective):
        raise TypeError(f"objective: found {type(objective).__name__}; give a configuration, such as prefopt.zoo.dpo()")
    for name, value in data.items():
        if isinstance(value, str | Path):
            raise TypeError(
                f"{name}: found the name {str(value)!r}; give rows, as prefopt.data.read_rows does of a file"
            )


def reject_other_arguments(args: object, compute_loss_func: object, processing_class: object) -> None:
    """Raise ValueError for a loss beside the objective's, and TypeError for arguments of another trainer and for a
    processor of more than text."""
    if not isinstance(args, PreferenceConfig):
        raise TypeError(
            f"args: found {type(args).__name__}; give a PreferenceConfig, which has the fields of TrainingArguments; "
            "fields of TRL's configuration are translated by `prefopt migrate`"
        )
    if compute_loss_func is not None:
        raise ValueError(
            "compute_loss_func: the loss is the objective's; write it as a preference loss of your own (a component), "
            "or override PreferenceTrainer.compute_loss"
        )
    if processing_class is not None and not isinstance(processing_class, PreTrainedTokenizerBase):
        remedy = "give its tokenizer" if hasattr(processing_class, "tokenizer") else "give a tokenizer"
        raise TypeError(f"processing_class: found {type(processing_class).__name__}, and pairs are text; {remedy}")


def check_optimizer_class(
    optimizer_cls_and_kwargs: tuple[type[torch.optim.Optimizer], dict[str, Any]] | None, args: PreferenceConfig
) -> None:
    """Raise ValueError where an optimizer cannot be made of its class and these keywords; log the arguments that it
    does not read."""
    if optimizer_cls_and_kwargs is None:
        return
    try:
        optimizer_class, options = optimizer_cls_and_kwargs
        optimizer_class([nn.Parameter(torch.zeros(1))], **options)
    except Exception as error:  # whatever a library raises for arguments that it does not take
        raise ValueError(
            f"optimizer_cls_and_kwargs makes no optimizer ({type(error).__name__}: {one_line(error)}); give a class of "
            "torch.optim's kind and its keywords, such as (torch.optim.SGD, {'lr': 1e-3})"
        ) from error
    of_groups = ("weight_decay", "mask_learning_rate", "mask_weight_decay")
    if unread := [name for name in _OF_THE_OPTIMIZER if name not in of_groups and args.differs(name)]:
        _LOG.warning("optimizer_cls_and_kwargs: its keywords stand in place of %s", ", ".join(unread))


def check_optimizer(optimizer: torch.optim.Optimizer | None, model: PreferenceModel, args: PreferenceConfig) -> None:
    """Raise ValueError where an optimizer that was given holds nothing of the policy that trains; log what else trains
    and is not in it, and the arguments that it does not read."""
    if optimizer is None:
        return
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    left_out = [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in held]
    if not any(p.requires_grad and id(p) in held for p in model.policy.parameters()):
        raise ValueError(
            "optimizers: the optimizer holds no parameter of the policy that trains, as where the model was loaded "
            "again by its name; give the model as the module whose parameters it has"
        )
    if left_out:
        _LOG.warning(
            "optimizers: %d parameters that require a gradient are not in the optimizer and stay as they are (%s)",
            *(len(left_out), ", ".join(left_out[:3])),
        )
    if unread := [name for name in _OF_THE_OPTIMIZER if args.differs(name)]:
        _LOG.warning("optimizers: an optimizer is given, which does not read %s", ", ".join(unread))


def reject_no_step(dataset: datasets.Dataset, args: PreferenceConfig) -> None:
    """Raise ValueError where there is no pair, or too few for a batch that is not dropped."""
    if not len(dataset):
        raise ValueError("the training data has no pairs, so that there is no step; give data with some")
    batch = args.train_batch_size * args.world_size
    if args.dataloader_drop_last and len(dataset) < batch:
        raise ValueError(
            f"dataloader_drop_last leaves no batch: {len(dataset)} pairs, and a batch has {batch} over all processes; "
            "set it to false, or make the batch smaller"
        )


def reject_unusable_settings(
    objective: ObjectiveConfig | Objective, args: PreferenceConfig, evaluations: Iterable[str]
) -> None:
    """Raise ValueError for what is known to fail before models are loaded: a step that cannot be split, a rate for a
    mask that is not there, a metric that no evaluation gives.

    evaluations  the names of the data sets; that of one alone is empty
    """
    config = objective.config if isinstance(objective, Objective) else objective
    reject_split_step(config, args)
    reject_mask_rate_without_mask(config, args)
    if reads_metric(args):
        reject_unknown_metric(_in_small(config), args, evaluations)


def reject_mask_rate_without_mask(objective: ObjectiveConfig, args: PreferenceConfig) -> None:
    """Raise ValueError where an option is for the objective's parameters, and it has none."""
    options = [name for name in ("mask_learning_rate", "mask_weight_decay") if args.differs(name)]
    if options and not learns(objective):
        raise ValueError(
            f"{options[0]} is for what an objective learns, and this one learns nothing; leave it out, or use a "
            "weighting that learns, such as sparse, or units that do, such as state_baseline"
        )


def learns(objective: ObjectiveConfig) -> bool:
    """Whether the objective has parameters."""
    return next(_in_small(objective).parameters(), None) is not None


def _in_small(objective: ObjectiveConfig) -> Objective:
    """The objective as for a model with states of one number, before there is a model."""
    with torch.random.fork_rng(devices=()):
        return Objective(objective, num_layers=_MORE_LAYERS_THAN_ANY_MODEL, hidden_size=1)


def reject_pairs_beyond_limits(model: PreferenceModel, dataset: datasets.Dataset) -> None:
    """Raise ValueError where a pair of token ids is more than a model's vocabulary or table of positions holds."""
    columns = _IDS
    limits, check = _limits(model), pair_check(model)
    row = 0
    for table in dataset.select_columns(list(columns)).with_format("arrow").iter(_ROWS_AT_A_TIME):
        lists = [table[name].combine_chunks() for name in columns]
        furthest = _furthest_id(np.concatenate([values.flatten().to_numpy() for values in lists]))
        prompts, chosen, rejected = (values.value_lengths().to_numpy() for values in lists)
        longest = int((prompts + np.maximum(chosen, rejected)).max())
        for model_limits in limits:
            if not model_limits.violation(furthest, longest):
                continue
            for index in range(row, row + len(table)):  # one of these
                check(dataset[index])
        row += len(table)


def pair_check(model: PreferenceModel) -> Callable[[Mapping[str, Any]], None]:
    """A function that raises ValueError for a pair of token ids that is more than a model holds."""
    limits = _limits(model)

    def check(pair: Mapping[str, Any]) -> None:
        parts = [pair[name] for name in _IDS]
        length, furthest = len(parts[0]) + max(map(len, parts[1:])), _furthest_id(np.concatenate(parts))
        for model_limits in limits:
            if violation := model_limits.violation(furthest, length):
                raise ValueError(f"{pair['where']}: it has {violation}")

    return check


def _limits(model: PreferenceModel) -> list[ModelLimits]:
    """Those of the policy, and of the reference where there is one."""
    models = (
        {"policy": model.policy} if model.reference_free else {"policy": model.policy, "reference": model.reference}
    )
    return [ModelLimits.from_model(name, part or model.policy) for name, part in models.items()]


def _furthest_id(ids: np.ndarray) -> int:
    """The highest token id, or the lowest where that is negative."""
    return int(ids.min() if ids.min() < 0 else ids.max())


def reject_other_tokens(tokenizer: PreTrainedTokenizerBase, reference: str | nn.Module | None) -> None:
    """Raise ValueError where the tokenizer of a reference, which is a name or was loaded from one, has other ids for
    the same tokens: it would read other text than the policy."""
    name = reference if isinstance(reference, str) else getattr(getattr(reference, "config", None), "_name_or_path", "")
    if not name or name == tokenizer.name_or_path:
        return
    try:
        other = AutoTokenizer.from_pretrained(name, local_files_only=not isinstance(reference, str)).get_vocab()
    except (OSError, ValueError) as error:
        _LOG.info("%s: no tokenizer to compare with the policy's: %s", name, str(error).splitlines()[0])
        return
    for token, index in tokenizer.get_vocab().items():
        if other.get(token, index) != index:
            raise ValueError(
                f"the reference {name} has another tokenizer: {token!r} is its token {other[token]}, and the policy's "
                f"{index}. Log-ratios need one tokenizer; use a reference of the policy's family"
            )
