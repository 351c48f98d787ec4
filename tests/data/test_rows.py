import gzip
import json
from pathlib import Path

import datasets
import huggingface_hub.constants
import pytest

from prefopt.data import BadRow, DataError, SourceRow, read_rows, rows_of

ROWS = [{"prompt": f"p{number}", "chosen": "good", "rejected": "bad"} for number in range(3)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Keep the user's cache of `datasets` out of the tests, and the tests out of it."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def _jsonl(path):
    path.write_text(LINES)


def _jsonl_gz(path):
    with gzip.open(path, "wt") as file:
        file.write(LINES)


def _json(path):
    path.write_text(json.dumps(ROWS))


def _json_gz(path):
    with gzip.open(path, "wt") as file:
        json.dump(ROWS, file)


def _parquet(path):
    datasets.Dataset.from_list(ROWS).to_parquet(path)


def _csv(path):
    datasets.Dataset.from_list(ROWS).to_csv(path)


def _arrow(path):
    datasets.Dataset.from_list(ROWS).save_to_disk(path)


def _arrow_splits(path):
    datasets.DatasetDict(
        train=datasets.Dataset.from_list(ROWS), test=datasets.Dataset.from_list(ROWS[:1])
    ).save_to_disk(path)


def _data_files(path):
    path.mkdir()
    (path / "train.jsonl").write_text(LINES)
    (path / "test.jsonl").write_text(LINES.splitlines()[0])


@pytest.mark.parametrize(
    ("name", "write", "where"),
    [
        ("a.jsonl", _jsonl, "{}:2"),
        ("a.jsonl.gz", _jsonl_gz, "{}:2"),
        ("A.JSONL", _jsonl, "{}:2"),
        ("a.json", _json, "row 1 of {}"),
        ("a.json.gz", _json_gz, "row 1 of {}"),
        ("a.parquet", _parquet, "row 1 of {}"),
        ("a.csv", _csv, "row 1 of {}"),
        ("arrow", _arrow, "row 1 of {}"),
        ("splits", _arrow_splits, "row 1 of {}"),
        ("folder", _data_files, "row 1 of {}"),
    ],
)
def test_every_form_gives_the_same_rows(tmp_path, name, write, where):
    path = tmp_path / name
    write(path)
    for source in (path, str(path)):
        rows = list(read_rows(source))
        assert [dict(row.fields) for row in rows] == ROWS
        assert rows[1].where == where.format(path)


@pytest.mark.parametrize("write", [_arrow_splits, _data_files])
def test_split(tmp_path, write):
    write(tmp_path / "sets")
    assert len(list(read_rows(tmp_path / "sets", split="test"))) == 1
    with pytest.raises(DataError, match=r"sets.*'valid'"):
        read_rows(tmp_path / "sets", split="valid")


@pytest.mark.parametrize("write", [_jsonl, _parquet, _arrow])
def test_a_split_of_what_has_none_is_refused(tmp_path, write):
    path = tmp_path / ("a" if write is _arrow else f"a.{write.__name__[1:]}")
    write(path)
    with pytest.raises(DataError, match=r"it has no splits, so that nobody would read the split 'test'; leave it out"):
        read_rows(path, split="test")


def test_csv_keeps_text_that_others_read_as_missing_and_names_a_broken_file(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('prompt,chosen,rejected,score\n"a, b","NA\nnull",None,0.5\nq,,x,1\n')
    first, second = read_rows(path)
    assert first.fields == {"prompt": "a, b", "chosen": "NA\nnull", "rejected": "None", "score": 0.5}
    assert second.fields["chosen"] == ""
    path.write_text("prompt,chosen\na,b,c\nd,e,f,g,h\n")
    with pytest.raises(DataError, match=r"a\.csv: not a readable CSV file \(.*; mend it, or write the rows as .jsonl"):
        list(read_rows(path))


def test_a_relative_name_goes_to_load_dataset_as_it_is(tmp_path, monkeypatch):
    _data_files(tmp_path / "folder")
    monkeypatch.chdir(tmp_path)
    assert [row.where for row in read_rows("folder")] == [f"row {number} of folder" for number in range(3)]


def test_messages_survive_parquet(tmp_path):
    messages = [{"role": "user", "content": "hi"}]
    datasets.Dataset.from_list([{"prompt": messages}]).to_parquet(tmp_path / "a.parquet")
    (row,) = read_rows(tmp_path / "a.parquet")
    assert row.fields["prompt"] == messages


def test_lines_that_are_no_rows(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"chosen": "a"}\n\n   \n{"chosen": \n[1, 2]\n"\xff"\nnull\n{"chosen": "b"}')
    first, broken, listed, undecodable, null, last = read_rows(path)

    assert first == SourceRow(f"{path}:1", {"chosen": "a"})
    assert last == SourceRow(f"{path}:8", {"chosen": "b"})
    assert isinstance(broken, BadRow)
    assert broken.where == f"{path}:4"
    assert broken.field == ""
    assert "not JSON" in broken.problem
    assert broken.remedy == "mend or remove the line"
    assert broken.content == '{"chosen": '
    assert str(broken) == f"{path}:4: {broken.problem}; mend or remove the line"
    assert listed == BadRow(f"{path}:5", "", "found a list where a row should be", "make each row an object", [1, 2])
    assert undecodable.where == f"{path}:6"
    assert "not JSON" in undecodable.problem
    assert null.problem == "found nothing (null) where a row should be"


def test_items_of_a_json_list_that_are_no_rows(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('[{"chosen": "a"}, 3, "x"]')
    _, number, text = read_rows(path)
    assert str(number) == f"row 1 of {path}: found the value 3 where a row should be; make each row an object"
    assert text.problem == "found text where a row should be"


@pytest.mark.parametrize(
    ("text", "message"),
    [('{"a": 1}', "found an object; a .json file must hold a list"), (LINES, "one object a line, name it .jsonl")],
)
def test_json_that_is_no_list(tmp_path, text, message):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match=message):
        read_rows(tmp_path / "a.json")


@pytest.mark.parametrize("damage", [lambda data: data[:-20], lambda data: b"plain" + data])
def test_a_damaged_archive_is_named(tmp_path, damage):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(damage(gzip.compress(LINES.encode() * 1000)))
    with pytest.raises(DataError, match=r"a\.jsonl\.gz: the compressed file is damaged"):
        list(read_rows(path))


@pytest.mark.parametrize(
    "source", ["gone.jsonl", "data/gone.json", "./gone", "/gone/away", "~/gone", "a/b/gone", "gone.parquet"]
)
def test_a_missing_file_is_not_looked_up_on_the_hub(source):
    with pytest.raises(DataError, match=r"gone\S*: no such file or folder; it was looked for at /"):
        read_rows(source)


def test_a_path_is_never_a_hub_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="owner/name: no such file or folder"):
        read_rows(Path("owner/name"))


def test_an_unknown_suffix(tmp_path):
    (tmp_path / "a.tsv").write_text("prompt,chosen\n")
    with pytest.raises(DataError, match=r"a\.tsv: cannot tell the format .*\.jsonl, \.jsonl\.gz, \.json,"):
        read_rows(tmp_path / "a.tsv")


def test_a_name_that_neither_disk_nor_hub_knows(monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=r"nobody/nothing: load_dataset.*file or folder that exists here"):
        read_rows("nobody/nothing")


def test_rows_of_memory():
    rows = list(rows_of(datasets.Dataset.from_list(ROWS), name="train_dataset"))
    assert rows[2] == SourceRow("row 2 of train_dataset", ROWS[2])


def test_a_doubled_key_is_named(tmp_path):
    doubled = '{"prompt": "p", "chosen": "a", "chosen": "b", "rejected": [{"role": "user", "role": "x"}]}'
    lines = tmp_path / "pairs.jsonl"
    lines.write_text(f'{{"a": 1}}\n{doubled}\n')
    good, bad = read_rows(lines)
    assert isinstance(good, SourceRow)
    assert str(bad) == f"{lines}:2: field 'role': found the key 'role' twice; keep one of the two"
    assert bad.content == doubled
    document = tmp_path / "pairs.json"
    document.write_text(f"[{doubled}]")
    with pytest.raises(DataError, match=r"pairs.json: an object has the key 'role' twice; keep one of the two"):
        list(read_rows(document))
