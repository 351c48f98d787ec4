"""The arguments of a preference-training run: transformers' TrainingArguments and what prefopt adds."""

from __future__ import annotations

import copy
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self, get_args, get_type_hints

import torch
from pydantic import TypeAdapter, ValidationError
from transformers import TrainingArguments

from prefopt.data import EncodingConfig, OnBadRows, OnTooLong
from prefopt.training.argument_trials import reject_unusable
from prefopt.training.arguments import settle
from prefopt.training.model_options import reject_unknown_options
from prefopt.training.processes import reject_lone_processes, reject_uneven_loaders, settle_launch, settle_zero
from prefopt.training.ranges import reject_out_of_range
from prefopt.training.references import without_tokens
from prefopt.validation import did_you_mean, explain, problem_of, reject_bool


@dataclass
class PreferenceConfig(TrainingArguments):
    """transformers' TrainingArguments, and these fields.

    >>> PreferenceConfig("out", max_length=512, mask_learning_rate=1e-3).encoding.max_length
    512

    max_length, max_prompt_length  tokens; the prompt is cut from the left first, down to a quarter of max_length, then
                                   the responses from the right
    on_too_long                    what becomes of longer pairs: "truncate", "drop" or "stop"
    chat_template_kwargs           for the chat template, such as {"enable_thinking": False}; rows may have their own
    on_bad_rows                    "stop", or "quarantine": write unusable rows to OUTPUT_DIR/quarantine-*.jsonl
    dataset_num_proc               processes that encode rows; None: one
    columns                        field -> the data set's column, where the names differ; extra columns' fields too
    mask_learning_rate             of the objective's parameters; None: `learning_rate`
    mask_weight_decay              of the objective's weight matrices; biases and norms have none
    sync_ref_model                 TR-DPO: every ref_model_sync_steps steps the reference becomes ref_model_mixup_alpha
                                   of the policy plus the rest of itself (see `ReferenceUpdate`)
    logits_budget_mb               MiB of logits saved for backward; None: 192 on a CPU, on an accelerator by its memory
    reference_cache                folder for the reference's outputs, which are then computed once
    shared_prefix                  the two responses of a pair may share a row, so that its prompt is computed once
    router_aux_loss_coef           weight of a mixture-of-experts policy's auxiliary loss; None: its configuration's
    model_init_kwargs              for `from_pretrained`, where a model is given by name
    resume_despite                 settings, such as "learning_rate", that may be others than in the run that is resumed
    overwrite_output_dir           replace the run that the output folder holds, once this one can start
    ref_adapter_name               the adapter of a given PeftModel that is its reference; None: a frozen copy of the
                                   adapter that trains, as it is at the start
    max_skipped_steps              steps in a row that are left out where their loss, rewards, weights or gradients are
                                   not finite, before one stops the run; 0: the first does
    dry_run                        set by `start`: the trainer is for what can be checked, and writes nothing

    torch_compile, with its backend and mode, compiles models and objective (see `PreferenceModel.compile`).
    Other defaults than in TrainingArguments: learning_rate 1e-6, logging_steps 10. Some of its fields are refused, and
    some have no effect, which is logged (see `arguments`).
    """

    learning_rate: float = field(default=1e-6, metadata={"help": "Learning rate of the policy."})
    logging_steps: float = field(default=10, metadata={"help": "Steps between logs, or this share of all steps."})
    max_length: int | None = field(default=1024, metadata={"help": "Most tokens of prompt and response."})
    max_prompt_length: int | None = field(default=None, metadata={"help": "Most tokens of the prompt."})
    on_too_long: OnTooLong = field(default="truncate", metadata={"help": "'truncate', 'drop' or 'stop'."})
    chat_template_kwargs: dict[str, Any] | None = field(default=None, metadata={"help": "For the chat template."})
    on_bad_rows: OnBadRows = field(default="stop", metadata={"help": "'stop' or 'quarantine'."})
    dataset_num_proc: int | None = field(default=None, metadata={"help": "Processes that encode rows."})
    columns: dict[str, str] | None = field(default=None, metadata={"help": "Field -> the data set's column."})
    mask_learning_rate: float | None = field(default=None, metadata={"help": "Of the objective's parameters."})
    mask_weight_decay: float = field(default=0.01, metadata={"help": "Of the objective's weight matrices."})
    sync_ref_model: bool = field(default=False, metadata={"help": "Let the reference follow the policy (TR-DPO)."})
    ref_model_mixup_alpha: float = field(default=0.6, metadata={"help": "The policy's share in an updated reference."})
    ref_model_sync_steps: int = field(default=512, metadata={"help": "Steps between updates of the reference."})
    logits_budget_mb: int | None = field(default=None, metadata={"help": "MiB of logits that are saved."})
    reference_cache: str | None = field(default=None, metadata={"help": "Folder for the reference's outputs."})
    shared_prefix: bool = field(default=True, metadata={"help": "Compute the prompt of a pair once."})
    router_aux_loss_coef: float | None = field(
        default=None, metadata={"help": "Of a mixture of experts; None: its own."}
    )
    model_init_kwargs: dict[str, Any] | None = field(default=None, metadata={"help": "For from_pretrained."})
    resume_despite: list[str] | None = field(default=None, metadata={"help": "Settings that may differ on resuming."})
    overwrite_output_dir: bool = field(default=False, metadata={"help": "Replace the run that output_dir holds."})
    ref_adapter_name: str | None = field(default=None, metadata={"help": "A given PeftModel's reference adapter."})
    max_skipped_steps: int = field(default=0, metadata={"help": "Most steps in a row left out as not finite."})
    dry_run: bool = field(init=False, default=False, metadata={"help": "Check all that can be, and write nothing."})

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Raises TypeError for names that are no fields, all at once, with where those of TRL's are told."""
        options = [field.name for field in fields(cls) if field.init]
        if unknown := {name: value for name, value in kwargs.items() if name not in options}:
            raise TypeError(f"{cls.__name__}: {_no_fields(unknown, options)}")
        return super().__new__(cls)

    def __post_init__(self) -> None:
        for name in ("ref_model_mixup_alpha", "ref_model_sync_steps"):
            if not self.sync_ref_model and self.differs(name):
                raise ValueError(f"{name} is read only with sync_ref_model; set that to true, or leave {name} out")
        for argument in fields(self):
            value, choices = getattr(self, argument.name), argument.metadata.get("choices")
            if choices and isinstance(value, str) and value not in choices:
                raise ValueError(
                    f"{argument.name}: {value!r} is none of {', '.join(choices)}.{did_you_mean(value, choices)}"
                )
        if self.output_dir is not None and not (str(self.output_dir) and str(self.output_dir).isprintable()):
            raise ValueError(
                f"output_dir: {self.output_dir!r} is empty, or holds a character that does not print; "
                "choose another name"
            )
        reject_out_of_range(self)
        reject_unknown_options(self.model_init_kwargs or {})
        try:
            self.encoding  # noqa: B018  its own checks
        except ValidationError as error:
            raise ValueError("; ".join(explain(error, EncodingConfig))) from error
        reports = getattr(self, "report_to", None)
        self.report_to: Any = [] if reports is None else reports
        settle_launch(self)
        settle(self)
        # Trainer would drop the data set's columns, since the collator reads them and the model's forward does not.
        self.remove_unused_columns = False
        # Trainer would read every loss twice from the device, to replace what is not finite and stops the run here.
        self.logging_nan_inf_filter = False
        if not torch.accelerator.is_available():
            self.dataloader_pin_memory = False  # there is no device to copy to, and torch would warn
        try:
            super().__post_init__()
        except json.JSONDecodeError as error:
            raise ValueError(f"an argument that is JSON cannot be read ({error}): {error.doc!r}; mend it") from error
        reject_unusable(self)
        reject_lone_processes(self)
        reject_uneven_loaders(self)
        settle_zero(self)

    @property
    def should_save(self) -> bool:
        """TrainingArguments': whether this process writes files. In a dry run none does."""
        return not self.dry_run and bool(super().should_save)

    def differs(self, name: str) -> bool:
        """Whether a field differs from its default."""
        return bool(getattr(self, name) != type(self).__dataclass_fields__[name].default)

    def without_tokens(self) -> Self:
        """A copy that may be written to a file: without the tokens of the hub."""
        other = copy.copy(self)
        other.__dict__.update(without_tokens(vars(self)))
        return other

    def to_dict(self) -> dict[str, Any]:
        """TrainingArguments', which reports get: without the token of `model_init_kwargs` too."""
        return without_tokens(super().to_dict(), "<TOKEN>")

    @property
    def encoding(self) -> EncodingConfig:
        """How pairs become token ids."""
        return EncodingConfig(
            max_length=self.max_length,
            max_prompt_length=self.max_prompt_length,
            on_too_long=self.on_too_long,
            chat_template_kwargs=self.chat_template_kwargs or {},
        )


def _no_fields(unknown: Mapping[str, Any], options: list[str]) -> str:
    """What to do about arguments that have no field: the nearest name, or the command that tells of TRL's settings."""
    hints = {name: did_you_mean(name, options) for name in unknown}
    text = "no such field: " + ", ".join(f"{name} ({hint.strip()})" if hint else name for name, hint in hints.items())
    if all(hints.values()):
        return text
    flags = " ".join(f"--{name} {_flag(value)}" for name, value in without_tokens(unknown, "TOKEN").items())
    return (
        f"{text}. A loss and its settings are the objective's: PreferenceTrainer(objective=zoo.dpo(beta=0.1)). What "
        f"each setting of TRL's is here: `prefopt migrate --model_name_or_path MODEL --dataset_name DATA {flags}`"
    )


def _flag(value: object) -> str:
    """A value as the command line has it."""
    values = value if isinstance(value, list | tuple) else [value]
    return " ".join(shlex.quote(str(part).lower() if isinstance(part, bool) else str(part)) for part in values)


def training_arguments(values: Mapping[str, Any], elsewhere: Mapping[str, str]) -> dict[str, Any]:
    """Fields of PreferenceConfig from a file, converted to their declared types.

    elsewhere  fields that the file sets in another section -> which, such as "belongs under `data`"
    Raises ValueError for these, for unknown names and for values of another type.
    """
    hints = get_type_hints(PreferenceConfig)
    names = sorted({field.name for field in fields(PreferenceConfig) if field.init} - set(elsewhere))
    flags = {field.name: field.default for field in fields(PreferenceConfig) if field.metadata.get("const") is True}
    arguments = {}
    for name, value in values.items():
        if name in flags and isinstance(value, bool) and bool not in get_args(hints[name]):  # but of older words alone
            arguments[name] = value or flags[name]
            continue
        if name in elsewhere:
            raise ValueError(f"{name} {elsewhere[name]}")
        if name not in names:
            raise ValueError(f"{name}: no such training argument.{did_you_mean(name, names)}")
        reject_bool(value, hints[name], field=name)
        try:
            arguments[name] = _convert(TypeAdapter(hints[name]), value)
        except ValidationError as error:
            raise ValueError(f"{name}: {problem_of(error.errors()[0])}, got {value!r}") from error
    return arguments


def _convert(adapter: TypeAdapter[Any], value: object) -> Any:
    """The value in the declared type. YAML reads `no` and `true` as booleans where the type is a string."""
    try:
        return adapter.validate_python(value)
    except ValidationError:
        if not isinstance(value, bool):
            raise
        return adapter.validate_python("true" if value else "no")
