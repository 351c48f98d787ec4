"""The fields of a row by their roles, under whatever names the row has for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeGuard, cast

from prefopt.columns import Column
from prefopt.data.json_values import DoubledKeyError, describe, json_value
from prefopt.data.messages import Messages, clean, messages_in_text, read_messages
from prefopt.data.rows import DataError, RowError, SourceRow

TEMPLATE_FIELDS = ("tools", "documents", "chat_template_kwargs")
"""Fields of a row of messages that the chat template reads."""

PAIR = ("chosen", "rejected", "prompt")
"""The fields of a pair."""

FIELDS = ("prompt", "chosen", "rejected", "system", "instruction", "input", *TEMPLATE_FIELDS)
"""What a row may have beside extra columns; `columns` maps these to its own names for them."""

RESERVED = frozenset({"conversation", "messages", "tokenize", "add_generation_prompt", "continue_final_message"}) | {
    "padding",
    "truncation",
    "max_length",
    "return_tensors",
    "return_dict",
    "return_assistant_tokens_mask",
    "tokenizer_kwargs",
    "sanitize_control_tokens",
}
"""Arguments of `apply_chat_template` that are set here."""

_MEDIA = ("image", "images", "video", "videos", "audio", "audios")


@dataclass(frozen=True)
class Usage:
    """What was made of a row: the fields that were read, and in words what was guessed."""

    fields: set[str] = field(default_factory=set)
    guessed: set[str] = field(default_factory=set)


def check_columns(columns: Mapping[str, str], extra: Sequence[Column] = ()) -> None:
    """Raise DataError unless the keys are among FIELDS and the fields of the extra columns."""
    fields = [field for column in extra for field in column.fields]
    if unknown := sorted(set(columns) - {*FIELDS, *fields}):
        more = f"and, of extra columns, {', '.join(fields)}" if fields else "as no extra column is asked for"
        raise DataError(f"columns: no field '{unknown[0]}'; it renames only {', '.join(FIELDS)}, {more}")
    if {"prompt", "instruction"} <= set(columns):
        raise DataError("columns: both prompt and instruction are named, which are two names for one; drop either")


def holds(value: object) -> bool:
    """Whether a field has anything in it: not null, and no empty text, list or object."""
    return value is not None and not (isinstance(value, str | list | tuple | Mapping) and not value)


def _is_two_texts(value: object) -> TypeGuard[Sequence[str]]:
    return isinstance(value, list | tuple) and len(value) == 2 and all(isinstance(text, str) for text in value)


class RowReader:
    """Reads a row's fields by their roles, and keeps account of it. `columns` is as for `to_pair`."""

    def __init__(self, row: SourceRow, columns: Mapping[str, str]) -> None:
        self.row, self.columns, self.usage = row, columns, Usage()
        outputs, sides = row.fields.get("output"), ("chosen", "rejected")
        if _is_two_texts(outputs) and not any(self.has(side) for side in sides):
            self.row = SourceRow(row.where, {**row.fields, **dict(zip(sides, outputs, strict=True))})
            self.usage.fields.add("output")
            self.usage.guessed.add("the first text of 'output' read as chosen, the second as rejected")

    def name(self, role: str) -> str:
        """The row's name for a field."""
        return self.columns.get(role, role)

    def has(self, role: str) -> bool:
        """Whether a field is there; one that `columns` names must be."""
        return role in self.columns or self.name(role) in self.row.fields

    def has_text(self, role: str) -> bool:
        """Whether a field is there and is text, or `columns` names it."""
        return role in self.columns or isinstance(self.row.fields.get(self.name(role)), str)

    def value(self, role: str) -> object:
        """The field's value, which counts as read. Raises RowError where it is absent."""
        self.usage.fields.add(self.name(role))
        return self.row.value(role, self.name(role), self._absent(role))

    def _absent(self, role: str) -> Iterator[str]:
        """The other fields of a pair that a row lacks, as far as it has columns that may hold them."""
        if role in PAIR and self.name(role) not in self.row.fields:
            unknown = len(set(self.row.fields) - {self.name(field) for field in FIELDS})
            absent = [field for field in PAIR if self.name(field) not in self.row.fields and field != role]
            yield from (field for field in absent if field != "prompt" or unknown > len(absent))

    def text(self, role: str) -> str:
        """A field of text; "" where it is absent, null or, unless `columns` names it, no text."""
        value = self.value(role) if self.has_text(role) else None
        if not isinstance(value, str | None):
            raise RowError(self.name(role), f"found {describe(value)}", "give text")
        return cast("str", clean(self.name(role), value or ""))

    def content(self, role: str, *, decode: bool = False) -> str | Messages:
        """A field of text or messages; with `decode`, text may be messages as JSON."""
        name, value = self.name(role), self.value(role)
        if decode and isinstance(value, str) and (decoded := messages_in_text(name, value)) is not None:
            value = decoded
            self.usage.guessed.add("messages read from JSON text")
        if isinstance(value, str):
            return cast("str", clean(name, value))
        messages = read_messages(name, value, self.usage.guessed)
        if messages is None:
            raise RowError(name, f"found {describe(value)}", "give text or a list of messages")
        return messages

    def template_options(self) -> dict[str, Any]:
        """The row's arguments of the chat template. Raises RowError for those that it cannot be given."""
        options: dict[str, Any] = {}
        for role in TEMPLATE_FIELDS:
            if not self.has(role) or not holds(value := self.value(role)):
                continue
            name = self.name(role)
            if isinstance(value, str):
                try:
                    value = json_value(value)
                except DoubledKeyError as error:
                    raise RowError(name, f"found the key {str(error)!r} twice", "keep one of the two") from error
                except ValueError as error:
                    raise RowError(name, f"found text that is not JSON ({error})", "give JSON") from error
            kind = dict if role == "chat_template_kwargs" else list
            value = clean(name, value, self.usage.guessed)
            if not isinstance(value, kind) or (kind is list and not all(isinstance(item, dict) for item in value)):
                form = "an object" if kind is dict else "a list of objects"
                raise RowError(name, f"found {describe(value)} where {form} should be", f"give {form}")
            if holds(value):
                options |= value if isinstance(value, dict) else {role: value}
            if unusable := sorted(RESERVED & set(options)):
                raise RowError(name, f"found '{unusable[0]}', which is set by prefopt", "leave it out")
        return options

    def reject_media(self) -> None:
        """Raise RowError for pictures and the like, which no language model reads."""
        for name in _MEDIA:
            if holds(self.row.fields.get(name)) and name not in self.columns.values():
                raise RowError(
                    name,
                    f"found {describe(self.row.fields[name])} of a medium that a language model does not read",
                    "remove the field if the text is all that counts, or remove the row",
                )
