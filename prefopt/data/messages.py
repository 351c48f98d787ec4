"""Conversations as rows hold them, in one form: tuples of messages with a role and what the chat template reads."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from prefopt.data.json_values import DoubledKeyError, describe, json_value
from prefopt.data.rows import RowError

Message = dict[str, Any]
"""A turn: its role, its content (text, or parts {"type": "text", "text": ...}), and other keys for the template, such
as reasoning_content, thinking or tool_calls."""

Messages = tuple[Message, ...]

OTHERS = frozenset({"user", "system", "developer", "tool", "function", "ipython"})
"""Roles whose turns no response begins with."""

_SYNONYMS = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "observation": "tool"}

_ROLES = OTHERS | {"assistant", "model"}

_SHAREGPT_ROLES = (*_SYNONYMS, "user", "assistant", "system", "developer", "tool")

_PYTHON_MESSAGES = re.compile(r"\s*\[?\s*\{\s*'(role|content|from|value)'\s*:")


def read_messages(field: str, value: object, guessed: set[str]) -> Messages | None:
    """The messages of a field, which holds one or a list of them; None for other values. Raises RowError."""
    match value:
        case Mapping():
            return (_message(field, "the message", value, guessed),)
        case list() | tuple():
            return tuple(_message(field, f"message {i}", item, guessed) for i, item in enumerate(value, start=1))
    return None


def messages_in_text(field: str, text: str) -> object:
    """A message, or a list of them, that is stored as JSON text; None for other text.

    Raises RowError for messages in Python's notation, and for an object around them.
    """
    if _PYTHON_MESSAGES.match(text):
        raise RowError(field, "found messages in Python's notation, as text", "write them as JSON, or as objects")
    if not text.lstrip().startswith(("[", "{")):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if isinstance(value, dict) and isinstance(value.get("messages"), list):
        raise RowError(
            field, "found an object with messages, as text", "give the messages, and tools in the field tools"
        )
    items = [value] if isinstance(value, dict) else value
    if not isinstance(items, list) or not items:
        return None
    keys = [item.keys() if isinstance(item, dict) else set() for item in items]
    if not all({"role", "content"} <= names or {"from", "value"} <= names for names in keys):
        return None
    try:
        return json_value(text)
    except DoubledKeyError as error:
        raise RowError(field, f"found the key {str(error)!r} twice", "keep one of the two") from error


def clean(field: str, value: Any, guessed: set[str] | None = None) -> Any:
    """A JSON value without the nulls inside of it: Arrow and Parquet fill absent keys with null, so null means absent.

    Raises RowError for text with half of a UTF-16 pair, as in JSON's "\\ud83d", which no tokenizer takes.
    """
    match value:
        case str():
            return _encodable(field, value)
        case Mapping():
            if guessed is not None and None in value.values():
                guessed.add("nulls inside of messages, tools or documents read as absent keys")
            return {key: clean(field, item, guessed) for key, item in value.items() if item is not None}
        case list() | tuple():
            return [clean(field, item, guessed) for item in value]
    return value


def texts(value: object) -> list[str]:
    """All text inside of a JSON value, keys left out."""
    match value:
        case str():
            return [value]
        case Mapping():
            return [text for item in value.values() for text in texts(item)]
        case list() | tuple():
            return [text for item in value for text in texts(item)]
    return []


def content_text(message: Mapping[str, Any]) -> str:
    """The text of a message's content, whose parts are joined; "" where there is none."""
    content = message.get("content", "")
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def is_empty(message: Message) -> bool:
    """Whether a message has no text but that of its role: neither content nor reasoning nor calls of tools."""
    return not any(text.strip() for key, value in message.items() if key != "role" for text in texts(value))


def _encodable(field: str, text: str) -> str:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            problem = f"found a broken character at position {error.start}"
            raise RowError(field, problem, "remove it, or write the file as UTF-8") from error
    return text


def _message(field: str, name: str, message: object, guessed: set[str]) -> Message:
    if not isinstance(message, Mapping):
        raise RowError(field, f"found {describe(message)} as {name}", "give messages as objects with role and content")
    present = {key: clean(field, value, guessed) for key, value in message.items() if value is not None}
    sharegpt = not {"role", "content"} & present.keys() and bool({"from", "value"} & present.keys())
    role_key, content_key = ("from", "value") if sharegpt else ("role", "content")
    keys = ", ".join(sorted(map(str, present))) or "none"
    role = present.pop(role_key, None)
    absent = role_key if role is None else content_key
    if role is None or (content_key not in present and (sharegpt or is_empty(present))):
        remedy = "give every message a role and a content (or from and value)"
        raise RowError(field, f"found no {absent!r} in {name}, whose keys are: {keys}", remedy)
    if not isinstance(role, str):
        raise RowError(field, f"found {describe(role)} as {role_key!r} of {name}", "give text")
    if sharegpt and role not in _SHAREGPT_ROLES:
        raise RowError(field, f"found {role!r} as the 'from' of {name}", f"use one of {', '.join(_SHAREGPT_ROLES)}")
    usual = _SYNONYMS.get(role.lower(), role.lower())
    if usual not in _ROLES:
        usual = role
        guessed.add(f"the role {role!r}, which is none of the usual ones, left to the chat template")
    elif role != usual and not (sharegpt and role in _SYNONYMS):
        guessed.add(f"the role {role!r} read as {usual!r}")
    if content_key in present:
        present["content"] = _content(field, name, content_key, present.pop(content_key))
    return {"role": usual, **present}


def _content(field: str, name: str, key: str, content: object) -> str | list[Any]:
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        raise RowError(field, f"found {describe(content)} as {key!r} of {name}", "give text, or parts of type text")
    parts = [{"type": "text", "text": part} if isinstance(part, str) else part for part in content]
    for part in parts:
        if not isinstance(part, Mapping) or part.get("type", "text") != "text" or not isinstance(part.get("text"), str):
            kind = part.get("type", "unknown") if isinstance(part, Mapping) else type(part).__name__
            raise RowError(
                field,
                f"found a part of type {kind!r} in the {key!r} of {name}",
                "give parts {type: text, text: ...}: the policy is a language model, which reads text alone",
            )
    return parts
