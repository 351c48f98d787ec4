"""TRL's DPO settings as run files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from prefopt import zoo
from prefopt.cli import app
from prefopt.losses import OnPolicyWeightedLoss
from prefopt.training import RunFile
from prefopt.training.migration import Outcome, migrate

BASE = {"model_name_or_path": "some/model", "dataset_name": "some/data", "gradient_checkpointing": False, "bf16": False}


def objective(**settings: Any) -> Any:
    return RunFile.model_validate(migrate(BASE | settings).run).objective


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, zoo.dpo()),
        ({"loss_type": "sigmoid", "beta": 0.3}, zoo.dpo(beta=0.3)),
        ({"loss_type": ["hinge"]}, zoo.hinge()),
        ({"loss_type": "ipo", "beta": 0.2}, zoo.ipo(beta=0.2)),
        ({"loss_type": "exo_pair", "label_smoothing": 0.01}, zoo.exo(label_smoothing=0.01)),
        ({"loss_type": "nca_pair"}, zoo.nca()),
        ({"loss_type": "bco_pair"}, zoo.bco_pair()),
        ({"loss_type": "robust", "label_smoothing": 0.2}, zoo.robust(label_smoothing=0.2)),
        ({"loss_type": "sppo_hard", "beta": 0.01}, zoo.sppo(beta=0.01)),
        ({"loss_type": "aot", "label_smoothing": 0.1}, zoo.aot_paired(label_smoothing=0.1)),
        ({"loss_type": "aot_unpaired"}, zoo.aot()),
        ({"loss_type": "apo_zero"}, zoo.apo_zero()),
        ({"loss_type": "apo_down"}, zoo.apo_down()),
        ({"loss_type": "discopop", "discopop_tau": 0.1}, zoo.discopop(beta=0.1, tau=0.1)),
        ({"loss_type": "sigmoid_norm", "beta": 2.0}, zoo.dpo_norm(beta=2.0)),
        ({"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.5]}, zoo.rpo(alpha=0.5)),
        ({"ld_alpha": 0.3}, zoo.ld_dpo(alpha=0.3)),
        ({"f_divergence_type": "forward_kl"}, zoo.f_dpo_forward_kl()),
        ({"f_divergence_type": "js_divergence"}, zoo.f_dpo_jensen_shannon()),
        ({"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.3}, zoo.f_dpo_alpha(alpha=0.3)),
    ],
)
def test_each_loss_becomes_its_row(settings: dict[str, Any], expected: Any) -> None:
    assert objective(**settings) == expected


@pytest.mark.parametrize(
    "settings",
    [
        {"loss_type": "exo_pair", "label_smoothing": 0.01},
        {"loss_type": "ipo", "beta": 0.2},
        {"loss_type": "discopop", "discopop_tau": 0.1, "beta": 0.3},
        {"loss_type": "sigmoid", "beta": 0.3},
    ],
)
def test_a_weighted_loss_is_written_once(settings: dict[str, Any]) -> None:
    plain, whole = objective(**settings), migrate(BASE | settings | {"use_weighting": True}).run["objective"]
    assert whole.keys() - {"zoo", "loss"} <= {"beta"}
    assert zoo.build(whole) == plain.model_copy(update={"loss": OnPolicyWeightedLoss(loss=plain.loss)})


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"loss_type": "kto_pair"}, "no row here.*apo_zero is KTO's loss of both responses"),
        ({"undesirable_weight": 1.3}, "a setting of KTO.*apo_zero is KTO's loss of both responses"),
        ({"loss_type": ["sigmoid", "ipo"]}, "one reward shaping"),
        ({"loss_type": ["sigmoid", "hinge"], "loss_weights": [1.0]}, "not as many"),
        ({"loss_type": "sft"}, "no preference loss"),
        ({"f_divergence_type": "chi"}, "is none of"),
        ({"loss_type": "ipo", "f_divergence_type": "forward_kl"}, "averaged"),
        ({"learning_rate": "fast"}, "learning_rate"),
    ],
)
def test_what_has_no_equivalent_is_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        migrate(BASE | settings)


def test_the_rest_lands_in_its_section() -> None:
    migration = migrate(
        BASE
        | {
            "dtype": "float32",
            "dataset_train_split": "train_prefs",
            "dataset_test_split": "test_prefs",
            "eval_strategy": "steps",
            "max_length": 512,
            "use_peft": True,
            "lora_r": 8,
            "learning_rate": 5e-6,
            "gradient_checkpointing": True,
        }
    )
    run = RunFile.model_validate(migration.run)
    assert (run.model.name, run.model.init) == ("some/model", {"dtype": "float32"})
    assert run.model.peft == {"r": 8, "lora_alpha": 32, "lora_dropout": 0.05}
    assert (run.data.train[0].path, run.data.eval[""].path) == ("some/data", "some/data")
    assert (run.data.train[0].split, run.data.eval[""].split) == ("train_prefs", "test_prefs")
    assert run.data.max_length == 512
    assert run.training == {
        "bf16": False,
        "eval_strategy": "steps",
        "learning_rate": 5e-6,
        "activation_checkpointing": True,
    }


@pytest.mark.parametrize(
    ("settings", "outcome", "setting", "words"),
    [
        ({"label_smoothing": 0.1}, Outcome.NO_COUNTERPART, "label_smoothing", "TRL ignores it with sigmoid"),
        (
            {"use_weighting": True, "loss_type": ["sigmoid", "sft"]},
            Outcome.CHANGED,
            "use_weighting",
            "TRL weighs the sft term too",
        ),
        (
            {"dataset_test_split": "test_prefs"},
            Outcome.NO_COUNTERPART,
            "dataset_test_split",
            "only where there is an eval",
        ),
        ({"ref_model_sync_steps": 64}, Outcome.NO_COUNTERPART, "ref_model_sync_steps", "read only with sync_ref_model"),
        ({"precompute_ref_log_probs": True}, Outcome.CHANGED, "precompute_ref_log_probs", "data.reference_cache: "),
        ({"use_peft": True}, Outcome.CHANGED, "lora_dropout", "dropout is always off"),
        ({"lora_r": 4}, Outcome.NO_COUNTERPART, "lora_r", "read only with use_peft"),
        ({"some_new_setting": 3}, Outcome.NO_COUNTERPART, "some_new_setting", "no such setting is known here"),
        ({"loss_type": ["sigmoid", "sft"]}, Outcome.CHANGED, "loss_type", "mean over all chosen tokens"),
        ({"push_to_hub": True}, Outcome.CARRIED_OVER, "push_to_hub", "training.push_to_hub"),
        ({"hub_model_id": "a/b"}, Outcome.NO_COUNTERPART, "hub_model_id", "read only with push_to_hub"),
        ({"push_to_hub_revision": True}, Outcome.NO_COUNTERPART, "push_to_hub_revision", "training.hub_revision"),
        ({"beta": 0.3}, Outcome.CARRIED_OVER, "beta", "objective (dpo)"),
        ({"warmup_ratio": 0.1}, Outcome.CARRIED_OVER, "warmup_ratio", "training.warmup_steps"),
        ({"torch_dtype": "float32"}, Outcome.CARRIED_OVER, "torch_dtype", "model.init.dtype"),
        ({"generate_during_eval": True}, Outcome.NO_COUNTERPART, "generate_during_eval", "only where there is an eval"),
        (
            {"generate_during_eval": True, "eval_strategy": "steps"},
            Outcome.CHANGED,
            "generate_during_eval",
            "samples: of 8 prompts",
        ),
        ({"dataset_num_proc": 4}, Outcome.CARRIED_OVER, "dataset_num_proc", "data.dataset_num_proc"),
        ({"streaming": True}, Outcome.NO_COUNTERPART, "streaming", "data.streaming needs training.max_steps"),
        ({"streaming": True, "max_steps": 9}, Outcome.CARRIED_OVER, "streaming", "data.streaming"),
        (
            {"dataset_streaming": True, "max_steps": 9, "dataset_num_proc": 4},
            Outcome.NO_COUNTERPART,
            "dataset_streaming",
            "something of this run needs all pairs",
        ),
        ({"max_prompt_length": 9}, Outcome.CARRIED_OVER, "max_prompt_length", "data.max_prompt_length"),
        (
            {"datasets": [{"path": "some/data"}], "test_split_size": 0.1, "eval_strategy": "steps"},
            Outcome.CHANGED,
            "test_split_size",
            "TRL draws anew in every run",
        ),
    ],
)
def test_every_setting_is_told(settings: dict[str, Any], outcome: Outcome, setting: str, words: str) -> None:
    migration = migrate(BASE | settings)
    RunFile.model_validate(migration.run)
    notes = {note.setting: note for note in migration.notes}
    assert notes[setting].outcome is outcome
    assert words in notes[setting].text
    assert BASE.keys() | settings.keys() <= notes.keys()


def test_defaults_that_trl_sets_otherwise_are_listed() -> None:
    notes = migrate({"model_name_or_path": "m", "dataset_name": "d"}).notes
    changed = [note.setting for note in notes if note.outcome is Outcome.CHANGED]
    assert changed == ["gradient_checkpointing", "bf16", "dtype"]


def test_from_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "trl.yaml"
    file.write_text(yaml.safe_dump(BASE | {"loss_type": "ipo"}))
    out = tmp_path / "run.yaml"
    words = ["migrate", "--config", str(file), "--beta", "0.2", "--max_length=256", "--use_peft", "--out", str(out)]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    run = RunFile.load(out)
    assert run.objective == zoo.ipo(beta=0.2)
    assert run.data.max_length == 256
    assert run.model.peft is not None
    refused = CliRunner().invoke(app, words)
    assert (refused.exit_code, RunFile.load(out)) == (2, run)
    assert "exists already" in refused.output
    assert CliRunner().invoke(app, [*words, "--overwrite"]).exit_code == 0
    lists = CliRunner().invoke(
        app, ["migrate", str(file), "--loss_type", "sigmoid", "sft", "--loss_weights", "1.0", "0.5"]
    )
    assert "weight: 0.5" in lists.output
    refused = CliRunner().invoke(app, ["migrate", str(file), "--loss_type", "kto_pair"])
    assert refused.exit_code == 2
    assert "no row here" in refused.output


def test_a_script_and_the_notes_in_full(tmp_path: Path) -> None:
    script = tmp_path / "dpo.py"
    script.write_text('"""A script."""\nbeta = 0.1\n')
    refused = CliRunner().invoke(app, ["migrate", str(script)])
    assert refused.exit_code == 2
    assert "dpo.py: a script is not read. Give its settings as flags" in refused.output.replace("\n", " ")
    flags = {"--model_name_or_path": "m", "--dataset_name": "d", "--gradient_accumulation_steps": "2"}
    told = CliRunner().invoke(app, ["migrate", *(word for flag in flags.items() for word in flag)])
    assert "training.gradient_accumulation_steps" in "".join(told.output.split())


def test_a_file_that_is_evaluated_is_told_as_what_is_trained_on(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text("{}\n")
    notes = {note.setting: note for note in migrate(BASE | {"dataset_name": str(file), "eval_strategy": "steps"}).notes}
    assert notes["evaluation data"].outcome is Outcome.CHANGED
    assert "has no splits, so that data.eval is what is trained on" in notes["evaluation data"].text


def test_settings_of_the_data_and_of_loading_go_where_they_belong() -> None:
    settings = {"dtype": "float32", "model_init_kwargs": {"revision": "main"}, "max_prompt_length": 64}
    run = migrate(BASE | settings | {"chat_template_kwargs": {"enable_thinking": False}}).run
    assert run["model"]["init"] == {"dtype": "float32", "revision": "main"}
    assert run["data"]["max_prompt_length"] == 64
    assert run["data"]["chat_template_kwargs"] == {"enable_thinking": False}
