"""A checkpoint is resumed whole, by a run of the settings that wrote it, or not at all."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
from peft import LoraConfig

from prefopt import zoo
from prefopt.training import PreferenceConfig, PreferenceTrainer, RunFile, RunFileError, resume, start
from prefopt.training.arguments import ARGUMENTS, Treatment
from prefopt.training.fingerprints import data_fingerprint
from prefopt.training.manifest import MANIFEST, CheckpointError
from tests.training.test_trainer import config

Make = Callable[..., PreferenceTrainer]


@pytest.fixture(scope="module")
def make(model_folder: str, rows: list[dict[str, str]]) -> Make:
    def trainer(out: Path, **changes: Any) -> PreferenceTrainer:
        data, objective = changes.pop("rows", rows), changes.pop("objective", zoo.dpo())
        args = config(str(out), **{"save_strategy": "steps", "save_steps": 1, "max_steps": 3} | changes)
        model = changes.pop("model", model_folder)
        return PreferenceTrainer(model, objective=objective, args=args, train_dataset=data)

    return trainer


@pytest.fixture(scope="module")
def two_steps(make: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that ended after its second step of three."""
    out = tmp_path_factory.mktemp("two_steps") / "run"
    make(out).train()
    shutil.rmtree(out / "checkpoint-3")
    return out


@pytest.fixture
def run(two_steps: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(two_steps, tmp_path / "run"))


def test_the_manifest_names_every_file_with_its_digest(two_steps: Path) -> None:
    folder = two_steps / "checkpoint-2"
    manifest = json.loads((folder / MANIFEST).read_text())
    names = {path.name for path in folder.iterdir()} - {MANIFEST}
    assert {"model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "objective.yaml"} < names
    assert manifest["files"].keys() == names
    for name, digest in manifest["files"].items():
        content = (folder / name).read_bytes()
        assert digest == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert manifest["step"] == 2
    assert manifest["settings"]["learning_rate"] == 1e-2
    assert manifest["settings"]["batch_size"] == 8
    assert manifest["settings"]["objective"]["beta"] == 0.1


FILES = ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "config.json")


REQUIRED = ("model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json")


@pytest.mark.parametrize(
    "names",
    [*([name] for name in (*FILES, "objective.yaml")), *([name, MANIFEST] for name in REQUIRED)],
    ids=" and ".join,
)
def test_a_missing_file_is_named(make: Make, run: Path, names: list[str]) -> None:
    folder = run / "checkpoint-2"
    for name in names:
        (folder / name).unlink()
    with pytest.raises(CheckpointError, match=r"checkpoint-2.*(missing|it has no|it holds no policy)") as caught:
        make(run).train(resume_from_checkpoint=str(folder))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [*FILES, MANIFEST])
@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_a_checkpoint_that_is_cut_is_left_out_and_the_one_before_is_taken(
    make: Make, run: Path, name: str, share: float, caplog: pytest.LogCaptureFixture
) -> None:
    path = run / "checkpoint-2" / name
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    trainer = make(run)
    assert trainer.checkpoint_to_resume(True) == str(run / "checkpoint-1")
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert f"Left out, as it is not whole: {path}" in warning
    assert warning.endswith(f"Resuming from {run / 'checkpoint-1'}.")


@pytest.mark.parametrize("name", FILES)
def test_a_changed_byte_is_seen(make: Make, run: Path, name: str) -> None:
    path = run / "checkpoint-2" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{name}: not the bytes that were written"):
        make(run).train(resume_from_checkpoint=str(path.parent))


@pytest.mark.parametrize("change", ["step", "settings", "versions", "digest", "more"])
def test_a_manifest_that_is_changed_is_not_another_runs(make: Make, run: Path, change: str) -> None:
    path = run / "checkpoint-2" / MANIFEST
    fields = json.loads(path.read_text())
    path.write_text(json.dumps({**fields, change: {"step": 3, "digest": "0"}.get(change, {"seed": "1"})}))
    with pytest.raises(CheckpointError, match=f"{path}: (not what was written|cut or damaged)"):
        make(run).train(resume_from_checkpoint=str(path.parent))


@pytest.mark.parametrize("name", FILES[:-1])
def test_without_a_manifest_what_cannot_be_read_is_named(make: Make, run: Path, name: str) -> None:
    path = run / "checkpoint-2" / name
    path.write_bytes(path.read_bytes()[:100])
    (run / "checkpoint-2" / MANIFEST).unlink()
    with pytest.raises(CheckpointError, match=rf"{name}: cut or damaged \("):
        make(run).train(resume_from_checkpoint=str(path.parent))


def test_a_checkpoint_without_a_manifest_is_taken_with_a_warning(
    make: Make, run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (run / "checkpoint-2" / MANIFEST).unlink()
    assert make(run).checkpoint_to_resume(True) == str(run / "checkpoint-2")
    assert "whether a run of these settings wrote it is not known" in caplog.text


def test_where_no_checkpoint_is_whole_nothing_is_trained(make: Make, run: Path) -> None:
    for folder in run.glob("checkpoint-*"):
        (folder / "optimizer.pt").unlink()
    with pytest.raises(CheckpointError, match=r"no checkpoint is whole \(.*checkpoint-2.*checkpoint-1.*anew"):
        make(run).train(resume_from_checkpoint=True)


def test_what_differs_from_the_run_that_wrote_it_is_named(
    make: Make, run: Path, rows: list[dict[str, str]], caplog: pytest.LogCaptureFixture
) -> None:
    changes = {"learning_rate": 2e-2, "per_device_train_batch_size": 4, "seed": 7, "objective": zoo.dpo(beta=0.5)}
    other = [{**rows[0], "chosen": " good"}, *rows[1:]]
    with pytest.raises(CheckpointError) as caught:
        make(run, rows=other, **changes).train(resume_from_checkpoint=True)
    message = str(caught.value)
    for part in ("data (32 pairs, ", "objective.beta (0.1 there, 0.5 here)", "batch_size (8 there, 4 here)"):
        assert part in message
    assert "seed (42 there, 7 here)" in message
    assert message.endswith("resume_despite: [data, objective, batch_size, seed, learning_rate]")
    assert "\n" not in message
    names = ["data", "objective", "batch_size", "seed", "learning_rate"]
    trainer = make(run, rows=other, resume_despite=names, **changes)
    assert trainer.checkpoint_to_resume(True) == str(run / "checkpoint-2")
    assert "with another learning_rate (0.01 there, 0.02 here)" in caplog.text
    with pytest.raises(CheckpointError, match="resume_despite: 'rate' is none of data, objective"):
        make(run, resume_despite=["rate"]).train(resume_from_checkpoint=True)


def test_a_rate_that_may_differ_is_the_one_of_this_run(make: Make, run: Path) -> None:
    """The optimizer's state and the schedule's hold the rate, too, and would bring the old one back."""
    trainer = make(run, learning_rate=3e-2, resume_despite=["learning_rate"])
    trainer.train(resume_from_checkpoint=True)
    (entry,) = [entry for entry in trainer.state.log_history if entry["step"] == 3 and "loss" in entry]
    assert entry["learning_rate"] == pytest.approx(3e-2 / 3)


def test_another_reference_is_seen(make: Make, run: Path, model_folder: str, tmp_path: Path) -> None:
    """A policy comes from the checkpoint, and what it is compared with from the model that is named."""
    trainer = make(run)
    next(trainer.model.reference.parameters()).data[0, 0] += 1
    with pytest.raises(CheckpointError, match="frozen_weights"):
        trainer.train(resume_from_checkpoint=True)


def test_a_longer_run_goes_on_with_a_warning(make: Make, run: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert make(run, max_steps=9).checkpoint_to_resume(True) == str(run / "checkpoint-2")
    assert "with another max_steps (3 there, 9 here)" in caplog.text


@pytest.mark.slow
def test_a_folder_with_a_run_is_not_written_over_by_a_trainer(make: Make, run: Path, model_folder: str) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=r"holds a run already .*overwrite_output_dir"):
        make(run).train()
    with pytest.raises(ValueError, match="is the run's model as well"):
        make(Path(model_folder)).train()
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    trainer = make(run, max_steps=1, overwrite_output_dir=True)
    trainer.train()
    assert [path.name for path in run.iterdir()] == ["checkpoint-1"]
    trainer.args.max_steps = 2
    trainer.train()  # its own run
    assert sorted(path.name for path in run.iterdir()) == ["checkpoint-1", "checkpoint-2"]


def test_no_is_no(make: Make, run: Path, model_folder: str, tmp_path: Path, rows: list[dict[str, str]]) -> None:
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    training = {"output_dir": str(run), "resume_from_checkpoint": False, "report_to": "none", "use_cpu": True}
    fields = {"model": model_folder, "data": str(tmp_path / "rows.json"), "objective": "dpo", "training": training}
    (tmp_path / "run.yaml").write_text(json.dumps(fields))
    with pytest.raises(RunFileError, match="holds a run already"):
        start(RunFile.load(tmp_path / "run.yaml"))
    (run / "checkpoint-2" / "optimizer.pt").unlink()
    damaged = RunFile.load(tmp_path / "run.yaml", [f"training.resume_from_checkpoint={run / 'checkpoint-2'}"])
    with pytest.raises(RunFileError, match=r"resume_from_checkpoint: .*optimizer.pt: missing"):
        start(damaged)


def test_the_fingerprint_is_of_the_pairs_and_their_order_alone() -> None:
    fields = {"prompt_ids": [[1], [2, 3]], "chosen_ids": [[4], [5]], "where": ["a:1", "a:2"]}
    data = datasets.Dataset.from_dict(fields)
    same = datasets.Dataset.from_dict({**fields, "where": ["b:7", "b:8"]})
    longer = datasets.Dataset.from_dict({name: [*values, values[0]] for name, values in fields.items()})
    assert data_fingerprint(same) == data_fingerprint(data)
    assert data_fingerprint(longer.select([0, 1])) == data_fingerprint(data)
    assert data_fingerprint(data.select([1, 0])) != data_fingerprint(data)
    assert data_fingerprint(data.select([1])) != data_fingerprint(longer.select([2]))


@pytest.mark.slow
def test_an_adapter_is_compared_with_its_base(make: Make, model_folder: str, rows: Any, tmp_path: Path) -> None:
    lora = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")

    def adapted() -> PreferenceTrainer:
        args = config(str(tmp_path / "run"), save_strategy="steps", save_steps=1, max_steps=2)
        return PreferenceTrainer(model_folder, objective=zoo.dpo(), args=args, train_dataset=rows, peft_config=lora)

    adapted().train()
    shutil.rmtree(tmp_path / "run" / "checkpoint-2")
    other = adapted()
    other.model.policy.get_base_model().lm_head.weight.data[0, 0] += 1
    with pytest.raises(CheckpointError, match="frozen_weights"):
        other.train(resume_from_checkpoint=True)
    adapted().train(resume_from_checkpoint=True)


IN_DIGESTS = set(
    """per_device_train_batch_size gradient_accumulation_steps auto_find_batch_size model_init_kwargs max_length
    max_prompt_length on_too_long chat_template_kwargs on_bad_rows columns""".split()
)
"""Arguments that decide the size of the batch, the weights and the data, which are settings themselves."""

NOT_DECISIVE = {
    "how a step is computed": """activation_checkpointing activation_checkpointing_kwargs gradient_checkpointing
        gradient_checkpointing_kwargs torch_compile torch_compile_backend torch_compile_mode torch_empty_cache_steps
        tf32 use_cpu full_determinism logits_budget_mb reference_cache shared_prefix ref_adapter_name""",
    "how processes and devices share it": """ddp_backend ddp_broadcast_buffers ddp_bucket_cap_mb
        ddp_find_unused_parameters ddp_timeout deepspeed fsdp fsdp_config""",
    "how rows and batches are fetched": """dataset_num_proc dataloader_in_order
        dataloader_multiprocessing_context dataloader_num_workers
        dataloader_persistent_workers dataloader_pin_memory dataloader_prefetch_factor remove_unused_columns""",
    "evaluation": """eval_delay eval_on_start eval_steps eval_strategy eval_use_gather_object per_device_eval_batch_size
        load_best_model_at_end metric_for_best_model greater_is_better prediction_loss_only eval_do_concat_batches
        eval_accumulation_steps batch_eval_metrics include_for_metrics""",
    "saving and resuming": """output_dir overwrite_output_dir save_on_each_node save_only_model save_steps save_strategy
        save_total_limit enable_jit_checkpoint push_to_hub hub_strategy hub_always_push hub_model_id hub_token
        hub_revision hub_private_repo resume_despite resume_from_checkpoint ignore_data_skip
        restore_callback_states_from_checkpoint max_skipped_steps dry_run""",
    "logging": """debug disable_tqdm include_num_input_tokens_seen log_level log_level_replica log_on_each_node
        logging_first_step logging_nan_inf_filter logging_steps logging_strategy project report_to run_name
        skip_memory_metrics trackio_bucket_id trackio_space_id trackio_static_space_id""",
}


def test_every_argument_decides_a_step_or_does_not() -> None:
    """A new argument, of transformers or of prefopt, has to be put into one of the three."""
    decisive, rest = {*resume._DECISIVE, *resume._HORIZON}, set(" ".join(NOT_DECISIVE.values()).split())
    assert not decisive & rest | decisive & IN_DIGESTS | rest & IN_DIGESTS
    without_effect = {n for n, a in ARGUMENTS.items() if a.treatment in (Treatment.REFUSED, Treatment.NO_EFFECT)}
    fields = {field.name for field in dataclasses.fields(PreferenceConfig)}
    assert fields - without_effect == decisive | rest | IN_DIGESTS
