"""Texts of data and models control no terminal."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from prefopt.printing import PrintableConsole, printable
from tests.cli.test_cli import run as typed

HARMFUL = {
    "a colour": "\x1b[31m",
    "a title of the window": "\x1b]0;owned\x07",
    "a bell": "\x07",
    "a step back": "ok\x08\x08no",
    "one byte's own escape": "\x9b2J",
    "text from right to left": "\u202etxt.exe",
    "an isolate": "\u2066user\u2069",
    "a mark of order": "\ufeff",
    "half a character": "\ud800",
}


def test_what_stands_between_colons_is_no_emoji() -> None:
    file = io.StringIO()
    table = Table()
    table.add_row(escape("data.weight:-1:"))
    for item in (escape("a:smile:b"), table):
        PrintableConsole(file=file, width=80).print(item)
    assert "a:smile:b" in file.getvalue()
    assert "data.weight:-1:" in file.getvalue()


@pytest.mark.parametrize("text", HARMFUL.values(), ids=HARMFUL)
def test_control_characters_are_replaced_and_letters_kept(text: str) -> None:
    controls = set(text) - set("[31m]0;ownedk2Jtx.user")
    file = io.StringIO()
    table = Table()
    table.add_row(escape(f"é{text}ń"))
    for item in (escape(f"é{text}ń"), table):
        PrintableConsole(file=file, width=80).print(item)
    for shown in (printable(f"é{text}ń"), file.getvalue()):
        assert not controls & set(shown)
        assert "\ufffd" in shown or text == HARMFUL["a step back"] or text == HARMFUL["a bell"]
        assert "é" in shown
        assert "ń" in shown


def test_colours_of_our_own_and_joined_letters_stay() -> None:
    file = io.StringIO()
    PrintableConsole(file=file, force_terminal=True, color_system="standard").print("[red]a\u200db[/]")
    assert "\x1b[31ma\u200db\x1b[0m" in file.getvalue()
    assert printable("a\tb\nc") == "a\tb\nc"


def test_progress_bars_keep_their_own_controls_alone() -> None:
    file = io.StringIO()
    with Progress(console=PrintableConsole(file=file, force_terminal=True, width=80)) as progress:
        progress.add_task("rows of \x1b]0;owned\x07", total=1)
    assert "rows of \ufffd" in file.getvalue()
    assert "\x1b]" not in file.getvalue()
    assert "\x1b[?25l" in file.getvalue()  # the cursor is hidden


def test_an_error_quotes_data_and_controls_nothing(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text(json.dumps({"\x1b[2Jprompt": "a", "chosen": 3, "\u202erejected": "\x07"}) + "\n")
    output = typed("data", "check", str(file), exit_code=2)
    assert "pairs.jsonl:1" in output
    assert not set("\x1b\x07\u202e") & set(output)
