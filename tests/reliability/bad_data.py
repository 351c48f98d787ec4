"""Files of preference data that cannot be used, or whose rows cannot."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import datasets

from tests.reliability.damage import OF_JSON, cut, zeroed
from tests.reliability.room import PAIR, Room

DataInput = tuple[str, Callable[[Room], list[str]], tuple[str, ...]]

ROWS = [{name: f"{text} {number}" for name, text in PAIR.items()} for number in range(40)]


def _write_lines(path: Path) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")


def _write_gzip(path: Path) -> None:
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in ROWS).encode()))


FORMATS: Mapping[str, Callable[[Path], object]] = {
    "rows.jsonl": _write_lines,
    "rows.jsonl.gz": _write_gzip,
    "rows.json": lambda path: path.write_text(json.dumps(ROWS), encoding="utf-8"),
    "rows.parquet": lambda path: datasets.Dataset.from_list(ROWS).to_parquet(path),
    "rows": lambda path: datasets.Dataset.from_list(ROWS).save_to_disk(path),
}
"""The name of a file, or of a folder of save_to_disk -> what writes it."""

_CUTS: Mapping[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "cut after a tenth": lambda content: cut(content, 0.1),
    "cut at 0.55": lambda content: cut(content, 0.55),
    "without its last byte": lambda content: content[:-1],
    "zeros from its middle on": lambda content: zeroed(content, 0.5),
    "other bytes": lambda _: b"\xff\x00\xfe",
}


def data_inputs() -> Iterator[DataInput]:
    """Name, what makes it, and the texts of its line."""
    for file, write in FORMATS.items():
        for name, damage in _CUTS.items():
            if (file, name) != ("rows.jsonl", "without its last byte"):  # the end of its last line
                yield f"{file}, {name}", partial(_spoilt, file, write, damage), (file,)
    for name in ("state.json", "dataset_info.json"):
        for change, damage in OF_JSON.items():
            yield f"rows/{name}, {change}", partial(_described, name, damage), ("rows",)
    for encoding in ("utf-16", "utf-32"):
        yield f"rows.jsonl in {encoding}", partial(_encoded, encoding), ("rows.jsonl",)
    for name, content in _ROWS.items():
        yield f"a row: {name}", partial(_row, content), ("pairs.jsonl:1",)
    for name, (source, word) in _SOURCES.items():
        yield f"a source: {name}", partial(_source, source), (word,)


def _nested(depth: int) -> str:
    return "[" * depth + "]" * depth


_ROWS: Mapping[str, str] = {
    "a number": "3",
    "null": "null",
    "a list": "[]",
    "an empty object": "{}",
    "NaN": "NaN",
    "no JSON": "{prompt: the}",
    "half of one": json.dumps(PAIR)[:30],
    "a key twice": '{"prompt": "a", "prompt": "b", "chosen": "c", "rejected": "d"}',
    "nested deep": _nested(100_000),
    "a field that is nested deep": json.dumps(PAIR)[:-1] + f', "more": {_nested(5_000)}}}',
    "messages that are nested deep": f'{{"prompt": "a", "chosen": {_nested(500)}, "rejected": "d"}}',
    "a long number": json.dumps(PAIR)[:-1] + f', "more": {"9" * 5_000}}}',
    **{
        f"{side}: {value!r}"[:60]: json.dumps({**PAIR, side: value})
        for side in ("chosen", "rejected")
        for value in (None, 3, True, "", [], {}, [3], [{}], [{"role": "user"}], [{"role": 3, "content": "x"}])
    },
    **{f"prompt: {value!r}": json.dumps({**PAIR, "prompt": value}) for value in (3, True, {}, [3], [{}])},
    **{f"no {side}": json.dumps({k: v for k, v in PAIR.items() if k != side}) for side in ("chosen", "rejected")},
}

_SOURCES: Mapping[str, tuple[Mapping[str, Any], str]] = {
    "absent": ({"train": "absent.jsonl"}, "absent.jsonl"),
    "no format": ({"train": "./README.txt"}, "README.txt"),
    "a split of a file": ({"train": {"path": "pairs.jsonl", "split": "test"}}, "split"),
    "a fraction of 0": ({"train": {"path": "pairs.jsonl", "fraction": 0}}, "fraction"),
    "minus one row": ({"train": {"path": "pairs.jsonl", "rows": -1}}, "rows"),
    "two sizes": ({"train": {"path": "pairs.jsonl", "rows": 1, "fraction": 0.5}}, "fraction"),
    "a weight of infinity": ({"train": [{"path": "pairs.jsonl", "weight": float("inf")}]}, "weight"),
    "no source": ({"train": []}, "data.train"),
    "a mixture of a kind that is not there": ({"train": "pairs.jsonl", "mixture": "shaken"}, "mixture"),
    "a null byte": ({"train": "pa\0irs.jsonl"}, "irs.jsonl"),
    "too long a name": ({"train": "/tmp/" + "a" * 300}, "aaa"),
    "the loading of a file": ({"train": {"path": "pairs.jsonl", "name": "en"}}, "name"),
}
"""What is under `data`, and a word of what is said of it."""


def _here(room: Room, value: Any) -> Any:
    """With the paths of the room."""
    if isinstance(value, str):
        return str(room.folder / value) if value == "pairs.jsonl" else value
    if isinstance(value, dict):
        return {key: _here(room, part) for key, part in value.items()}
    return [_here(room, part) for part in value] if isinstance(value, list) else value


def _source(source: Mapping[str, Any], room: Room) -> list[str]:
    return room.train({"data": _here(room, dict(source))})


def _spoilt(name: str, write: Callable[[Path], object], damage: Callable[[bytes], bytes], room: Room) -> list[str]:
    path = room.folder / name
    write(path)
    file = next(path.glob("*.arrow")) if path.is_dir() else path
    file.write_bytes(damage(file.read_bytes()))
    return room.train({"data": str(path)})


def _described(name: str, damage: Callable[[bytes], bytes], room: Room) -> list[str]:
    path = room.folder / "rows"
    FORMATS["rows"](path)
    (path / name).write_bytes(damage((path / name).read_bytes()))
    return room.train({"data": str(path)})


def _encoded(encoding: str, room: Room) -> list[str]:
    path = room.folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding=encoding)
    return room.train({"data": str(path)})


def _row(content: str, room: Room) -> list[str]:
    (room.folder / "pairs.jsonl").write_text(content + "\n", encoding="utf-8")
    return room.train({})
