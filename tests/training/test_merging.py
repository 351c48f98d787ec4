"""`prefopt merge`: a whole model that says what the adapter says."""

from __future__ import annotations

import json
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import ModelCard
from peft import LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from prefopt import zoo
from prefopt.cli import app
from prefopt.training import PreferenceTrainer
from prefopt.training.card_file import is_card
from tests.training.test_trainer import config

IDS = torch.tensor([[3, 4, 5, 6, 7]])


@torch.no_grad()
def logits(model: AutoModelForCausalLM) -> Tensor:
    return model.eval()(input_ids=IDS).logits


def merge(*arguments: object, exit_code: int = 0) -> str:
    result = CliRunner().invoke(app, ["merge", *map(str, arguments)])
    assert result.exit_code == exit_code, result.output
    return result.output


@pytest.fixture(scope="module")
def run(model_folder: str, rows: list[dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of one step with an adapter."""
    out = tmp_path_factory.mktemp("runs") / "adapter"
    lora = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    args = config(str(out), max_steps=1, learning_rate=0.5)
    trainer = PreferenceTrainer(model_folder, objective=zoo.dpo(), args=args, train_dataset=rows, peft_config=lora)
    trainer.train()
    trainer.save_model()
    return out


def test_the_whole_model_loads_by_itself_and_says_the_same(run: Path, model_folder: str, tmp_path: Path) -> None:
    out = tmp_path / "new" / "merged"
    output = merge(run, out)
    assert f"Wrote {out}" in output
    assert "(LORA)" in output
    merged = AutoModelForCausalLM.from_pretrained(out)
    base = AutoModelForCausalLM.from_pretrained(model_folder)
    torch.testing.assert_close(logits(merged), logits(PeftModel.from_pretrained(base, run)), rtol=1e-5, atol=1e-5)
    assert (logits(merged) - logits(AutoModelForCausalLM.from_pretrained(model_folder))).abs().max() > 1e-3
    assert AutoTokenizer.from_pretrained(out).get_vocab() == AutoTokenizer.from_pretrained(model_folder).get_vocab()
    assert [path.name for path in out.parent.iterdir()] == ["merged"]
    card = ModelCard.load(out / "README.md")
    assert (card.data.library_name, card.data.tags) == ("transformers", ["prefopt", "preference-optimization", "dpo"])
    assert "A policy, merged from its adapter (LORA), trained on preference pairs" in card.text
    assert "PeftModel" not in card.text
    assert card.text.count("AutoModelForCausalLM.from_pretrained(name)") == 1
    assert is_card(out / "README.md")
    assert not list(out.glob("adapter_*"))
    before = sorted(path.read_bytes() for path in out.iterdir())
    assert "merged holds" in merge(run, out, exit_code=2)
    assert sorted(path.read_bytes() for path in out.iterdir()) == before


def test_what_cannot_be_merged_is_refused_and_leaves_nothing(run: Path, model_folder: str, tmp_path: Path) -> None:
    assert "has no adapter" in merge(model_folder, tmp_path / "out", exit_code=2)
    prompt = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    get_peft_model(AutoModelForCausalLM.from_pretrained(model_folder), prompt).save_pretrained(tmp_path / "prompt")
    AutoTokenizer.from_pretrained(model_folder).save_pretrained(tmp_path / "prompt")
    refused = merge(tmp_path / "prompt", tmp_path / "out", exit_code=2)
    assert "(PROMPT_TUNING) cannot be merged into its weights" in refused
    assert "load it with PEFT" in refused
    (tmp_path / "file").touch()
    assert "file is a file" in merge(run, tmp_path / "file", exit_code=2)
    assert not (tmp_path / "out").exists()


def test_a_run_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    output = merge("nothing-here", tmp_path / "whole", exit_code=2)
    assert output.startswith("error: nothing-here: there is no such folder, and no adapter of that name on the hub")


def test_a_quantised_base_is_refused(model_folder: str, run: Path, tmp_path: Path) -> None:
    base = tmp_path / "base-4bit"
    model = AutoModelForCausalLM.from_pretrained(model_folder)
    model.save_pretrained(base)
    settings = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(settings | {"quantization_config": {"quant_method": "gptq"}}))
    adapter = tmp_path / "adapter"
    get_peft_model(model, LoraConfig(r=2, task_type="CAUSAL_LM")).save_pretrained(adapter)
    settings = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": str(base)}))
    assert "are quantised, and merging would round the adapter away" in merge(adapter, tmp_path / "out", exit_code=2)


def test_a_merge_that_says_something_else_is_refused(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PeftModel, "merge_and_unload", lambda policy, **_: policy.unload(), raising=False)
    assert "does not say the same once it is merged" in merge(run, tmp_path / "out", exit_code=2)
    assert list(tmp_path.iterdir()) == []
