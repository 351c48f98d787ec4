"""What became of the rows: counts, lengths, what was left out and what was guessed."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from itertools import accumulate
from typing import Self

_NAMED = 12
"""Things left out, and things guessed, that the lines name."""

_NO_TEXT = ", which has no text"


def column_label(name: str, *, has_text: bool) -> str:
    """What `DataReport.left_out` calls a column that nobody reads."""
    return f"column {name!r}" if has_text else f"column {name!r}{_NO_TEXT}"


@dataclass(frozen=True)
class LengthReport:
    """Lengths in tokens, after truncation: minimum, maximum and the 50% and 95% quantiles."""

    minimum: int
    median: int
    quantile_95: int
    maximum: int

    @classmethod
    def from_counts(cls, counts: Mapping[int, int]) -> Self:
        """The report of lengths, of which there is at least one: length -> how many have it."""
        lengths = sorted(counts)
        up_to = list(accumulate(counts[length] for length in lengths))
        ranks = (math.ceil(up_to[-1] * percent / 100) for percent in (50, 95))
        median, quantile_95 = (lengths[bisect_left(up_to, rank)] for rank in ranks)
        return cls(lengths[0], median, quantile_95, lengths[-1])

    def __str__(self) -> str:
        most = f"half up to {self.median:,}, 95% up to {self.quantile_95:,}"
        return f"{self.minimum:,} to {self.maximum:,}, {most}"


@dataclass(frozen=True)
class DataReport:
    """Counts of rows and, as one row is one pair, of pairs: rows = kept + quarantined + dropped_identical +
    dropped_too_long. All other counts are of kept pairs.

    responses_truncated    pairs with either response truncated
    prompt_tokens_cut, response_tokens_cut   tokens that truncation took
    turns_masked, masked_tokens   pairs with turns of others inside a response, and the tokens of these turns
    left_out, guessed      in words, what was not used and what was guessed -> pairs
    """

    rows: int
    kept: int
    quarantined: int
    dropped_identical: int
    dropped_too_long: int
    prompts_truncated: int
    prompt_tokens_cut: int
    responses_truncated: int
    response_tokens_cut: int
    boundaries_moved: int
    turns_masked: int
    masked_tokens: int
    prompt_length: LengthReport
    chosen_length: LengthReport
    rejected_length: LengthReport
    left_out: Mapping[str, int] = field(default_factory=dict)
    guessed: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def counts(cls) -> list[str]:
        """The fields that are counts."""
        return [field.name for field in fields(cls) if field.type == "int"]

    def to_dict(self) -> dict[str, object]:
        """The fields by name, ready for JSON."""
        return asdict(self)

    def lines(self) -> list[str]:
        """The report as text, without counts of zero."""
        lengths = {"prompt": self.prompt_length, "chosen": self.chosen_length, "rejected": self.rejected_length}
        return [
            f"{self.rows:,} rows read, {self.kept:,} pairs kept",
            *self.notices(),
            *(f"tokens of {name}: {length}" for name, length in lengths.items()),
        ]

    @property
    def is_as_expected(self) -> bool:
        """Whether nothing was cut, set aside or guessed, and all text was used: columns of numbers are often spare."""
        spare = {what: count for what, count in self.left_out.items() if what.endswith(_NO_TEXT)}
        return self.notices() == _listed("not used", spare)

    def notices(self) -> list[str]:
        """What a reader should know: the rows and tokens that training does not see, and what was guessed."""
        counts = {
            "bad rows set aside in the quarantine file": self.quarantined,
            "pairs dropped: both responses are the same tokens": self.dropped_identical,
            "pairs dropped: too long": self.dropped_too_long,
            f"prompts cut at their beginning, by {self.prompt_tokens_cut:,} tokens in all": self.prompts_truncated,
            f"pairs with a response cut at its end, by {self.response_tokens_cut:,} tokens in all": (
                self.responses_truncated
            ),
            "pairs whose prompt ends inside a token of a response; the boundary was moved": self.boundaries_moved,
            f"pairs with turns of others inside a response, whose {self.masked_tokens:,} tokens do not count as the "
            "response's": self.turns_masked,
        }
        return [
            *(f"{count:,} {what}" for what, count in counts.items() if count),
            *_listed("not used", self.left_out),
            *_listed("guessed", self.guessed),
        ]


def _listed(heading: str, counts: Mapping[str, int]) -> list[str]:
    more = len(counts) - _NAMED
    named = [f"{heading}: {what} ({count:,} pairs)" for what, count in list(counts.items())[:_NAMED]]
    return [*named, f"{heading}: {more:,} more, which the report lists"] if more > 0 else named
