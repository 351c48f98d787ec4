"""The reference cache through the trainer: one pass, resumed after a kill, found by other runs."""

from __future__ import annotations

import gc
import logging
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest
from accelerate import Accelerator
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from prefopt import zoo
from prefopt.scoring import PreferenceModel
from prefopt.scoring.forward import ModelStates
from prefopt.scoring.reference import tensor_store as store
from prefopt.scoring.reference.scorer import ReferenceScorer
from prefopt.scoring.rows.layout import Layout
from prefopt.training import PreferenceTrainer, reference_cache
from prefopt.training.trainer_inputs import prepare_dataset
from tests.training.test_trainer import config

Rows = list[dict[str, str]]


def trainer(model_folder: str, rows: Rows, out: str, folder: Path | None, **changes: Any) -> PreferenceTrainer:
    objective = changes.pop("objective", zoo.tdpo2())
    cached = {} if folder is None else {"reference_cache": str(folder)}
    args = config(out, num_train_epochs=2, max_steps=-1, per_device_eval_batch_size=5, **cached, **changes)
    return PreferenceTrainer(
        model_folder, objective=objective, args=args, train_dataset=rows[:20], eval_dataset=rows[20:]
    )


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The responses of each pass of a reference."""
    counts: list[int] = []
    real = ReferenceScorer._forward

    def counted(self: ReferenceScorer, policy: nn.Module, layout: Layout, plain_forward: bool) -> ModelStates:
        counts.append(layout.mask.shape[0])
        return real(self, policy, layout, plain_forward)

    monkeypatch.setattr(ReferenceScorer, "_forward", counted)
    return counts


@pytest.mark.slow
def test_a_run_with_a_cache_is_the_run_without_one(
    model_folder: str, rows: Rows, out: str, tmp_path: Path, asked: list[int]
) -> None:
    plain = trainer(model_folder, rows, out, None)
    plain.train()
    expected = plain.evaluate()
    asked.clear()
    cached = trainer(model_folder, rows, out, tmp_path / "cache")
    cached.precompute_reference()
    assert sum(asked) >= 2 * len(rows)
    asked.clear()
    cached.train()
    metrics = cached.evaluate()
    assert asked == [], "two epochs and an evaluation, and the reference was never run again"
    for one, two in zip(plain.state.log_history, cached.state.log_history, strict=False):
        if "loss" in one:
            assert two["loss"] == pytest.approx(one["loss"], rel=1e-4)
    assert metrics["eval_loss"] == pytest.approx(expected["eval_loss"], rel=1e-4)
    assert metrics["eval_divergence/chosen"] == pytest.approx(expected["eval_divergence/chosen"], rel=1e-3)


@pytest.mark.slow
def test_what_does_not_matter_hits_and_what_matters_misses(
    model_folder: str, rows: Rows, out: str, tmp_path: Path, asked: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "cache"
    trainer(model_folder, rows, out, folder).precompute_reference()
    for changes in ({"learning_rate": 0.5, "seed": 7}, {"objective": zoo.tdpo1(beta=0.7)}):
        asked.clear()
        trainer(model_folder, rows, f"{out}-other", folder, **changes).precompute_reference()
        assert asked == [2 * 4], "only the pairs of the check"
    asked.clear()
    with caplog.at_level(logging.INFO, logger="prefopt"):
        trainer(model_folder, rows, out, folder, max_length=9).precompute_reference()
    assert sum(asked) > 2 * 4
    assert "pairs are there, the others will take" in caplog.text


@pytest.mark.slow
def test_a_run_that_is_killed_loses_at_most_a_shard(
    model_folder: str, rows: Rows, out: str, tmp_path: Path, asked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "SHARD_BYTES", 1)
    real = PreferenceModel.precompute_reference

    def killed(self: PreferenceModel, batch: Any) -> None:
        if len(asked) == 4:
            raise KeyboardInterrupt
        real(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(PreferenceModel, "precompute_reference", killed)
        with pytest.raises(KeyboardInterrupt):
            trainer(model_folder, rows, out, tmp_path / "cache").precompute_reference()
    assert asked == [8, 10, 10, 10]
    asked.clear()
    trainer(model_folder, rows, out, tmp_path / "cache").precompute_reference()
    assert sum(asked) == 8 + 2 * len(rows) - 38


def test_a_disk_without_room_is_found_out_first(
    model_folder: str, rows: Rows, out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference_cache, "free_bytes", lambda _: 100)
    with pytest.raises(OSError, match=r"would take [0-9,]+ bytes more, and 100 bytes are free"):
        trainer(model_folder, rows, out, tmp_path / "cache").train()


def test_a_reference_that_changes_or_is_not_there(model_folder: str, rows: Rows, out: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="sync_ref_model changes it"):
        trainer(model_folder, rows, out, tmp_path, sync_ref_model=True)
    with pytest.raises(ValueError, match="the objective is reference-free"):
        trainer(model_folder, rows, out, tmp_path, objective=zoo.simpo())


@pytest.mark.slow
def test_half_precision_has_a_cache_of_its_own(model_folder: str, rows: Rows, out: str, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    trainer(model_folder, rows, out, folder).precompute_reference()
    half = trainer(model_folder, rows, out, folder, bf16=True)
    half.train()
    assert len(list(folder.iterdir())) == 2


@pytest.mark.slow
def test_the_reference_goes_when_all_is_kept(model_folder: str, rows: Rows, out: str, tmp_path: Path) -> None:
    expected = trainer(model_folder, rows, out, None)
    expected.train()
    cached = trainer(model_folder, rows, out, tmp_path / "cache")
    backbone = weakref.ref(cached.model.reference.base_model)
    cached.train()
    gc.collect()
    assert backbone() is None
    held = {name for name, _ in cached.model.named_parameters() if not name.startswith("policy.")}
    assert held == {"reference_scorer.unloaded.weight"}, "the head, which the divergence needs"
    for one, two in zip(expected.state.log_history, cached.state.log_history, strict=False):
        if "loss" in one:
            assert two["loss"] == pytest.approx(one["loss"], rel=1e-4)
    assert cached.evaluate()["eval_loss"] == pytest.approx(expected.evaluate()["eval_loss"], rel=1e-4)
    assert cached.model.reference is None
    others = [{"prompt": row["prompt"], "chosen": row["rejected"], "rejected": f"{row['chosen']} it"} for row in rows]
    new, _ = prepare_dataset(others, cached.processing_class, cached.model.objective.config, cached.args, "new")
    loss = cached.evaluate(new)["eval_loss"]
    assert cached.model.reference is not None, "it was loaded again for responses that nobody had named"
    assert loss == pytest.approx(expected.evaluate(new)["eval_loss"], rel=1e-4)


def test_a_reference_that_was_given_stays(model_folder: str, rows: Rows, out: str, tmp_path: Path) -> None:
    policy, reference = (AutoModelForCausalLM.from_pretrained(model_folder) for _ in range(2))
    args = config(out, reference_cache=str(tmp_path / "cache"))
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    given = PreferenceTrainer(
        policy, reference, objective=zoo.dpo(), args=args, train_dataset=rows, processing_class=tokenizer
    )
    given.train()
    assert given.model.reference is reference


@pytest.mark.slow
def test_who_asks_the_same_as_another_run_waits_for_it(
    model_folder: str, rows: Rows, out: str, tmp_path: Path, asked: list[int]
) -> None:
    first, second = (trainer(model_folder, rows, f"{out}/{n}", tmp_path / "cache") for n in "ab")
    with ThreadPoolExecutor() as threads:
        list(threads.map(PreferenceTrainer.precompute_reference, (first, second)))
    # Both ask of a few pairs first, to know what the cache says; the others were asked of once.
    assert sum(asked) <= 2 * len(rows) + 2 * 2 * reference_cache._CHECKED


class _Process(NamedTuple):
    """As the cache sees accelerate: one process of two, which waits for nobody."""

    process_index: int
    num_processes: int = 2
    is_main_process: bool = False
    device: str = "cpu"

    def autocast(self) -> AbstractContextManager[None]:
        return nullcontext()

    def wait_for_everyone(self) -> None:
        pass


def test_no_pair_is_left_out_where_one_process_has_written_before_another_looks(
    model_folder: str, rows: Rows, out: str, tmp_path: Path
) -> None:
    for process in range(2):  # one after the other
        run = trainer(model_folder, rows, out, tmp_path / "cache")
        fill = partial(reference_cache.fill_reference_cache, run.model, [run.train_dataset], run.data_collator)
        fill(cast("Accelerator", _Process(process)), batch_size=5)
    cache = run.model.cache
    assert cache is not None
    assert all(key in cache for row in run.train_dataset for key in reference_cache._keys(row))
