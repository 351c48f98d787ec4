"""What a run says of its mask: the drift of its scale, and a warning where it teaches the wrong thing."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator

from prefopt import zoo
from prefopt.metrics import Mean, MetricSums
from prefopt.training import PreferenceTrainer
from prefopt.training.callbacks import MarginWatch, drift
from prefopt.training.metrics import flush
from tests.training.test_trainer import NEAR_ONE, config

pytestmark = pytest.mark.slow

MAIN = SimpleNamespace(is_world_process_zero=True)


def test_the_drift_of_a_mask_is_its_mean_over_the_first_that_was_logged(
    model_folder: str, rows: list[dict[str, str]], out: str
) -> None:
    objective = zoo.build({"zoo": "sparsepo", "shared": False, "l1_reward": 1.0, **NEAR_ONE})
    trainer = PreferenceTrainer(
        model_folder, objective=objective, args=config(out, mask_learning_rate=0.05), train_dataset=rows
    )
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    for name in ("weights", "divergence_weights"):
        means = [entry[f"{name}/mean"] for entry in logs]
        assert [entry[f"{name}/drift"] for entry in logs] == pytest.approx([mean / means[0] for mean in means])
    assert logs[-1]["weights/drift"] < 0.9
    learned = trainer.model.objective
    # A run that is resumed has its history, and so the same start.
    assert drift(learned, {"weights/mean": 3.0}, [{"loss": 1.0}, {"weights/mean": 2.0}]) == {"weights/drift": 1.5}
    assert drift(learned, {"weights/mean": 3.0}, [{"weights/mean": 0.0}]) == {}


def test_weights_that_do_not_learn_have_no_drift(model_folder: str, rows: list[dict[str, str]], out: str) -> None:
    trainer = PreferenceTrainer(model_folder, objective=zoo.tdpo1(), args=config(out, max_steps=1), train_dataset=rows)
    trainer.train()
    assert not [name for name in trainer.state.log_history[0] if "drift" in name]


def told(caplog: pytest.LogCaptureFixture, *logs: dict[str, float], state: object = MAIN) -> list[str]:
    caplog.clear()
    watch = MarginWatch()
    with caplog.at_level(logging.WARNING):
        for entry in logs:
            watch.on_log(None, state, None, logs=entry)
    return [record.getMessage() for record in caplog.records]


def margins(*pairs: tuple[float, float]) -> list[dict[str, float]]:
    return [{"rewards/margins": margin, "rewards/margins_log_ratio": part} for margin, part in pairs]


def test_a_margin_that_is_the_divergences_alone_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    growing = margins((0.1, 0.0), (0.2, -0.1), (0.4, 0.01), (0.5, 0.02), (0.9, 0.0), (1.5, -1.0), (2.0, -1.0))
    (warning,) = told(caplog, *growing)
    assert "the margin grew from 0.1 to 0.9" in warning
    assert "the log-ratios' part of it is 0:" in warning
    assert "detach_chosen" in warning
    assert not told(caplog, *growing[:4]), "not yet"
    assert not told(caplog, *reversed(growing)), "it shrinks"
    assert not told(caplog, *margins(*((margin, margin / 2) for margin in (0.1, 0.2, 0.4, 0.8, 1.6, 3.2))))
    assert not told(caplog, *margins(*((1e-6 * step, 0.0) for step in range(8)))), "too small to tell"
    assert not told(caplog, *growing, state=SimpleNamespace(is_world_process_zero=False))


def test_a_metric_of_nothing_is_not_logged() -> None:
    sums = MetricSums()
    sums.add({"one": Mean.from_values(torch.tensor([1.0, 2.0])), "none": Mean.from_values(torch.zeros(0))})
    assert flush(sums, Accelerator(cpu=True)) == {"one": 1.5}
