"""Values and calls between the program and its judge: lines of JSON that hold plain data and numbers of objects.

Nothing is unpickled, and no class of the other side is built: what is received is of Python's own types, exactly.
"""

from __future__ import annotations

import builtins
import json
from collections.abc import Callable
from typing import IO, Any

__all__ = ["Channel", "ClosedError", "decode", "encode"]

_EXACT = 2**53
"""Numbers up to here are JSON's; larger ones are written in hexadecimal digits, of which there may be any number."""

_SEQUENCES = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}


class ClosedError(Exception):
    """The other side has ended, or sent what no honest one sends."""


def encode(value: Any, refer: Callable[[Any], int]) -> Any:
    """A value as JSON: plain data by its contents, also where its class is derived from a plain one, anything else by
    the number that `refer` gives it. Raises RecursionError for what contains itself."""
    kind = type(value)
    if value is None or kind is bool or kind is str or kind is float:
        return value
    if isinstance(value, bool | str):
        return str.__str__(value) if isinstance(value, str) else bool(value)
    if isinstance(value, int):
        plain = int(value)
        return plain if -_EXACT <= plain <= _EXACT else {"int": hex(plain)}
    if isinstance(value, float):
        return float(value)
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    if isinstance(value, bytes | bytearray):
        return {"bytes": bytes(value).hex()}
    if kind is range:
        return {"range": [encode(part, refer) for part in (value.start, value.stop, value.step)]}
    if isinstance(value, dict):
        return {"dict": [[encode(key, refer), encode(item, refer)] for key, item in dict.items(value)]}
    for name, sequence in _SEQUENCES.items():
        if isinstance(value, sequence):
            return {name: [encode(item, refer) for item in sequence.__iter__(value)]}
    if isinstance(value, type) and vars(builtins).get(name := type.__getattribute__(value, "__name__")) is value:
        return {"type": name}
    return {"ref": refer(value)}


def decode(data: Any, resolve: Callable[[int], Any]) -> Any:
    """The value of what `encode` made; `resolve` gives the object of a number."""
    if not isinstance(data, dict):
        return data
    ((name, content),) = data.items()
    if name in _SEQUENCES:
        return _SEQUENCES[name](decode(item, resolve) for item in content)
    if name == "dict":
        return {decode(key, resolve): decode(item, resolve) for key, item in content}
    if name == "int":
        return int(content, 16)
    if name == "range":
        return range(*(decode(part, resolve) for part in content))
    if name == "complex":
        return complex(*content)
    if name == "bytes":
        return bytes.fromhex(content)
    if name == "type" and isinstance(kind := vars(builtins).get(str(content)), type):
        return kind
    if name == "ref":
        return resolve(int(content))
    raise ValueError(f"no such value: {name}")


class Channel:
    """Messages to and from the other side, one a line."""

    def __init__(self, incoming: IO[str], outgoing: IO[str]) -> None:
        self._incoming, self._outgoing = incoming, outgoing

    def send(self, message: Any) -> None:
        """Send one. Raises ClosedError where nobody reads."""
        try:
            self._outgoing.write(json.dumps(message) + "\n")
            self._outgoing.flush()
        except OSError as error:
            raise ClosedError(str(error)) from error

    def receive(self) -> Any:
        """The next one. Raises ClosedError at the end, and for what is no message."""
        try:
            line = self._incoming.readline()
            if line.endswith("\n"):
                return json.loads(line)
        except (OSError, ValueError, RecursionError) as error:
            raise ClosedError(str(error)) from error
        raise ClosedError("the program ended")
