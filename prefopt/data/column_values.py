"""The values of a row's extra columns: a number for the pair, and numbers for the tokens of its responses."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import datasets
import torch

from prefopt.columns import Column, PairColumn, TokenColumn
from prefopt.data.json_values import describe
from prefopt.data.pairs import Pair, Side, response_text
from prefopt.data.rows import BadRow, RowError, SourceRow

_LARGEST = torch.finfo(torch.float32).max

_FORMS = "numbers, one for each token, or of spans {start, end, value}"


@dataclass(frozen=True)
class TokenizedResponse:
    """A response as it was tokenized, to which values are aligned.

    size      tokens, with the EOS that a text response is given
    kept      tokens that are left after truncation
    optional  tokens at its end whose number may be omitted
    text      the tokenized text, prompt and response
    begins    the response's first character in `text`
    offsets   of the tokens of `text`, in characters; empty where nothing needs them
    boundary  tokens of `text` that are the prompt's
    """

    size: int
    kept: int
    optional: int
    text: str
    begins: int
    offsets: Sequence[tuple[int, int]]
    boundary: int


class Span(NamedTuple):
    """A value for the characters [start, end)."""

    start: int
    end: int
    value: float


@dataclass(frozen=True)
class Numbers:
    """A number for each token, from a row's field."""

    field: str
    default: float
    numbers: Sequence[float]
    needs_offsets: ClassVar[bool] = False

    def align(self, response: TokenizedResponse) -> list[float]:
        """The values of the response's tokens. Raises RowError where the counts of tokens and numbers differ."""
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
    """Values for spans of characters of a response, whose text is the row's."""

    field: str
    default: float
    text: str
    spans: Sequence[Span]

    @property
    def needs_offsets(self) -> bool:
        """Whether aligning it reads the tokens' offsets."""
        return bool(self.spans)

    def align(self, response: TokenizedResponse) -> list[float]:
        """The values of the response's tokens: that of the span with most of a token's characters, the first among
        equals, else the default. Raises RowError where the tokenized text does not contain the row's text.
        """
        values, most = [self.default] * response.size, [0] * response.size
        if not self.spans:
            return values
        tokens_at: dict[int, list[int]] = defaultdict(list)
        for token, (start, end) in enumerate(_with_whitespace(response.offsets), start=-response.boundary):
            for character in range(start, end) if token >= 0 else ():
                tokens_at[character].append(token)
        shift, kept = self._locate(response)
        for span in self.spans:
            # A template may have stripped whitespace from the text; the characters there are then not the response's.
            characters = range(max(span.start, kept.start) + shift, min(span.end, kept.stop) + shift)
            covered = Counter(token for character in characters for token in tokens_at.get(character, ()))
            for token, count in covered.items():
                if count > most[token]:
                    values[token], most[token] = span.value, count
        return values

    def _locate(self, response: TokenizedResponse) -> tuple[int, range]:
        """The offset of the row's text in the tokenized text, and the range of its characters that is in there."""
        # The row's text begins before the response does where it holds the prompt too; it ends the whole text then.
        begins = max(min(response.begins, len(response.text) - len(self.text)), 0)
        for text, cut in ((self.text, 0), (self.text.strip(), len(self.text) - len(self.text.lstrip()))):
            start = response.text.find(text, begins)
            if start >= 0:
                return start - cut, range(cut, cut + len(text))
        raise RowError(
            self.field,
            "found spans for a text that the tokenizer's chat template changes, so that they cannot be placed",
            "write the response as the template leaves it, or give a number for each token",
        )


@dataclass(frozen=True)
class ColumnValues:
    """The values of a row's extra columns, by the keys of PreferenceBatch.columns."""

    pair: Mapping[str, float]
    chosen: Mapping[str, Numbers | Spans]
    rejected: Mapping[str, Numbers | Spans]

    @property
    def needing_offsets(self) -> list[str]:
        """The fields whose values need the tokens' offsets."""
        return [values.field for values in (*self.chosen.values(), *self.rejected.values()) if values.needs_offsets]

    def align(self, chosen: TokenizedResponse, rejected: TokenizedResponse) -> dict[str, float | list[float]]:
        """The columns of the pair. Raises RowError where values and tokens do not match."""
        sides = ((self.chosen, chosen), (self.rejected, rejected))
        aligned = {k: values.align(side)[: side.kept] for columns, side in sides for k, values in columns.items()}
        return {**self.pair, **aligned}


def read_column_values(pair: Pair, columns: Mapping[str, str], extra: Sequence[Column]) -> ColumnValues | BadRow:
    """The values of the extra columns in the row of a pair; `columns` renames their fields too."""
    numbers: dict[str, float] = {}
    tokens: dict[Side, dict[str, Numbers | Spans]] = {"chosen": {}, "rejected": {}}
    try:
        for column in extra:
            if isinstance(column, PairColumn):
                numbers.update(dict.fromkeys(column.keys, _pair_number(pair.source, column, columns)))
            else:
                for side, key in zip(tokens, column.keys, strict=True):
                    tokens[side][key] = _token_values(pair, side, column, columns)
    except RowError as error:
        return pair.source.bad(*error.report)
    return ColumnValues(numbers, **tokens)


def _pair_number(row: SourceRow, column: PairColumn, columns: Mapping[str, str]) -> float:
    field = columns.get(column.name, column.name)
    number = _number(field, row.value(column.name, field))
    limit = column.at_least
    if isinstance(limit, str):
        other = columns.get(limit, limit)
        _require_at_least(_number(other, row.value(limit, other)), field, number, f", less than {other!r}")
    elif limit is not None:
        _require_at_least(limit, field, number)
    return number


def _token_values(pair: Pair, side: Side, column: TokenColumn, columns: Mapping[str, str]) -> Numbers | Spans:
    role = f"{side}_{column.name}"
    field = columns.get(role, role)
    items = pair.source.value(role, field)
    if not isinstance(items, list | tuple):
        raise RowError(field, f"found {describe(items)}", f"give a list of {_FORMS}")
    values: Numbers | Spans
    if items and not any(isinstance(item, Mapping) for item in items):
        numbers = [_number(field, item, f" as number {index}") for index, item in enumerate(items, start=1)]
        values = Numbers(field, column.default, numbers)
    else:
        text = _text(pair, side, columns, field) if items else ""
        spans = [_span(field, text, index, item) for index, item in enumerate(items, start=1)]
        numbers = [span.value for span in spans]
        values = Spans(field, column.default, text, spans)
    if column.at_least is not None and numbers:
        _require_at_least(column.at_least, field, min(numbers))
    if column.at_most is not None and numbers and max(numbers) > column.at_most:
        remedy = f"give a number of at most {column.at_most:g}, or remove the row"
        raise RowError(field, f"found {max(numbers):g}", remedy)
    if column.whole and not all(number.is_integer() for number in numbers):
        broken = next(number for number in numbers if not number.is_integer())
        raise RowError(field, f"found {broken:g}", "give whole numbers")
    return values


def _text(pair: Pair, side: Side, columns: Mapping[str, str], field: str) -> str:
    response = response_text(pair, side, columns)
    if response is None:
        raise RowError(
            field,
            f"found spans for a response of {len(getattr(pair, side))} messages",
            "give a number for each token; spans are for responses of a single message",
        )
    return response.text


def _number(field: str, value: object, position: str = "") -> float:
    # Not `> _LARGEST`, which would let nan pass.
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _LARGEST:
        raise RowError(field, f"found {describe(value)}{position}", "give a finite number that float32 can hold")
    return float(value)


def _require_at_least(limit: float, field: str, number: float, detail: str = "") -> None:
    if number < limit:
        raise RowError(field, f"found {number:g}{detail}", f"give a number of at least {limit:g}, or remove the row")


def _span(field: str, text: str, index: int, value: object) -> Span:
    if not isinstance(value, Mapping):
        raise RowError(field, f"found {describe(value)} as span {index}", f"give a list of {_FORMS}, not of both")
    # Arrow and Parquet fill absent keys with null, so null means absent.
    present = {key: content for key, content in value.items() if content is not None}
    if unknown := sorted(map(str, set(present) - {"start", "end", "value"})):
        raise RowError(field, f"found the key '{unknown[0]}' in span {index}", "keep to start, end and value")
    for key in ("start", "end"):
        if type(present.get(key)) is not int:
            kind = describe(present.get(key))
            raise RowError(field, f"found {kind} as {key!r} of span {index}", "give a whole number")
    start, end = present["start"], present["end"]
    if not 0 <= start < end <= len(text):
        raise RowError(
            field,
            f"found span {index} from {start} to {end} in a response of {len(text)} characters",
            "count characters from 0, with 0 <= start < end <= the number of characters",
        )
    return Span(start, end, _number(field, present.get("value", 1), f" as 'value' of span {index}"))


def features(extra: Sequence[Column]) -> datasets.Features:
    """The data set's features for the extra columns, by key."""
    number = datasets.Value("float32")
    kinds = {PairColumn: number, TokenColumn: datasets.List(number)}
    return datasets.Features({key: kinds[type(column)] for column in extra for key in column.keys})


def _with_whitespace(offsets: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The offsets, where tokens of whitespace alone cover it: some tokenizers give them an empty range."""
    reached = 0
    for start, end in offsets:
        yield (min(start, reached), end) if start == end else (start, end)
        reached = max(reached, end)
