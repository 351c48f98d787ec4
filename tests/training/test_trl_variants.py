"""What TRL tries its DPOTrainer with, in our words: each variant of its settings, data and arguments trains here, or is
refused by a line that says why. A setting of TRL's is migrated first, as `prefopt migrate` does.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from peft import IA3Config, LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from prefopt import zoo
from prefopt.training import PreferenceTrainer, RunFile, start
from prefopt.training.migration import migrate
from tests.training.test_trainer import config

Rows = list[dict[str, Any]]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing.*` is deprecated:FutureWarning"),
    # An adapter on the head or before the first token is right, but slow, and a warning says so.
    pytest.mark.filterwarnings("ignore:policy. .* Calling the models plainly:UserWarning"),
]

TEMPLATE = (
    "{% for tool in tools or [] %}{{ tool['name'] }} {% endfor %}"
    "{% for message in messages %}{{ message['content'] }}{% if message['role'] == 'assistant' %}{{ eos_token }}"
    "{% endif %} {% endfor %}{% if add_generation_prompt %}story {% endif %}"
)

PAIR = {"prompt": "the film was", "chosen": " good story", "rejected": " bad plot"}


def message(role: str, text: str) -> list[dict[str, str]]:
    return [{"role": role, "content": text}]


TALK = {key: message("user" if key == "prompt" else "assistant", text.strip()) for key, text in PAIR.items()}
TOOL = {"name": "film", "description": "the plot", "parameters": {"type": "object", "properties": {}}}

DATA: dict[str, Rows] = {
    "standard": [PAIR],
    "implicit prompt": [{side: PAIR["prompt"] + PAIR[side] for side in ("chosen", "rejected")}],
    "conversations": [TALK],
    "conversations with implicit prompt": [{side: TALK["prompt"] + TALK[side] for side in ("chosen", "rejected")}],
    "several turns": [
        {**TALK, "prompt": [*message("user", "film"), *message("assistant", "good"), *message("user", "actor")]}
    ],
    "tools": [{**TALK, "tools": [TOOL]}],
    "other names": [{"question": PAIR["prompt"], "good": PAIR["chosen"], "bad": PAIR["rejected"]}],
    "images": [{**PAIR, "images": ["film.png"]}],
    "images in messages": [{**TALK, "prompt": [{"role": "user", "content": [{"type": "image"}]}]}],
    "equal responses": [{**PAIR, "rejected": PAIR["chosen"]}],
    "empty response": [{**PAIR, "rejected": ""}],
}
"""Forms of rows, by name."""

F_DIVERGENCES = ("forward_kl", "js_divergence", "alpha_divergence")
LORA = {"use_peft": True, "lora_r": 2, "lora_target_modules": ["q_proj"]}

TRAIN: dict[str, Mapping[str, Any]] = {
    "defaults": {},
    **{
        f"loss {loss}": {"loss_type": loss}
        for loss in """sigmoid hinge ipo nca_pair bco_pair sppo_hard aot aot_unpaired apo_zero apo_down discopop
        sigmoid_norm""".split()
    },
    "loss exo_pair": {"loss_type": "exo_pair", "label_smoothing": 1e-3},
    "loss robust": {"loss_type": "robust", "label_smoothing": 0.1},
    "a loss as a list": {"loss_type": ["hinge"]},
    "RPO": {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.5]},
    "MPO": {"loss_type": ["sigmoid", "bco_pair", "sft"], "loss_weights": [0.8, 0.2, 1.0]},
    "two losses without weights": {"loss_type": ["sigmoid", "hinge"]},
    "two averaged losses": {"loss_type": ["ipo", "sigmoid_norm"]},
    **{f"sigmoid under {name}": {"f_divergence_type": name} for name in F_DIVERGENCES},
    **{f"hinge under {name}": {"loss_type": "hinge", "f_divergence_type": name} for name in F_DIVERGENCES},
    "discopop under js_divergence": {"loss_type": "discopop", "f_divergence_type": "js_divergence"},
    "alpha near 1": {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.999},
    **{f"ld_alpha {alpha:g}": {"ld_alpha": alpha} for alpha in (0.0, 0.5, 1.0)},
    "use_weighting": {"use_weighting": True},
    "use_weighting of two losses": {"use_weighting": True, "loss_type": ["sigmoid", "nca_pair"]},
    "reference_free": {"reference_free": True},
    "discopop_tau": {"loss_type": "discopop", "discopop_tau": 0.1},
    "beta": {"beta": 0.5},
    **{
        name: {"dataset_name": name}
        for name in ("implicit prompt", "conversations", "conversations with implicit prompt", "several turns", "tools")
    },
    "chat_template_kwargs": {"dataset_name": "conversations", "chat_template_kwargs": {"enable_thinking": False}},
    "columns": {
        "dataset_name": "other names",
        "columns": {"prompt": "question", "chosen": "good", "rejected": "bad"},
    },
    "no prompt that fits": {"max_length": 4},
    "max_prompt_length": {"max_prompt_length": 2},
    "max_length none": {"max_length": None},
    "an evaluation": {"eval_strategy": "steps", "eval_steps": 1, "dataset_test_split": "train"},
    "a mixture": {"dataset_name": None, "datasets": [{"path": "standard"}, {"path": "implicit prompt"}]},
    "streaming": {"dataset_streaming": True},
    "dataset_num_proc": {"dataset_num_proc": 1},
    "dtype float32": {"dtype": "float32"},
    "dtype bfloat16": {"dtype": "bfloat16"},
    "torch_dtype auto": {"torch_dtype": "auto"},
    "attention eager": {"attn_implementation": "eager"},
    "attention sdpa": {"attn_implementation": "sdpa"},
    "trust_remote_code": {"trust_remote_code": True},
    "model_init_kwargs": {"model_init_kwargs": {"dtype": "float32"}},
    "LoRA": LORA,
    "LoRA of all linear layers": LORA | {"lora_target_modules": "all-linear"},
    "DoRA": LORA | {"use_dora": True},
    "rsLoRA": LORA | {"use_rslora": True},
    "LoRA with a head": LORA | {"lora_modules_to_save": ["lm_head"]},
    "LoRA with checkpointing": LORA | {"gradient_checkpointing": True},
    "LoRA of a mixture of losses": LORA | {"loss_type": ["sigmoid", "sft"]},
    "checkpointing": {"gradient_checkpointing": True},
    "checkpointing, not reentrant": {
        "gradient_checkpointing": True,
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
    },
    "checkpointing, reentrant": {
        "gradient_checkpointing": True,
        "gradient_checkpointing_kwargs": {"use_reentrant": True},
    },
    "bf16": {"bf16": True},
    "accumulation": {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2},
    "precompute_ref_log_probs": {"precompute_ref_log_probs": True},
    "precompute_ref_batch_size": {"precompute_ref_log_probs": True, "precompute_ref_batch_size": 2},
    "sync_ref_model": {"sync_ref_model": True, "ref_model_sync_steps": 1, "ref_model_mixup_alpha": 0.5},
    "a reference that follows, precomputed": {"sync_ref_model": True, "precompute_ref_log_probs": True},
    "disable_dropout": {"disable_dropout": True},
    "padding_free": {"padding_free": True},
    "pad_to_multiple_of": {"pad_to_multiple_of": 8},
    "activation_offloading": {"activation_offloading": True},
    "use_liger_kernel": {"use_liger_kernel": True},
    "truncation_mode": {"truncation_mode": "keep_start"},
    "adafactor": {"optim": "adafactor"},
    "cosine with a warm-up": {"lr_scheduler_type": "cosine", "warmup_ratio": 0.5, "max_steps": 2},
    "an epoch": {"num_train_epochs": 1.0, "max_steps": -1},
    "label_names": {"label_names": ["labels"]},
    "remove_unused_columns": {"remove_unused_columns": True},
    "run_name": {"run_name": "dpo"},
    "a sampling strategy": {"train_sampling_strategy": "group_by_length"},
}
"""Settings of `trl dpo` that train."""

REFUSE: dict[str, tuple[Mapping[str, Any], str]] = {
    "loss unknown": ({"loss_type": "kto_pair"}, "loss_type 'kto_pair' has no row here"),
    "loss sft alone": ({"loss_type": "sft"}, "sft alone is no preference loss"),
    "weights of another number": ({"loss_type": ["sigmoid"], "loss_weights": [1.0, 2.0]}, "not as many as the losses"),
    "a sum and a mean": ({"loss_type": ["sigmoid", "ipo"]}, "one reward shaping"),
    "exo without smoothing": ({"loss_type": "exo_pair", "label_smoothing": 0.0}, "label_smoothing"),
    "robust at a half": ({"loss_type": "robust", "label_smoothing": 0.5}, "label_smoothing"),
    "ld_alpha above 1": ({"ld_alpha": 1.5}, "alpha"),
    "f-divergence unknown": ({"f_divergence_type": "chi"}, "is none of reverse_kl"),
    "ipo under forward_kl": ({"loss_type": "ipo", "f_divergence_type": "forward_kl"}, "averaged"),
    "beta 0": ({"beta": 0.0}, "beta"),
    "a setting of another type": ({"learning_rate": "fast"}, "learning_rate"),
    "4 bits": ({"load_in_4bit": True}, "bitsandbytes"),
    "8 bits": ({"load_in_8bit": True}, "bitsandbytes"),
    "flash attention": ({"attn_implementation": "flash_attention_2"}, r"flash[-_]attn|flash_attention_2"),
    "router of a dense model": ({"router_aux_loss_coef": 0.1}, "router_aux_loss_coef"),
    "sync with LoRA": (LORA | {"sync_ref_model": True}, "sync_ref_model"),
    "accumulation of coupled pairs": ({"loss_type": "aot", "gradient_accumulation_steps": 2}, "compares the pairs"),
    "no data": ({"dataset_name": None}, "no data: give dataset_name"),
    "no model": ({"model_name_or_path": None}, "model"),
    "no such file": ({"dataset_name": "./absent.jsonl"}, "no such file or folder"),
    "other names": ({"dataset_name": "other names"}, "found no such field"),
    "images": ({"dataset_name": "images in messages"}, "image|content|text"),
    "an empty response": ({"dataset_name": "empty response"}, "empty|no token|rejected"),
    "equal responses": ({"dataset_name": "equal responses"}, "found the same response as in 'chosen'"),
}
"""Settings of `trl dpo` that are refused, by migrate or before the first step, and the words of the refusal."""


@pytest.fixture(scope="module")
def folder(model_folder: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model, with a chat template, and all data."""
    path = tmp_path_factory.mktemp("trl")
    AutoModelForCausalLM.from_pretrained(model_folder).save_pretrained(path)
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(path)
    for name, rows in DATA.items():
        (path / f"{name}.jsonl").write_text("\n".join(json.dumps(row) for row in rows * 4))
    return path


@pytest.fixture
def trains(folder: Path, out: str) -> Callable[[Mapping[str, Any]], Any]:
    """Migrate settings and train by them."""
    quiet = {"report_to": "none", "disable_tqdm": True, "use_cpu": True, "save_strategy": "no"}
    fixed = {"max_steps": 1, "learning_rate": 1e-3, "per_device_train_batch_size": 4, "output_dir": out, **quiet}
    base = {
        "model_name_or_path": str(folder),
        "dataset_name": "standard",
        "gradient_checkpointing": False,
        "bf16": False,
    }

    def with_files(value: Any) -> Any:
        """Names of data as their files."""
        if isinstance(value, dict):
            return {key: with_files(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [with_files(inner) for inner in value]
        return str(folder / f"{value}.jsonl") if isinstance(value, str) and value in DATA else value

    def carry_out(settings: Mapping[str, Any]) -> Any:
        given = {**base, **fixed, **settings}
        migration = migrate(
            {key: with_files(value) if key in ("dataset_name", "datasets") else value for key, value in given.items()}
        )
        told = {note.setting for note in migration.notes}
        assert {name for name, value in settings.items() if value is not None} <= told
        trainer = start(RunFile.model_validate(migration.run))
        before = [parameter.detach().clone() for parameter in trainer.model.policy.parameters()]
        trainer.train()
        changed = [not torch.equal(a, b) for a, b in zip(before, trainer.model.policy.parameters(), strict=True)]
        assert any(changed)
        losses = [entry["train_loss"] for entry in trainer.state.log_history if "train_loss" in entry]
        assert all(map(math.isfinite, losses))
        return migration, trainer

    return carry_out


@pytest.mark.one_in(16)
@pytest.mark.parametrize("name", TRAIN)
def test_settings_that_train(name: str, trains: Callable[[Mapping[str, Any]], Any]) -> None:
    trains(TRAIN[name])


@pytest.mark.one_in(8)
@pytest.mark.parametrize("name", REFUSE)
def test_settings_that_are_refused(name: str, trains: Callable[[Mapping[str, Any]], Any]) -> None:
    settings, words = REFUSE[name]
    with pytest.raises((ValueError, ImportError), match=words):
        trains(settings)


class Counts(TrainerCallback):
    """Counts the steps that end."""

    steps = 0

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.steps += 1


def policy(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def adapted(folder: Path) -> Any:
    """A PeftModel whose adapter is off its first values."""
    model = get_peft_model(policy(folder), LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.01)
    return model


def without_padding(folder: Path) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = None
    return tokenizer


def by_accuracy(prediction: Any) -> dict[str, float]:
    predictions = prediction.predictions
    return {"accuracy": float((predictions["rewards/chosen"] > predictions["rewards/rejected"]).mean())}


def prompt_config(**fields: Any) -> Any:
    return PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2, **fields)


STANDARD = DATA["standard"] * 4

# Of a folder with a model: the arguments of a trainer.
GIVEN: dict[str, Callable[[Path], dict[str, Any]]] = {
    "a model": lambda folder: {"model": policy(folder)},
    "a model and its reference": lambda folder: {"model": policy(folder), "ref_model": policy(folder)},
    "a reference by its name": lambda folder: {"ref_model": str(folder)},
    "a Dataset": lambda _: {"train_dataset": datasets.Dataset.from_list(STANDARD)},
    "a Dataset of conversations": lambda _: {"train_dataset": datasets.Dataset.from_list(DATA["conversations"] * 4)},
    "an evaluation set": lambda _: {"eval_dataset": datasets.Dataset.from_list(STANDARD)},
    "several evaluation sets": lambda _: {"eval_dataset": {"one": STANDARD, "other": DATA["conversations"]}},
    "compute_metrics": lambda _: {"eval_dataset": STANDARD, "compute_metrics": by_accuracy},
    "a callback": lambda _: {"callbacks": [Counts()]},
    "no padding token": lambda folder: {"processing_class": without_padding(folder)},
    "an optimizer class": lambda _: {"optimizer_cls_and_kwargs": (torch.optim.SGD, {"lr": 0.1})},
    "model_init": lambda folder: {"model": None, "model_init": lambda: policy(folder)},
    "a LoraConfig": lambda _: {"peft_config": LoraConfig(r=2, target_modules=["q_proj"])},
    "a LoraConfig of parameters": lambda _: {
        "peft_config": LoraConfig(r=2, target_modules=[], target_parameters=["q_proj.weight"])
    },
    "an IA3Config": lambda _: {
        "peft_config": IA3Config(task_type="CAUSAL_LM", target_modules=["k_proj"], feedforward_modules=[])
    },
    "a PromptTuningConfig": lambda _: {"peft_config": prompt_config()},
    "a PrefixTuningConfig": lambda _: {"peft_config": PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)},
    "a PeftModel": lambda folder: {"model": adapted(folder)},
    "a PeftModel and a reference": lambda folder: {"model": adapted(folder), "ref_model": policy(folder)},
    "a PeftModel and a LoraConfig": lambda folder: {
        "model": adapted(folder),
        "peft_config": LoraConfig(r=2, target_modules=["v_proj"]),
    },
    "a learned mask with LoRA": lambda _: {
        "objective": zoo.sparsepo_token(),
        "peft_config": LoraConfig(r=2, target_modules=["q_proj"]),
    },
}
"""Arguments of TRL's trainer that train here."""

REFUSED: dict[str, tuple[Callable[[Path], dict[str, Any]], type[Exception], str]] = {
    "no data": (lambda _: {"train_dataset": None}, ValueError, "train"),
    "data by its name": (lambda _: {"train_dataset": "org/pairs"}, TypeError, "give rows"),
    "several sets to train on": (
        lambda _: {"train_dataset": {"one": STANDARD, "other": STANDARD}},
        ValueError,
        "found sets named one, other",
    ),
    "an objective by its name": (lambda _: {"objective": "dpo"}, TypeError, "give a configuration"),
    "a processor": (lambda _: {"processing_class": object()}, TypeError, "processing_class"),
    "a peft_config that is none": (lambda _: {"peft_config": {"r": 2}}, TypeError, "give PEFT's object"),
    "an adapter for another task": (
        lambda _: {"peft_config": LoraConfig(task_type="SEQ_CLS")},
        ValueError,
        "a policy's is CAUSAL_LM",
    ),
    "a model that is its reference": (
        lambda folder: dict.fromkeys(("model", "ref_model"), policy(folder)),
        ValueError,
        ".",
    ),
    "two ways to one optimizer": (
        lambda folder: {
            "model": (model := policy(folder)),
            "optimizers": (torch.optim.SGD(model.parameters(), lr=0.1), None),
            "optimizer_cls_and_kwargs": (torch.optim.SGD, {"lr": 0.1}),
        },
        RuntimeError,
        "both `optimizers` and `optimizer_cls_and_kwargs`",
    ),
}
"""Arguments of TRL's trainer that are refused, and how."""


@pytest.fixture
def made(folder: Path, out: str) -> Callable[..., PreferenceTrainer]:
    def make(**arguments: Any) -> PreferenceTrainer:
        args = config(out, max_steps=1, per_device_train_batch_size=4, learning_rate=1e-2)
        given = {"model": str(folder), "objective": zoo.dpo(), "args": args, "train_dataset": STANDARD, **arguments}
        model = given["model"]
        if not isinstance(model, str):
            given.setdefault("processing_class", AutoTokenizer.from_pretrained(folder))
        return PreferenceTrainer(given.pop("model"), given.pop("ref_model", None), **given)

    return make


@pytest.mark.one_in(10)
@pytest.mark.parametrize("name", GIVEN)
def test_arguments_that_train(name: str, made: Callable[..., PreferenceTrainer], folder: Path) -> None:
    arguments = GIVEN[name](folder)
    trainer = made(**arguments)
    before = [parameter.detach().clone() for parameter in trainer.model.policy.parameters()]
    trainer.train()
    assert trainer.state.global_step == 1
    parameters = [*trainer.model.policy.parameters()]
    assert len(before) != len(parameters) or any(
        not torch.equal(*pair) for pair in zip(before, parameters, strict=True)
    )
    if "eval_dataset" in arguments:
        metrics = trainer.evaluate()
        assert any(name.endswith("rewards/margins") for name in metrics)
        assert ("eval_accuracy" in metrics) == ("compute_metrics" in arguments)
    for callback in arguments.get("callbacks", ()):
        assert callback.steps == 1


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", REFUSED)
def test_arguments_that_are_refused(name: str, made: Callable[..., PreferenceTrainer], folder: Path) -> None:
    arguments, error, words = REFUSED[name]
    with pytest.raises(error, match=words):
        made(**arguments(folder)).train()


def sample(field: Any) -> Any:
    """A value of a setting's declared type."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    if field.default not in (None, dataclasses.MISSING):
        return field.default
    kinds = {"dict": {"use_reentrant": False}, "list": [1.0], "bool": True, "int": 2, "float": 0.5, "str": "x"}
    return next((value for kind, value in kinds.items() if kind in str(field.type)), "x")


def test_every_setting_of_trl_is_told() -> None:
    """Each field of DPOConfig has a note of what became of it, and none is unknown here."""
    trl = pytest.importorskip("trl", reason="the fields are those of TRL's DPOConfig")
    fields = [field for field in dataclasses.fields(trl.DPOConfig) if field.init]
    assert len(fields) > 130
    unknown, refused = [], []
    for field in fields:
        switches = {"sync_ref_model": True} if field.name.startswith("ref_model_") else {"push_to_hub": True}
        try:
            notes = migrate(
                {"model_name_or_path": "m", "dataset_name": "d", **switches, field.name: sample(field)}
            ).notes
        except ValueError as error:
            refused.append((field.name, str(error)))
            continue
        texts = [note.text for note in notes if note.setting == field.name]
        unknown += [] if texts and "no such setting" not in texts[0] else [(field.name, texts)]
    assert unknown == []
    assert refused == []
