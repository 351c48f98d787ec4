"""Every field of TrainingArguments works, is refused, or has no effect and says so."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, TrainingArguments

from prefopt import zoo
from prefopt.training import PreferenceConfig, PreferenceTrainer
from prefopt.training.argument_conditions import CONDITIONS
from prefopt.training.arguments import ARGUMENTS, Treatment, markdown
from prefopt.training.config import training_arguments
from prefopt.training.migration import Outcome, migrate
from prefopt.training.processes import reject_lone_processes, reject_uneven_loaders, settle_launch, settle_zero
from tests.training.test_trainer import config

REFUSED: dict[str, Any] = {
    "label_smoothing_factor": 0.1,
    "neftune_noise_alpha": 5.0,
    "bf16_full_eval": True,
    "fp16_full_eval": True,
    "use_liger_kernel": True,
    "liger_kernel_config": {"rope": True},
    "parallelism_config": {"cp_size": 2},
    "length_column_name": "size",
    "optim_target_modules": "all-linear",
    "ddp_static_graph": True,
}

NO_EFFECT: dict[str, Any] = {
    "local_rank": 1,
    "average_tokens_across_devices": False,
    "use_cache": True,
    "label_names": ["labels"],
    "do_train": True,
    "do_eval": True,
    "do_predict": True,
}

RUNS: dict[str, dict[str, Any]] = {
    "schedule": {
        "lr_scheduler_type": "cosine_with_min_lr",
        "lr_scheduler_kwargs": {"min_lr": 1e-3},
        "warmup_steps": 1,
        "optim": "adamw_torch",
        "weight_decay": 0.1,
        "adam_beta1": 0.8,
        "adam_beta2": 0.9,
        "adam_epsilon": 1e-6,
        "max_grad_norm": 0.5,
        "gradient_accumulation_steps": 2,
        "bf16": True,
        "dataloader_drop_last": True,
        "train_sampling_strategy": "group_by_length",
        "include_num_input_tokens_seen": "non_padding",
        "log_on_each_node": False,
        "log_level": "error",
        "log_level_replica": "error",
        "accelerator_config": {"even_batches": False},
        "torch_empty_cache_steps": 1,
        "debug": "underflow_overflow",
        "remove_unused_columns": False,
        "logging_nan_inf_filter": False,
    },
    "saving": {
        "per_device_train_batch_size": 4,
        "max_steps": -1,
        "num_train_epochs": 0.5,
        "optim": "sgd",
        "optim_args": "momentum=0.9",
        "logging_strategy": "steps",
        "logging_steps": 2,
        "logging_first_step": True,
        "run_name": "run",
        "report_to": "tensorboard",
        "eval_strategy": "steps",
        "eval_steps": 2,
        "eval_delay": 1,
        "eval_on_start": True,
        "eval_use_gather_object": True,
        "per_device_eval_batch_size": 3,
        "save_strategy": "steps",
        "save_steps": 2,
        "save_total_limit": 1,
        "save_only_model": True,
        "save_on_each_node": True,
        "enable_jit_checkpoint": True,
        "load_best_model_at_end": True,
        "metric_for_best_model": "rewards/accuracies",
        "greater_is_better": True,
        "data_seed": 3,
        "seed": 3,
        "full_determinism": True,
        "activation_checkpointing": True,
        "activation_checkpointing_kwargs": {"use_reentrant": False},
        "skip_memory_metrics": False,
    },
    "loading": {
        "dataloader_num_workers": 1,
        "dataloader_persistent_workers": True,
        "dataloader_prefetch_factor": 1,
        "dataloader_multiprocessing_context": "fork",
        "dataloader_in_order": False,
        "auto_find_batch_size": True,
    },
}

ELSEWHERE = {
    "output_dir": "every run",
    "learning_rate": "every run",
    "use_cpu": "every run",
    "disable_tqdm": "every run",
    "gradient_checkpointing": "transformers' own alias",
    "gradient_checkpointing_kwargs": "transformers' own alias",
    "torch_compile": "test_compiled",
    "torch_compile_backend": "test_compiled",
    "torch_compile_mode": "test_compiled",
    "resume_from_checkpoint": "below",
    "prediction_loss_only": "test_trainer_features",
    "eval_do_concat_batches": "test_trainer_features",
    "eval_accumulation_steps": "test_trainer_features",
    "include_for_metrics": "test_trainer_features",
    "batch_eval_metrics": "test_trainer_features",
    "ignore_data_skip": "below",
    "restore_callback_states_from_checkpoint": "below",
    "ddp_find_unused_parameters": "test_distributed",
    "ddp_bucket_cap_mb": "test_distributed",
    "ddp_broadcast_buffers": "test_distributed",
    "ddp_backend": "test_distributed",
    "dataloader_pin_memory": "below",
    **dict.fromkeys(
        """push_to_hub hub_strategy hub_always_push hub_model_id hub_token hub_revision hub_private_repo""".split(),
        "test_publishing",
    ),
}

HANDED_ON: dict[str, Any] = {
    "fp16": True,
    "tf32": True,
    "ddp_timeout": 60,
    "fsdp": True,
    "fsdp_config": {"version": 2, "cpu_offload": True},
    "project": "pairs",
    "trackio_space_id": "a/b",
    "trackio_bucket_id": "a/c",
    "trackio_static_space_id": False,
    "deepspeed": {"zero_optimization": {"stage": 2}},
}

UNREAD: dict[str, dict[str, Any]] = {
    "run_name": {"run_name": "pairs"},
    "ddp_timeout": {"ddp_timeout": 60},
    "ddp_bucket_cap_mb": {"ddp_bucket_cap_mb": 1},
    "ddp_broadcast_buffers": {"ddp_broadcast_buffers": False},
    "ddp_find_unused_parameters": {"ddp_find_unused_parameters": False},
    "fsdp_config": {"fsdp_config": {"version": 2}},
    "project": {"project": "pairs"},
    "trackio_space_id": {"trackio_space_id": "a/b", "report_to": "tensorboard"},
    "trackio_bucket_id": {"trackio_bucket_id": "a/b"},
    "trackio_static_space_id": {"trackio_static_space_id": False},
    "hub_strategy": {"hub_strategy": "end"},
    "hub_always_push": {"hub_always_push": True},
    "activation_checkpointing_kwargs": {"activation_checkpointing_kwargs": {"use_reentrant": False}},
    "gradient_checkpointing_kwargs": {"gradient_checkpointing_kwargs": {"use_reentrant": False}},
    "eval_steps": {"eval_steps": 2},
    "eval_delay": {"eval_delay": 2},
    "eval_use_gather_object": {"eval_use_gather_object": True},
    "metric_for_best_model": {"metric_for_best_model": "loss"},
    "greater_is_better": {"greater_is_better": True},
    "save_total_limit": {"save_total_limit": 1},
    "save_steps": {"save_steps": 5},
    "warmup_steps": {"warmup_steps": 2, "lr_scheduler_type": "constant"},
    "lr_scheduler_kwargs": {"lr_scheduler_kwargs": {"min_lr": 0.1}, "lr_scheduler_type": "constant_with_warmup"},
    "num_train_epochs": {"num_train_epochs": 2.0},
    "optim_args": {"optim_args": "momentum=0.9"},
    "adam_beta1": {"adam_beta1": 0.8, "optim": "sgd"},
    "adam_beta2": {"adam_beta2": 0.8, "optim": "adafactor"},
    "adam_epsilon": {"adam_epsilon": 1e-3, "optim": "rmsprop"},
}

NOT_HERE: dict[str, dict[str, Any]] = {
    "fp16": {"fp16": True},
    "tf32": {"tf32": True},
    "include_for_metrics": {"include_for_metrics": ["inputs"]},
    "optim": {"optim": "galore_adamw"},
    "ddp_backend": {"ddp_backend": "gloo"},
    "fsdp": {"fsdp": True},
}


def test_every_field_of_the_installed_transformers_has_its_treatment() -> None:
    assert set(ARGUMENTS) == {field.name for field in dataclasses.fields(TrainingArguments)}
    names = {treatment: {n for n, a in ARGUMENTS.items() if a.treatment is treatment} for treatment in Treatment}
    assert names[Treatment.REFUSED] == set(REFUSED)
    assert names[Treatment.NO_EFFECT] == set(NO_EFFECT)
    assert names[Treatment.HANDED_ON] == set(HANDED_ON)
    assert set(CONDITIONS) == {*UNREAD, *NOT_HERE, "deepspeed"}
    assert names[Treatment.WORKS] == {name for run in RUNS.values() for name in run} | set(ELSEWHERE)
    assert all(f"`{name}`" in markdown() for name in ARGUMENTS)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str, out: str) -> None:
    with pytest.raises(ValueError, match=f"^{name} is refused: "):
        config(out, **{name: REFUSED[name]})


def test_what_has_no_effect_says_so(out: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "prefopt"):
        config(out)
        assert caplog.messages == []
        config(out, **NO_EFFECT)
    assert {message.partition(" has no effect: ")[0] for message in caplog.messages} == set(NO_EFFECT)


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_kwargs` is deprecated:FutureWarning")
@pytest.mark.parametrize("name", UNREAD)
def test_what_needs_another_field_says_so(name: str, out: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "prefopt"):
        config(out, **UNREAD[name])
    (message,) = caplog.messages
    assert message.startswith(f"{name} has no effect: it needs ")


@pytest.mark.parametrize("name", NOT_HERE)
def test_what_needs_another_machine_is_refused(name: str, out: str) -> None:
    with pytest.raises(ValueError, match=rf"^{name} is refused: it needs [^\n]*; [^\n]*$"):
        config(out, **NOT_HERE[name])


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("momentum", "found 'momentum'; write it as name=value"),
        ("momentum=0.9,alpha=1", "sgd reads momentum, dampening, nesterov, not alpha"),
        ("weight_decay=0.1", "not weight_decay; leave it out, or set the training argument of that name"),
    ],
)
def test_options_that_an_optimizer_does_not_read(text: str, problem: str, out: str) -> None:
    with pytest.raises(ValueError, match=f"^optim_args: .*{problem}"):
        config(out, optim="sgd", optim_args=text)


def test_nothing_to_report_to(out: str) -> None:
    assert config(out, report_to=None).report_to == config(out, report_to=[]).report_to == []


def test_deepspeed_without_its_package(out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"^deepspeed is refused: it needs the package deepspeed; install it"):
        config(out, deepspeed=HANDED_ON["deepspeed"])


def test_what_is_handed_on_reaches_transformers(out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prefopt.training.arguments.CONDITIONS", {})
    seen: dict[str, Any] = {}
    monkeypatch.setattr(TrainingArguments, "__post_init__", lambda self: seen.update(vars(self)))
    config(out, report_to=[], **HANDED_ON)
    assert {name: seen[name] for name in HANDED_ON} == HANDED_ON


def test_memory_is_pinned_where_there_is_an_accelerator(out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TrainingArguments, "__post_init__", lambda self: None)
    assert not config(out, report_to=[]).dataloader_pin_memory
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    assert config(out, report_to=[]).dataloader_pin_memory
    assert not config(out, report_to=[], dataloader_pin_memory=False).dataloader_pin_memory


def test_names_that_are_no_fields_are_told_all_at_once_and_the_command_that_knows_those_of_trl(out: str) -> None:
    with pytest.raises(TypeError) as caught:
        PreferenceConfig(out, beta=0.1, loss_type=["sigmoid", "sft"], wandb_token="x", learning_rte=1)  # type: ignore[call-arg]
    told = str(caught.value)
    assert told.startswith("PreferenceConfig: no such field: beta, loss_type, wandb_token (")
    assert "DATA --beta 0.1 --loss_type sigmoid sft --wandb_token TOKEN --learning_rte 1`" in told
    with pytest.raises(TypeError, match=r"^PreferenceConfig: no such field: learning_rte \(Did you mean .*\)$"):
        PreferenceConfig(out, learning_rte=1)  # type: ignore[call-arg]
    assert dataclasses.replace(config(out, seed=3)).seed == 3


def test_a_migrated_run_leaves_out_what_would_be_refused() -> None:
    migration = migrate({"model_name_or_path": "m", "dataset_name": "d", "neftune_noise_alpha": 5.0, "do_eval": True})
    assert {"neftune_noise_alpha", "do_eval"}.isdisjoint(migration.run.get("training", {}))
    notes = {note.setting: note for note in migration.notes}
    assert notes["neftune_noise_alpha"].text.startswith("it is refused: noise")
    assert {notes[name].outcome for name in ("neftune_noise_alpha", "do_eval")} == {Outcome.NO_COUNTERPART}


@pytest.fixture(scope="module")
def train(model_folder: str, rows: list[dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Any:
    def carry_out(**settings: Any) -> PreferenceTrainer:
        args = config(str(tmp_path_factory.mktemp("run")), **{"max_steps": 2} | settings)
        data = {"train_dataset": rows[:24], "eval_dataset": rows[24:]}
        trainer = PreferenceTrainer(model_folder, objective=zoo.dpo(), args=args, **data)
        trainer.train()
        return trainer

    return carry_out


@pytest.mark.slow
def test_schedule_optimizer_and_precision(train: Any) -> None:
    trainer = train(**RUNS["schedule"])
    group = trainer.optimizer.param_groups[0]
    assert (group["betas"], group["eps"], group["weight_decay"]) == ((0.8, 0.9), 1e-6, 0.1)
    assert [entry["learning_rate"] for entry in trainer.state.log_history[:2]] == pytest.approx([0.0, 1e-2])
    tokens = sum(
        len(row[side]) for row in trainer.train_dataset for side in ("prompt_ids", "chosen_ids", "rejected_ids")
    )
    seen = trainer.state.log_history[-1]["num_input_tokens_seen"]
    assert 0 < seen == trainer.state.num_input_tokens_seen
    assert trainer.state.global_step == 2
    assert seen == tokens  # the two steps are an epoch, of 16 pairs and of the 8 that are left
    assert all(torch.isfinite(p).all() for p in trainer.model.policy.parameters())


def test_positions_are_counted_with_their_padding(train: Any) -> None:
    trainer = train(include_num_input_tokens_seen="all", per_device_train_batch_size=24, max_steps=1)
    longest = [
        max(len(row[f"{part}_ids"]) for row in trainer.train_dataset) for part in ("prompt", "chosen", "rejected")
    ]
    assert trainer.state.num_input_tokens_seen == 24 * sum(longest)


@pytest.mark.slow
def test_logs_evaluations_and_checkpoints(train: Any) -> None:
    trainer = train(**RUNS["saving"])
    torch.use_deterministic_algorithms(False)  # full_determinism sets it for the process
    evaluated = [entry["step"] for entry in trainer.state.log_history if "eval_loss" in entry]
    logged = [entry["step"] for entry in trainer.state.log_history if "loss" in entry]
    assert (evaluated, logged) == ([0, 2, 3], [1, 2])
    folder = Path(trainer.args.output_dir)
    (checkpoint,) = folder.glob("checkpoint-*")
    assert checkpoint.name == "checkpoint-2"
    assert not (checkpoint / "optimizer.pt").exists()
    assert trainer.state.best_model_checkpoint == str(checkpoint)
    assert json.loads((checkpoint / "trainer_state.json").read_text())["best_global_step"] == 2


def test_loading_data_in_other_processes(train: Any) -> None:
    assert train(**RUNS["loading"]).state.global_step == 2


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [{}, {"ignore_data_skip": True, "restore_callback_states_from_checkpoint": True}])
def test_the_arguments_checkpoint_is_resumed(
    arguments: dict[str, Any], model_folder: str, rows: list[dict[str, str]], out: str
) -> None:
    saved = {"save_strategy": "steps", "save_steps": 2}
    PreferenceTrainer(
        model_folder, objective=zoo.dpo(), args=config(out, max_steps=2, **saved), train_dataset=rows
    ).train()
    args = config(out, max_steps=3, resume_from_checkpoint="true", **saved, **arguments)
    trainer = PreferenceTrainer(model_folder, objective=zoo.dpo(), args=args, train_dataset=rows)
    trainer.train()
    assert [entry["step"] for entry in trainer.state.log_history if "loss" in entry] == [1, 2, 3]
    assert trainer._initial_global_step == 2


def _model(tokenizer: PreTrainedTokenizerFast, **changes: Any) -> LlamaForCausalLM:
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(**{"vocab_size": len(tokenizer), **shape, **changes}))


def test_a_token_that_a_model_does_not_have_is_named_before_training(
    tokenizer: PreTrainedTokenizerFast, rows: list[dict[str, str]], out: str
) -> None:
    highest = max(tokenizer(rows[0]["prompt"] + rows[0]["chosen"])["input_ids"])
    policy = _model(tokenizer)
    for smaller in ("policy", "reference"):
        models = [_model(tokenizer, vocab_size=highest), policy]
        pair = models if smaller == "policy" else models[::-1]
        with pytest.raises(
            ValueError, match=rf"row 0 of train: it has token id \d+, but the {smaller} \(LlamaForCausalLM\) has"
        ):
            PreferenceTrainer(
                *pair, objective=zoo.dpo(), args=config(out), train_dataset=rows, processing_class=tokenizer
            )


def test_a_reference_with_another_tokenizer_is_refused(
    model_folder: str, tokenizer: PreTrainedTokenizerFast, rows: list[dict[str, str]], out: str, tmp_path: Path
) -> None:
    _model(tokenizer).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    make = {"objective": zoo.dpo(), "args": config(out), "train_dataset": rows}
    PreferenceTrainer(model_folder, str(tmp_path), **make)
    file = tmp_path / "tokenizer.json"
    text = json.loads(file.read_text())
    vocabulary = text["model"]["vocab"]
    vocabulary["good"], vocabulary["bad"] = vocabulary["bad"], vocabulary["good"]
    file.write_text(json.dumps(text))
    with pytest.raises(ValueError, match=r"has another tokenizer: '(good|bad)' is its token"):
        PreferenceTrainer(model_folder, str(tmp_path), **make)


def test_one_process_and_several_gpus(model_folder: str, rows: list[dict[str, str]], out: str) -> None:
    args: PreferenceConfig = config(out)
    args._n_gpu = 2
    with pytest.raises(ValueError, match="one process sees 2 GPUs"):
        PreferenceTrainer(model_folder, objective=zoo.dpo(), args=args, train_dataset=rows)


def test_a_reference_of_another_shape_cannot_follow_the_policy(
    tokenizer: PreTrainedTokenizerFast, rows: list[dict[str, str]], out: str
) -> None:
    models = [_model(tokenizer), _model(tokenizer, intermediate_size=8)]
    make = {"objective": zoo.dpo(), "train_dataset": rows, "processing_class": tokenizer}
    with pytest.raises(
        ValueError, match=r"sync_ref_model needs a reference of the policy's shape, and .* is \[8, 16\] in"
    ):
        PreferenceTrainer(*models, args=config(out, sync_ref_model=True), **make)
    PreferenceTrainer(*models, args=config(out), **make)


def test_more_processes_than_train_together_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    reject_lone_processes(SimpleNamespace(world_size=2))
    with pytest.raises(ValueError, match=r"2 processes were started, .*only 1 would train together, .*use_cpu: true"):
        reject_lone_processes(SimpleNamespace(world_size=1))


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("dispatch_batches", True, "batches of pairs have their own lengths"),
        ("split_batches", True, "per_device_train_batch_size is of one process"),
        ("even_batches", False, "one with a batch more than the others would wait"),
    ],
)
def test_loaders_that_several_processes_cannot_have_are_refused(
    name: str, value: bool, why: str, out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    args, usual = (config(out, accelerator_config=loaders) for loaders in ({name: value}, None))
    monkeypatch.setenv("WORLD_SIZE", "2")
    several = SimpleNamespace(world_size=2, accelerator_config=args.accelerator_config)
    with pytest.raises(ValueError, match=f"^accelerator_config: {name} is {value} on several processes, and {why}"):
        reject_uneven_loaders(several)
    reject_uneven_loaders(SimpleNamespace(world_size=2, accelerator_config=usual.accelerator_config))


def test_what_a_launchers_configuration_asks_for_is_the_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    args = PreferenceConfig(str(tmp_path), use_cpu=True, report_to="none")
    assert args.bf16
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(ValueError, match=r"^max_skipped_steps: DeepSpeed takes the step before"):
        PreferenceConfig(str(tmp_path), use_cpu=True, report_to="none", max_skipped_steps=1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    with pytest.raises(
        ValueError, match=r"^deepspeed: its processes would wait for accelerators, and there are none; "
    ):
        PreferenceConfig(str(tmp_path), report_to="none")


def test_a_flag_that_is_declared_as_words_is_taken_as_a_flag() -> None:
    """`fsdp: true` of a run file became the word "true", which transformers does not know."""
    assert training_arguments({"fsdp": True}, {}) == {"fsdp": True}
    assert training_arguments({"fsdp": False}, {}) == {"fsdp": None}
    assert training_arguments({"fsdp": "full_shard"}, {}) == {"fsdp": "full_shard"}
    assert training_arguments({"activation_checkpointing": False}, {}) == {"activation_checkpointing": False}


def test_a_launcher_that_starts_one_process_of_several_is_named(
    out: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As accelerate's does on CPUs without MPI."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    config(out)
    assert not caplog.records
    monkeypatch.setenv("MASTER_PORT", "29500")
    config(out)
    assert "accelerate was to start several processes, and this is the only one" in caplog.text
    caplog.clear()
    monkeypatch.setenv("WORLD_SIZE", "1")  # as torchrun says
    config(out)
    assert not caplog.records


def test_an_operator_that_deepspeed_may_wait_for_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lock = tmp_path / "py311_cpu" / "deepspeed_shm_comm" / "lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    config(str(tmp_path / "run"))
    assert not caplog.records
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    settle_launch(SimpleNamespace(bf16=False, fp16=False, deepspeed=None, max_skipped_steps=0, use_cpu=True))
    assert f"{lock}: an operator is being built there, or was when its process was killed" in caplog.text


def test_a_launchers_deepspeed_that_is_absent_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ValueError, match=r"^deepspeed: the launcher's configuration asks for it, and the package is not"
    ):
        PreferenceConfig(str(tmp_path), use_cpu=True, report_to="none")


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("ACCELERATE_USE_PARALLELISM_CONFIG", "true", r"parallelism_config, of the launcher's .* along its tokens"),
        ("ACCELERATE_USE_MEGATRON_LM", "true", r"megatron_lm_config, of the launcher's .* along its tokens"),
        ("ACCELERATE_MIXED_PRECISION", "fp8", r"mixed_precision: fp8, of the launcher's .*; use bf16, or no"),
        ("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR", r"dynamo_config, of .* torch_compile_backend: inductor; set these"),
    ],
)
def test_what_no_step_reads_of_a_launchers_configuration_is_refused(
    variable: str, value: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValueError, match=f"^{message}"):
        PreferenceConfig(str(tmp_path), use_cpu=True, report_to="none")


def test_a_compiler_that_the_run_names_as_well_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "EAGER")
    args = PreferenceConfig(str(tmp_path), use_cpu=True, report_to="none", torch_compile_backend="eager")
    assert args.torch_compile


@pytest.mark.parametrize("name", ["FSDP", "DEEPSPEED"])
def test_options_of_copies_have_no_effect_where_a_launcher_spreads_the_model(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    arguments: Any = SimpleNamespace(fsdp=None, deepspeed=None)
    assert CONDITIONS["ddp_bucket_cap_mb"].holds(arguments)
    monkeypatch.setenv(f"ACCELERATE_USE_{name}", "true")
    assert not CONDITIONS["ddp_bucket_cap_mb"].holds(arguments)


def test_a_reference_that_would_not_follow_under_zero_3_is_refused() -> None:
    plugin = SimpleNamespace(zero_stage=3, deepspeed_config={"zero_optimization": {}})
    args = SimpleNamespace(deepspeed_plugin=plugin, reference_cache=None, sync_ref_model=True)
    with pytest.raises(ValueError, match=r"^sync_ref_model: under ZeRO-3 no process has weights to interpolate"):
        settle_zero(args)
    plugin.zero_stage = 2
    settle_zero(args)
