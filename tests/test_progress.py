"""Progress: a bar with the time that is left, or a report, and never two bars."""

from __future__ import annotations

from itertools import count
from operator import length_hint
from pathlib import Path
from time import monotonic
from types import SimpleNamespace

import pytest
from rich.console import Console

from prefopt.comparison.progress import Board
from prefopt.data import read_rows
from prefopt.progress import Stopwatch, current_report, reporting_to, shown, tracked

Reports = list[tuple[str, int, int | None]]


@pytest.fixture
def reports(monkeypatch: pytest.MonkeyPatch) -> Reports:
    """A list for reports, which then come for each item."""
    monkeypatch.setattr("prefopt.progress._SECONDS", 0)
    return []


def test_a_stopwatch_adds_up_what_is_done_by_its_words(reports: Reports, monkeypatch: pytest.MonkeyPatch) -> None:
    now = count(0.0, 0.5)
    monkeypatch.setattr("prefopt.progress.time", SimpleNamespace(perf_counter=lambda: next(now), monotonic=monotonic))
    watch = Stopwatch(lambda *report: reports.append(report))
    with reporting_to(watch):
        assert list(tracked("ab", "letters")) == ["a", "b"]
        assert list(tracked("c", "letters")) == ["c"]
    assert watch.seconds == {"letters": 2.5}
    assert reports[-1] == ("letters", 1, 1)


def test_items_come_with_a_report_for_each(reports: Reports) -> None:
    with reporting_to(lambda *report: reports.append(report)):
        assert list(tracked("ab", "letters")) == ["a", "b"]
        assert list(tracked(iter(()), "none")) == []
    assert reports[:3] == [("letters", 0, 2), ("letters", 1, 2), ("letters", 2, 2)]
    assert reports[-1] == ("none", 0, None)
    current_report()("nobody hears", 1, 1)


def test_reports_are_few(monkeypatch: pytest.MonkeyPatch, reports: Reports) -> None:
    monkeypatch.setattr("prefopt.progress._SECONDS", 100)
    with reporting_to(lambda *report: reports.append(report)):
        assert sum(tracked(range(100), "numbers")) == 4950
    assert reports == [("numbers", 0, 100), ("numbers", 100, 100)]


def test_a_terminal_shows_one_bar_with_the_time_that_is_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", "100")
    for _ in tracked(range(3), "[outer]"):
        assert list(tracked(range(2), "inner")) == [0, 1]
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "[outer]" in captured.err
    assert "3/3" in captured.err
    assert "-:--:--" in captured.err  # the time that is left, before the first item is done
    assert "inner" not in captured.err
    assert list(tracked(range(2), "hidden", hidden=True)) == [0, 1]
    with reporting_to(None):
        assert list(tracked(range(2), "another's")) == [0, 1]
    assert capsys.readouterr().err == ""


def test_what_is_no_loop_of_ours_is_shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    with shown("fine-tuning", 2) as report:
        report("fine-tuning", 1, 2)
        list(tracked("a", "inner"))
    err = capsys.readouterr().err
    assert "1/2" in err
    assert "inner" not in err


def test_an_error_leaves_no_bar(monkeypatch: pytest.MonkeyPatch, reports: Reports) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    with pytest.raises(ZeroDivisionError):
        _ = [1 // number for number in tracked(range(3), "numbers")]
    with reporting_to(lambda *report: reports.append(report)):
        list(tracked("a", "letters"))
    assert reports[-1] == ("letters", 1, 1)


def test_a_run_of_a_comparison_shows_which_part_is_under_way(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "key.json"
    with Board(Console(force_terminal=True, width=100), tmp_path) as board:
        for report in ('["[dpo], seed 0", "sampling", 3, 9]', '["[dpo], seed 0", "training", 5, 10]', '["[dpo], se'):
            file.write_text(report)
            board.refresh()
        board._progress.refresh()
        out = capsys.readouterr().out
        file.unlink()
        board.refresh()
        board._progress.refresh()
        over = capsys.readouterr().out
    assert "[dpo], seed 0: training" in out
    assert "5/10" in out
    assert "runs" in over
    assert "dpo" not in over.rpartition("runs")[2]


@pytest.mark.parametrize("name", ["pairs.jsonl", "pairs.csv"])
def test_files_tell_how_many_rows_they_have(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text('{"a": 1}\n' * 5)
    assert length_hint(read_rows(tmp_path / name)) == 5
