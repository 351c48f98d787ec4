"""Settings as they are written: text for true, digits for names, other trainers' defaults, what no loss reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from prefopt import zoo
from prefopt.cli import app
from prefopt.training import RunFile
from prefopt.training.migration import Migration, Outcome, migrate

TRL = {"model_name_or_path": "m", "dataset_name": "d", "dtype": "float32"}
AXOLOTL = {"base_model": "m", "rl": "dpo", "datasets": [{"path": "d"}]}
LLAMA_FACTORY = {"stage": "dpo", "model_name_or_path": "m", "dataset": "a, b"}


def run_of(migration: Migration) -> RunFile:
    return RunFile.model_validate(migration.run)


def outcomes(migration: Migration) -> dict[str, tuple[Outcome, str]]:
    assert len({note.setting for note in migration.notes}) == len(migration.notes)
    return {note.setting: (note.outcome, note.text) for note in migration.notes}


@pytest.mark.parametrize("no", ["False", "false", "no", "off", "0", 0])
def test_text_that_says_false_turns_a_setting_off(no: object) -> None:
    off = "use_peft load_in_4bit use_weighting reference_free sync_ref_model push_to_hub precompute_ref_log_probs bf16"
    run = run_of(migrate(TRL | dict.fromkeys(off.split(), no) | {"hub_model_id": "a/b", "ref_model_sync_steps": 9}))
    assert run.objective == zoo.dpo()
    assert (run.model.peft, run.model.init, run.data.reference_cache) == (None, {"dtype": "float32"}, None)
    assert run.training == {"sync_ref_model": False, "push_to_hub": False, "bf16": False}


def test_text_that_says_true_turns_it_on_and_other_text_is_refused() -> None:
    run = run_of(migrate(TRL | {"use_peft": "True", "lora_modules_to_save": "lm_head", "reference_free": "yes"}))
    assert run.objective.reference_free
    assert run.model.peft is not None
    assert run.model.peft["modules_to_save"] == ["lm_head"]
    with pytest.raises(ValueError, match=r"^use_peft: .*got 'maybe'$"):
        migrate(TRL | {"use_peft": "maybe"})


def test_names_of_digits_and_no_limit() -> None:
    run = run_of(migrate(TRL | {"dataset_config": 2024, "run_name": 7, "max_length": None, "save_strategy": False}))
    assert (run.data.train[0].name, run.data.max_length) == ("2024", None)
    assert run.training == {"run_name": "7", "save_strategy": "no"}


@pytest.mark.parametrize(
    ("settings", "method", "unread"),
    [
        ({"discopop_tau": 0.1, "f_alpha_divergence_coef": 0.2}, None, {"discopop_tau", "f_alpha_divergence_coef"}),
        (
            {"beta": 0.2, "loss_type": "ipo", "label_smoothing": 0.1, "ld_alpha": 0.3, "rpo_alpha": 1.0},
            "orpo",
            {"loss_type", "label_smoothing", "ld_alpha", "rpo_alpha"},
        ),
        ({"beta": 2.0, "simpo_gamma": 1.0, "use_weighting": True}, "simpo", {"use_weighting"}),
        ({"loss_type": "discopop", "discopop_tau": 0.1}, None, set()),
    ],
)
def test_what_no_loss_reads_has_no_counterpart(settings: dict[str, Any], method: str | None, unread: set[str]) -> None:
    told = outcomes(migrate(TRL | settings, method=method))
    assert {name for name in settings if told[name][0] is Outcome.NO_COUNTERPART} == unread


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"desirable_weight": 1.0}, "desirable_weight is a setting of KTO"),
        ({"output_dir": "data/chat-kto"}, "KTO is in the names of these settings"),
        ({"num_generations": 8}, "num_generations is a setting of GRPO"),
        ({"load_in_4bit": True, "load_in_8bit": True}, "load_in_4bit and load_in_8bit"),
        ({"model_name_or_path": None}, "^no model: give model_name_or_path$"),
        ({"datasets": [{"path": "a", "data_files": {"test": "t.json"}}]}, "data_files has test, and not the split"),
        ({"dataset_mixture": {"datasets": ["a/b"]}}, "a data set is a mapping with its path, not 'a/b'"),
    ],
)
def test_what_is_no_run_on_pairs_is_refused(settings: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError, match=line):
        migrate(TRL | settings)


def test_a_token_is_not_written_and_a_near_name_is_told() -> None:
    migration = migrate(TRL | {"push_to_hub": True, "hub_token": "hf_secret", "learning_rte": 1e-4})
    assert "hub_token" not in migration.run["training"]
    assert "secret" not in str(migration)
    assert outcomes(migration)["learning_rte"][1].endswith("Did you mean 'learning_rate'?")
    kept = migrate(TRL | {"push_to_hub": True, "hub_token": "${oc.env:HF_TOKEN}"})
    assert kept.run["training"]["hub_token"] == "${oc.env:HF_TOKEN}"


@pytest.mark.parametrize(
    ("mixer", "splits", "names"),
    [
        ({"a/x": 1.0, "b/y": 1.0}, ["train", "test"], ["x", "y"]),
        ({"a/x": 1.0, "b/x": 1.0}, ["train", "test"], ["a-x", "b-x"]),
        ({"a/x": 1.0}, ["train_prefs", "test_prefs", "test_sft"], ["x-test_prefs", "x-test_sft"]),
    ],
)
def test_no_evaluation_set_takes_the_place_of_another(
    mixer: dict[str, float], splits: list[str], names: list[str]
) -> None:
    settings = {"dataset_name": None, "dataset_mixer": mixer, "dataset_splits": splits, "eval_strategy": "epoch"}
    assert list(run_of(migrate(TRL | settings)).data.eval) == names


def test_defaults_of_axolotl_are_written_out() -> None:
    migration = migrate(AXOLOTL | {"learning_rate": 1e-5, "saves_per_epoch": 1, "rl_beta": None})
    run = run_of(migration)
    assert run.data.max_length == 512
    assert run.training == {
        "learning_rate": 1e-5,
        "save_strategy": "epoch",
        "per_device_train_batch_size": 1,
        "num_train_epochs": 1.0,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.03,
    }
    assert outcomes(migration)["sequence_len"] == (Outcome.CARRIED_OVER, "data.max_length: 512, axolotl's default")
    assert migrate(AXOLOTL | {"warmup_steps": 5}).run["training"]["warmup_steps"] == 5
    several = run_of(migrate(AXOLOTL | {"dpo_loss_type": ["sigmoid", "sft"], "dpo_loss_weights": [1.0, 0.5]}))
    assert several.objective == zoo.rpo(alpha=0.5)
    columns = run_of(migrate(AXOLOTL | {"datasets": [{"path": "d", "type": "chatml.intel"}]})).data.train[0].columns
    assert columns == {"prompt": "question"}
    with pytest.raises(ValueError, match=r"^datasets\.0: .*got 'foo'$"):
        migrate(AXOLOTL | {"datasets": ["foo"]})
    with pytest.raises(ValueError, match="rl is not set"):
        migrate(AXOLOTL | {"rl": None})


def test_defaults_and_mixtures_of_llama_factory() -> None:
    settings = {"quantization_bit": "4", "mix_strategy": "interleave_over", "interleave_probs": "0.3, 0.7"}
    migration = migrate(LLAMA_FACTORY | settings | {"output_dir": "saves/orpo", "enable_thinking": False})
    run = run_of(migration)
    assert run.objective == zoo.dpo()
    assert (run.data.mixture, run.data.stopping_strategy) == ("interleave", "all_exhausted")
    assert [source.weight for source in run.data.train] == [0.3, 0.7]
    assert (run.data.max_length, run.data.chat_template_kwargs) == (2048, {"enable_thinking": False})
    assert (run.training["learning_rate"], run.training["activation_checkpointing"]) == (5e-5, True)
    assert run.model.init["quantization_config"]["bnb_4bit_use_double_quant"] is True
    told = outcomes(migration)
    assert told["lora_rank"] == (Outcome.CARRIED_OVER, "model.peft.r: 8, LLaMA-Factory's default")
    assert "bf16" not in told
    with pytest.raises(ValueError, match="3 are not as many as the data sets, 2"):
        migrate(LLAMA_FACTORY | settings | {"interleave_probs": "0.3,0.3,0.4"})


def test_flags_as_their_parser_reads_them(tmp_path: Path) -> None:
    out = tmp_path / "run.yaml"
    words = [
        "--model_name_or_path",
        "m",
        "--dataset_name",
        "d",
        "--learning-rate",
        "1e-4",
        "--no_gradient_checkpointing",
    ]
    more = ["--model_revision", "1e5", "--chat_template_kwargs.enable_thinking", "false", "--save_strategy", "no"]
    result = CliRunner().invoke(app, ["migrate", *words, *more, "--out", str(out)])
    assert result.exit_code == 0, result.output
    run = yaml.safe_load(out.read_text())
    assert run["model"]["init"]["revision"] == "1e5"
    assert run["data"]["chat_template_kwargs"] == {"enable_thinking": False}
    assert run["training"] == {"learning_rate": 1e-4, "activation_checkpointing": False, "save_strategy": "no"}


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "error: nothing to migrate: give a YAML file, or flags"),
        (["--config"], "error: --config: a file is needed"),
        (["--config", "a.yaml", "--config=b.yaml"], "error: --config is given 2 times"),
        (["--columns", "{a:", "b"], "error: --columns: "),
        (["--model_name_or_path", "m", "--dataset_name", "d", "--beta", "x", "--max_steps", "y"], "error: beta: "),
    ],
)
def test_each_mistake_in_flags_is_a_line(words: list[str], line: str) -> None:
    result = CliRunner().invoke(app, ["migrate", *words])
    assert result.exit_code == 2
    assert result.output.startswith(line)
    assert all(written.startswith("error: ") for written in result.output.splitlines())
