"""The arguments of a preference-training run: transformers' TrainingArguments and what prefopt adds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, get_type_hints

import torch
from pydantic import TypeAdapter, ValidationError
from transformers import TrainingArguments

from prefopt.data import EncodingConfig, OnBadRows
from prefopt.scoring.lm_head.token_statistics import DEFAULT_BUDGET
from prefopt.validation import did_you_mean

__all__ = ["PreferenceConfig", "training_arguments"]


@dataclass
class PreferenceConfig(TrainingArguments):
    """TrainingArguments, all of which work, and these fields.

    max_length, max_prompt_length  in tokens; the prompt is cut from the left first, then the responses from the right
    on_bad_rows                    "stop", or "quarantine": set unusable rows aside in OUTPUT_DIR/quarantine-*.jsonl
    columns                        our field -> the data set's column, where the names differ; extra columns' fields too
    mask_learning_rate             of the objective's own parameters; None: `learning_rate`
    mask_weight_decay              of their weight matrices; biases and norms have none
    sync_ref_model                 TR-DPO: every ref_model_sync_steps steps the reference turns ref_model_mixup_alpha
                                   of the policy and the rest of itself (see `ReferenceUpdate`)
    logits_budget_mb               MiB of logits that may be kept for backward; the rest are computed again
    reference_cache                a folder to keep what the reference says in, so that it is asked once (see `fill`)
    shared_prefix                  the two responses of a pair may share a row, whose prompt is then computed once
    model_init_kwargs              for `from_pretrained`, where a model is given by name

    torch_compile, with its backend and mode, compiles models and objective (see `PreferenceModel.compile`).
    Defaults that differ from TrainingArguments: learning_rate 1e-6 and logging_steps 10, as is usual for preferences.
    """

    learning_rate: float = field(default=1e-6, metadata={"help": "Learning rate of the policy."})
    logging_steps: float = field(default=10, metadata={"help": "Log every so many steps, or this share of them."})
    max_length: int | None = field(default=1024, metadata={"help": "Most tokens of prompt and response together."})
    max_prompt_length: int | None = field(default=None, metadata={"help": "Most tokens of the prompt."})
    on_bad_rows: OnBadRows = field(default="stop", metadata={"help": "'stop' or 'quarantine'."})
    columns: dict[str, str] | None = field(default=None, metadata={"help": "Our field -> the data set's column."})
    mask_learning_rate: float | None = field(default=None, metadata={"help": "Of the objective's own parameters."})
    mask_weight_decay: float = field(default=0.01, metadata={"help": "Of the objective's own weight matrices."})
    sync_ref_model: bool = field(default=False, metadata={"help": "Let the reference follow the policy (TR-DPO)."})
    ref_model_mixup_alpha: float = field(default=0.6, metadata={"help": "The policy's share in an updated reference."})
    ref_model_sync_steps: int = field(default=512, metadata={"help": "Steps between updates of the reference."})
    logits_budget_mb: int = field(default=DEFAULT_BUDGET // 2**20, metadata={"help": "MiB of logits kept."})
    reference_cache: str | None = field(default=None, metadata={"help": "Folder for what the reference says."})
    shared_prefix: bool = field(default=True, metadata={"help": "Compute the prompt of a pair once."})
    model_init_kwargs: dict[str, Any] | None = field(default=None, metadata={"help": "For from_pretrained."})

    def __post_init__(self) -> None:
        for name in ("ref_model_mixup_alpha", "ref_model_sync_steps"):
            if not self.sync_ref_model and self.differs(name):
                raise ValueError(f"{name} is read only with sync_ref_model; set that to true, or leave {name} out")
        # Trainer would drop the columns of the data set, whose names are the collator's business and not the model's.
        self.remove_unused_columns = False
        if not torch.accelerator.is_available():
            self.dataloader_pin_memory = False  # there is no device memory to copy to, and torch would warn of it
        super().__post_init__()

    def differs(self, name: str) -> bool:
        """Whether a field has another value than its default."""
        return bool(getattr(self, name) != type(self).__dataclass_fields__[name].default)

    @property
    def encoding(self) -> EncodingConfig:
        """How pairs become token ids."""
        return EncodingConfig(max_length=self.max_length, max_prompt_length=self.max_prompt_length)


def training_arguments(given: Mapping[str, Any], elsewhere: Mapping[str, str]) -> dict[str, Any]:
    """The fields of PreferenceConfig that are given, as they are declared.

    elsewhere  fields that may not be given here -> what is to be said of them, such as "belongs under `data`"
    Raises ValueError for these, for names that PreferenceConfig does not have, and for values of another type.
    """
    hints = get_type_hints(PreferenceConfig)
    names = sorted({field.name for field in fields(PreferenceConfig) if field.init} - set(elsewhere))
    checked = {}
    for name, value in given.items():
        if name in elsewhere:
            raise ValueError(f"{name} {elsewhere[name]}")
        if name not in names:
            raise ValueError(f"{name}: no such training argument.{did_you_mean(name, names)}")
        try:
            checked[name] = _as_declared(hints[name], value)
        except ValidationError as error:
            raise ValueError(f"{name}: {error.errors()[0]['msg']}, got {value!r}") from error
    return checked


def _as_declared(hint: Any, value: object) -> Any:
    """The value as the argument's type has it. YAML takes `no` and `true` for truth values where words are meant."""
    adapter = TypeAdapter(hint)
    try:
        return adapter.validate_python(value)
    except ValidationError:
        if not isinstance(value, bool):
            raise
        return adapter.validate_python("true" if value else "no")
