from __future__ import annotations

import os
import signal
import sys

import pytest

from tests.forked import NativeCrashError, run_module

if __name__ == "__main__":  # as run_module runs it, in each of the processes
    if os.environ.get("RANK") == "1":
        os.kill(os.getpid(), signal.Signals[sys.argv[1]])


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT", "SIGBUS"])
def test_a_fault_in_native_code_is_told_from_a_failure(name: str) -> None:
    codes = rf"\[0, -{signal.Signals[name].value}\]"
    with pytest.raises(NativeCrashError, match=rf"^exit codes {codes}\n\nFatal Python error") as error:
        run_module("tests.test_forked", 2, name)
    assert "test_forked.py" in str(error.value)


def test_a_process_that_somebody_ended_is_a_failure() -> None:
    with pytest.raises(AssertionError, match=r"^exit codes \[0, -15\]") as error:
        run_module("tests.test_forked", 2, "SIGTERM")
    assert not isinstance(error.value, NativeCrashError)
