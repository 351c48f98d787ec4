"""A run, saved and loaded: the same models, the same objective, the same numbers."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from prefopt import zoo
from prefopt.inspection import inspect_run
from prefopt.scoring.forward import causal_lm
from prefopt.training import PreferenceConfig, PreferenceTrainer, SavedRun, SavedRunError
from tests.inspection.conftest import SPARSE, Trained


def same_weights(one: torch.nn.Module, two: torch.nn.Module) -> bool:
    mine, theirs = one.state_dict(), two.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_a_run_is_what_was_trained(trained: Trained, model_folder: str) -> None:
    folder = trained(SPARSE)
    run = SavedRun.load(folder)
    start = AutoModelForCausalLM.from_pretrained(model_folder)
    assert same_weights(run.model.reference, start)
    assert same_weights(run.model.policy, AutoModelForCausalLM.from_pretrained(folder))
    assert not same_weights(run.model.policy, start)
    assert run.model.objective.config == zoo.build(SPARSE)
    assert run.reference == model_folder
    assert run.data is not None
    assert run.data.max_length == 1024
    assert not run.model.training


def test_an_adapters_reference_is_its_base(trained: Trained, model_folder: str) -> None:
    run = SavedRun.load(trained("dpo", model={"peft": {"r": 2, "target_modules": ["q_proj", "v_proj"]}}))
    assert run.model.reference is None
    assert run.reference == "the policy, with its adapter off"
    ids = torch.tensor([[3, 4, 5]])
    adapted = run.model.policy(ids).logits
    with run.model.policy.disable_adapter():
        base = run.model.policy(ids).logits
    assert torch.equal(base, AutoModelForCausalLM.from_pretrained(model_folder)(ids).logits)
    assert not torch.equal(adapted, base)


def test_a_reference_that_moved_is_the_one_that_was_saved(trained: Trained) -> None:
    folder = trained("dpo", sync_ref_model=True, ref_model_sync_steps=1, ref_model_mixup_alpha=0.5)
    run = SavedRun.load(folder)
    assert run.reference == str(folder / "reference")
    assert same_weights(run.model.reference, AutoModelForCausalLM.from_pretrained(folder / "reference"))


def test_a_reference_of_its_own_and_another_on_request(trained: Trained, model_folder: str) -> None:
    other = trained(SPARSE)
    folder = trained("dpo", model={"reference": str(other)})
    assert SavedRun.load(folder).reference == str(other)
    assert SavedRun.load(folder, reference=model_folder).reference == model_folder


def test_a_reference_free_run_has_none(trained: Trained, model_folder: str) -> None:
    folder = trained("simpo")
    run = SavedRun.load(folder)
    assert run.reference is None
    assert run.model.reference is None
    with pytest.raises(SavedRunError, match="its objective is reference-free and would never run"):
        SavedRun.load(folder, reference=model_folder)


def test_a_checkpoint_reads_the_run_file_of_its_run(trained: Trained, tmp_path: Path) -> None:
    folder = trained("dpo", save_strategy="steps", save_steps=1)
    assert SavedRun.load(folder / "checkpoint-1").data is not None
    unfinished = tmp_path / "unfinished"
    shutil.copytree(folder / "checkpoint-1", unfinished / "checkpoint-1")
    with pytest.raises(SavedRunError, match=r"its training has not ended; give its last checkpoint, .*checkpoint-1$"):
        SavedRun.load(unfinished)


def test_what_is_no_run(tmp_path: Path, model_folder: str) -> None:
    with pytest.raises(SavedRunError, match=r"absent: there is no such folder"):
        SavedRun.load(tmp_path / "absent")
    with pytest.raises(SavedRunError, match=r"not a run, for it has no objective\.yaml; give the output_dir"):
        SavedRun.load(model_folder)


def test_without_a_run_file_the_reference_must_be_named(
    model_folder: str, rows: list[dict[str, str]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    args = PreferenceConfig(str(tmp_path / "run"), max_steps=1, report_to="none", use_cpu=True, disable_tqdm=True)
    trainer = PreferenceTrainer(model_folder, objective=zoo.dpo(), args=args, train_dataset=rows)
    trainer.save_model()
    with pytest.raises(
        SavedRunError, match=r"its reference is not known, for there is no run\.yaml; name .*--reference"
    ):
        SavedRun.load(tmp_path / "run")
    (tmp_path / "run.yaml").write_text("that of another run, which happens to lie beside this one's folder")
    run = SavedRun.load(tmp_path / "run", reference=model_folder)
    assert same_weights(run.model.reference, causal_lm(trainer.model.policy))
    assert run.data is None
    pair = {"asked": rows[0]["prompt"] * 8, **{side: rows[0][side] for side in ("chosen", "rejected")}}
    (tmp_path / "pairs.jsonl").write_text(json.dumps(pair) + "\n")
    with caplog.at_level(logging.WARNING, "prefopt"):
        (shown,) = inspect_run(run, tmp_path / "pairs.jsonl", columns={"prompt": "asked"}, max_length=8).shown
    assert "run has no run.yaml that says how its pairs were read: they are now with max_length 8" in caplog.text
    assert "1 prompts cut at their beginning" in caplog.text
    assert shown.where.endswith("pairs.jsonl:1")


@pytest.mark.parametrize(
    ("changes", "objective", "problem"),
    [
        ({"num_hidden_layers": 3}, SPARSE, "it has 3 layers of size 32, .* reads a reference with 2 layers of size 32"),
        ({"vocab_size": 40}, "tdpo2", "its vocabulary has 40 tokens, the policy's 23"),
    ],
)
def test_a_reference_that_does_not_fit(
    trained: Trained, model_folder: str, tmp_path: Path, changes: dict[str, int], objective: object, problem: str
) -> None:
    config = LlamaConfig.from_pretrained(model_folder, **changes)
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(SavedRunError, match=problem):
        SavedRun.load(trained(objective), reference=str(tmp_path))


def test_a_sampled_divergence_compares_no_vocabularies(trained: Trained, model_folder: str, tmp_path: Path) -> None:
    LlamaForCausalLM(LlamaConfig.from_pretrained(model_folder, vocab_size=40)).save_pretrained(tmp_path)
    sampled = {"zoo": "tdpo2", "divergence": {"measure": "sampled_k3"}}
    run = SavedRun.load(trained(sampled), reference=str(tmp_path))
    assert run.model.reference_model.get_output_embeddings().weight.shape[0] == 40
