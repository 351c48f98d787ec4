"""The store of tensors by key: round trips, kills, several writers, damage."""

from __future__ import annotations

import os
import pickle
import resource
import time
import warnings
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from prefopt.scoring.reference import tensor_store as store
from prefopt.scoring.reference.tensor_store import StoreError, TensorStore
from tests.forked import SERVER


def entry(length, value):
    return {"final": torch.full((length, 3), value, dtype=torch.bfloat16), "logps": torch.full((length,), value)}


def test_entries_come_back_in_the_order_asked_for(tmp_path):
    written = TensorStore(tmp_path, ["final", "logps"])
    written.add("a", entry(2, 1.0))
    written.add("b", entry(1, 2.0))
    assert "a" in written
    written.flush()
    written.add("c", entry(3, 3.0))
    written.flush()
    for read in (written, TensorStore(tmp_path, ["logps", "final"]), pickle.loads(pickle.dumps(written))):
        actual = read.read(["c", "a", "b", "a"])
        assert actual["logps"].tolist() == [3, 3, 3, 1, 1, 2, 1, 1]
        assert actual["final"].shape == (8, 3)
        assert actual["final"].dtype == torch.bfloat16
        with pytest.raises(KeyError):
            read.read(["d"])


def test_a_reader_of_fewer_fields_finds_them_and_one_of_more_does_not(tmp_path):
    written = TensorStore(tmp_path, ["final", "logps"])
    written.add("a", entry(2, 1.0))
    written.flush()
    assert "a" in TensorStore(tmp_path, ["logps"])
    more = TensorStore(tmp_path, ["final", "logps", "states"])
    assert "a" not in more
    more.add("a", entry(2, 5.0) | {"states": torch.zeros(2, 4)})
    more.flush()
    assert more.read(["a"])["logps"].tolist() == [5, 5]


def test_what_was_not_flushed_is_lost_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "SHARD_BYTES", 60)  # an entry of two takes 20 bytes
    killed = TensorStore(tmp_path, ["final", "logps"])
    for key in "abcde":
        killed.add(key, entry(2, 1.0))
    actual = TensorStore(tmp_path, ["final", "logps"])
    assert [key for key in "abcde" if key in actual] == ["a", "b", "c"]


def test_writers_do_not_disturb_each_other(tmp_path):
    one, two = (TensorStore(tmp_path, ["final", "logps"]) for _ in range(2))
    one.add("a", entry(1, 1.0))
    two.add("b", entry(1, 2.0))
    two.add("a", entry(1, 1.0))
    one.flush()
    two.flush()
    one.refresh()
    assert one.read(["a", "b"])["logps"].tolist() == two.read(["a", "b"])["logps"].tolist() == [1, 2]


def test_unfinished_shards_are_left_while_fresh_and_swept_when_stale(tmp_path):
    fresh, stale = tmp_path / "fresh.unfinished", tmp_path / "stale.unfinished"
    for file in (fresh, stale):
        file.write_bytes(b"half a shard")
    long_ago = time.time() - 7200
    os.utime(stale, (long_ago, long_ago))
    TensorStore(tmp_path, ["logps"])
    assert fresh.exists()
    assert not stale.exists()


def test_a_shard_that_is_none_is_named_and_removed(tmp_path):
    (tmp_path / "broken.safetensors").write_bytes(b"no shard at all")
    with pytest.warns(UserWarning, match=r"broken.safetensors: .*; it is removed, and what it held is made anew"):
        TensorStore(tmp_path, ["logps"])
    assert not (tmp_path / "broken.safetensors").exists()


@pytest.mark.parametrize("header", [None, {"keys": "[1", "lengths": "[]"}, {"keys": '["a"]', "lengths": "[9]"}])
def test_a_shard_without_digest_whose_header_is_damaged_is_named_and_removed(tmp_path, header):
    save_file({"logps": torch.ones(2)}, tmp_path / "old.safetensors", metadata=header)
    with pytest.warns(UserWarning, match=r"old.safetensors: its header .*; it is removed"):
        assert "a" not in TensorStore(tmp_path, ["logps"])


def test_a_shard_cut_or_flipped_anywhere_is_made_anew_bit_for_bit(tmp_path):
    written = TensorStore(tmp_path, ["final", "logps"])
    written.add("a", entry(5, 1.0))
    written.flush()
    (shard,) = tmp_path.glob("*.safetensors")
    whole = shard.read_bytes()
    flipped = [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in range(0, len(whole), 7)]
    for damaged in (*flipped, b"", *(whole[:at] for at in range(1, len(whole), 31))):
        shard.write_bytes(damaged)
        with pytest.warns(UserWarning, match=f"{shard}: not what was written"):
            again = TensorStore(tmp_path, ["final", "logps"])
        assert "a" not in again
        again.add("a", entry(5, 1.0))
        again.flush()
        (anew,) = tmp_path.glob("*.safetensors")
        assert anew.stat().st_size == len(whole)
        assert all(torch.equal(values, entry(5, 1.0)[field]) for field, values in load_file(anew).items())
        anew.unlink()


def test_a_full_disk_is_one_line_and_what_was_written_stays(tmp_path):
    written = TensorStore(tmp_path, ["final", "logps"])
    written.add("a", entry(5, 1.0))
    written.flush()
    written.add("b", entry(4000, 2.0))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(StoreError, match=rf"^{tmp_path}: a shard of [0-9,]+ bytes cannot be written .*make room"):
            written.flush()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [file.suffix for file in tmp_path.iterdir()] == [".safetensors"]
    written.flush()
    again = TensorStore(tmp_path, ["final", "logps"])
    assert torch.equal(again.read(["b"])["logps"], entry(4000, 2.0)["logps"])
    assert "a" in again


def test_two_of_37_shards_replaced_by_noise_are_named_and_made_anew(tmp_path):
    written = TensorStore(tmp_path, ["final", "logps"])
    for number in range(37):
        written.add(str(number), entry(5, float(number)))
        written.flush()
    shards = sorted(tmp_path.glob("*.safetensors"))
    assert len(shards) == 37
    for shard in (shards[3], shards[20]):
        noise = {name: torch.randn_like(values) for name, values in load_file(shard).items()}
        with safe_open(shard, framework="pt") as file:
            header = file.metadata()
        save_file(noise, shard, metadata=header)
    with pytest.warns(UserWarning, match="it is removed, and what it held is made anew") as warned:
        left = TensorStore(tmp_path, ["final", "logps"])
    assert [str(warning.message).partition(":")[0] for warning in warned] == [str(shards[3]), str(shards[20])]
    assert sum(str(number) in left for number in range(37)) == 35


def test_shards_of_an_earlier_release_are_read_and_said_to_have_no_digest(tmp_path):
    written = TensorStore(tmp_path, ["final", "logps"])
    written.add("a", entry(2, 1.0))
    written.flush()
    (shard,) = tmp_path.glob("*.safetensors")
    shard.rename(tmp_path / f"{'0' * 32}.safetensors")
    with pytest.warns(
        UserWarning, match="1 of 1 shards were written by an earlier release, without the digest.*delete"
    ):
        again = TensorStore(tmp_path, ["final", "logps"])
    assert again.read(["a"])["logps"].tolist() == [1, 1]


def fill(folder):
    for round in range(10):  # opened again and again, so that each sweeps while the other writes
        written = TensorStore(folder, ["final", "logps"])
        for number in range(20 * round, 20 * round + 20):
            written.add(str(number), entry(3, float(number)))
            if number % 5 == 0:
                written.flush()
        written.flush()


def fill_when_ready(folder, ready):
    warnings.simplefilter("error")  # nothing is damaged, and nothing removed that is in use
    ready.touch()
    fill(folder)


@pytest.mark.outside
def test_two_processes_fill_one_folder_with_the_same_at_the_same_time(tmp_path):
    ready, folder = tmp_path / "ready", tmp_path / "store"
    other = SERVER.Process(target=fill_when_ready, args=(folder, ready))
    other.start()
    while not ready.exists():
        assert other.is_alive()
        time.sleep(0.01)
    fill(folder)
    other.join(300)
    assert other.exitcode == 0
    actual = TensorStore(folder, ["final", "logps"])
    keys = [str(number) for number in range(200)]
    expected = [float(key) for key in keys for _ in range(3)]
    assert actual.read(keys)["logps"].tolist() == actual.read(keys)["final"][:, 1].tolist() == expected
    assert not list(folder.glob("*.unfinished"))


def test_a_shard_that_is_finished_while_others_sweep_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "glob", lambda folder, pattern: [folder / "gone.unfinished"] if "unf" in pattern else [])
    assert TensorStore(tmp_path, ["logps"]).bytes_per_row == 0
