"""Whole recipes, in the style of the alignment-handbook, TRL, axolotl and LLaMA-Factory, as run files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from prefopt import zoo
from prefopt.training import RunFile
from prefopt.training.migration import Migration, Outcome, migrate

_COMMON = """
bf16: true
gradient_accumulation_steps: 2
gradient_checkpointing: true
gradient_checkpointing_kwargs: {use_reentrant: false}
logging_steps: 10
lr_scheduler_type: cosine
num_train_epochs: 1
per_device_train_batch_size: 8
save_strategy: steps
save_steps: 100
save_total_limit: 1
seed: 42
"""

FULL = """
model_name_or_path: org/chat-sft
torch_dtype: null
dataset_mixer: {org/feedback: 1.0}
dataset_splits: [train_prefs, test_prefs]
preprocessing_num_workers: 12
beta: 0.01
do_eval: true
evaluation_strategy: steps
eval_steps: 100
hub_model_id: chat-dpo-full
learning_rate: 5.0e-7
max_length: 1024
max_prompt_length: 512
optim: adamw_torch
output_dir: data/chat-dpo-full
per_device_eval_batch_size: 8
push_to_hub: true
warmup_ratio: 0.1
"""

QLORA = """
model_name_or_path: org/chat-sft-qlora
torch_dtype: float16
use_peft: true
load_in_4bit: true
lora_r: 16
lora_alpha: 16
lora_dropout: 0.05
lora_target_modules: [q_proj, k_proj, v_proj, o_proj]
dataset_mixer: {org/feedback: 0.5, org/orca: 1.0}
dataset_splits: [train_prefs, test_prefs]
beta: 0.01
evaluation_strategy: steps
learning_rate: 5.0e-6
optim: paged_adamw_32bit
output_dir: data/chat-dpo-qlora
warmup_ratio: 0.1
"""

APO = """
model_name_or_path: org/small-checkpoints
model_revision: it-SFT
torch_dtype: bfloat16
attn_implementation: flash_attention_2
trust_remote_code: true
dataset_mixture:
  datasets:
    - {id: org/talk, config: Preference, split: no_think, columns: [chosen, rejected, prompt], weight: 0.5}
    - {id: org/talk, config: Preference, split: think, columns: [chosen, rejected, prompt], weight: 0.25}
dataset_num_proc: 12
do_eval: false
eval_strategy: 'no'
hub_strategy: every_save
learning_rate: 1.0e-06
lr_scheduler_type: cosine_with_min_lr
lr_scheduler_kwargs: {min_lr_rate: 0.1}
max_grad_norm: 0.2
beta: 0.05
loss_type: apo_zero
max_length: 24576
overwrite_output_dir: true
padding_free: true
report_to: [tensorboard]
run_name: small-apo
use_liger_kernel: true
warmup_ratio: 0.1
"""

ORPO = """
model_name_or_path: org/mixture
model_revision: main
torch_dtype: bfloat16
use_flash_attention_2: true
chat_template: "{% for message in messages %}{{ message['content'] }}{% endfor %}"
dataset_name: org/pairs-7k
dataset_train_split: train
dataset_num_proc: 8
beta: 0.05
hub_model_id: chat-orpo-8x
learning_rate: 5.0e-6
lr_scheduler_type: inverse_sqrt
max_length: 2048
max_prompt_length: 1792
optim: adamw_bnb_8bit
output_dir: data/chat-orpo-8x
save_strategy: "no"
warmup_steps: 100
"""

HELD_OUT = """
model_name_or_path: org/code-sft
dataset_mixture:
  datasets:
    - {id: org/feedback, config: default, split: train_prefs, columns: [chosen, rejected], weight: 1.0}
    - {id: org/orca, config: default, split: train_prefs, columns: [chosen, rejected], weight: 1.0}
  test_split_size: 2000
  seed: 0
beta: 0.05
eval_strategy: steps
eval_steps: 100
output_dir: data/code-dpo
warmup_ratio: 0.1
"""

IPO = """
model_name_or_path: org/chat-sft
dataset_mixer: data/own-pairs
dataset_splits: [train, test]
loss_type: ipo
beta: 0.1
evaluation_strategy: epoch
output_dir: data/scan-ipo
"""

CPO = """
model_name_or_path: org/chat-sft
dataset_name: org/pairs
loss_type: simpo
cpo_alpha: 0.5
simpo_gamma: 0.5
beta: 2.0
output_dir: data/cpo-simpo
"""

SIMPO = """
model_name_or_path: org/instruct
torch_dtype: null
attn_implementation: flash_attention_2
dataset_mixer: {org/feedback-armorm: 1.0}
dataset_splits: [train, test]
gamma_beta_ratio: 0.3
beta: 10
do_eval: true
evaluation_strategy: steps
eval_steps: 400
learning_rate: 1.0e-6
max_length: 2048
max_prompt_length: 1800
output_dir: outputs/instruct-simpo
run_name: instruct-simpo
warmup_ratio: 0.1
"""

TRL = """
model_name_or_path: org/instruct
datasets:
  - {path: org/pairs, name: helpful, split: train, fraction: 0.5}
  - {path: json, data_files: pairs.jsonl, split: train, columns: [prompt, chosen, rejected]}
test_split_size: 0.1
eval_strategy: steps
use_peft: true
load_in_8bit: true
precompute_ref_log_probs: true
sync_ref_model: false
loss_type: [sigmoid, bco_pair, sft]
loss_weights: [0.8, 0.2, 1.0]
output_dir: out
"""

AXOLOTL = """
base_model: org/base-1b
model_type: AutoModelForCausalLM
load_in_4bit: true
rl: dpo
rl_beta: 0.05
chat_template: llama3
datasets:
  - path: org/intel-pairs
    type: chat_template.default
    field_messages: conversation
    field_chosen: chosen
    field_rejected: rejected
    split: train
val_set_size: 0.05
adapter: qlora
lora_r: 32
lora_alpha: 16
lora_dropout: 0.05
lora_target_linear: true
sequence_len: 2048
sample_packing: false
gradient_accumulation_steps: 4
micro_batch_size: 2
num_epochs: 4
optimizer: adamw_torch
lr_scheduler: cosine
learning_rate: 0.0002
bf16: true
tf32: false
gradient_checkpointing: true
logging_steps: 1
flash_attention: true
warmup_steps: 10
evals_per_epoch: 4
saves_per_epoch: 1
weight_decay: 0.0
special_tokens: {pad_token: "<|end|>"}
output_dir: ./outputs/out
"""

LLAMA_FACTORY = """
model_name_or_path: org/instruct-8b
trust_remote_code: true
stage: dpo
do_train: true
finetuning_type: lora
lora_rank: 8
lora_target: all
pref_beta: 0.1
pref_loss: simpo
simpo_gamma: 0.4
dataset: demo, hub
dataset_dir: DATA
template: llama3
cutoff_len: 2048
max_samples: 1000
overwrite_cache: true
preprocessing_num_workers: 16
output_dir: saves/8b/lora/dpo
logging_steps: 10
save_steps: 500
plot_loss: true
overwrite_output_dir: true
per_device_train_batch_size: 1
gradient_accumulation_steps: 8
learning_rate: 5.0e-6
num_train_epochs: 3.0
lr_scheduler_type: cosine
warmup_ratio: 0.1
bf16: true
ddp_timeout: 180000000
val_size: 0.1
per_device_eval_batch_size: 1
eval_strategy: steps
eval_steps: 500
"""

RECIPES = {
    "a full DPO": (_COMMON + FULL, zoo.dpo(beta=0.01)),
    "QLoRA on a mixture": (_COMMON + QLORA, zoo.dpo(beta=0.01)),
    "APO on a mixture": (_COMMON + APO, zoo.apo_zero(beta=0.05)),
    "ORPO": (_COMMON + ORPO, zoo.orpo(lam=0.05)),
    "a mixture with pairs held out": (_COMMON + HELD_OUT, zoo.dpo(beta=0.05)),
    "a scan of IPO": (_COMMON + IPO, zoo.ipo(beta=0.1)),
    "TRL's CPO with SimPO's loss": (_COMMON + CPO, zoo.cpo_simpo(beta=2.0, gamma=0.5, nll_weight=0.5)),
    "SimPO's own": (_COMMON + SIMPO, zoo.simpo(beta=10.0, gamma=3.0)),
    "axolotl": (AXOLOTL, zoo.dpo(beta=0.05)),
    "LLaMA-Factory": (LLAMA_FACTORY, zoo.simpo(beta=0.1, gamma=0.4)),
}


def settings_of(text: str) -> dict[str, Any]:
    loaded: dict[str, Any] = {}
    for document in text.split("\n---\n"):
        loaded |= yaml.safe_load(document)
    return loaded


def migrated(name: str, **settings: Any) -> tuple[RunFile, Migration]:
    migration = migrate(settings_of(RECIPES[name][0]) | settings)
    return RunFile.model_validate(migration.run), migration


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_becomes_its_row_and_every_setting_is_told(name: str) -> None:
    run, migration = migrated(name)
    assert run.objective == RECIPES[name][1]
    told = " ".join(f"{note.setting} " for note in migration.notes)
    silent = {"dataset_splits", "rl", "stage", "do_train", "datasets", "dataset_dir"}
    settings = {key for key, value in settings_of(RECIPES[name][0]).items() if value not in (None, False)}
    assert {key for key in settings - silent if f"{key} " not in told} == set()
    again = migrate(settings_of(RECIPES[name][0]))
    assert again == migration


def outcome(migration: Migration, setting: str) -> Outcome:
    return next(note.outcome for note in migration.notes if note.setting == setting)


def test_parts_of_several_data_sets() -> None:
    run, _ = migrated("QLoRA on a mixture")
    train = [(source.path, source.split, source.fraction) for source in run.data.train]
    assert train == [("org/feedback", "train_prefs", 0.5), ("org/orca", "train_prefs", None)]
    assert {name: source.split for name, source in run.data.eval.items()} == {
        "feedback": "test_prefs",
        "orca": "test_prefs",
    }
    assert run.model.init["quantization_config"] == {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    assert run.model.peft is not None
    assert (run.training["warmup_steps"], run.training["optim"]) == (0.1, "paged_adamw_32bit")


def test_a_mixture_with_configurations() -> None:
    run, migration = migrated("APO on a mixture")
    parts = [(source.name, source.split, source.fraction) for source in run.data.train]
    assert parts == [("Preference", "no_think", 0.5), ("Preference", "think", 0.25)]
    assert run.model.init["revision"] == "it-SFT"
    assert not run.data.eval
    assert outcome(migration, "padding_free") is Outcome.NO_COUNTERPART
    held_out, _ = migrated("a mixture with pairs held out")
    assert (held_out.data.test_split_size, held_out.training["eval_steps"]) == (2000, 100)


def test_a_method_is_told_by_names_and_may_be_given() -> None:
    _, migration = migrated("ORPO")
    assert outcome(migration, "the trainer") is Outcome.CHANGED
    settings = settings_of(RECIPES["ORPO"][0])
    as_dpo = migrate(settings, method="dpo")
    assert RunFile.model_validate(as_dpo.run).objective == zoo.dpo(beta=0.05)
    unnamed = settings | {"output_dir": "out", "hub_model_id": None}
    assert RunFile.model_validate(migrate(unnamed, source="recipes/orpo/full.yaml").run).objective == zoo.orpo(lam=0.05)
    assert RunFile.model_validate(migrate(unnamed).run).objective == zoo.dpo(beta=0.05)
    with pytest.raises(ValueError, match="method 'ppo' is none of dpo, orpo, cpo, simpo"):
        migrate(unnamed, method="ppo")


def test_trl_with_a_list_of_data_sets() -> None:
    run = RunFile.model_validate(migrate(settings_of(TRL)).run)
    assert run.data.train[0].model_dump() == {"path": "org/pairs", "split": "train", "name": "helpful", "fraction": 0.5}
    assert run.data.train[1].data_files == "pairs.jsonl"
    assert (run.data.test_split_size, run.data.reference_cache) == (0.1, "out-reference")
    assert run.model.init["quantization_config"] == {"load_in_8bit": True}
    assert run.objective.loss.name == "mixture"


def test_evaluations_in_an_epoch_are_shares_of_the_run() -> None:
    run, migration = migrated("axolotl")
    assert (run.training["eval_steps"], run.training["save_steps"]) == (0.0625, 0.25)
    assert run.data.train[0].columns == {"prompt": "conversation"}
    assert run.data.test_split_size == 0.05
    assert run.model.peft is not None
    assert run.model.peft["target_modules"] == "all-linear"
    assert outcome(migration, "special_tokens") is Outcome.NO_COUNTERPART
    orpo = migrate(settings_of(AXOLOTL) | {"rl": "orpo", "orpo_alpha": 0.2})
    assert RunFile.model_validate(orpo.run).objective == zoo.orpo(lam=0.2)
    assert outcome(orpo, "orpo_alpha") is Outcome.CHANGED
    assert outcome(migrate(settings_of(AXOLOTL) | {"val_set_size": None}), "evals_per_epoch") is Outcome.NO_COUNTERPART
    with pytest.raises(ValueError, match="rl: 'kto' has no counterpart here"):
        migrate(settings_of(AXOLOTL) | {"rl": "kto"})


def test_data_that_a_registry_describes(tmp_path: Path) -> None:
    described = {
        "demo": {"file_name": "demo.json", "ranking": True, "columns": {"messages": "conversations"}},
        "hub": {"hf_hub_url": "org/pairs", "subset": "en", "columns": {"prompt": "question"}},
    }
    (tmp_path / "dataset_info.json").write_text(json.dumps(described))
    run, migration = migrated("LLaMA-Factory", dataset_dir=str(tmp_path))
    demo, hub = run.data.train
    assert (demo.path, demo.columns, demo.rows) == (str(tmp_path / "demo.json"), {"prompt": "conversations"}, 1000)
    assert (hub.path, hub.name, hub.columns) == ("org/pairs", "en", {"prompt": "question"})
    assert not any(note.setting == "dataset" and note.outcome is Outcome.CHANGED for note in migration.notes)
    _, unknown = migrated("LLaMA-Factory")
    assert any("does not describe it" in note.text for note in unknown.notes)
    assert run.model.peft == {
        "r": 8,
        "lora_alpha": 16,
        "lora_dropout": 0.0,
        "target_modules": "all-linear",
    }
    with pytest.raises(ValueError, match="stage: 'ppo'"):
        migrate(settings_of(LLAMA_FACTORY) | {"stage": "ppo"})


def test_settings_of_data_that_others_overrule_are_told() -> None:
    settings = {"model_name_or_path": "m", "dataset_name": "json", "datasets": [{"path": "pairs.jsonl"}]}
    notes = {note.setting: note for note in migrate(settings).notes}
    assert notes["datasets"].outcome == Outcome.CARRIED_OVER
    assert notes["dataset_name"].outcome == Outcome.NO_COUNTERPART


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"dataset_splits": ["train", "validation"]}, "'validation' has neither train nor test in its name"),
        ({"dataset_configs": ["a", "b"]}, "not as many as the data sets"),
        ({"dataset_mixer": {"org/feedback": 2.0}}, r"data\.train\.0\.fraction: at most 1 is needed, got 2"),
        ({"dataset_mixer": None}, "no data: give dataset_name, datasets or dataset_mixer"),
        ({"learning_rate": "fast"}, r"training: learning_rate: a number is needed"),
        ({"cpo_alpha": 1.0, "loss_type": "ipo"}, "of CPO has no row here"),
        ({"simpo_gamma": 1.0, "alpha": 0.1}, "AlphaPO"),
        ({"loss_weights": 0.5}, "loss_weights: a list is needed, got 0.5"),
        ({"model_init_kwargs": True}, "model_init_kwargs: a mapping is needed, got True"),
        ({"beta": "much"}, "beta: a number is needed"),
        ({"loss_type": 3}, "loss_type: a list is needed, got 3"),
    ],
)
def test_what_cannot_be_migrated_is_refused_in_a_line(settings: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError, match=line) as caught:
        migrate(settings_of(_COMMON + FULL) | settings)
    assert "pydantic" not in str(caught.value)
    assert "\n" not in str(caught.value)
