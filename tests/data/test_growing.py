"""Many rows go to a file on the way, and are the same rows."""

from pathlib import Path

import pytest

from prefopt.data import EncodingConfig, growing, prepare, rows_of
from prefopt.training.fingerprints import data_fingerprint

ROWS = [{"prompt": "q", "chosen": "a" * (1 + n % 7), "rejected": "b", "note": f"{n}"} for n in range(2_300)]


def prepared(tokenizer):
    return prepare(rows_of(ROWS, name="rows"), tokenizer, EncodingConfig(), description="rows")


def test_rows_beyond_those_in_memory_are_in_a_mapped_file(plain, monkeypatch: pytest.MonkeyPatch):
    in_memory, report = prepared(plain)
    monkeypatch.setattr(growing, "IN_MEMORY", 100_000)
    mapped, the_same = prepared(plain)
    assert not in_memory.cache_files
    assert Path(mapped.cache_files[0]["filename"]).is_file()
    assert mapped.features == in_memory.features
    assert mapped[:] == in_memory[:]
    assert report == the_same
    assert data_fingerprint(mapped) == data_fingerprint(in_memory)


def test_a_file_that_cannot_be_written_is_named(plain, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(growing, "IN_MEMORY", 0)
    monkeypatch.setattr(growing, "get_temporary_cache_files_directory", lambda: str(tmp_path / "absent"))
    with pytest.raises(OSError, match=r"token ids of the data cannot be written .*TMPDIR: '.*/absent/pairs-.*\.arrow'"):
        prepared(plain)
