"""What a run takes from the environment is in none of the files that it writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from prefopt.comparison.suite import Suite
from prefopt.training import RunFile, RunFileError
from prefopt.training.execute import start, train

TOKEN = "hf_aTokenThatNobodyMayRead"
BASE = {"model": "m", "data": "d", "objective": "dpo"}


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFOPT_TEST_TOKEN", TOKEN)


def write(path: Path, document: object) -> Path:
    path.write_text(yaml.safe_dump(document))
    return path


def test_references_stay_in_the_resolved_run_and_are_read_again(tmp_path: Path) -> None:
    reference = "${oc.env:PREFOPT_TEST_TOKEN}"
    init = {"token": reference, "revision": "${training.hub_token}"}
    training = {"hub_token": reference, "seed": 3, "run_name": f"of {reference}", "data_seed": "${training.seed}"}
    document = {**BASE, "model": {"name": "m", "init": init}, "training": training}
    run = RunFile.load(write(tmp_path / "run.yaml", document), [f"data.eval={reference}"])
    assert run.model.init["token"] == run.training["hub_token"] == run.data.eval[""].path == TOKEN
    text = run.to_yaml()
    assert TOKEN not in text
    fields = yaml.safe_load(text)
    assert fields["model"]["init"] == init
    assert fields["training"] == {**training, "data_seed": 3}
    assert fields["data"]["eval"] == reference
    again = RunFile.load(write(tmp_path / "again.yaml", fields))
    assert again.training == run.training
    assert again.to_yaml() == text


def test_a_variable_that_is_not_set_is_one_line(tmp_path: Path) -> None:
    file = write(tmp_path / "run.yaml", {**BASE, "training": {"hub_token": "${oc.env:PREFOPT_TEST_ABSENT}"}})
    with pytest.raises(
        RunFileError,
        match=r"training.hub_token reads the environment variable PREFOPT_TEST_ABSENT, which is not set; set it",
    ) as caught:
        RunFile.load(file)
    assert len(str(caught.value).splitlines()) == 1


def test_references_stay_in_a_suite_and_tokens_out_of_its_records(tmp_path: Path) -> None:
    reference = "${oc.env:PREFOPT_TEST_TOKEN}"
    training = {"model_init_kwargs": {"token": reference}, "max_steps": 2}
    document = {"task": "planted", "objectives": {"dpo": "dpo"}, "seeds": [0], "training": training}
    suite = Suite.load(write(tmp_path / "suite.yaml", document))
    assert TOKEN not in suite.to_yaml()
    assert reference in suite.to_yaml()
    run = next(run for run in suite.runs() if run.objective)
    assert run.training["model_init_kwargs"]["token"] == TOKEN
    assert TOKEN not in json.dumps(run.configuration)


def test_no_file_of_a_run_holds_the_token(tmp_path: Path, rows: list[dict[str, str]], model_folder: str) -> None:
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    reference, out = "${oc.env:PREFOPT_TEST_TOKEN}", tmp_path / "out"
    training = {"max_steps": 1, "save_steps": 1, "use_cpu": True, "output_dir": str(out), "hub_token": reference}
    document = {
        "model": {"name": model_folder, "init": {"token": reference}},
        "data": str(data),
        "objective": "dpo",
        "training": {**training, "report_to": "none"},
    }
    trainer = start(RunFile.load(write(tmp_path / "run.yaml", document)))
    assert trainer.args.hub_token == trainer.args.model_init_kwargs["token"] == TOKEN
    assert TOKEN not in trainer.args.to_json_string()
    train(trainer)
    files = [path for path in out.rglob("*") if path.is_file()]
    assert {"run.yaml", "about.json", "training_args.bin", "optimizer.pt"} <= {path.name for path in files}
    assert [path for path in files if TOKEN.encode() in path.read_bytes()] == []
