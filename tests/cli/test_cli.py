"""The command line, as typed."""

from __future__ import annotations

import errno
import json
import resource
from pathlib import Path

import huggingface_hub
import pytest
import yaml
from typer.testing import CliRunner

from prefopt import zoo
from prefopt.cli import app
from prefopt.cli.console import exit_on
from prefopt.columns import PairColumn, TokenColumn
from prefopt.training import PreferenceTrainer, RunFileError

RUNNER = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})


def run(*arguments: str, exit_code: int = 0) -> str:
    result = RUNNER.invoke(app, arguments)
    assert result.exit_code == exit_code, result.output
    return result.output


def test_help_names_every_command() -> None:
    output = run("--help")
    commands = "train compare config report inspect merge zoo components check doctor new-plugin data demo".split()
    for command in commands:
        assert command in output
    assert "Exit codes: 0: done; 1: " in output


def test_the_zoo_is_a_table_of_equations() -> None:
    output = run("zoo")
    for name in zoo.ZOO:
        assert name in output
    assert "-log sigmoid(beta (sum r_c - sum r_j))" in output


@pytest.mark.parametrize("name", zoo.ZOO)
def test_a_row_in_full_holds_yaml_that_gives_the_row_back(name: str) -> None:
    output = run("zoo", name)
    assert "Source" in output
    text = output.partition("in a run file:")[2]
    assert zoo.build(yaml.safe_load(text)) == zoo.ZOO[name]()


def test_a_wrong_name_is_an_error_with_the_right_one() -> None:
    assert "Did you mean 'sparsepo'?" in run("zoo", "sparspo", exit_code=2)
    assert "Did you mean 'divergence'?" in run("components", "divergance", exit_code=2)


def test_components_of_one_kind() -> None:
    output = run("components", "divergence")
    assert "forward_kl" in output
    assert "prefopt" in output
    assert "logistic" not in output


def test_tasks_and_scorers_are_listed_as_well() -> None:
    output = run("components", "scorer")
    assert "vader" in output
    assert "planted" not in output
    assert "planted" in run("components", "task")
    assert {"planted", "vader", "forward_kl"} <= set(run("components").split())


def test_data_check_counts_and_shows(tmp_path: Path, rows: list[dict[str, str]], model_folder: str) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    output = run("data", "check", str(file), "--tokenizer", model_folder)
    assert "32 rows read, 32 pairs kept" in output
    assert output.count("rejected") >= 3
    assert "tokens of prompt" in output
    assert "bytes of prompt" in run("data", "check", str(file))
    assert "prompts cut" not in output


def test_data_check_cuts_as_training_does(tmp_path: Path, model_folder: str) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text(json.dumps({"prompt": "One day " * 1024, "chosen": " she won.", "rejected": " it sat."}) + "\n")
    assert "1 prompts cut" in run("data", "check", str(file), "-t", model_folder)
    assert "prompts cut" not in run("data", "check", str(file), "-t", model_folder, "--max-length", "0")
    assert "prompts cut" not in run("data", "check", str(file))


def test_data_check_lists_what_is_unusable(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n{"prompt": "a", "chosen": 3, "rejected": "c"}\n')
    output = run("data", "check", str(file), exit_code=2)
    assert "pairs.jsonl:2" in output
    assert "chosen" in output
    assert "no such file" in run("data", "check", str(tmp_path / "absent.jsonl"), exit_code=2)


def test_columns_are_renamed(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text('{"question": "a", "better": " b", "worse": " c"}\n')
    names = ("--column", "prompt=question", "--column", "chosen=better", "--column", "rejected=worse")
    assert "1 pairs kept" in run("data", "check", str(file), *names)
    assert "write it as field=column" in run("data", "check", str(file), "--column", "prompt", exit_code=2)


def test_data_check_shows_the_columns_of_an_objective(
    tmp_path: Path, model_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = (PairColumn("margin"), TokenColumn("w"))
    monkeypatch.setattr("prefopt.objective_config.ObjectiveConfig.columns", columns)
    file = tmp_path / "pairs.jsonl"
    row = {"prompt": "the", "chosen": " film was good", "rejected": " bad", "margin": 1.5, "rejected_w": [2]}
    row["chosen_w"] = [{"start": 1, "end": 9, "value": 0.5}]
    file.write_text(json.dumps(row))
    options = ("--objective", "{zoo: dpo, beta: 0.5}", "--tokenizer", model_folder)
    output = run("data", "check", str(file), *options)
    assert "    pair margin: 1.5\n" in output
    assert "  chosen w: 'film was' 0.5  'good <eos>' 0\n" in output
    assert "rejected w: 'bad' 2  '<eos>' 0\n" in output
    assert "reads 'w' for each token; name the --tokenizer" in run(
        "data", "check", str(file), "--objective", "dpo", exit_code=2
    )
    file.write_text(json.dumps(row | {"margin": "wide"}))
    assert "field 'margin': found text" in run("data", "check", str(file), *options, exit_code=2)
    assert "neither a name nor YAML" in run("data", "check", str(file), "--objective", "{", exit_code=2)
    assert "Did you mean 'dpo'?" in run("data", "check", str(file), "--objective", "dppo", exit_code=2)


def test_train_end_to_end(tmp_path: Path, rows: list[dict[str, str]], model_folder: str) -> None:
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    file = tmp_path / "run.yaml"
    training = {"max_steps": 2, "report_to": "none", "use_cpu": True, "output_dir": str(tmp_path / "out")}
    run_fields = {
        "model": model_folder,
        "data": {"train": str(data), "eval": str(data)},
        "objective": "dpo",
        "training": training,
    }
    file.write_text(yaml.safe_dump(run_fields))
    output = run("train", str(file), "objective.beta=0.5", "training.save_strategy=no")
    assert "rewards/accuracies" in output
    assert "Saved in" in output
    assert "it/s]" not in output  # bars are for terminals
    resolved = yaml.safe_load((tmp_path / "out" / "run.yaml").read_text())
    assert resolved["objective"]["beta"] == 0.5
    wrong = run("train", str(file), "objective.betta=1", "training.seeed=1", exit_code=2)
    assert "Did you mean 'beta'?" in wrong
    assert "Did you mean 'seed'?" in wrong
    again = ("train", str(file), "training.save_strategy=no")
    assert "--overwrite (overwrite_output_dir) removes it" in run(*again, exit_code=2)
    assert "Saved in" in run(*again, "--overwrite")
    elsewhere = f"training.output_dir={tmp_path / 'other'}"
    with pytest.MonkeyPatch.context() as patch:  # another process than the first prints none of what they all know
        patch.setattr(PreferenceTrainer, "is_world_process_zero", lambda _: False)
        assert "Nothing was written" not in run("train", str(file), elsewhere, "--dry-run")
    assert "error:" in run("train", str(file), f"model={tmp_path / 'no-model'}", elsewhere, exit_code=2)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("train", "error: Missing argument 'run_file'; see `prefopt train --help`"),
        (
            "train x --dryrun",
            "error: No such option: --dryrun (Possible options: --dry-run); see `prefopt train",
        ),
        ("migrat", "error: No such command 'migrat'. Did you mean 'migrate'?; see `prefopt --help`"),
        ("config foo", "error: Invalid value for '[train|compare]': 'foo' is not one of 'train', 'compare'; "),
        ("data check x.jsonl -t no-model", "error: no-model: the tokenizer cannot be used"),
    ],
)
def test_words_that_a_command_does_not_take_are_one_line(
    words: str, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    output = run(*words.split(), exit_code=2)
    assert output.startswith(line)
    assert len(output.splitlines()) == 1


@pytest.mark.parametrize("error", [EOFError(), RuntimeError("two\nlines"), KeyError("model.embed")])
def test_an_error_that_no_command_expects_is_one_line(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("prefopt.training.RunFile.load", fail)
    lines = run("train", "run.yaml", exit_code=2).splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"error: {type(error).__name__}: {' '.join(str(error).split())}")
    raised = RUNNER.invoke(app, ["--debug", "train", "run.yaml"]).exception
    assert error in (raised, raised.__cause__ if raised else None)


def test_a_pipe_that_is_closed_is_no_error_to_print(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BrokenPipeError), exit_on(OSError):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")
    assert capsys.readouterr().err == ""


def test_debug_shows_the_traceback_of_expected_errors_too(tmp_path: Path) -> None:
    file = str(tmp_path / "absent.yaml")
    assert run("train", file, exit_code=2).splitlines() == [f"error: {file}: there is no such file"]
    raised = RUNNER.invoke(app, ["--debug", "train", file])
    assert isinstance(raised.exception, RunFileError)
    assert run("train", file, exit_code=2).startswith("error: ")


def test_a_new_plugin_is_written_whole_into_a_folder_that_was_not_there(tmp_path: Path) -> None:
    arguments = ("new-plugin", "prefopt-decay", "--kind", "token-weighting", "--out", str(tmp_path / "new"))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        output = run(*arguments, exit_code=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "cannot be written (File too large; " in output
    assert "prefopt-decay" in output
    assert not list((tmp_path / "new").iterdir())
    run(*arguments)
    readme = tmp_path / "new" / "prefopt-decay" / "README.md"
    readme.write_text("mine")
    assert "exists already" in run(*arguments, exit_code=2)
    assert readme.read_text() == "mine"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["prefopt-decay"]
