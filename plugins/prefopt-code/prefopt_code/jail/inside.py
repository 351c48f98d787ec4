"""Runs a program in a process of its own. The text of this module is passed to the interpreter, without a file."""

from __future__ import annotations

import errno
import os
import sys
import traceback
import types

__all__ = ["main"]

_PROGRAM, _REPORT = 3, 4
"""File descriptors: the program and its token are read from one, the outcome is written to the other."""

_NOT_GIVEN = frozenset(
    {errno.EPERM, errno.EACCES, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EAGAIN, errno.EMFILE}
)


def main() -> int:
    """Run the program as a module of its own; its exit code."""
    with open(_PROGRAM, encoding="utf-8") as file:
        token, _, source = file.read().partition("\n")
    try:
        code = compile(source, "program.py", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError) as error:
        return _failed("unreadable", error.with_traceback(None))
    pid = os.getpid()
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        exec(code, sys.modules["__main__"].__dict__)
    except BaseException as error:
        return _failed(_outcome(error), error) if os.getpid() == pid else 1
    if os.getpid() == pid:  # a process that the program started has no say in its outcome
        os.write(_REPORT, token.encode())
    return 0


def _outcome(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return "memory"
    return "refused" if isinstance(error, OSError) and error.errno in _NOT_GIVEN else "failed"


def _failed(outcome: str, error: BaseException) -> int:
    os.write(_REPORT, outcome.encode())
    inner = error.__traceback__ and error.__traceback__.tb_next  # without the line above that ran the program
    traceback.print_exception(error.with_traceback(inner), file=sys.__stderr__)
    return 1


if __name__ == "__main__":
    os._exit(main())  # without what the program left to be done at the end
