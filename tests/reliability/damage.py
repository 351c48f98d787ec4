"""Bytes as bad days leave them."""

from __future__ import annotations

from collections.abc import Callable, Mapping


def cut(content: bytes, share: float) -> bytes:
    """The beginning."""
    return content[: int(share * len(content))]


def flipped(content: bytes, share: float, bit: int = 0) -> bytes:
    """With one bit changed."""
    changed = bytearray(content)
    changed[int(share * (len(content) - 1))] ^= 1 << bit
    return bytes(changed)


def zeroed(content: bytes, share: float) -> bytes:
    """With zeros from there on, as a file whose blocks never reached the disk."""
    kept = int(share * len(content))
    return content[:kept] + bytes(len(content) - kept)


ANY: Mapping[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "cut in half": lambda content: cut(content, 0.5),
    "zeros from its middle on": lambda content: zeroed(content, 0.5),
    "other bytes": lambda _: b"\xff\x00\xfe",
}
"""What is no file of its format any more."""

OF_JSON: Mapping[str, Callable[[bytes], bytes]] = {
    **ANY,
    "a list": lambda _: b"[1, 2]",
    "nested deep": lambda _: b'{"a": ' * 10_000 + b"1" + b"}" * 10_000,
}
"""Of a file that holds a JSON object."""
