"""What a run cannot do is known before its models are loaded, or as they are: one line, and exit code 2."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import T5Config, T5ForConditionalGeneration

from prefopt.weightings import UniformWeighting
from tests.cli.test_bad_inputs import document, loaded, refused
from tests.cli.test_cli import RUNNER, app

__all__ = ["loaded"]  # a fixture

EVALUATES = {"data.eval": "{folder}/pairs.jsonl", "training.eval_strategy": "steps", "training.eval_steps": 1}
ACCURACY = {"training.metric_for_best_model": "acuracy", "training.save_strategy": "best"}
PLATEAU = {"training.metric_for_best_model": "acuracy", "training.lr_scheduler_type": "reduce_lr_on_plateau"}
COMPILED = {"training.torch_compile": True}
RECOMPUTED = {"training.activation_checkpointing": True}

SETTINGS: dict[str, tuple[Mapping[str, Any], str]] = {
    "an unknown metric": (
        EVALUATES | ACCURACY,
        "metric_for_best_model: an evaluation gives no 'acuracy'. .*accuracies",
    ),
    "a plateau of no metric": (EVALUATES | PLATEAU, "metric_for_best_model: an evaluation gives no 'acuracy'"),
    "an optimizer's package": ({"training.optim": "adamw_8bit"}, "optim: adamw_8bit cannot be used .*bitsandbytes"),
    "an optimizer's argument": (
        {"training.optim": "sgd", "training.optim_args": "momentum=much"},
        "optim: sgd with momentum=much cannot be used",
    ),
    "a report's package": ({"training.report_to": "codecarbon"}, "report_to: 'codecarbon' is not installed here"),
    "a schedule without its end": (
        {"training.lr_scheduler_type": "cosine_with_min_lr"},
        "lr_scheduler_type: cosine_with_min_lr with no lr_scheduler_kwargs cannot be used .*min_lr",
    ),
    "a schedule's option": (
        {"training.lr_scheduler_type": "cosine", "training.lr_scheduler_kwargs": {"cycles": 1}},
        "cosine with {'cycles': 1} cannot be used .*'cycles'.*; mend lr_scheduler_kwargs",
    ),
    "a schedule's number": (
        {"training.lr_scheduler_type": "cosine", "training.lr_scheduler_kwargs": {"num_cycles": "two"}},
        "could not convert string to float: 'two'",
    ),
    "a schedule's text": ({"training.lr_scheduler_kwargs": "{cycles"}, "JSON cannot be read .*'{cycles'; mend it"),
    "checkpointing's option": (
        RECOMPUTED | {"training.activation_checkpointing_kwargs": {"reentrant": True}},
        "activation_checkpointing_kwargs: {'reentrant': True} cannot be used",
    ),
    "a compiler": (COMPILED | {"training.torch_compile_backend": "gcc"}, "torch_compile_backend: gcc cannot be used"),
    "a batch beyond counting": ({"training.per_device_train_batch_size": 10**20}, "it is 2147483647 at most"),
    "steps beyond counting": ({"training.max_steps": 10**30}, "max_steps: 10+ is out of range"),
    "a million workers": ({"training.dataloader_num_workers": 10**6}, "it is from 0 to 1024"),
    "a row of the zoo as a list": ({"objective": {"zoo": ["dpo"]}}, r"no objective named \['dpo'\]"),
    "a slot as a number": ({"objective": {"zoo": "dpo", 1: 2}}, "parameters and slots have names, got 1"),
    "a NUL in the model's name": ({"model": "a\0b"}, "model.name: a name is needed, without control characters"),
    "a NUL in the data's name": ({"data": "a\0b.jsonl"}, "data.*: a name is needed, without control characters"),
    "a NUL in the cache's name": ({"data.reference_cache": "a\0b"}, "reference_cache: a name is needed"),
    "no name for the output": ({"training.output_dir": ""}, "output_dir: '' is empty"),
    "flash attention": ({"model.init": {"attn_implementation": "flash_attention_2"}}, "needs the package flash-attn"),
    "a device": ({"model.init": {"device_map": "xpu:3"}}, "device_map .*: there is no device 'xpu:3' here"),
    "a device's name": ({"model.init": {"device_map": "graphics"}}, "device_map .*'graphics' is none of cpu"),
    "no such folder": ({"model": "/nope"}, "model.name: /nope: there is no such folder"),
    "no such reference": ({"model.reference": "../no/pe"}, "model.reference: ../no/pe: there is no such folder"),
    "no such tokenizer": ({"model.tokenizer": "/nope"}, "/nope: there is no such folder"),
    "a file as the model": ({"model": "{folder}/pairs.jsonl"}, "pairs.jsonl: it is a file; give the folder"),
    "output below a file": ({"training.output_dir": "{folder}/pairs.jsonl/out"}, "output_dir: .*pairs.jsonl: "),
    "output in proc": ({"training.output_dir": "/proc/out"}, "output_dir: /proc/out cannot be written to"),
    "a long name": ({"training.output_dir": "{folder}/" + 300 * "a"}, "output_dir: .*File name too long"),
    "output as a link": ({"training.output_dir": "{folder}/link"}, "link is a link to nothing"),
    "unfinished as a file": ({"training.output_dir": "{folder}/taken"}, ".unfinished is no folder, .*remove it"),
    "a cache as a file": ({"data.reference_cache": "{folder}/pairs.jsonl"}, "reference_cache: .*cannot be written to"),
}


def _placed(changes: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    return {
        path: value.replace("{folder}", str(folder)) if isinstance(value, str) else value
        for path, value in changes.items()
    }


@pytest.mark.parametrize("case", SETTINGS)
def test_what_is_known_before_models_are_loaded(
    case: str, model_folder: str, tmp_path: Path, loaded: list[object]
) -> None:
    changes, words = SETTINGS[case]
    (tmp_path / "link").symlink_to(tmp_path / "nowhere" / "at all")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / ".unfinished").write_text("")
    refused(document(model_folder, tmp_path, _placed(changes, tmp_path)), words)
    assert not loaded
    assert not (tmp_path / "out").exists()


CONFIGS: dict[str, tuple[dict[str, Any] | None, str]] = {
    "none": (None, "the folder has no config.json; give one"),
    "unknown": ({"model_type": "nosuch"}, "config.json cannot be read .*`nosuch`"),
    "without a type": ({"model_type": None}, "config.json cannot be read .*model type `None`"),
    "a number": ({"hidden_size": "wide"}, "config.json cannot be read .*'hidden_size'"),
    "no heads": ({"num_attention_heads": 0}, "config.json cannot be read .*ZeroDivisionError"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_a_config_is_not_the_tokenizers_fault(
    case: str, model_folder: str, tmp_path: Path, loaded: list[object]
) -> None:
    folder = Path(shutil.copytree(model_folder, tmp_path / "model"))
    changes, words = CONFIGS[case]
    file = folder / "config.json"
    if changes is None:
        file.unlink()
    else:
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    refused(document(str(folder), tmp_path, {}), f"model.name: {folder}: {words}")
    assert not loaded


def test_an_encoder_beside_the_decoder(model_folder: str, tmp_path: Path, loaded: list[object]) -> None:
    folder = tmp_path / "t5"
    T5ForConditionalGeneration(
        T5Config(vocab_size=24, d_model=8, d_ff=8, num_layers=1, num_heads=2, d_kv=4)
    ).save_pretrained(folder)
    refused(document(model_folder, tmp_path, {"model.reference": str(folder)}), "its model type is 't5'")
    assert not loaded


UP, INPUTS = "model.layers.1.mlp.up_proj.weight", "model.embed_tokens.weight"


def _with(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda weight: weight.flatten().index_fill(0, torch.tensor([7]), value).view_as(weight)


WEIGHTS: dict[str, tuple[str, Callable[[torch.Tensor], torch.Tensor], str]] = {
    "nan": (UP, _with(float("nan")), f"NaN or infinity in {UP}, 1 of its 2048 values"),
    "inf": (UP, _with(float("inf")), f"NaN or infinity in {UP}, 1 of its 2048 values"),
    "int8": (UP, lambda weight: (100 * weight).to(torch.int8), f"{UP} is stored as I8, whole numbers"),
    "uint8": (UP, lambda weight: (100 * weight).abs().to(torch.uint8), f"{UP} is stored as U8, whole numbers"),
    "zeros": (INPUTS, torch.zeros_like, rf"all \d+ values of {INPUTS} are zero"),
}


@pytest.mark.parametrize("case", WEIGHTS)
@pytest.mark.parametrize("part", ["name", "reference"])
def test_weights_that_are_no_numbers(part: str, case: str, model_folder: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(model_folder, tmp_path / "model"))
    key, change, words = WEIGHTS[case]
    file = folder / "model.safetensors"
    tensors = load_file(file)
    save_file(tensors | {key: change(tensors[key])}, file, metadata={"format": "pt"})
    refused(document(model_folder, tmp_path, {f"model.{part}": str(folder)}), f"{file}: {words}")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"target_modules": ["query"]}, "model.peft.* makes no adapter .*'query'.*linear modules are .*q_proj"),
        ({"target_modules": "[("}, r"makes no adapter \(.*unterminated character set"),
        ({"modules_to_save": ["score"]}, "modules_to_save .*: no module's name ends in 'score'"),
    ],
)
def test_an_adapter_of_no_module(fields: dict[str, Any], words: str, model_folder: str, tmp_path: Path) -> None:
    refused(document(model_folder, tmp_path, {"model.peft": {"r": 2, **fields}}), words)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("training..seed=1", "override 'training..seed=1': write it as section.field=value"),
        ("=1", "override '=1': write it as"),
        ("training.seed=[1", r"override 'training.seed=\[1': its value is no YAML"),
    ],
)
def test_overrides_of_another_form(override: str, words: str, model_folder: str, tmp_path: Path) -> None:
    refused(document(model_folder, tmp_path, {}), words, overrides=(override,))


@pytest.mark.parametrize(("encoding", "words"), [("utf-16", "not UTF-8 text, at byte 0 .0xff.; save it as UTF-8")])
def test_a_run_file_in_another_encoding(encoding: str, words: str, model_folder: str, tmp_path: Path) -> None:
    file = document(model_folder, tmp_path, {})
    file.write_bytes(file.read_text().encode(encoding))
    refused(file, words)


def test_an_error_of_a_plugin_points_at_its_traceback(
    model_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(*_: object, **__: object) -> None:
        raise ValueError("a plugin's own words")

    monkeypatch.setattr(UniformWeighting, "build", build)
    line = refused(document(model_folder, tmp_path, {}), "a plugin's own words")
    assert line.endswith("(`prefopt --debug` and the command show the traceback)")
    assert "traceback" not in refused(document(model_folder, tmp_path, {"training.seed": -1}))


def test_a_warm_up_that_takes_the_run_is_told(model_folder: str, tmp_path: Path) -> None:
    file = document(model_folder, tmp_path, {"training.warmup_steps": 5})
    result = RUNNER.invoke(app, ["train", str(file), "training.max_steps=2"])
    assert result.exit_code == 0, result.output
    assert "warmup_steps: the warm-up takes 5 steps, and the run has 2" in result.output
