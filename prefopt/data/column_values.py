"""The extra columns of a row: a number for the pair, and values for the tokens of its responses."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import datasets
import torch

from prefopt.columns import Column, PairColumn, TokenColumn
from prefopt.data.pairs import Pair, Side, response_text
from prefopt.data.rows import BadRow, RowError, describe

__all__ = ["Extra", "Numbers", "Span", "Spans", "TokenisedResponse", "features", "read_column_values"]

LARGEST = torch.finfo(torch.float32).max

FORMS = "numbers, one for each token, or of spans {start, end, value}"


@dataclass(frozen=True)
class TokenisedResponse:
    """A response as it was tokenised, for values to be laid on its tokens.

    size      its tokens, with the end-of-text token that a text response is given
    kept      how many of them truncation leaves
    optional  how many of them, at its end, a row's numbers may leave out
    text      what was tokenised, prompt and response
    begins    where the response begins in `text`
    offsets   of the tokens of `text`, in characters; empty where nobody asked
    boundary  how many of these tokens are the prompt's
    """

    size: int
    kept: int
    optional: int
    text: str
    begins: int
    offsets: Sequence[tuple[int, int]]
    boundary: int


class Span(NamedTuple):
    """A value for the characters from `start` to before `end`."""

    start: int
    end: int
    value: float


@dataclass(frozen=True)
class Numbers:
    """A number for each token, as the row's field has them."""

    field: str
    default: float
    numbers: Sequence[float]

    @property
    def needs_offsets(self) -> bool:
        """Whether it has to know where the tokens stand in the text."""
        return False

    def on(self, response: TokenisedResponse) -> list[float]:
        """The values of the response's tokens. Raises RowError where there are more or fewer tokens than numbers."""
        absent = response.size - len(self.numbers)
        if not 0 <= absent <= response.optional:
            without = " with its end-of-text token, whose number may be left out" if response.optional else ""
            raise RowError(
                self.field,
                f"found {len(self.numbers)} numbers for a response of {response.size} tokens{without}",
                "give one for each token that the model's tokenizer makes of the response, or give spans of characters",
            )
        return [*self.numbers, *[self.default] * absent]


@dataclass(frozen=True)
class Spans:
    """Values for spans of the response's text, which is as the row's field has it."""

    field: str
    default: float
    text: str
    spans: Sequence[Span]

    @property
    def needs_offsets(self) -> bool:
        """Whether it has to know where the tokens stand in the text."""
        return bool(self.spans)

    def on(self, response: TokenisedResponse) -> list[float]:
        """The values of the response's tokens: of the span that covers most of a token's characters, among equals the
        first of them; else the default.

        Raises RowError where the text of the row is not in what was tokenised.
        """
        values, most = [self.default] * response.size, [0] * response.size
        if not self.spans:
            return values
        tokens_at: dict[int, list[int]] = defaultdict(list)
        for token, (start, end) in enumerate(_untrimmed(response.offsets), start=-response.boundary):
            for character in range(start, end) if token >= 0 else ():
                tokens_at[character].append(token)
        shift, kept = self._place(response)
        for span in self.spans:
            # A template may have cut whitespace off the text; what stands there now is not the response's.
            characters = range(max(span.start, kept.start) + shift, min(span.end, kept.stop) + shift)
            covered = Counter(token for character in characters for token in tokens_at.get(character, ()))
            for token, count in covered.items():
                if count > most[token]:
                    values[token], most[token] = span.value, count
        return values

    def _place(self, response: TokenisedResponse) -> tuple[int, range]:
        """How far from the row's text to what was tokenised, and which characters of the row's text are in there."""
        # The row's text begins before the response does where it holds the prompt too; it ends the whole text then.
        begins = min(response.begins, len(response.text) - len(self.text))
        stripped = self.text.strip()
        for text, cut in ((self.text, 0), (stripped, len(self.text) - len(self.text.lstrip()))):
            found = response.text.find(text, max(begins, 0))
            if found >= 0:
                return found - cut, range(cut, cut + len(text))
        raise RowError(
            self.field,
            "found spans for a text that the tokenizer's chat template changes, so that they cannot be placed",
            "write the response as the template leaves it, or give a number for each token",
        )


@dataclass(frozen=True)
class Extra:
    """What a row says in its extra columns, under the keys that PreferenceBatch.columns has."""

    pair: Mapping[str, float]
    chosen: Mapping[str, Numbers | Spans]
    rejected: Mapping[str, Numbers | Spans]

    @property
    def needing_offsets(self) -> list[str]:
        """The fields whose values need to know where the tokens stand in the text."""
        return [values.field for values in (*self.chosen.values(), *self.rejected.values()) if values.needs_offsets]

    def on(self, chosen: TokenisedResponse, rejected: TokenisedResponse) -> dict[str, float | list[float]]:
        """The columns of the pair. Raises RowError where values and tokens do not go together."""
        sides = ((self.chosen, chosen), (self.rejected, rejected))
        laid = {key: values.on(response)[: response.kept] for side, response in sides for key, values in side.items()}
        return {**self.pair, **laid}


def read_column_values(pair: Pair, columns: Mapping[str, str], extra: Sequence[Column]) -> Extra | BadRow:
    """What the row of a pair says in the extra columns; `columns` renames their fields too."""
    row = pair.source
    numbers: dict[str, float] = {}
    tokens: dict[Side, dict[str, Numbers | Spans]] = {"chosen": {}, "rejected": {}}
    try:
        for column in extra:
            match column:
                case PairColumn(name=role):
                    field = columns.get(role, role)
                    number = _number(field, row.value(role, field))
                    limit = column.at_least
                    if isinstance(limit, str):
                        other = columns.get(limit, limit)
                        _not_below(_number(other, row.value(limit, other)), field, number, f", less than '{other}'")
                    elif limit is not None:
                        _not_below(limit, field, number)
                    numbers.update(dict.fromkeys(column.keys, number))
                case TokenColumn():
                    for side, key, role in zip(tokens, column.keys, column.fields, strict=True):
                        field = columns.get(role, role)
                        values = row.value(role, field)
                        if not isinstance(values, list | tuple):
                            raise RowError(field, f"found {describe(values)}", f"give a list of {FORMS}")
                        if values and not any(isinstance(value, Mapping) for value in values):
                            found = [_number(field, value, f" as number {at}") for at, value in enumerate(values, 1)]
                            tokens[side][key] = Numbers(field, column.default, found)
                        else:
                            text = _text(pair, side, columns, field) if values else ""
                            spans = [_span(field, text, at, value) for at, value in enumerate(values, start=1)]
                            found = [span.value for span in spans]
                            tokens[side][key] = Spans(field, column.default, text, spans)
                        if column.at_least is not None and found:
                            _not_below(column.at_least, field, min(found))
    except RowError as problem:
        return row.bad(*problem.report)
    return Extra(numbers, **tokens)


def _text(pair: Pair, side: Side, columns: Mapping[str, str], field: str) -> str:
    held = response_text(pair, side, columns)
    if held is None:
        raise RowError(
            field,
            f"found spans for a response of {len(getattr(pair, side))} messages",
            "give a number for each token; spans are for responses of a single message",
        )
    return held.text


def _number(field: str, value: object, place: str = "") -> float:
    # Not `> LARGEST`, which would let nan pass.
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= LARGEST:
        raise RowError(field, f"found {describe(value)}{place}", "give a finite number that float32 can hold")
    return float(value)


def _not_below(limit: float, field: str, number: float, compared: str = "") -> None:
    if number < limit:
        raise RowError(field, f"found {number:g}{compared}", f"give a number of at least {limit:g}, or remove the row")


def _span(field: str, text: str, at: int, value: object) -> Span:
    if not isinstance(value, Mapping):
        raise RowError(field, f"found {describe(value)} as span {at}", f"give a list of {FORMS}, not of both")
    # Arrow and Parquet fill the keys that a span lacks with null, so null and absent are the same.
    present = {key: content for key, content in value.items() if content is not None}
    if unknown := sorted(map(str, set(present) - {"start", "end", "value"})):
        raise RowError(field, f"found the key '{unknown[0]}' in span {at}", "keep to start, end and value")
    start, end = (_limit(field, present.get(key), key, at) for key in ("start", "end"))
    if not 0 <= start < end <= len(text):
        raise RowError(
            field,
            f"found span {at} from {start} to {end} in a response of {len(text)} characters",
            "count characters from 0, with 0 <= start < end <= the number of characters",
        )
    return Span(start, end, _number(field, present.get("value", 1), f" as 'value' of span {at}"))


def _limit(field: str, value: object, key: str, at: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise RowError(field, f"found {describe(value)} as '{key}' of span {at}", "give a whole number")
    return value


def features(extra: Sequence[Column]) -> datasets.Features:
    """What the columns are in a data set, under their keys."""
    number = datasets.Value("float32")
    return datasets.Features(
        {
            key: number if isinstance(column, PairColumn) else datasets.List(number)
            for column in extra
            for key in column.keys
        }
    )


def _untrimmed(offsets: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The offsets, those of tokens of nothing but spaces mended: some tokenizers leave spaces out and nothing of
    them."""
    reached = 0
    for start, end in offsets:
        yield (min(start, reached), end) if start == end else (start, end)
        reached = max(reached, end)
