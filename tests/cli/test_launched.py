"""Commands under a launcher of several processes: those that one does are refused, and an error is printed once."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from prefopt.cli import shared_errors
from prefopt.cli.shared_errors import print_once
from tests.cli.test_cli import RUNNER, app, run


@pytest.mark.parametrize(
    "words",
    [
        "compare suite.yaml --out {folder}/out",
        "demo --out {folder}/out",
        "report {folder}",
        "inspect {folder} --data pairs.jsonl --out {folder}/out",
        "replay {folder}",
        "merge {folder} {folder}/out",
        "migrate trl.yaml --out {folder}/out",
        "new-plugin prefopt-decay --kind token-weighting --out {folder}",
    ],
)
def test_what_one_process_does_is_refused_on_several(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    output = run(*words.format(folder=tmp_path).split(), exit_code=2)
    assert output.startswith("error: 2 processes were started, as WORLD_SIZE or its like says, and each would do the ")
    assert "; start one, without the launcher" in output
    assert len(output.splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", ["", "two"])
def test_a_number_of_processes_that_is_none_is_named(
    value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", value)
    output = run("report", str(tmp_path), exit_code=2)
    assert output.startswith(f"error: the environment has WORLD_SIZE='{value}', where a launcher says how many ")
    assert len(output.splitlines()) == 1


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What is shown, with the store that a launcher has."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setattr(shared_errors, "PATIENCE", timedelta(seconds=0.2))
    for name, value in {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": store.port}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    yield []
    del store


def test_an_error_of_all_processes_is_printed_once_and_one_of_a_single_one_too(shown: list[str]) -> None:
    for rank in ("0", "1"):
        print_once("of all", lambda rank=rank: shown.append(f"of all, by {rank}"))
    print_once("of the last", lambda: shown.append("of the last"))
    assert shown == ["of all, by 0", "of the last"]


def test_an_error_is_not_lost_with_the_process_that_was_to_print_it(shown: list[str]) -> None:
    def end() -> None:
        raise SystemExit

    with pytest.raises(SystemExit):
        print_once("of all", end)
    print_once("of all", lambda: shown.append("by the other"))
    assert shown == ["by the other"]


def test_processes_that_are_started_anew_print_it_anew(shown: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for count in ("0", "1"):
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", count)
        print_once("of all", lambda count=count: shown.append(count))
    assert shown == ["0", "1"]


def test_without_the_launcher_it_is_printed_all_the_same(shown: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MASTER_PORT", str(free.getsockname()[1]))
    print_once("of all", lambda: shown.append("the launcher has ended"))
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "False")
    print_once("of all", lambda: shown.append("another launcher"))
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    monkeypatch.delenv("MASTER_ADDR")
    print_once("of all", lambda: shown.append("a part of its environment"))
    assert shown == ["the launcher has ended", "another launcher", "a part of its environment"]


def test_the_commands_print_by_it(shown: list[str], tmp_path: Path) -> None:
    outputs = [RUNNER.invoke(app, ["train", str(tmp_path / "absent.yaml")]) for _ in range(2)]
    assert [output.exit_code for output in outputs] == [2, 2]
    assert [output.output.count("error: ") for output in outputs] == [1, 0]
    assert shown == []
