"""Files that cannot be used, of data and of models: a line that names them, before weights are loaded."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest

from tests.cli.test_bad_inputs import PAIR, TEXTS, document, loaded, refused

__all__ = ["loaded"]  # a fixture


def cut(file: Path, share: float) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])


@pytest.mark.parametrize("kind", ["parquet", "arrow", "json.gz"])
def test_tables_that_are_cut(kind: str, model_folder: str, tmp_path: Path, loaded: list[object]) -> None:
    for share in (0, 0.01, 0.5, 0.99):
        data = tmp_path / f"{share}.{kind}"
        if kind == "parquet":
            datasets.Dataset.from_list([PAIR] * 5).to_parquet(data)
            cut(data, share)
        elif kind == "arrow":
            datasets.Dataset.from_list([PAIR] * 5).save_to_disk(data)
            cut(next(data.glob("*.arrow")), share)
        else:
            data.write_bytes(gzip.compress(json.dumps([PAIR] * 5).encode()))
            cut(data, share)
        assert f"error: {data}: " in refused(document(model_folder, tmp_path, {"data": str(data)})), share
    assert not loaded


WITHOUT_ROWS: dict[str, Callable[[Path], object]] = {
    "rows.parquet": lambda file: datasets.Dataset.from_dict({name: [] for name in PAIR}).to_parquet(file),
    "rows": lambda folder: datasets.Dataset.from_dict({name: [] for name in PAIR}).save_to_disk(folder),
    "rows.csv": lambda file: file.write_text("prompt,chosen,rejected\n"),
    "rows.json": lambda file: file.write_text("[]"),
    "rows.jsonl": lambda file: file.write_text(""),
    "folder": Path.mkdir,
}


def test_data_without_rows(model_folder: str, tmp_path: Path, loaded: list[object]) -> None:
    for name, make in WITHOUT_ROWS.items():
        make(tmp_path / name)
        line = refused(document(model_folder, tmp_path, {"data": str(tmp_path / name)}))
        assert "train: no usable pair in 0 rows; it is empty" in line or str(tmp_path / name) in line
    assert not loaded


@pytest.mark.parametrize("name", ["state.json", "dataset_info.json"])
def test_a_saved_data_set_whose_description_is_damaged(name: str, model_folder: str, tmp_path: Path) -> None:
    for text, change in TEXTS.items():
        data = tmp_path / text
        datasets.Dataset.from_list([PAIR]).save_to_disk(data)
        (data / name).write_bytes(change((data / name).read_bytes()))
        assert f"error: {data}: " in refused(document(model_folder, tmp_path, {"data": str(data)})), text


def test_a_generation_config_is_not_lost_in_silence(model_folder: str, tmp_path: Path, loaded: list[object]) -> None:
    for text, change in TEXTS.items():
        folder = Path(shutil.copytree(model_folder, tmp_path / text))
        file = folder / "generation_config.json"
        file.write_bytes(change(file.read_bytes()))
        assert f"error: {file}: not a readable generation config" in refused(document(str(folder), tmp_path, {}))
    assert not loaded


TEMPLATES = {
    "{% for": "unexpected 'end of template'",
    "{{ messages[0].nothing.more }}": "no attribute 'nothing'",
    "{{ raise_exception('no') }}": r"refuses every conversation \(TemplateError: no\)",
    "": "leaves out",
    "{{ 1 / 0 }}": "division by zero",
    "{% while 1 %}": "unknown tag 'while'",
}


def test_chat_templates_that_are_broken(model_folder: str, tmp_path: Path, loaded: list[object]) -> None:
    folder = Path(shutil.copytree(model_folder, tmp_path / "model"))
    file, template = document(str(folder), tmp_path, {}), folder / "chat_template.jinja"
    sides = {"chosen": "good", "rejected": "bad"}
    asked = {"role": "user", "content": "the"}
    pair = {side: [asked, {"role": "assistant", "content": text}] for side, text in sides.items()}
    (tmp_path / "pairs.jsonl").write_text(json.dumps(pair))
    for text, words in TEMPLATES.items():
        template.write_text(text)
        refused(file, words, problems=2)  # the row is a line of its own
    template.write_bytes(b"\xff\xfe")
    refused(file, "model: the tokenizer cannot be used")
    assert not loaded


def test_no_token_to_pad_with(model_folder: str, tmp_path: Path, loaded: list[object]) -> None:
    folder = Path(shutil.copytree(model_folder, tmp_path / "model"))
    file = folder / "tokenizer_config.json"
    fields = json.loads(file.read_text())
    file.write_text(json.dumps({k: v for k, v in fields.items() if k not in {"pad_token", "eos_token"}}))
    refused(document(str(folder), tmp_path, {}), "neither a padding nor an end-of-text token; set tokenizer.pad_token")
    assert not loaded
