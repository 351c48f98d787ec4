"""Rows that `evaluate` and `predict` are given, where bad pairs are from, and what the log says of the data."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from prefopt import zoo
from prefopt.data import DataError, EncodingConfig, prepare, read_rows, rows_of
from prefopt.scoring import NonFiniteError
from prefopt.training import PreferenceConfig, PreferenceTrainer, RunFile
from tests.training.test_trainer import config

WORDS = ["film", "was", "good", "bad", "fine", "dull"]


def trainer(folder: str, out: str, train: Any, **more: Any) -> PreferenceTrainer:
    return PreferenceTrainer(folder, objective=zoo.dpo(), args=config(out, max_steps=1), train_dataset=train, **more)


@pytest.mark.slow
def test_evaluate_and_predict_prepare_rows(model_folder: str, rows: list[dict[str, str]], out: str) -> None:
    run = trainer(model_folder, out, rows)
    source = rows_of(rows[:8], name="x")
    prepared, _ = prepare(source, run.processing_class, EncodingConfig(), description="x")
    expected = run.evaluate(prepared)
    assert expected["eval_loss"] == pytest.approx(math.log(2), abs=1e-6)
    for evaluated in (rows[:8], rows_of(rows[:8], name="x")):
        again = run.evaluate(evaluated)
        assert again["eval_rewards/margins"] == pytest.approx(expected["eval_rewards/margins"])
    assert run.evaluate(row for row in rows[:8])["eval_loss"] == pytest.approx(expected["eval_loss"])
    several = run.evaluate({"one": rows[:4], "two": prepared})
    assert {"eval_one_loss", "eval_two_loss"} <= several.keys()
    predicted = run.predict(rows[:8]).metrics
    assert predicted["test_loss"] == pytest.approx(expected["eval_loss"])
    assert {"evaluation", "test", "evaluation-one"} <= run.data_reports.keys()
    with pytest.raises(DataError, match="train_dataset: found sets named train, test; give one of them"):
        trainer(model_folder, out, {"train": rows, "test": rows})


@pytest.mark.parametrize("evaluation", [True, False])
def test_a_bad_pair_is_named_in_a_data_set_that_was_shuffled(
    model_folder: str, rows: list[dict[str, str]], out: str, tmp_path: Path, evaluation: bool
) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(f'{{"prompt": "the", "chosen": " {word}", "rejected": " end"}}\n' for word in WORDS))
    first = trainer(model_folder, out, rows)
    prepared, _ = prepare(read_rows(path), first.processing_class, EncodingConfig(), description="pairs")
    selected = prepared.select([5, 3, 4])
    run = trainer(model_folder, out, rows if evaluation else selected)
    with torch.no_grad():  # the word of line 5
        run.model.policy.get_input_embeddings().weight[run.processing_class(WORDS[4]).input_ids[0]] = float("nan")
    with pytest.raises(NonFiniteError) as caught:
        run.evaluate(selected) if evaluation else run.train()
    when = "evaluation after step 0" if evaluation else "step 1"
    assert str(caught.value).startswith(f"{when}, {path}:5: `logps` is nan")


def test_the_log_warns_of_what_is_left_out(
    model_folder: str, rows: list[dict[str, str]], out: str, caplog: pytest.LogCaptureFixture
) -> None:
    trainer(model_folder, out, [row | {"source": "web"} for row in rows])
    (record,) = [record for record in caplog.records if "train data" in record.message]
    assert record.levelno == logging.WARNING
    assert "not used: column 'source' (32 pairs)" in record.message


def test_settings_of_the_encoding_reach_it(model_folder: str, rows: list[dict[str, str]], out: str) -> None:
    args = PreferenceConfig(out, on_too_long="drop", chat_template_kwargs={"enable_thinking": False}, max_length=12)
    assert args.encoding == EncodingConfig(
        max_length=12, on_too_long="drop", chat_template_kwargs={"enable_thinking": False}
    )
    data = {"train": "x.jsonl", "on_too_long": "stop", "chat_template_kwargs": {"enable_thinking": False}}
    run = RunFile(model="m", data=data, objective="dpo")
    assert (
        run.preference_config().encoding
        == run.data.encoding
        == EncodingConfig(on_too_long="stop", chat_template_kwargs={"enable_thinking": False})
    )
    with pytest.raises(ValueError, match="'tokenize' is set by prefopt"):
        RunFile(model="m", data={"train": "x", "chat_template_kwargs": {"tokenize": True}}, objective="dpo")
    stopping = config(out, max_length=6, on_too_long="stop")
    with pytest.raises(DataError, match="pairs are too long, and on_too_long is 'stop'"):
        PreferenceTrainer(model_folder, objective=zoo.dpo(), args=stopping, train_dataset=rows)


def test_turns_of_others_are_masked_in_training_and_in_the_cache(model_folder: str, out: str, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ 'they ' if m.role == 'user' }}{{ m.content }} <eos> {% endfor %}"
        "{% if add_generation_prompt %}{% endif %}"
    )
    user, film, plot = (
        {"role": role, "content": text}
        for role, text in (("user", "was it"), ("assistant", "film"), ("assistant", "plot"))
    )
    rows = [{"prompt": [user], "chosen": [film, user, plot], "rejected": [plot, user]}] * 8
    losses, numbers = [], []
    for cache in (None, str(tmp_path / "cache")):
        args = config(out, max_steps=2, reference_cache=cache)
        run = PreferenceTrainer(
            model_folder, objective=zoo.tdpo2(), args=args, train_dataset=rows, processing_class=tokenizer
        )
        run.train()
        losses.append([log["loss"] for log in run.state.log_history if "loss" in log])
        numbers.append(run.data_reports["train"].masked_tokens)
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert losses[0][1] < losses[0][0] == pytest.approx(math.log(2), abs=1e-6)
    assert numbers == [8 * 2 * len("they was it <eos>".split())] * 2
