"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

__all__ = ["row", "table"]


def row(cells: Iterable[object]) -> str:
    """A line of a table."""
    return f"| {' | '.join(map(str, cells))} |"


def table(head: Sequence[str], body: Iterable[Iterable[object]] = ()) -> Iterator[str]:
    """The lines of a table."""
    return map(row, (head, ["---"] * len(head), *body))
