"""Extra columns of the data that a component reads: a number for each pair, or a number for each response token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

__all__ = ["Column", "PairColumn", "TokenColumn"]


@final
@dataclass(frozen=True)
class PairColumn:
    """A number for each pair, in the row's field NAME; a component finds it in TokenBatch.columns[NAME], [B].

    `at_least` is a number, or another field of the row, that it must not be below.
    """

    name: str
    at_least: float | str | None = None

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields of a row that it takes."""
        return (self.name,)

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of PreferenceBatch.columns that it fills: [B]."""
        return (f"pair:{self.name}",)


@final
@dataclass(frozen=True)
class TokenColumn:
    """A number for each response token, in the row's fields chosen_NAME and rejected_NAME; a component finds both in
    TokenBatch.columns[NAME], [N, T].

    A field is a list of numbers, one for each token of the response, or of spans {start, end, value} in characters of
    the response. `default` is for tokens that neither covers, such as the end of text; `at_least` and `at_most` are
    what no number may be below and above; `whole` asks for whole numbers.
    """

    name: str
    default: float = 0.0
    at_least: float | None = None
    at_most: float | None = None
    whole: bool = False

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields of a row that it takes, chosen first."""
        return (f"chosen_{self.name}", f"rejected_{self.name}")

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of PreferenceBatch.columns that it fills, chosen first: [B, Tc] and [B, Tr]."""
        return (f"chosen:{self.name}", f"rejected:{self.name}")


Column = PairColumn | TokenColumn
"""What a component may declare that it reads of the data."""
