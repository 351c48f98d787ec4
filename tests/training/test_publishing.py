"""What is published of a run: the card of every save, and what goes to the hub, with the client's calls recorded."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
import yaml
from huggingface_hub import HfApi, ModelCard
from huggingface_hub.errors import LocalTokenNotFoundError
from peft import LoraConfig, PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from prefopt import zoo
from prefopt.training import PreferenceTrainer, RunFile, SavedRun, UploadError, push_run, stage_run, start, train
from prefopt.training.manifest import reject_damaged
from tests.training.test_trainer import config

Rows = list[dict[str, str]]

POLICY = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
WITH_CARD = POLICY | {"README.md", "objective.yaml"}


@dataclass
class Hub:
    """What the client was asked to do, and the files that it was given, in a folder for each repository."""

    root: Path
    created: list[dict[str, Any]] = field(default_factory=list)
    uploads: list[dict[str, Any]] = field(default_factory=list)

    def create_repo(self, _: HfApi, name: str, **options: Any) -> Any:
        self.created.append({"name": name, **options})
        return type("Url", (), {"repo_id": name if "/" in name else f"someone/{name}"})

    def whoami(self, _: HfApi, token: str | None = None) -> Any:
        if token is None:
            raise LocalTokenNotFoundError("Token is required")
        return {"name": "someone"}

    def upload_folder(self, _: HfApi, *, repo_id: str, folder_path: str, run_as_future: bool, **options: Any) -> Any:
        target = self.root / repo_id / options.get("path_in_repo", "")
        shutil.copytree(folder_path, target, dirs_exist_ok=True)
        files = {str(path.relative_to(folder_path)) for path in Path(folder_path).rglob("*") if path.is_file()}
        self.uploads.append({"repo_id": repo_id, "files": files, "run_as_future": run_as_future, **options})
        job: Future[str] = Future()
        job.set_result("commit")
        return job if run_as_future else "commit"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    hub = Hub(tmp_path / "hub")
    monkeypatch.setattr(HfApi, "create_repo", lambda *args, **options: hub.create_repo(*args, **options))
    monkeypatch.setattr(HfApi, "whoami", lambda *args, **options: hub.whoami(*args, **options))
    monkeypatch.setattr(HfApi, "upload_folder", lambda *args, **options: hub.upload_folder(*args, **options))
    return hub


@pytest.fixture
def trainer(model_folder: str, rows: Rows, out: str) -> Callable[..., PreferenceTrainer]:
    def make(objective: Any = "tdpo2", peft_config: Any = None, **changes: Any) -> PreferenceTrainer:
        return PreferenceTrainer(
            model_folder,
            objective=zoo.build(objective),
            args=config(out, **{"max_steps": 1} | changes),
            train_dataset=rows[:24],
            eval_dataset=rows[24:],
            peft_config=peft_config,
        )

    return make


def local_paths(folder: Path, *paths: str) -> Iterator[str]:
    """Files of a folder that hold one of the paths."""
    for file in folder.rglob("*"):
        if file.is_file() and any(path.encode() in file.read_bytes() for path in paths):
            yield str(file.relative_to(folder))


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged as a warning, whatever a command of another test has set the level to."""
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_every_save_has_a_card(trainer: Callable[..., PreferenceTrainer], out: str) -> None:
    run = trainer({"zoo": "tdpo2", "beta": 0.3}, save_strategy="steps", save_steps=1)
    run.train()
    assert "at step 1" in (Path(out) / "checkpoint-1" / "README.md").read_text()
    evaluated = run.evaluate()
    run.save_model()
    card = ModelCard.load(Path(out) / "README.md")
    assert card.data.tags == ["prefopt", "preference-optimization", "tdpo2"]
    assert (card.data.library_name, card.data.pipeline_tag) == ("transformers", "text-generation")
    assert card.data.base_model is None  # a folder of this machine
    text = card.text
    assert "# run" in text
    assert "`tdpo2(beta=0.3)` of prefopt's zoo" in text
    assert "loss = -log sigmoid(beta (sum r_c - sum r_j) - alpha beta" in text
    fences = text.split("```yaml\n")[1:]
    objective, settings = (yaml.safe_load(block.split("```")[0]) for block in fences)
    assert zoo.build(objective["objective"]) == run.model.objective.config
    assert (settings["learning_rate"], settings["steps"], settings["pairs_per_step"]) == (1e-2, 1, 8)
    assert "- train: 24 pairs" in text
    assert "- rows of eval: 8 rows read, 8 pairs kept" in text
    assert f"| loss | {evaluated['eval_loss']:.4g} | 0.6931 |" in text
    assert "| rewards/margins | " in text
    assert "https://arxiv.org/abs/2404.11999" in text
    assert "model = AutoModelForCausalLM.from_pretrained(name)" in text
    assert not [*local_paths(Path(out) / "checkpoint-1", out)][1:]  # training_args.bin, which is not uploaded


def test_data_of_the_hub_is_named(model_folder: str, rows: Rows, out: str) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    data = datasets.Dataset.from_list(rows)
    data.info.download_checksums = {f"hf://datasets/org/films@{commit}/data/train.parquet": {}}
    data.info.config_name = "short"
    trainer = PreferenceTrainer(model_folder, objective=zoo.dpo(), args=config(out), train_dataset=data)
    trainer.create_model_card()
    card = ModelCard.load(Path(out) / "README.md")
    assert card.data.datasets == ["org/films"]
    assert f'- source of train: `org/films` (name "short", revision "{commit}")' in card.text


def test_a_card_that_was_changed_is_kept(
    trainer: Callable[..., PreferenceTrainer], out: str, caplog: pytest.LogCaptureFixture
) -> None:
    run = trainer()
    file = Path(out) / "README.md"
    run.save_model()
    run.create_model_card(license="mit", tags="mine", model_name="Mine", finetuned_from="org/base")
    run.save_model()
    card = ModelCard.load(file)
    assert (card.data.license, card.data.base_model, card.data.tags[-1]) == ("mit", "org/base", "mine")
    assert "# Mine" in card.text
    assert not warnings_of(caplog)
    file.write_text(file.read_text().replace("## Use", "## How to use it"))
    with caplog.at_level(logging.WARNING, "prefopt"):
        run.save_model()
        run.create_model_card(tasks="x")
    assert "## How to use it" in file.read_text()
    assert [message.partition(": ")[0] for message in warnings_of(caplog)] == [
        f"{file} is kept",
        "create_model_card",
        f"{file} is kept",
    ]


def test_an_objective_without_a_row_and_a_card_that_cannot_be_made(
    trainer: Callable[..., PreferenceTrainer],
    out: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    run = trainer({"weighting": "sparse", "loss": "hinge", "shaping": "mean"})
    run.save_model()
    text = (Path(out) / "README.md").read_text()
    assert "No row of prefopt's zoo" in text
    assert "`objective.safetensors` what its mask learned" in text
    monkeypatch.setattr("prefopt.training.publishing.model_card", lambda *_: 1 / 0)
    with caplog.at_level(logging.WARNING, "prefopt"):
        run.save_model()
    assert warnings_of(caplog) == ["README.md: it is not written (ZeroDivisionError: division by zero)"]
    assert (Path(out) / "model.safetensors").is_file()


def test_what_is_pushed(trainer: Callable[..., PreferenceTrainer], hub: Hub, out: str, model_folder: str) -> None:
    run = trainer("sparsepo", hub_model_id="org/policy", hub_token="secret", hub_private_repo=True, hub_revision="r1")
    assert hub.created == []
    run.train()
    assert run.push_to_hub(tags=["mine"]) == "commit"
    assert hub.created == [{"name": "org/policy", "token": "secret", "private": True, "exist_ok": True}]
    (upload,) = hub.uploads
    assert upload["files"] == WITH_CARD | {"objective.safetensors"}
    assert (upload["repo_id"], upload["token"], upload["revision"]) == ("org/policy", "secret", "r1")
    assert upload["commit_message"] == "End of training"
    assert "objective.*" in upload["delete_patterns"]
    uploaded = hub.root / "org/policy"
    assert not [*local_paths(uploaded, out, model_folder, "secret")]
    assert 'name = "org/policy"' in (uploaded / "README.md").read_text()
    assert "mine" in ModelCard.load(uploaded / "README.md").data.tags
    assert not [*Path(out).glob(".upload-*")]
    plain = AutoModelForCausalLM.from_pretrained(uploaded)
    assert torch.equal(plain.lm_head.weight, run.model.policy.lm_head.weight)
    assert AutoTokenizer.from_pretrained(uploaded).eos_token == "<eos>"
    # What vLLM reads before the weights: the class, the precision, the vocabulary and where a response ends.
    described = json.loads((uploaded / "config.json").read_text())
    assert described["architectures"] == ["LlamaForCausalLM"]
    assert described["dtype"] == "float32"
    assert described["vocab_size"] == plain.lm_head.weight.shape[0]
    assert json.loads((uploaded / "generation_config.json").read_text())["eos_token_id"] == described["eos_token_id"]


@pytest.mark.parametrize(
    ("strategy", "paths"),
    [
        pytest.param("end", [""], marks=pytest.mark.long),
        pytest.param("every_save", ["", "", ""], marks=pytest.mark.long),
        ("checkpoint", ["", "last-checkpoint", "", "last-checkpoint", ""]),
        pytest.param("all_checkpoints", ["", "checkpoint-1", "", "checkpoint-2", ""], marks=pytest.mark.long),
    ],
)
def test_checkpoints_are_uploaded_where_they_are_asked_for(
    strategy: str, paths: list[str], trainer: Callable[..., PreferenceTrainer], hub: Hub, out: str, model_folder: str
) -> None:
    best = {"eval_strategy": "steps", "eval_steps": 1, "load_best_model_at_end": True}
    saved = {"save_strategy": "steps", "save_steps": 1, "max_steps": 2, **best}
    run = trainer(push_to_hub=True, hub_strategy=strategy, hub_model_id="policy", **saved)
    assert [repository["name"] for repository in hub.created] == ["policy"]
    run.train()
    run.save_model()
    assert [upload.get("path_in_repo", "") for upload in hub.uploads] == paths
    assert all(upload["repo_id"] == "someone/policy" for upload in hub.uploads)
    assert [upload["run_as_future"] for upload in hub.uploads] == [True] * (len(paths) - 1) + [False]
    assert all(upload["files"] == WITH_CARD for upload in hub.uploads if "path_in_repo" not in upload)
    uploaded = hub.root / "someone/policy"
    assert not [*local_paths(uploaded, out, model_folder)]
    assert not [*Path(out).glob(".upload-*")]
    if strategy == "checkpoint":  # from which a run can go on
        last = uploaded / "last-checkpoint"
        assert reject_damaged(last).step == 2
        assert not (last / "training_args.bin").exists()
        assert json.loads((last / "trainer_state.json").read_text())["best_model_checkpoint"].startswith("checkpoint-")
        resumed = trainer(**saved | {"max_steps": 3}, overwrite_output_dir=True)
        resumed.train(resume_from_checkpoint=str(last))
        assert resumed.state.global_step == 3


def test_an_adapter_is_pushed_without_the_path_of_its_base(
    trainer: Callable[..., PreferenceTrainer], hub: Hub, out: str, model_folder: str, rows: Rows, tmp_path: Path
) -> None:
    run = trainer(peft_config=LoraConfig(r=2, target_modules=["q_proj"]), hub_model_id="org/adapter")
    run.train()
    run.push_to_hub()
    uploaded = hub.root / "org/adapter"
    assert json.loads((uploaded / "adapter_config.json").read_text())["base_model_name_or_path"] is None
    assert json.loads((Path(out) / "adapter_config.json").read_text())["base_model_name_or_path"] == model_folder
    assert not [*local_paths(uploaded, out, model_folder)]
    card = ModelCard.load(uploaded / "README.md")
    assert (card.data.library_name, card.data.tags[-1]) == ("peft", "lora")
    assert "PeftModel.from_pretrained(base, name)" in card.text
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model_folder), uploaded)
    ours = {name: p for name, p in run.model.policy.named_parameters() if "lora" in name}
    theirs = dict(adapted.named_parameters())
    assert all(torch.equal(theirs[name], p) for name, p in ours.items())
    # A new adapter after that one was merged: its base goes with it.
    again = PreferenceTrainer(
        adapted,
        objective=zoo.dpo(),
        args=config(str(tmp_path / "again"), hub_model_id="org/again"),
        train_dataset=rows,
        processing_class=run.processing_class,
        peft_config=LoraConfig(r=2, target_modules=["v_proj"]),
    )
    again.push_to_hub()
    uploaded = hub.root / "org/again"
    assert (uploaded / "base" / "model.safetensors").is_file()
    assert 'from_pretrained(name, subfolder="base")' in (uploaded / "README.md").read_text()
    assert not [*local_paths(uploaded, str(tmp_path / "again"))]


def test_a_run_file_that_is_pushed(
    hub: Hub, model_folder: str, rows: Rows, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = tmp_path / "pairs.jsonl"
    data.write_text("\n".join(json.dumps(row) for row in rows))
    out = tmp_path / "out"
    arguments = config(str(out)).to_dict()
    fields = {name: arguments[name] for name in ("use_cpu", "report_to", "save_strategy", "disable_tqdm")}
    training = {**fields, "max_steps": 1, "output_dir": str(out), "hub_model_id": "org/run", "hub_token": "secret"}
    run = {"model": model_folder, "data": {"train": str(data), "test_split_size": 4}, "objective": "dpo"}
    with caplog.at_level(logging.WARNING, "prefopt"):
        start(RunFile(**run, training=training))
    assert "training.hub_model_id has no effect: nothing of this run is uploaded without push_to_hub" in caplog.text
    uploaded_run = RunFile(**run, training=training | {"push_to_hub": True})
    with caplog.at_level(logging.INFO, "prefopt"):
        start(uploaded_run, dry_run=True)
    assert "hub: someone would upload to org/run (hub_strategy every_save)" in caplog.text
    assert hub.created == []
    nobody = RunFile(**run, training={name: value for name, value in training.items() if name != "hub_token"})
    nobody.training["push_to_hub"] = True
    with pytest.raises(UploadError, match=r"^hub: nothing can be uploaded .*; log in with `hf auth login`"):
        start(nobody, dry_run=True)
    train(start(uploaded_run))
    (upload,) = hub.uploads
    assert upload["files"] == WITH_CARD | {"run.yaml"}
    uploaded = hub.root / "org/run"
    assert not [*local_paths(uploaded, str(tmp_path), model_folder, "secret")]
    published = yaml.safe_load((uploaded / "run.yaml").read_text())
    assert published["data"]["train"] == "pairs.jsonl"
    card = (uploaded / "README.md").read_text()
    assert "- source of train: `pairs.jsonl`" in card
    assert "- eval: 4 pairs" in card
    assert "- held out of the rows of train, or given as token ids: `eval`" in card
    assert "`eval`, after step 1:" in card
    # The same by hand, of the folder.
    push_run(out, "org/again", private=True)
    assert {path.name for path in (hub.root / "org/again").iterdir()} == upload["files"]
    staged = tmp_path / "staged"
    assert set(stage_run(out, staged)) == upload["files"]
    assert {name: (staged / name).read_bytes() for name in upload["files"]} == {
        name: (hub.root / "org/again" / name).read_bytes() for name in upload["files"]
    }
    with pytest.raises(FileExistsError):
        stage_run(out, staged)
    assert SavedRun.load(out).reference == model_folder
    with pytest.raises(ValueError, match="it holds no policy"):
        push_run(tmp_path, "org/again")


def test_an_upload_that_fails(
    trainer: Callable[..., PreferenceTrainer],
    hub: Hub,
    out: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fails(*_: Any, run_as_future: bool = False, **options: Any) -> Any:
        job: Future[str] = Future()
        job.set_exception(ConnectionError("no route"))
        return job if run_as_future else job.result()

    run = trainer(push_to_hub=True, hub_strategy="every_save", save_strategy="steps", save_steps=1)
    monkeypatch.setattr(HfApi, "upload_folder", fails)
    with caplog.at_level(logging.WARNING, "prefopt"):
        run.train()
    assert [message for message in caplog.messages if "the upload to someone/run failed" in message]
    with pytest.raises(UploadError, match=rf"^{out}: the upload to someone/run failed \(ConnectionError: no route\)"):
        run.save_model()
    assert (Path(out) / "model.safetensors").is_file()
    assert not [*Path(out).glob(".upload-*")]
    monkeypatch.setattr(HfApi, "create_repo", fails)
    with pytest.raises(
        UploadError, match=r"the repository run can be neither made nor used .*upload the saved folder later"
    ):
        trainer(push_to_hub=True)
