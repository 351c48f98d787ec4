"""Plugins that exit, hang or recurse when they are imported: named, and the process lives on."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from prefopt import available
from prefopt.component import TokenWeighting
from prefopt.plugin_imports import TIME_LIMIT, limited_import
from prefopt.plugins import WITHOUT
from prefopt.registry import PluginError
from tests.cli.test_cli import run as typed
from tests.little_plugins import Install

ENDS = {
    "import sys; sys.exit(3)": r"\(SystemExit: 3; .*__init__\.py:1, in <module>\)",
    "import os; os._exit(0)": r"\(it ends the process \(os\._exit\(0\)\)\)",
    "import os\ntry:\n    os._exit(0)\nexcept Exception:\n    pass": "it ends the process",
    "import time; time.sleep(60)": r"\(it takes more than 0\.2 seconds, at .*__init__\.py:1; PREFOPT_PLUGIN_TIME",
    "while True:\n    try: pass\n    except Exception: pass": r"takes more than 0\.2 seconds, at .*__init__\.py:[123]",
    "def deeper(): deeper()\ndeeper()": r"\(RecursionError: maximum recursion depth exceeded",
    "raise ValueError('two\\nlines')": r"\(ValueError: two lines; .*__init__\.py:1, in <module>\)",
}


@pytest.mark.parametrize("source", ENDS)
def test_an_import_that_does_not_come_to_its_end(
    source: str, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TIME_LIMIT, "0.2")
    install("bad-plugin", source)
    before = os._exit, signal.getsignal(signal.SIGALRM)
    with pytest.raises(
        PluginError, match=rf"plugin bad-plugin:components cannot be imported .*{ENDS[source]}"
    ) as caught:
        available(TokenWeighting)
    assert len(str(caught.value).splitlines()) == 1
    assert f"{WITHOUT}=bad-plugin" in str(caught.value)
    assert (os._exit, signal.getsignal(signal.SIGALRM)) == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_the_command_line_names_it_in_one_line(install: Install) -> None:
    install("bad-plugin", "raise SystemExit")
    lines = typed("components", exit_code=2).splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: plugin bad-plugin:components cannot be imported (SystemExit")


@pytest.mark.parametrize("text", ["soon", "-1", "nan", "inf"])
def test_a_time_limit_that_is_no_time(text: str, monkeypatch: pytest.MonkeyPatch, install: Install) -> None:
    install("good-plugin", "")
    monkeypatch.setenv(TIME_LIMIT, text)
    with pytest.raises(PluginError, match=f"{TIME_LIMIT}: '{text}' is no number of seconds"):
        available(TokenWeighting)


def test_without_a_limit_and_in_other_threads_imports_take_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TIME_LIMIT, "0")
    with limited_import():
        assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    monkeypatch.setenv(TIME_LIMIT, "0.01")
    ends: list[float] = []

    def slow() -> None:
        with limited_import():
            time.sleep(0.05)
        ends.append(1)

    thread = threading.Thread(target=slow)
    thread.start()
    thread.join()
    assert ends


def test_a_process_that_a_plugin_forks_may_end(install: Install) -> None:
    fork = "import os\npid = os.fork()\nif pid == 0: os._exit(7)\nassert os.waitpid(pid, 0)[1] == 7 << 8\n"
    hook = "from prefopt import hookimpl\n@hookimpl\ndef prefopt_token_weightings(): return []\n"
    install("forking-plugin", fork + hook)
    assert "uniform" in available(TokenWeighting)
