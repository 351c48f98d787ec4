"""The run file: what it accepts, what it refuses and in which words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from prefopt import zoo
from prefopt.data import DataError
from prefopt.losses import HingeLoss
from prefopt.training import RunFile, RunFileError, start, train
from prefopt.weightings import MixedWeighting, SparseWeighting

pytestmark = pytest.mark.slow


@pytest.fixture
def run_file(tmp_path: Path, model_folder: str, rows: list[dict[str, str]]) -> Path:
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = {
        "model": model_folder,
        "data": {"train": str(data), "eval": str(data), "max_length": 32},
        "objective": {"zoo": "tdpo2", "beta": 0.3},
        "training": {
            "output_dir": str(tmp_path / "run"),
            "max_steps": 3,
            "per_device_train_batch_size": 4,
            "logging_steps": 1,
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": True,
            "save_strategy": "no",
        },
    }
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(run))
    return path


def test_a_run_file_is_resolved_with_its_overrides(run_file: Path) -> None:
    run = RunFile.load(run_file, ["objective.beta=0.5", "objective.alpha=0.7", "training.learning_rate=1e-6"])
    assert run.objective == zoo.tdpo2(beta=0.5, alpha=0.7)
    assert run.training["learning_rate"] == 1e-6
    assert run.preference_config().learning_rate == 1e-6
    assert run.preference_config().max_length == 32


def test_an_override_reaches_into_a_slot(run_file: Path) -> None:
    run = RunFile.load(run_file, ["objective=sparsepo", "objective.weighting.position=token"])
    assert run.objective.weighting == SparseWeighting(position="token")
    assert run.objective.regularizers == zoo.sparsepo().regularizers


def test_an_override_of_a_field_leaves_the_component_that_a_name_gives(run_file: Path) -> None:
    run = yaml.safe_load(run_file.read_text())
    weighting = {"name": "mixed", "weighting": "sparse"}
    run_file.write_text(yaml.safe_dump({**run, "objective": {"loss": "hinge", "weighting": weighting}}))
    run = RunFile.load(run_file, ["objective.loss.margin=2", "objective.weighting.weighting.gate=softplus"])
    assert run.objective.loss == HingeLoss(margin=2)
    assert run.objective.weighting == MixedWeighting(weighting=SparseWeighting(gate="softplus"))
    both = RunFile.load(run_file, ["objective.loss.margin=2", "objective.loss=hinge"])
    assert both.objective.loss == HingeLoss(margin=2)


def test_a_name_for_a_section_leaves_the_rest_of_it(run_file: Path) -> None:
    run = RunFile.load(run_file, ["model.tokenizer=other", "data=more.jsonl", "objective=tdpo1"])
    assert (run.model.name, run.model.tokenizer) == (RunFile.load(run_file).model.name, "other")
    assert (run.data.train[0].path, run.data.max_length) == ("more.jsonl", 32)
    assert run.objective == zoo.tdpo1(beta=0.3)


def test_slots_make_an_objective_without_a_name(run_file: Path) -> None:
    fields = yaml.safe_load(run_file.read_text()) | {"objective": {"beta": 0.2, "loss": "hinge", "shaping": "mean"}}
    run_file.write_text(yaml.safe_dump(fields))
    objective = RunFile.load(run_file).objective
    assert (objective.loss.name, objective.shaping.name, objective.beta) == ("hinge", "mean", 0.2)


@pytest.mark.parametrize(
    ("override", "objective"),
    [
        ("objective=hinge", {"zoo": "hinge", "beta": 0.3}),
        ("objective={zoo: hinge}", {"zoo": "hinge", "beta": 0.3}),
        ("objective={zoo: hinge, beta: 0.4}", {"zoo": "hinge", "beta": 0.4}),
        ("objective={shaping: mean}", {"zoo": "dpo", "beta": 0.3, "shaping": "mean"}),
    ],
)
def test_a_section_is_overridden_by_its_short_form_or_by_fields(
    run_file: Path, override: str, objective: dict[str, Any]
) -> None:
    fields: dict[str, Any] = yaml.safe_load(run_file.read_text())
    run_file.write_text(yaml.safe_dump(fields | {"objective": {"zoo": "dpo", "beta": 0.3}}))
    assert RunFile.load(run_file, [override]).objective == zoo.build(objective)
    model = RunFile.load(run_file, ["model={init: {dtype: float32}}"]).model
    assert (model.name, model.init) == (fields["model"], {"dtype": "float32"})


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("objective.zoo=tdpo3", "objective: no objective named 'tdpo3' in the zoo. Did you mean 'tdpo"),
        (
            "objective.betta=1",
            "objective: betta: tdpo2 has no such parameter, and objectives no such slot.",
        ),
        ("objective.beta=-1", "objective: tdpo2: beta: more than 0 is needed, got -1"),
        ("objective={zoo: ipo, beta: -1}", "objective: ipo at beta -1: margin: more than 0 is needed, got -0.5"),
        ("objective.weighting=sparce", "no TokenWeighting named 'sparce'. Did you mean 'sparse'?"),
        (
            "objective.loss.label_smothing=0.1",
            "no such field in LogisticLoss. Did you mean 'label_smoothing'?",
        ),
        ("data.trian=x", "data.trian: no such field in DataSection. Did you mean 'train'?"),
        ("trainig.seed=1", "trainig: no such field in RunFile. Did you mean 'training'?"),
        ("training.learning_rat=1", "training: learning_rat: no such training argument. Did you mean 'learning_rate'?"),
        ("training.max_steps=many", "training: max_steps: a whole number is needed"),
        ("training.max_length=3", "training: max_length belongs under `data`"),
        ("data.on_bad_rows=ignore", "data.on_bad_rows: 'stop' or 'quarantine' is needed, got 'ignore'"),
        ("model.name=null", "model.name: a text is needed"),
        ("loose", "write it as section.field=value"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(run_file: Path, override: str, line: str) -> None:
    fields: dict[str, Any] = yaml.safe_load(run_file.read_text())
    fields["model"] = {"name": fields["model"]}
    run_file.write_text(yaml.safe_dump(fields))
    with pytest.raises(RunFileError) as caught:
        RunFile.load(run_file, [override])
    assert line in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_every_problem_is_named_at_once(run_file: Path) -> None:
    with pytest.raises(RunFileError) as caught:
        RunFile.load(run_file, ["objective.betta=1", "data.trian=x", "training.max_steps=many"])
    assert len(str(caught.value).splitlines()) == 3


@pytest.mark.parametrize("text", ["[1, 2]", "model: [", "just words"])
def test_what_is_no_run_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(RunFileError, match=r"run\.yaml"):
        RunFile.load(path)
    with pytest.raises(RunFileError, match="there is no such file"):
        RunFile.load(tmp_path / "absent.yaml")


def test_what_transformers_refuses_is_a_run_file_error(run_file: Path) -> None:
    run = RunFile.load(run_file, ["training.save_strategy=steps", "training.load_best_model_at_end=true"])
    with pytest.raises(RunFileError, match="training: "):
        run.preference_config()


def test_a_run_leaves_all_that_is_needed_to_repeat_it(run_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prefopt.training.execute.excluded_plugins", lambda: ("a-plugin:components",))
    result = train(start(RunFile.load(run_file)))
    again = RunFile.load(result.folder / "run.yaml")
    assert again == RunFile.load(run_file)
    about = json.loads((result.folder / "about.json").read_text())
    assert {"prefopt", "torch", "transformers"} <= set(about["libraries"])
    assert about["components"]["divergence forward_kl"].startswith("prefopt ")
    assert about["excluded_plugins"] == ["a-plugin:components"]
    assert about["seeds"]["seed"] == 42
    assert about["data"]["train"]["kept"] == 32
    assert result.evaluation["eval_rewards/accuracies"] >= 0
    repeated = train(start(again, overwrite=True))
    losses = [[entry["loss"] for entry in r.log if "loss" in entry] for r in (result, repeated)]
    assert losses[0] == losses[1]
    assert (result.folder / "model.safetensors").exists()


def test_an_adapter_from_the_run_file(run_file: Path) -> None:
    fields = yaml.safe_load(run_file.read_text())
    fields["model"] = {"name": fields["model"], "peft": {"r": 2, "target_modules": "all-linear"}}
    run_file.write_text(yaml.safe_dump(fields))
    result = train(start(RunFile.load(run_file)))
    assert (result.folder / "adapter_model.safetensors").exists()
    with pytest.raises(RunFileError, match=r"model\.peft: .*rank"):
        start(RunFile.load(run_file, ["model.peft.rank=3"]))
    with pytest.raises(RunFileError, match=r"model\.peft: lora_alfa: no such field .* Did you mean 'lora_alpha'\?"):
        start(RunFile.load(run_file, ["model.peft.lora_alfa=3"]))


def test_bad_rows_are_found_before_the_model_is_loaded(run_file: Path, tmp_path: Path) -> None:
    with (tmp_path / "pairs.jsonl").open("a") as file:
        file.write('{"prompt": "the", "chosen": " good"}\nnot json\n')
    with pytest.raises(DataError, match=r"pairs\.jsonl:33: .*rejected") as caught:
        start(RunFile.load(run_file))
    assert "pairs.jsonl:34" in str(caught.value)
    trainer = start(RunFile.load(run_file, ["data.on_bad_rows=quarantine"]))
    assert trainer.data_reports["train"].quarantined == 2
    assert len((tmp_path / "run" / "quarantine-train.jsonl").read_text().splitlines()) == 2


def test_the_evaluation_of_the_last_step_is_the_runs(run_file: Path) -> None:
    steps = ["training.max_steps=2", "training.eval_strategy=steps", "training.overwrite_output_dir=true"]
    ends_with_one, ends_without = (
        train(start(RunFile.load(run_file, [*steps, f"training.eval_steps={every}"]))) for every in (2, 3)
    )
    for result in (ends_with_one, ends_without):
        assert [entry["step"] for entry in result.log if "eval_loss" in entry] == [2]
        assert "| loss |" in (result.folder / "README.md").read_text()
    shared = ends_with_one.evaluation.keys() & ends_without.evaluation.keys()
    assert {"eval_loss", "eval_rewards/margins"} <= shared
    assert {name: ends_with_one.evaluation[name] for name in shared} == {
        name: ends_without.evaluation[name] for name in shared
    }


def test_resume_from_the_run_file(run_file: Path) -> None:
    train(start(RunFile.load(run_file, ["training.save_strategy=steps", "training.save_steps=2"])))
    overrides = ["training.resume_from_checkpoint=true", "training.max_steps=5"]
    result = train(start(RunFile.load(run_file, overrides)))
    steps = [entry["step"] for entry in result.log if "loss" in entry]
    assert steps[-1] == 5
