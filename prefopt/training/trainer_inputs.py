"""The inputs of a trainer: models, tokenizer and data sets, from names, objects or rows."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from operator import length_hint
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

import datasets
import pandas as pd  # type: ignore[import-untyped]
from peft import LoraConfig, PeftConfig, PeftModel
from pydantic import TypeAdapter, ValidationError
from torch import nn
from transformers import PreTrainedTokenizerBase

from prefopt.data import BadRow, DataError, DataReport, PairStream, SourceRow, prepare, rows_of
from prefopt.data.tally import FEATURES, MASKED
from prefopt.objective import Objective
from prefopt.objective_config import ObjectiveConfig
from prefopt.scoring import PreferenceModel
from prefopt.scoring.zero import is_partitioned
from prefopt.training.adapters import (
    keep_reference,
    name_unused,
    reject_adapter_options,
    reject_unsaved,
    with_new_adapter,
)
from prefopt.training.config import PreferenceConfig
from prefopt.training.loading import load_model
from prefopt.validation import did_you_mean, problem_of, reject_bool

_LOG = logging.getLogger(__name__)

_OF_ROWS = ("columns", "chat_template_kwargs", "on_too_long", "max_prompt_length", "on_bad_rows")
"""Arguments of the step from rows to token ids."""


class PreparedData(NamedTuple):
    """A data set of token ids, with the report of the rows that it was made of; None where it was given as it is."""

    dataset: datasets.Dataset
    report: DataReport | None


def preference_model(
    model: str | nn.Module,
    ref_model: str | nn.Module | None,
    objective: ObjectiveConfig | Objective,
    peft_config: PeftConfig | None,
    args: PreferenceConfig,
) -> PreferenceModel:
    """Policy, reference and objective as one module; names are loaded with `from_pretrained`.

    Without `ref_model` the reference is the model as it was given: see `prefopt.training.adapters` for adapters,
    otherwise a frozen copy. Raises ValueError for model_init_kwargs where no model is given by its name.
    """
    if args.model_init_kwargs and not any(isinstance(name, str) for name in (model, ref_model)):
        raise ValueError(
            "model_init_kwargs are for `from_pretrained`, and no model is given by its name; leave them out, or give "
            "the name instead of the loaded model"
        )
    policy = load_model(model, args.model_init_kwargs, trains=True) if isinstance(model, str) else model
    reference = load_model(ref_model, args.model_init_kwargs) if isinstance(ref_model, str) else ref_model
    config = objective.config if isinstance(objective, Objective) else objective
    is_reference = reference is None and not config.reference_free
    reject_adapter_options(policy, args.ref_adapter_name, takes_name=is_reference and peft_config is None)
    if peft_config is not None:
        folder = Path(args.output_dir) if args.should_save else None
        may_overwrite = args.overwrite_output_dir
        policy = with_new_adapter(policy, peft_config, folder, is_reference=is_reference, overwrite=may_overwrite)
    elif is_reference and isinstance(policy, PeftModel):
        keep_reference(policy, args.ref_adapter_name)
    elif is_reference and is_partitioned(policy):
        if not isinstance(model, str):
            raise ValueError(
                "ref_model: the policy's parameters are partitioned (DeepSpeed ZeRO-3) and cannot be copied; give both "
                "models by their names"
            )
        reference = load_model(model, args.model_init_kwargs)
    elif is_reference:
        reference = copy.deepcopy(policy)
    reject_unsaved(policy, may_reload=args.load_best_model_at_end)
    name_unused(policy)
    module = PreferenceModel(
        policy,
        reference,
        objective,
        logits_budget=None if args.logits_budget_mb is None else args.logits_budget_mb * 2**20,
        shared_prefix=args.shared_prefix,
        reference_cache=args.reference_cache,
        router_aux_loss_coef=args.router_aux_loss_coef,
    )
    if (watch := module.mask_metrics.watch) is not None:
        watch.say = _LOG.warning if args.process_index == 0 else _LOG.info
    if args.torch_compile:
        module.compile(backend=args.torch_compile_backend, mode=args.torch_compile_mode)
    return module


def model_maker(
    ref_model: str | nn.Module | None,
    objective: ObjectiveConfig | Objective,
    peft_config: PeftConfig | None,
    args: PreferenceConfig,
    *,
    several: bool,
) -> Callable[[str | nn.Module], PreferenceModel]:
    """`preference_model` as a function of the policy.

    several  it is called more than once: a mask that was given, and a reference that is to follow the policy, then
             begin as they were each time
    """

    def model(policy: str | nn.Module) -> PreferenceModel:
        reference = copy.deepcopy(ref_model) if several and args.sync_ref_model else ref_model
        return preference_model(
            policy, reference, copy.deepcopy(objective) if several else objective, peft_config, args
        )

    return model


def reference_loader(
    model: str | nn.Module | None, ref_model: str | nn.Module | None, args: PreferenceConfig
) -> Callable[[], nn.Module] | None:
    """A function that reloads the reference of `preference_model`; None where it was given as a module."""
    name = model if ref_model is None else ref_model
    if not isinstance(name, str):
        return None
    return partial(load_model, name, args.model_init_kwargs)


def lora_config(fields: Mapping[str, Any] | None) -> LoraConfig | None:
    """peft's LoraConfig of these fields; None for None. Raises TypeError or ValueError for unknown fields, values of
    another type and ranks that are not positive."""
    if fields is None:
        return None
    hints = get_type_hints(LoraConfig)
    if unknown := [name for name in fields if name not in hints]:
        near = did_you_mean(unknown[0], hints)
        raise ValueError(f"{unknown[0]}: no such field in peft's LoraConfig.{near} It has r, lora_alpha and others")
    config = LoraConfig(**{"task_type": "CAUSAL_LM"} | {k: _of_type(v, hints.get(k), k) for k, v in fields.items()})
    if not (isinstance(config.r, int) and config.r > 0):
        raise ValueError(f"r: {config.r!r} is no rank; it is 1 or more")
    return config


def _of_type(value: object, hint: Any, field: str) -> object:
    """The value in the type that peft declares, which checks none itself; of whole numbers, alpha need not be one."""
    reject_bool(value, hint, field=field)
    try:
        return TypeAdapter(int | float if hint is int else hint).validate_python(value)
    except ValidationError as error:
        raise ValueError(f"{field}: {problem_of(error.errors()[0])}, got {value!r}") from error


def ensure_pad_token(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The tokenizer, padding with EOS where it has no padding token. Raises ValueError where it has neither."""
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise ValueError("the tokenizer has neither a padding nor an end-of-text token; set tokenizer.pad_token")
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def prepare_dataset(
    rows: Iterable[Mapping[str, Any] | SourceRow | BadRow] | datasets.Dataset | pd.DataFrame,
    tokenizer: PreTrainedTokenizerBase,
    objective: ObjectiveConfig,
    args: PreferenceConfig,
    name: str,
    *,
    columns: Mapping[str, str] | None = None,
    description: str | None = None,
) -> PreparedData:
    """Rows in memory, of `read_rows` or of a pandas frame, as a data set of token ids with the objective's columns.

    columns      in place of those of the arguments
    description  for messages; None: the name

    A data set that holds token ids already is returned as it is; arguments and columns that are then not read are
    logged. Raises DataError where it lacks a column that the objective reads.
    """
    if isinstance(rows, pd.DataFrame):
        rows = datasets.Dataset.from_pandas(rows, preserve_index=False)
    if isinstance(rows, datasets.Dataset) and set(rows.column_names) >= set(FEATURES) - MASKED:
        _require_columns(rows, objective, name)
        _name_unread(rows, objective, args, name)
        return PreparedData(rows, None)
    dataset, report = prepare(
        rows_of(rows, name=name),
        tokenizer,
        args.encoding,
        description=description or name,
        columns=args.columns if columns is None else columns,
        extra=objective.columns,
        on_bad_rows=args.on_bad_rows,
        quarantine=Path(args.output_dir) / f"quarantine-{name}.jsonl",
        overwrite=args.overwrite_output_dir,
        dry_run=args.dry_run,
        num_proc=args.dataset_num_proc,
        total=length_hint(rows) or None,
    )
    return PreparedData(dataset, report)


def longest_row(data: Sequence[datasets.Dataset | PairStream], args: PreferenceConfig) -> int | None:
    """Tokens of the longest prompt and response that these data sets may have; None without any, and of a stream
    without a limit."""
    pairs: list[int] = [max(dataset["length"]) for dataset in data if not isinstance(dataset, PairStream)]
    if len(pairs) < len(data):
        return args.max_length
    return min([max(pairs), *([args.max_length] if args.max_length else [])]) if pairs else None


def log_report(report: DataReport, name: str) -> None:
    """Log the report of a data set: as a warning, where something was left out or guessed."""
    level = logging.INFO if report.is_as_expected else logging.WARNING
    _LOG.log(level, "%s data: %s", name, "; ".join(report.lines()))


def _name_unread(dataset: datasets.Dataset, objective: ObjectiveConfig, args: PreferenceConfig, name: str) -> None:
    """Log what is for rows, or for other data, where the data set holds token ids already."""
    longest, unread = max(dataset["length"], default=0), [field for field in _OF_ROWS if args.differs(field)]
    if args.max_length is not None and longest > args.max_length:
        unread.append(f"max_length ({args.max_length}, and pairs have up to {longest} tokens)")
    columns = {key for component in objective.components for column in component.columns for key in column.keys}
    unread += [f"column {column!r}" for column in dataset.column_names if column not in {*FEATURES, *columns}]
    if unread:
        _LOG.warning("%s data: it holds token ids already, so that nothing reads %s", name, ", ".join(unread))


def _require_columns(dataset: datasets.Dataset, objective: ObjectiveConfig, name: str) -> None:
    for component in objective.components:
        for column in sorted(component.columns, key=lambda column: column.name):
            if absent := sorted(set(column.keys) - set(dataset.column_names)):
                raise DataError(
                    f"{name} data: it holds token ids already, but not the column {column.name!r} that "
                    f"{component.kind} {component.name!r} reads (no {', '.join(map(repr, absent))}); "
                    f"prepare it with extra=[{column}], or give the rows as they were before"
                )
