"""Adapters as a trainer's inputs: the reference is the model as it was given, and a checkpoint gives it back."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft import AdaLoraConfig, KasaConfig, LoraConfig, PeftModel, PromptEncoderConfig, get_peft_model
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from prefopt import zoo
from prefopt.scoring.adapters import as_reference, keep_draws_off
from prefopt.scoring.forward import turn_dropout_off
from prefopt.training import PreferenceTrainer, SavedRun
from prefopt.training.adapters import keep_reference
from prefopt.training.execute import start, train
from prefopt.training.loading import load_model
from prefopt.training.run_file import RunFile
from tests.scoring.test_adapter_types import AGREE, PLAIN, make_policy  # noqa: F401 -- a fixture
from tests.training.test_trainer import config

pytestmark = pytest.mark.slow

IDS = torch.tensor([[3, 4, 5, 6, 7]])


def lora(**changes: Any) -> LoraConfig:
    return LoraConfig(**{"r": 4, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"} | changes)


def logits(model: Any) -> Tensor:
    """Of a plain call, without gradient."""
    with torch.no_grad():
        return model(input_ids=IDS).logits


def ref_logits(trainer: PreferenceTrainer) -> Tensor:
    """Of the trainer's reference, whichever module that is."""
    scorer, policy = trainer.model.reference_scorer, trainer.model.policy
    with scorer.context(policy):
        return logits(scorer.loaded(policy))


def tuned(folder: str, peft_config: LoraConfig | None = None, **names: str) -> PeftModel:
    """The model with an adapter of some effect, as after supervised training."""
    torch.manual_seed(1)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(folder), peft_config or lora(), **names)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


@pytest.fixture
def sft(model_folder: str, tmp_path: Path) -> str:
    """The folder of a trained adapter and, as after training, of its tokenizer."""
    folder = str(tmp_path / "sft")
    tuned(model_folder).save_pretrained(folder)
    AutoTokenizer.from_pretrained(model_folder).save_pretrained(folder)
    AutoConfig.from_pretrained(model_folder).save_pretrained(folder)  # as some trainers leave it there
    return folder


def trained(model: Any, rows: list[dict[str, str]], out: str, **inputs: Any) -> PreferenceTrainer:
    """After two steps, of which the reference is the same before and after, and is the policy before."""
    changes = inputs.pop("changes", {})
    args = config(out, max_steps=2, learning_rate=0.05, **changes)
    trainer = PreferenceTrainer(model, objective=zoo.dpo(), args=args, train_dataset=rows, **inputs)
    before, policy = ref_logits(trainer), logits(trainer.model.policy.eval())
    trainer.train()
    torch.testing.assert_close(before, policy, rtol=1e-4, atol=1e-4)
    assert torch.equal(ref_logits(trainer), before)
    assert not torch.allclose(logits(trainer.model.policy.eval()), policy, atol=1e-2)
    assert trainer.state.log_history[0]["loss"] == pytest.approx(0.693147, abs=1e-5)
    return trainer


def test_an_adapters_folder_trains_on(sft: str, model_folder: str, rows: list[dict[str, str]], out: str) -> None:
    given = logits(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model_folder), sft))
    trainer = trained(sft, rows, out)
    assert torch.equal(ref_logits(trainer), given)
    assert not torch.allclose(given, logits(AutoModelForCausalLM.from_pretrained(model_folder)), atol=1e-2)
    trainer.save_model()
    run = SavedRun.load(out)
    assert torch.equal(logits(run.model.policy), logits(trainer.model.policy.eval()))
    assert torch.equal(logits(run.model.reference), given)
    assert run.reference == str(Path(out) / "reference")


def test_an_adapters_folder_and_a_new_adapter(
    sft: str, model_folder: str, rows: list[dict[str, str]], out: str
) -> None:
    given = logits(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model_folder), sft))
    trainer = trained(sft, rows, out, peft_config=lora(r=2))
    torch.testing.assert_close(ref_logits(trainer), given)
    trainer.save_model()
    base = json.loads((Path(out) / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert base == str(Path(out) / "base")
    with pytest.raises(ValueError, match=r"output_dir: .* holds the model that the adapter is for"):
        PreferenceTrainer(out, objective=zoo.dpo(), args=config(out), train_dataset=rows, peft_config=lora())
    run = SavedRun.load(out)
    assert torch.equal(logits(run.model.policy), logits(trainer.model.policy.eval()))
    with run.model.reference_scorer.context(run.model.policy):
        torch.testing.assert_close(logits(run.model.policy), given)
    weights = Path(base) / "model.safetensors"
    weights.write_bytes(b"of another")
    with pytest.raises(ValueError, match=r"base is the base of another adapter, and would be written over"):
        trained(sft, rows, out, peft_config=lora(r=2))
    assert weights.read_bytes() == b"of another"


def test_a_run_with_its_merged_base_may_move(
    sft: str, model_folder: str, rows: list[dict[str, str]], out: str, tmp_path: Path
) -> None:
    given = logits(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model_folder), sft))
    inputs = {"peft_config": lora(r=2), "changes": {"save_strategy": "steps", "save_steps": 2}}
    trainer = trained(sft, rows, out, **inputs)
    trainer.save_model()
    moved = shutil.move(out, tmp_path / "elsewhere")
    for folder in (moved, moved / "checkpoint-2"):
        run = SavedRun.load(folder)
        assert torch.equal(logits(run.model.policy), logits(trainer.model.policy.eval()))
        with run.model.reference_scorer.context(run.model.policy):
            torch.testing.assert_close(logits(run.model.policy), given)
        assert run.model.policy.active_peft_config.base_model_name_or_path == str(moved / "base")
    shutil.rmtree(moved / "base")
    with pytest.raises(ValueError, match=r"its base model .*base is not there; put it there, or change base_model"):
        SavedRun.load(moved)


def _with_head(folder: str, to: Path, *, tied: bool) -> str:
    AutoModelForCausalLM.from_pretrained(folder, tie_word_embeddings=tied).save_pretrained(to)
    AutoTokenizer.from_pretrained(folder).save_pretrained(to)
    return str(to)


@pytest.mark.filterwarnings(
    "ignore:Setting `save_embedding_layers`:UserWarning", "ignore:Model has `tie_word:UserWarning"
)
@pytest.mark.parametrize(
    ("modules", "tied"), [("q_proj v_proj", False), ("q_proj v_proj", True), ("v_proj embed_tokens", True)]
)
def test_an_adapter_of_a_base_with_added_tokens(
    modules: str, tied: bool, model_folder: str, rows: list[dict[str, str]], out: str, tmp_path: Path
) -> None:
    """Of such a base PEFT saves the embedding with the adapter; its folder is a model, and a run."""
    model_folder = _with_head(model_folder, tmp_path / "model", tied=tied)
    base = AutoModelForCausalLM.from_pretrained(model_folder)
    size = base.config.vocab_size + 3
    torch.manual_seed(0)
    base.resize_token_embeddings(size, mean_resizing=False)
    given = logits(base)
    trainer = trained(base, rows, out, peft_config=lora(target_modules=modules.split()))
    trainer.save_model()
    run = SavedRun.load(out)
    assert logits(run.model.policy).shape[-1] == size
    assert torch.equal(logits(run.model.policy), logits(trainer.model.policy.eval()))
    with run.model.reference_scorer.context(run.model.policy):
        assert torch.equal(logits(run.model.policy), given)
    again = trained(out, rows, f"{out}-again")
    assert torch.equal(ref_logits(again), logits(trainer.model.policy))


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`:UserWarning")
def test_an_adapter_on_an_embedding_with_added_tokens_has_no_head(
    model_folder: str, rows: list[dict[str, str]], out: str, tmp_path: Path
) -> None:
    """PEFT leaves the head out; its added rows would be noise."""
    folder = _with_head(model_folder, tmp_path / "model", tied=False)
    base = AutoModelForCausalLM.from_pretrained(folder)
    base.resize_token_embeddings(base.config.vocab_size + 3, mean_resizing=False)
    adapter = lora(target_modules=["embed_tokens"])
    with pytest.raises(ValueError, match=r"had 23 token ids and now has 26, .* does not save the head"):
        trained(copy.deepcopy(base), rows, out, peft_config=adapter)
    trained(folder, rows, out, peft_config=adapter)
    get_peft_model(base, adapter).save_pretrained(tmp_path / "adapter")
    with pytest.raises(ValueError, match=r"its base had 26 token ids, and PEFT has saved no head of that size"):
        load_model(str(tmp_path / "adapter"))


def test_an_adapters_folder_as_the_reference(sft: str, model_folder: str, rows: list[dict[str, str]], out: str) -> None:
    """Its answers are cached, so it is let go, and loaded again for what the cache lacks."""
    given = logits(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model_folder), sft))
    args = config(out, reference_cache=f"{out}-cache")
    trainer = PreferenceTrainer(
        model_folder, sft, objective=zoo.dpo(), args=args, train_dataset=rows, peft_config=lora()
    )
    trainer.train()
    assert trainer.model.reference is None
    assert torch.equal(ref_logits(trainer), given)
    assert isinstance(trainer.model.reference, PeftModel)


def test_the_same_by_a_run_file(sft: str, model_folder: str, rows: list[dict[str, str]], out: str) -> None:
    data = Path(out).parent / "pairs.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = logits(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model_folder), sft))
    for fields, name in ((None, "on"), ({"r": 2, "target_modules": ["q_proj"]}, "new")):
        args = config(f"{out}-{name}", max_steps=1).to_dict()
        training = {key: args[key] for key in ("output_dir", "max_steps", "report_to", "use_cpu", "disable_tqdm")}
        model = {"name": sft, "peft": fields}
        trainer = start(RunFile(model=model, data=str(data), objective="dpo", training=training))
        torch.testing.assert_close(ref_logits(trainer), given)
        torch.testing.assert_close(logits(trainer.model.policy.eval()), given)
        run = SavedRun.load(train(trainer).folder)
        name = "the policy, with its adapter off" if fields else str(Path(f"{out}-{name}") / "reference")
        assert run.reference == name


def test_a_trained_peft_model(model_folder: str, rows: list[dict[str, str]], out: str) -> None:
    model = tuned(model_folder)
    given = logits(model)
    trainer = trained(model, rows, out)
    assert torch.equal(ref_logits(trainer), given)
    assert trainer.model.reference is None
    merged = trained(tuned(model_folder), rows, f"{out}-new", peft_config=lora(r=2))
    torch.testing.assert_close(ref_logits(merged), given)
    assert set(merged.model.policy.peft_config) == {"default"}


LINEAR = ["q_proj", "o_proj"]
OTHERS = {
    "BOFTConfig": {"boft_block_size": 4, "boft_dropout": 0.5, "target_modules": LINEAR},
    "OSFConfig": {"effective_rank": 8, "target_modules": LINEAR},
    "PromptEncoderConfig": {"num_virtual_tokens": 3, "encoder_hidden_size": 8},
    "PrefixTuningConfig": {"num_virtual_tokens": 3},
    "ShadowConfig": {"r": 4, "shadow_dropout": 0.5},
    "VBLoRAConfig": {"r": 4, "num_vectors": 8, "vector_length": 8, "topk": 2, "target_modules": LINEAR},
}


@pytest.mark.filterwarnings("ignore")  # PEFT's advice on its settings
@pytest.mark.parametrize("name", OTHERS)
def test_other_adapters_train_on(name: str, model_folder: str, rows: list[dict[str, str]], out: str) -> None:
    """Layers that all share, prompts beside the model, layers in place of the model's."""
    model = tuned(model_folder, getattr(peft, name)(task_type="CAUSAL_LM", **OTHERS[name]))
    given = logits(model)
    trainer = trained(model, rows, out)
    assert torch.equal(ref_logits(trainer), given)
    trainer.save_model()
    run = SavedRun.load(out)
    assert torch.equal(logits(run.model.reference), given)
    assert torch.equal(logits(run.model.policy), logits(trainer.model.policy.eval()))


@pytest.mark.filterwarnings("ignore:policy. its adapter acts before the first token:UserWarning")
@pytest.mark.parametrize("name", ["PromptTuningConfig", "PrefixTuningConfig", "PromptEncoderConfig"])
def test_a_saved_prompt_trains_on_as_the_error_says(
    name: str, model_folder: str, rows: list[dict[str, str]], out: str, tmp_path: Path
) -> None:
    saved = tuned(model_folder, getattr(peft, name)(task_type="CAUSAL_LM", num_virtual_tokens=2))
    given = logits(saved)
    saved.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"PEFT loads a saved prompt .*embedding.requires_grad_.* new adapter"):
        trained(str(tmp_path), rows, out)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model_folder), tmp_path)
    model.prompt_encoder["default"].embedding.requires_grad_(True)
    trainer = trained(model, rows, out)
    assert torch.equal(ref_logits(trainer), given)
    assert not torch.equal(logits(trainer.model.policy), given)
    trainer.save_model()
    assert torch.equal(logits(SavedRun.load(out).model.policy), logits(trainer.model.policy.eval()))


NOT_KEPT = {"adaption prompt": "its parameters are not kept apart from others'", "psoft": "PSOFT init requires float32"}


@pytest.mark.filterwarnings("ignore")  # PEFT's advice on its settings
@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", [*AGREE, *PLAIN])
def test_every_adapter_can_be_kept_as_it_is(name: str, policy: Any) -> None:
    model = policy(*(AGREE | PLAIN)[name], name)
    keep_draws_off(model.train())
    turn_dropout_off(model)
    given = logits(model)
    if name in NOT_KEPT:
        with pytest.raises(ValueError, match=NOT_KEPT[name]):
            keep_reference(model)
        return
    keep_reference(model)
    model.double()
    assert torch.equal(logits(model), given)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.ones_like(parameter))
    keep_draws_off(model.train())
    turn_dropout_off(model)
    assert not torch.allclose(logits(model), given, atol=1e-3)
    with as_reference(model):
        torch.testing.assert_close(logits(model), given)
    assert not torch.allclose(logits(model), given, atol=1e-3)


def test_an_adapter_that_is_named_as_the_reference(model_folder: str, rows: list[dict[str, str]], out: str) -> None:
    """As TRL's users do: the adapter loaded twice, once to train and once as the reference."""
    model = tuned(model_folder, adapter_name="policy")
    model.add_adapter("first", lora())
    with model.disable_adapter():
        expected = logits(model)
    args = config(out, ref_adapter_name="first")
    trainer = PreferenceTrainer(model, objective=zoo.dpo(), args=args, train_dataset=rows)
    assert torch.equal(ref_logits(trainer), expected)
    trainer.train()
    assert torch.equal(ref_logits(trainer), expected)
    wrong = {
        "frist": "Did you mean 'first'",
        "policy": "'policy' trains, so it cannot be the reference",
        None: "has an adapter 'reference' already",
    }
    for name, message in wrong.items():
        with pytest.raises(ValueError, match=message):
            PreferenceTrainer(model, objective=zoo.dpo(), args=config(out, ref_adapter_name=name), train_dataset=rows)
    with pytest.raises(ValueError, match="ref_adapter_name is read only with a PeftModel"):
        PreferenceTrainer(model_folder, objective=zoo.dpo(), args=args, train_dataset=rows)


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_first_values_out_of_the_models_weights(
    init: str, model_folder: str, rows: list[dict[str, str]], out: str
) -> None:
    """With such an adapter off, the model is not itself any more."""
    given = logits(AutoModelForCausalLM.from_pretrained(model_folder))
    trainer = trained(model_folder, rows, out, peft_config=lora(init_lora_weights=init))
    torch.testing.assert_close(ref_logits(trainer), given, rtol=1e-4, atol=1e-4)
    trainer.save_model()
    run = SavedRun.load(out)
    torch.testing.assert_close(logits(run.model.policy), logits(trainer.model.policy.eval()), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logits(run.model.reference), given, rtol=1e-4, atol=1e-4)


def test_what_no_reference_or_checkpoint_survives(
    model_folder: str, rows: list[dict[str, str]], out: str, caplog: pytest.LogCaptureFixture
) -> None:
    def trainer(model: Any, **inputs: Any) -> PreferenceTrainer:
        inputs = {"args": config(out), **inputs}
        return PreferenceTrainer(model, objective=zoo.dpo(), train_dataset=rows, **inputs)

    base = AutoModelForCausalLM.from_pretrained(model_folder, attention_bias=True)
    with pytest.raises(ValueError, match=r"trains 8 parameters of the model itself .* bias to 'none'"):
        trainer(base, peft_config=lora(bias="all"))
    model = tuned(model_folder)
    model.get_base_model().model.norm.weight.requires_grad_(True)
    with pytest.raises(ValueError, match="1 parameters train that PEFT does not save"):
        trainer(model)
    prompt = PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=2, encoder_hidden_size=8)
    args = config(out, load_best_model_at_end=True, eval_strategy="steps", save_strategy="steps", save_steps=10)
    with pytest.raises(ValueError, match="makes its prompt with a network that PEFT does not save"):
        trainer(model_folder, peft_config=prompt, args=args, eval_dataset=rows)
    injected = AutoModelForCausalLM.from_pretrained(model_folder)
    injected.add_adapter(lora())
    wrapped = AutoModelForCausalLM.from_pretrained(model_folder)
    get_peft_model(wrapped, lora())
    for unwrapped in (injected, wrapped):
        with pytest.raises(ValueError, match=r"is no peft\.PeftModel"):
            trainer(unwrapped)
    prompted = get_peft_model(AutoModelForCausalLM.from_pretrained(model_folder), prompt)
    with pytest.raises(ValueError, match=r"\(P_TUNING\) cannot be merged into its weights"):
        trainer(prompted, peft_config=lora())
    with pytest.raises(ValueError, match=r"changes the model itself; .* another reference \(ref_model"):
        trainer(model_folder, peft_config=lora(kasa_config=KasaConfig()))
    ranks = AdaLoraConfig(task_type="CAUSAL_LM", init_r=4, target_r=2, total_step=10, target_modules=["q_proj"])
    caplog.clear()
    parameters = trainer(model_folder, peft_config=ranks).model.named_parameters()
    assert "orth_reg_weight is not used here" in caplog.text
    assert not any(parameter.requires_grad for name, parameter in parameters if "ranknum" in name)


@pytest.mark.parametrize("name", ["default", "tune"])
def test_resume_and_best_model_with_a_named_adapter(
    name: str, model_folder: str, rows: list[dict[str, str]], out: str
) -> None:
    """PEFT writes an adapter of another name than "default" to checkpoint-N/NAME."""
    model = tuned(model_folder, adapter_name=name)
    steps = {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2}

    def trainer(folder: str, **changes: Any) -> PreferenceTrainer:
        args = config(folder, **steps | changes)
        return PreferenceTrainer(
            copy.deepcopy(model), objective=zoo.dpo(), args=args, train_dataset=rows, eval_dataset=rows
        )

    whole = trainer(out)
    whole.train()
    resumed = trainer(out)
    resumed.train(resume_from_checkpoint=f"{out}/checkpoint-2")
    expected = dict(whole.model.named_parameters())
    assert all(torch.equal(parameter, expected[key]) for key, parameter in resumed.model.named_parameters())
    # Later steps are much worse, so that the first checkpoint is the best.
    best = trainer(f"{out}-best", load_best_model_at_end=True, learning_rate=3.0, metric_for_best_model="eval_loss")
    best.train()
    assert best.evaluate()["eval_loss"] == pytest.approx(best.state.best_metric, abs=1e-6)
    best.save_model()
    assert torch.equal(logits(SavedRun.load(f"{out}-best").model.policy), logits(best.model.policy.eval()))


def test_a_checkpoint_of_another_start_is_not_resumed(model_folder: str, rows: list[dict[str, str]], out: str) -> None:
    args = config(out, max_steps=2, save_strategy="steps", save_steps=2)
    PreferenceTrainer(tuned(model_folder), objective=zoo.dpo(), args=args, train_dataset=rows).train()
    other = PreferenceTrainer(f"{out}/checkpoint-2", objective=zoo.dpo(), args=args, train_dataset=rows)
    with pytest.raises(ValueError, match=r"other settings wrote it: frozen_weights"):
        other.train(resume_from_checkpoint=True)
    named = PreferenceTrainer(
        tuned(model_folder, adapter_name="tune"), objective=zoo.dpo(), args=args, train_dataset=rows
    )
    with pytest.raises(ValueError, match=r"adapters.default.* None here\), adapters.tune \(None there"):
        named.train(resume_from_checkpoint=True)
