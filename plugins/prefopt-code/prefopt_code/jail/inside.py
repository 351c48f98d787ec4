"""Runs a program in a process of its own, and then calls of it for its judge, who is in another one. The text of this
module is passed to the interpreter, without a file."""

from __future__ import annotations

import errno
import operator
import os
import sys
import traceback
import types
from collections.abc import Callable
from typing import Any

from prefopt_code.jail.wire import Channel, ClosedError, decode, encode

__all__ = ["main"]

_PROGRAM, _REPORT, _REQUESTS, _ANSWERS = 3, 4, 5, 6
"""File descriptors: the program is read from the first; why it failed is written to the second; the judge's requests
come by the third, and the answers go by the fourth."""

_NOT_GIVEN = frozenset(
    {errno.EPERM, errno.EACCES, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EAGAIN, errno.EMFILE}
)


def main() -> int:
    """Run the program as a module of its own, then serve the judge; the exit code."""
    with open(_PROGRAM, encoding="utf-8") as file:
        source = file.read()
    try:
        code = compile(source, "program.py", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError) as error:
        return _failed("unreadable", error.with_traceback(None))
    pid = os.getpid()
    program = sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        exec(code, program.__dict__)
    except BaseException as error:
        return _failed(_outcome(error), error) if os.getpid() == pid else 1
    if os.getpid() == pid:  # a process that the program started has no say in its outcome
        _Server(program).serve()
    return 0


_OPERATIONS: dict[str, Callable[..., Any]] = {
    "bool": bool,
    "call": lambda function, arguments, named: function(*arguments, **named),
    "get": getattr,
    "item": operator.getitem,
    "iterate": list,
    "len": len,
    "set": setattr,
}
"""What the judge may ask for of an object."""


class _Server:
    """Answers the judge. An object that is no plain data has a number, its index in `objects`."""

    def __init__(self, program: types.ModuleType) -> None:
        self._objects: list[Any] = [program]
        requests, answers = os.fdopen(_REQUESTS, encoding="utf-8"), os.fdopen(_ANSWERS, "w", encoding="utf-8")
        self._channel = Channel(requests, answers)

    def serve(self) -> None:
        """Until the judge is done."""
        self._channel.send({"value": None})  # the program has come to its end
        while True:
            try:
                request = self._channel.receive()
            except ClosedError:
                return
            try:
                answer = {"value": encode(self._carry_out(request), self._refer)}
            except BaseException as error:
                answer = {"error": type(error).__name__, "text": _text(error), "outcome": _outcome(error)}
            self._channel.send(answer)

    def _carry_out(self, request: dict[str, Any]) -> Any:
        operation, *arguments = decode(request, self._objects.__getitem__)
        return _OPERATIONS[operation](*arguments)

    def _refer(self, value: Any) -> int:
        for number, other in enumerate(self._objects):
            if other is value:
                return number
        self._objects.append(value)
        return len(self._objects) - 1


def _outcome(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return "memory"
    return "refused" if isinstance(error, OSError) and error.errno in _NOT_GIVEN else "failed"


def _text(error: BaseException) -> str:
    inner = error.__traceback__ and error.__traceback__.tb_next and error.__traceback__.tb_next.tb_next
    return "".join(traceback.format_exception(error.with_traceback(inner)))[-2000:]


def _failed(outcome: str, error: BaseException) -> int:
    os.write(_REPORT, outcome.encode())
    inner = error.__traceback__ and error.__traceback__.tb_next  # without the line above that ran the program
    traceback.print_exception(error.with_traceback(inner), file=sys.__stderr__)
    return 1


if __name__ == "__main__":
    os._exit(main())  # without what the program left to be done at the end
