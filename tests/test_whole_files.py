"""Files that are moved into a folder leave what others keep there."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from prefopt.whole_files import publish_files, publish_text, sha256


@pytest.mark.parametrize(
    ("saved", "kept"),
    [
        ({"adapter_model.safetensors"}, {"model.safetensors", "objective.safetensors"}),
        ({"model-00001-of-00001.safetensors"}, {"adapter_model.safetensors", "objective.safetensors"}),
        ({"objective.yaml"}, {"model.safetensors", "adapter_model.safetensors"}),
    ],
)
def test_only_weights_of_the_same_kind_are_replaced(saved: set[str], kept: set[str], tmp_path: Path) -> None:
    new, target = tmp_path / "new", tmp_path / "target"
    target.mkdir()
    new.mkdir()
    for name in ("model.safetensors", "adapter_model.safetensors", "objective.safetensors"):
        (target / name).write_text("old")
    for name in saved:
        (new / name).write_text("new")
    publish_files(new, target)
    assert {path.name for path in target.iterdir()} == saved | kept


def test_a_text_that_does_not_fit_is_one_line_and_what_was_there_stays(tmp_path: Path) -> None:
    target = tmp_path / "page.html"
    publish_text("whole", target)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        words = r"5,000 bytes cannot be written \(File too large; a file may have 1,000 bytes \(ulimit -f\)\); make"
        with pytest.raises(OSError, match=rf"{words}.*page\.html"):
            publish_text("x" * 5000, target)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["whole"]


def test_a_digest_is_that_of_the_standard_tools(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
