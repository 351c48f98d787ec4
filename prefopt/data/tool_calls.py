"""The arguments of tool calls, which some rows hold as JSON text and others as objects, as templates read them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from prefopt.data.messages import Message


def readable_calls(conversation: Sequence[Message], render: Callable[[list[Message]], str | None]) -> list[Message]:
    """The conversation with all arguments of its calls in the form that the template reads: as they are, else as
    objects where it would write their text as a JSON string within JSON or does not take it, else as JSON text.

    render  a conversation as text; None where the template does not take it
    """
    messages = list(conversation)
    arguments = list(_arguments(messages))
    if not arguments:
        return messages
    text = render(messages)
    as_objects = _converted(messages, _decoded)
    quoted = [json.dumps(value, ensure_ascii=False) for value in arguments if isinstance(value, str)]
    if text is None or (as_objects != messages and any(value in text for value in quoted)):
        for other in (as_objects, _converted(messages, _encoded)):
            if other != messages and render(other) is not None:
                return other
    return messages


def _arguments(messages: Sequence[Message]) -> Iterator[object]:
    for message in messages:
        for call in message.get("tool_calls") or ():
            if isinstance(call, Mapping):
                function = call.get("function", call)
                if isinstance(function, Mapping) and "arguments" in function:
                    yield function["arguments"]


def _converted(messages: Sequence[Message], convert: Callable[[Any], Any]) -> list[Message]:
    def function(value: Any) -> Any:
        has_arguments = isinstance(value, Mapping) and "arguments" in value
        return {**value, "arguments": convert(value["arguments"])} if has_arguments else value

    def call(value: Any) -> Any:
        if isinstance(value, Mapping) and "function" in value:
            return {**value, "function": function(value["function"])}
        return function(value)

    return [
        m | {"tool_calls": [call(item) for item in m["tool_calls"]]} if m.get("tool_calls") else m for m in messages
    ]


def _decoded(value: object) -> object:
    """The object that is stored as JSON text; other values as they are."""
    try:
        decoded = json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return value
    return decoded if isinstance(decoded, dict) else value


def _encoded(value: object) -> object:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, Mapping) else value
