"""Runs the tests of a program in a process that the program has no part in. Of the program it gets plain data alone,
and numbers that stand for its other objects. The text of this module is passed to the interpreter, without a file."""

from __future__ import annotations

import builtins
import json
import os
import sys
import traceback
from collections.abc import Iterator
from typing import Any

from prefopt_code.jail.wire import Channel, ClosedError, decode, encode

__all__ = ["main"]

_TESTS, _REPORT, _ANSWERS, _REQUESTS = 3, 4, 5, 6
"""File descriptors: the tests are read from the first, the outcome is written to the second; the program's answers come
by the third, and requests of it go by the fourth."""


def main() -> int:
    """Run the tests; the exit code."""
    with open(_TESTS, encoding="utf-8") as file:
        job = json.load(file)
    answers, requests = os.fdopen(_ANSWERS, encoding="utf-8"), os.fdopen(_REQUESTS, "w", encoding="utf-8")
    program = _Program(Channel(answers, requests))
    try:
        program.receive()
        names = {name: program.get(program.module, name) for name in job["names"]}
        space: dict[str, Any] = {"__name__": "__main__", **names}
        exec(compile(job["setup"], "setup.py", "exec", dont_inherit=True), space)
        space |= names
        exec(compile(job["tests"], "tests.py", "exec", dont_inherit=True), space)
    except ClosedError:
        return 1
    except BaseException as error:
        os.write(_REPORT, getattr(error, "prefopt_outcome", "failed").encode())
        inner = error.__traceback__ and error.__traceback__.tb_next
        traceback.print_exception(error.with_traceback(inner), file=sys.__stderr__)
        return 1
    os.write(_REPORT, job["token"].encode())
    return 0


_MORE_THAN_A_TEXT = (UnicodeDecodeError, UnicodeEncodeError, UnicodeTranslateError, BaseExceptionGroup)
"""Errors that cannot be made of a text alone."""


class _Program:
    """The program's process."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self.module = Remote(self, 0)

    def receive(self) -> Any:
        """The program's answer. Raises what it raised, as far as that is Python's own, and ClosedError where there is
        none."""
        message = self._channel.receive()
        try:
            if "error" not in message:
                return decode(message["value"], self._remote)
            name, text, outcome = str(message["error"]), str(message["text"]), str(message["outcome"])
        except Exception as error:
            raise ClosedError(str(error)) from error
        kind: Any = vars(builtins).get(name)
        is_error = isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, _MORE_THAN_A_TEXT)
        raised: Any = kind(text) if is_error else RuntimeError(f"{name}: {text}")
        raised.prefopt_outcome = outcome if outcome in ("memory", "refused") else "failed"
        raise raised

    def request(self, operation: str, target: Remote, *arguments: Any) -> Any:
        """Have the program do something with an object of its own."""
        self._channel.send(encode((operation, target, *arguments), _number))
        return self.receive()

    def get(self, target: Remote, name: str) -> Any:
        """An attribute of an object of the program."""
        return self.request("get", target, name)

    def _remote(self, number: int) -> Remote:
        return Remote(self, number)


class Remote:
    """An object of the program. Equality is identity: the program has no say in whether a comparison holds."""

    __slots__ = ("_number", "_program")

    def __init__(self, program: _Program, number: int) -> None:
        object.__setattr__(self, "_program", program)
        object.__setattr__(self, "_number", number)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self._program.request("call", self, list(arguments), named)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._program.request("get", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._program.request("set", self, name, value)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._program.request("iterate", self))

    def __len__(self) -> int:
        return int(self._program.request("len", self))

    def __bool__(self) -> bool:
        return self._program.request("bool", self) is True

    def __getitem__(self, key: Any) -> Any:
        return self._program.request("item", self, key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Remote) and other._number == self._number

    def __hash__(self) -> int:
        return hash(self._number)


def _number(value: Any) -> int:
    if isinstance(value, Remote):
        return int(value._number)
    raise TypeError(f"an argument of type {type(value).__name__} cannot be given to the program: plain data can")


if __name__ == "__main__":
    os._exit(main())
