"""What becomes of every field of transformers' TrainingArguments: works, is refused, or has no effect."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import MISSING
from enum import StrEnum
from typing import NamedTuple, final

from transformers import TrainingArguments

from prefopt.training.argument_conditions import CONDITIONS, reject_optimizer_options

_LOG = logging.getLogger(__name__)


@final
class Treatment(StrEnum):
    """Of a field that differs from its default."""

    WORKS = "works"
    HANDED_ON = "is handed to transformers as it is"
    REFUSED = "is refused"
    NO_EFFECT = "has no effect, and the log says so"


class Argument(NamedTuple):
    """What becomes of a field, and why or how."""

    treatment: Treatment
    remark: str = ""


_FULL_EVAL = (
    "it would turn the policy into half precision for good, also as it is saved. Load the model so "
    "(model_init_kwargs: {dtype: bfloat16}), or train with bf16"
)
_LIGER = "it would patch no part of the step. Apply liger-kernel to the models before, without its fused cross-entropy"

_WORKS = """output_dir per_device_train_batch_size num_train_epochs max_steps learning_rate lr_scheduler_type
lr_scheduler_kwargs warmup_steps optim optim_args weight_decay adam_beta1 adam_beta2 adam_epsilon
gradient_accumulation_steps max_grad_norm bf16 activation_checkpointing activation_checkpointing_kwargs
gradient_checkpointing gradient_checkpointing_kwargs torch_compile torch_compile_backend torch_compile_mode
torch_empty_cache_steps auto_find_batch_size logging_strategy logging_steps logging_first_step log_on_each_node
log_level_replica disable_tqdm report_to run_name eval_strategy eval_steps eval_delay per_device_eval_batch_size
eval_on_start eval_use_gather_object save_only_model save_strategy save_steps save_on_each_node save_total_limit
enable_jit_checkpoint load_best_model_at_end metric_for_best_model greater_is_better ignore_data_skip
restore_callback_states_from_checkpoint full_determinism seed data_seed use_cpu accelerator_config dataloader_drop_last
dataloader_num_workers dataloader_persistent_workers dataloader_prefetch_factor dataloader_multiprocessing_context
dataloader_in_order debug log_level skip_memory_metrics ddp_bucket_cap_mb ddp_broadcast_buffers
ddp_find_unused_parameters ddp_backend""".split()

_ON_OTHER_MACHINES = dict.fromkeys(("fp16", "tf32", "ddp_timeout", "fsdp", "fsdp_config"), "accelerators") | {
    **dict.fromkeys(("project", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id"), "Trackio"),
    "deepspeed": "DeepSpeed",
}
"""Fields whose effect the tests cannot see -> what shows it, which is not where they run."""

ARGUMENTS: Mapping[str, Argument] = {
    **dict.fromkeys(_WORKS, Argument(Treatment.WORKS)),
    **{
        name: Argument(Treatment.HANDED_ON, f"tests cannot see the effect, which takes {part}")
        for name, part in _ON_OTHER_MACHINES.items()
    },
    "dataloader_pin_memory": Argument(Treatment.WORKS, "false in any case where there is no accelerator to copy to"),
    "include_num_input_tokens_seen": Argument(
        Treatment.WORKS, "`all` counts every position of a batch, `non_padding` prompt, chosen and rejected response"
    ),
    **dict.fromkeys(
        (*("prediction_loss_only", "eval_do_concat_batches", "eval_accumulation_steps"), "batch_eval_metrics"),
        Argument(Treatment.WORKS, "for `predict` and `compute_metrics`; see [Metrics](metrics.md)"),
    ),
    "include_for_metrics": Argument(Treatment.WORKS, "`loss` is handed to `compute_metrics`"),
    "resume_from_checkpoint": Argument(Treatment.WORKS, "a folder, or `true` for the last one in output_dir"),
    "train_sampling_strategy": Argument(Treatment.WORKS, "lengths are those of prompt and longer response"),
    "remove_unused_columns": Argument(Treatment.WORKS, "false in any case: the collator reads the columns"),
    "logging_nan_inf_filter": Argument(Treatment.WORKS, "false in any case: what is not finite stops the run"),
    "label_smoothing_factor": Argument(
        Treatment.REFUSED, "it smooths the labels of a cross-entropy. Use the objective cdpo, with its label_smoothing"
    ),
    "neftune_noise_alpha": Argument(
        Treatment.REFUSED, "noise on the policy's embeddings would be part of every log-ratio, as dropout would"
    ),
    "bf16_full_eval": Argument(Treatment.REFUSED, _FULL_EVAL),
    "fp16_full_eval": Argument(Treatment.REFUSED, _FULL_EVAL),
    "use_liger_kernel": Argument(Treatment.REFUSED, _LIGER),
    "liger_kernel_config": Argument(Treatment.REFUSED, _LIGER),
    **dict.fromkeys(
        ("push_to_hub", "hub_strategy", "hub_always_push"),
        Argument(Treatment.WORKS, "what is uploaded, and what not: see Share a policy"),
    ),
    **dict.fromkeys(
        ("hub_model_id", "hub_token", "hub_revision", "hub_private_repo"),
        Argument(Treatment.WORKS, "read with push_to_hub, and by `trainer.push_to_hub()`"),
    ),
    "parallelism_config": Argument(
        Treatment.REFUSED, "a batch of pairs cannot be split along its tokens. Spread the models themselves (FSDP2)"
    ),
    "length_column_name": Argument(Treatment.REFUSED, "prepared data has its lengths in the column `length`"),
    "optim_target_modules": Argument(
        Treatment.REFUSED,
        "GaLore and APOLLO read it, whose groups of parameters would hold the reference's and masks' too",
    ),
    "ddp_static_graph": Argument(
        Treatment.REFUSED, "the graph of a step depends on its pairs (shared rows, groups), so gradients would be wrong"
    ),
    "local_rank": Argument(Treatment.NO_EFFECT, "the launcher tells each process its rank"),
    "average_tokens_across_devices": Argument(
        Treatment.NO_EFFECT, "losses are means over the pairs of the whole step, over all processes"
    ),
    "use_cache": Argument(Treatment.NO_EFFECT, "a step generates nothing, and samples take a cache in any case"),
    "label_names": Argument(Treatment.NO_EFFECT, "pairs have no labels"),
    **dict.fromkeys(
        ("do_train", "do_eval", "do_predict"),
        Argument(
            Treatment.NO_EFFECT, "training is `train()`; evaluation needs data, and eval_strategy to come in between"
        ),
    ),
}
"""Field -> what becomes of it. A test compares it with the installed transformers."""


def objection(name: str, value: object) -> Argument | None:
    """What becomes of a field with this value, where it is refused or has no effect; None where it works."""
    argument = ARGUMENTS[name]
    works = argument.treatment in (Treatment.WORKS, Treatment.HANDED_ON)
    return argument if not works and _is_set(name, value) else None


def settle(arguments: TrainingArguments) -> None:
    """Raise ValueError for a field that is set and refused; log those that have no effect."""
    reject_optimizer_options(arguments)
    for name in ARGUMENTS:
        value = getattr(arguments, name)
        argument = objection(name, value) or _unmet(name, value, arguments)
        if argument is not None and argument.treatment is Treatment.REFUSED:
            raise ValueError(f"{name} is refused: {argument.remark}")
        if argument is not None:
            _LOG.warning("%s has no effect: %s", name, argument.remark)


def _is_set(name: str, value: object) -> bool:
    field = TrainingArguments.__dataclass_fields__[name]
    default = field.default if field.default_factory is MISSING else field.default_factory()
    return value is not None and value != default


def _unmet(name: str, value: object, arguments: TrainingArguments) -> Argument | None:
    """What becomes of a field that is set, where what it needs is not there."""
    condition = CONDITIONS.get(name)
    if condition is None or not _is_set(name, value) or condition.holds(arguments):
        return None
    return Argument(Treatment.REFUSED if condition.remedy else Treatment.NO_EFFECT, condition.remark)


def markdown() -> str:
    """The table of all fields, by what becomes of them."""
    rows: dict[str, list[str]] = {}
    for treatment in Treatment:
        for name, argument in sorted(ARGUMENTS.items()):
            if argument.treatment is treatment:
                words = f"{treatment}: {argument.remark}" if argument.remark else str(treatment)
                if condition := CONDITIONS.get(name):
                    otherwise = Treatment.REFUSED if condition.remedy else Treatment.NO_EFFECT
                    remedy = f" ({condition.remedy})" if condition.remedy else ""
                    words += f". It needs {condition.needs}; without, it {otherwise}{remedy}"
                rows.setdefault(words, []).append(f"`{name}`")
    return "\n".join(
        ["| field | |", "|---|---|", *(f"| {', '.join(names)} | {words} |" for words, names in rows.items())]
    )
