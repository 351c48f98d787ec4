"""The end of one of several processes, as the others tell it."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch.distributed import DistBackendError

from prefopt.training.lost_process import LostProcessError, naming_lost_process
from tests.forked import run_module


@pytest.mark.outside
def test_a_process_says_that_another_has_ended_and_not_that_the_disk_is_at_fault(tmp_path: Path) -> None:
    run_module("tests.training.lost_processes", 2, tmp_path)
    message = (tmp_path / "error").read_text()
    assert message.startswith("another process of this run has ended, or does not answer")
    assert "training.resume_from_checkpoint=true goes on from the last" in message
    assert "gloo" in message
    assert "bytes are free" not in message
    assert len(message.splitlines()) == 1


def test_other_errors_and_those_of_one_process_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DistBackendError), naming_lost_process():
        raise DistBackendError("NCCL error")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(LostProcessError, match="NCCL error"), naming_lost_process():
        raise DistBackendError("NCCL error")
    with pytest.raises(RuntimeError, match=r"^shapes differ$"), naming_lost_process():
        raise RuntimeError("shapes differ")
