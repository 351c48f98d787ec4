"""How many rows there are to be read, for the time that is left."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar, final

T = TypeVar("T")

_BLOCK = 2**20
"""Bytes of a file that are read at a time."""


@final
class Counted(Iterator[T], Generic[T]):
    """An iterator with a hint at how many items it has; 0 where it is not known."""

    def __init__(self, items: Iterator[T], hint: int) -> None:
        self._items, self._hint = items, hint

    def __next__(self) -> T:
        return next(self._items)

    def __length_hint__(self) -> int:
        return self._hint


def number_of_lines(path: Path) -> int:
    """Of a file."""
    with path.open("rb") as file:
        return sum(block.count(b"\n") for block in iter(partial(file.read, _BLOCK), b""))
