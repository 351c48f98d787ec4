"""What holds of any input, however spoilt: it is used as it is, or refused in words; nothing else is raised."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from prefopt.comparison.run_log import RUNS, RunLog
from prefopt.comparison.suite import Suite, SuiteError
from prefopt.data import DataError, EncodingConfig, prepare, read_rows
from prefopt.training import RunFile, RunFileError
from prefopt.training.manifest import MANIFEST, CheckpointError, reject_damaged
from tests.reliability.room import PAIR, SUITE, Room
from tests.reliability.spoiling import damaged, spoilt

Property = tuple[str, st.SearchStrategy[Any], Callable[[Any], None]]
"""What it is of, its inputs, and what fails for one that is neither used as it is nor refused in words."""

_ASKED = {"role": "user", "content": "the film"}
_CALL = {"type": "function", "function": {"name": "look", "arguments": {"where": "here"}}}
ROWS: list[dict[str, Any]] = [
    {**PAIR},
    {"prompt": [_ASKED], **{side: [{"role": "assistant", "content": side}] for side in ("chosen", "rejected")}},
    {side: [_ASKED, {"role": "assistant", "content": side}] for side in ("chosen", "rejected")},
    {**PAIR, "system": "good", "images": [], "tools": [_CALL], "chat_template_kwargs": {"thinking": True}},
    {"question": "the", "output": ["good", "bad"]},
    {
        "prompt": [{"from": "system", "value": "a"}, {"from": "human", "value": "the"}],
        "chosen": {"role": "assistant", "content": [{"type": "text", "text": "good"}], "tool_calls": [_CALL]},
        "rejected": {"role": "assistant", "content": "bad", "reasoning_content": "dull"},
    },
    {side: f"\n\nHuman: the film\n\nAssistant: {side}" for side in ("chosen", "rejected")},
]
TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)
RUN: dict[str, Any] = {
    "model": {"name": "m", "reference": None, "init": {"dtype": "float32"}, "peft": {"r": 4, "lora_alpha": 8}},
    "data": {"train": [{"path": "a.jsonl", "weight": 1}], "eval": {"b": "b.jsonl"}, "columns": {"prompt": "q"}},
    "objective": {"zoo": "sparsepo", "beta": 0.1, "weighting": {"gate": "relu", "dropout": 0.1}},
    "training": {
        "max_steps": 4, "learning_rate": 1e-5, "seed": 1, "save_steps": 2, "warmup_steps": 1, "report_to": "none",
        "use_cpu": True, "lr_scheduler_type": "linear", "optim": "adamw_torch", "mask_learning_rate": 0.1,
    },
}  # fmt: skip
SUITES: dict[str, Any] = {
    **SUITE,
    "baseline": "dpo",
    "sweeps": {"objective.beta": [0.1, 0.2], "training": {"learning_rate": [1e-5]}},
    "frontier": {"at": [1.0], "within": 3.0},
    "peft": {"r": 2},
}
FINDS: dict[str, list[Any]] = {
    "rows": [["", {"\n": None}], [{**ROWS[1], "prompt": [{"from": "\n", "value": "a"}]}]],
    "run files": [True, {**RUN, "objective": {"zoo": {"name": "sparsepo"}}}],
    "suites": [True, {**SUITES, "task": []}, {**SUITES, "task": {"name": {"name": "planted"}}}, {**SUITES, "\n": 1}],
}
"""Inputs that once were neither, by what they are of."""


def properties(room: Room, comparison: Path, tokenizer: PreTrainedTokenizerBase) -> Iterator[Property]:
    """All of them. The folder of the comparison has some records."""
    row = st.sampled_from(ROWS).flatmap(spoilt)
    tokenizer.chat_template = TEMPLATE
    file = room.folder / "fuzzed.jsonl"
    yield "rows", st.lists(row, min_size=1, max_size=3), partial(_rows, file, tokenizer)
    lines = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    yield "files of rows, by bytes", damaged(lines), partial(_file_of_rows, file, tokenizer)
    yield "run files", spoilt(RUN), partial(_run_file, room.folder / "fuzzed.yaml")
    text = yaml.safe_dump(RUN).encode()
    yield "run files, by bytes", damaged(text), partial(_run_file_of_bytes, room.folder / "fuzzed.yaml")
    yield "suites", spoilt(SUITES), partial(_suite, room.folder / "suites.yaml")
    yield "logs of comparisons, by bytes", damaged((comparison / RUNS).read_bytes()), partial(_log, comparison)
    contents = {path.name: path.read_bytes() for path in sorted(room.checkpoint.iterdir())}
    one = st.sampled_from(sorted(contents)).flatmap(lambda name: st.tuples(st.just(name), damaged(contents[name])))
    yield "checkpoints, by bytes", one, partial(_checkpoint, room.checkpoint)
    manifest = spoilt(json.loads(contents[MANIFEST]))
    yield "manifests", manifest, partial(_manifest, room.checkpoint)


def outcome(call: Callable[[], Any], refusal: type[ValueError]) -> tuple[Any, str]:
    """What a call gives, and the words with which it refuses, if it does."""
    try:
        return call(), ""
    except refusal as error:
        return None, str(error)


def _prepared(file: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    made, refusal = outcome(
        lambda: prepare(read_rows(file), tokenizer, EncodingConfig(), description=str(file)), DataError
    )
    if made is None:
        first, *others = refusal.split("\n")
        assert first.startswith(f"{file}: "), refusal
        assert first.isprintable(), refusal
        assert all(line.startswith((f"  {file}:", "  ... and ")) for line in others), refusal
    else:
        dataset, report = made
        assert len(dataset) == report.kept
        assert report.rows == report.kept + report.dropped_identical + report.dropped_too_long


def _rows(file: Path, tokenizer: PreTrainedTokenizerBase, rows: list[Any]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    _prepared(file, tokenizer)


def _file_of_rows(file: Path, tokenizer: PreTrainedTokenizerBase, content: bytes) -> None:
    file.write_bytes(content)
    _prepared(file, tokenizer)


def _run_file_of(file: Path) -> RunFile:
    run = RunFile.load(file)
    run.preference_config()
    return run


def _written_and_read(file: Path, read: Callable[[Path], RunFile | Suite], refusal: type[ValueError]) -> None:
    """What the file holds is refused, a line for each problem, or the same when it has been written and read again."""
    value, words = outcome(lambda: read(file), refusal)
    if value is None:
        assert all(line.startswith((f"{file}: ", "training: ")) for line in words.split("\n")), words
        return
    written = value.to_yaml()
    file.write_text(written, encoding="utf-8")
    assert read(file).to_yaml() == written


def _run_file(file: Path, document: Any) -> None:
    _run_file_of_bytes(file, yaml.safe_dump(document).encode(errors="surrogatepass"))


def _run_file_of_bytes(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    _written_and_read(file, _run_file_of, RunFileError)


def _suite(file: Path, document: Any) -> None:
    file.write_bytes(yaml.safe_dump(document).encode(errors="surrogatepass"))
    _written_and_read(file, Suite.load, SuiteError)


def _log(folder: Path, content: bytes) -> None:
    """Lines that are damaged are named, or cut off at the end of the file, as a killed process leaves them."""
    whole, changed = RunLog(folder / RUNS).records, folder / "changed.jsonl"
    changed.write_bytes(content)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        log = RunLog(changed)
    assert all(whole[key] == record for key, record in log.records.items())
    assert log.records.keys() == whole.keys() or warned or not content.endswith(b"\n")
    assert all(str(warning.message).startswith(f"{changed}:") for warning in warned)


def _checkpoint(folder: Path, change: tuple[str, bytes]) -> None:
    name, content = change
    file = folder / name
    whole = file.read_bytes()
    file.write_bytes(content)
    try:
        _, words = outcome(lambda: reject_damaged(folder), CheckpointError)
    finally:
        file.write_bytes(whole)
    if name != MANIFEST or not _same_json(content, whole):  # a manifest's digest is of what it says
        assert name in words, f"nobody sees that {name} has changed"
    assert "\n" not in words, words


def _same_json(one: bytes, other: bytes) -> bool:
    try:
        return bool(json.loads(one) == json.loads(other))
    except ValueError:
        return False


def _manifest(folder: Path, document: Any) -> None:
    if document != json.loads((folder / MANIFEST).read_bytes()):
        _checkpoint(folder, (MANIFEST, json.dumps(document).encode()))
