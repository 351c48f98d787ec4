"""A mask that fails is said to, once and in the same words: by the trainer, in one's own loop, by inspect and by what
a comparison records."""

from __future__ import annotations

import io
import json
import logging
import re
import warnings
from pathlib import Path

import pytest
import torch
from rich.console import Console
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

from prefopt.data import EncodingConfig, PreferenceCollator
from prefopt.inspection import inspect_run
from prefopt.inspection.terminal import summary_table
from prefopt.scoring import PreferenceModel
from prefopt.tasks.base import HELD_OUT, Material
from prefopt.tasks.held_out import held_out
from prefopt.tokens import PreferenceBatch
from prefopt.training import PreferenceTrainer, SavedRun
from tests.masks import FAILURES, failing
from tests.training.test_trainer import config

each_failure = pytest.mark.parametrize("kind", FAILURES)


def trainer_of(kind: str, model_folder: str, rows: list[dict[str, str]], out: str) -> PreferenceTrainer:
    policy = AutoModelForCausalLM.from_pretrained(model_folder)
    objective = failing(kind, policy, policy.config.eos_token_id)
    args = config(out, max_steps=11, learning_rate=1e-5, mask_learning_rate=1e-9)
    return PreferenceTrainer(model_folder, objective=objective, args=args, train_dataset=rows)


@pytest.mark.slow
@each_failure
def test_trainer(
    kind: str, model_folder: str, rows: list[dict[str, str]], out: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A dead mask under a divergence moves the policy by what its gradient rounds to, which is no error."""
    trainer = trainer_of(kind, model_folder, rows, out)
    with caplog.at_level(logging.WARNING):
        trainer.train()
    (warning,) = [text for record in caplog.records if "the mask" in (text := record.getMessage())]
    assert re.search(FAILURES[kind], warning)
    logged = trainer.evaluate(rows)
    assert (logged.get("eval_weights/wordless") == 1) == (kind == "wordless")
    assert 0 < logged["eval_wordless/share"] < 0.5


@each_failure
def test_own_loop(kind: str, model_folder: str, rows: list[dict[str, str]], out: str) -> None:
    """Without a tokenizer too, as the model's configuration names the token that ends a response."""
    data = trainer_of(kind, model_folder, rows, out).train_dataset
    batch = PreferenceBatch.from_mapping(PreferenceCollator(0)(data.to_list()[:4]))
    policy, reference = (AutoModelForCausalLM.from_pretrained(model_folder) for _ in range(2))
    model = PreferenceModel(policy, reference, failing(kind, reference, policy.config.eos_token_id))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with torch.no_grad():
            model.eval()(batch)
        model.train()
        for _ in range(11):
            model(batch)
    (warning,) = [str(entry.message) for entry in caught if "the mask" in str(entry.message)]
    assert re.search(FAILURES[kind], warning)


@pytest.mark.slow
@each_failure
def test_inspect_and_the_record_of_a_comparison(
    kind: str,
    model_folder: str,
    rows: list[dict[str, str]],
    tokenizer: PreTrainedTokenizerBase,
    out: str,
    tmp_path: Path,
) -> None:
    trainer_of(kind, model_folder, rows, out).save_model()
    data = tmp_path / HELD_OUT
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = SavedRun.load(out, reference=model_folder)
    inspection = inspect_run(run, data, out=tmp_path / "inspected")
    ((name, fault),) = inspection.mask_faults.items()
    assert name == kind
    assert re.search(FAILURES[kind], fault)
    terminal = io.StringIO()
    Console(file=terminal, width=2000).print(summary_table(inspection))
    assert terminal.getvalue().count(fault) == 1
    assert (tmp_path / "inspected" / "index.html").read_text().count(fault) == 1
    written = json.loads((tmp_path / "inspected" / "inspection.json").read_text())
    assert written["mask_faults"] == {kind: fault}
    assert written["mask_health"]["mean"] == pytest.approx(inspection.summaries["w"].mean)
    material = Material(tmp_path, model_folder, seed=0)
    measured = held_out(run.model, run.model.reference, tokenizer, material, EncodingConfig(), batch_size=8)
    assert measured.mask_faults == {kind: fault}
