"""The supervised step: it learns the texts and their ends, from where the model stood."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModelForCausalLM, AutoTokenizer

from prefopt.tasks.models import Sft, supervised


def test_it_learns_the_texts_and_where_they_end(model_folder: str, tmp_path: Path) -> None:
    # As in GPT-2, the end of a text is also what pads.
    start = tmp_path / "start"
    AutoModelForCausalLM.from_pretrained(model_folder).save_pretrained(start)
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(start)
    texts = ["the film was good", "the film was very very good"] * 8
    supervised(str(start), texts, tmp_path / "sft", Sft(steps=30, batch_size=8, learning_rate=1e-2), seed=0)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "sft").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "sft")
    prompt = tokenizer("the film was very very", return_tensors="pt")
    written = model.generate(**prompt, max_new_tokens=2, do_sample=False)[0, -2:]
    assert written.tolist() == [tokenizer.convert_tokens_to_ids("good"), tokenizer.eos_token_id]


def test_it_is_its_seed_and_ends_texts_as_told(model_folder: str, tmp_path: Path) -> None:
    settings = Sft(epochs=1.5, batch_size=2, learning_rate=1e-2, max_length=3)
    states = {}
    for name, texts, end in (
        ("first", ["the film", "it was", "a dull story"], "<unk>"),
        ("again", ["the film", "it was", "a dull story"], "<unk>"),
        # A text that is cut has no end; the others end as if it were written in them.
        ("written", ["the film <unk>", "it was <unk>", "a dull story end end"], None),
    ):
        supervised(model_folder, texts, tmp_path / name, settings, seed=1, end_token=end)
        states[name] = AutoModelForCausalLM.from_pretrained(tmp_path / name).state_dict()
    for name in ("again", "written"):
        assert all(torch.equal(value, states["first"][key]) for key, value in states[name].items())


def test_settings() -> None:
    assert Sft(steps=7).total_steps(1000) == 7
    assert Sft(epochs=1.5, batch_size=2).total_steps(3) == 3
    assert Sft(epochs=0.001).total_steps(3) == 1
    for fields in ({}, {"steps": 1, "epochs": 1}):
        with pytest.raises(ValidationError, match="set one of `steps` and `epochs`"):
            Sft(**fields)
    with pytest.raises(ValueError, match="no texts"):
        supervised("anything", [], Path("nowhere"), Sft(steps=1), 0)
