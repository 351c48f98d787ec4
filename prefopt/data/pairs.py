"""Validation: a row in any of the common forms as one canonical pair, or the reason why it is none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, cast

from prefopt.columns import Column
from prefopt.data.rows import BadRow, DataError, RowError, SourceRow, describe

Message = dict[str, str]
"""A turn of a conversation: {"role": ..., "content": ...}."""

Messages = tuple[Message, ...]

Side = Literal["chosen", "rejected"]

FIELDS = ("prompt", "chosen", "rejected")

_TRANSCRIPT_MARKER = "\n\nAssistant:"
"""What precedes each response in a transcript, as in Anthropic's HH data."""

_SHAREGPT_ROLES = {role: role for role in ("user", "assistant", "system", "tool")} | {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "observation": "tool",
}


@dataclass(frozen=True)
class TextPair:
    """A prompt and two responses as text; prompt + response is the whole text."""

    prompt: str
    chosen: str
    rejected: str
    source: SourceRow


@dataclass(frozen=True)
class ChatPair:
    """A prompt and two responses as messages; prompt + response is the whole conversation."""

    prompt: Messages
    chosen: Messages
    rejected: Messages
    source: SourceRow


Pair = TextPair | ChatPair


class ResponseText(NamedTuple):
    """The row's text of a response, in whose characters spans are counted, and the response's first character in it: 0
    unless the text holds the prompt too."""

    text: str
    begins: int


def check_columns(columns: Mapping[str, str], extra: Sequence[Column] = ()) -> None:
    """Raise DataError unless the keys are among prompt, chosen, rejected and the fields of the extra columns."""
    fields = [field for column in extra for field in column.fields]
    if unknown := sorted(set(columns) - {*FIELDS, *fields}):
        more = f"and, of extra columns, {', '.join(fields)}" if fields else "as no extra column is asked for"
        raise DataError(f"columns: no field '{unknown[0]}'; it renames only {', '.join(FIELDS)}, {more}")


def to_pair(row: SourceRow, columns: Mapping[str, str]) -> Pair | BadRow:
    """The pair of a row; `columns` maps fields to the row's names for them, such as {"prompt": "conversations"}.

    Responses are text, a message, or a list of messages; messages have "role" and "content", or "from" and "value"
    (sharegpt). The responses of a row without a prompt, and those that repeat it as their first messages, are split
    where they diverge: messages after the last common one; text after the last common "Assistant:" turn, else before
    the last common whitespace.

    >>> to_pair(SourceRow("row 0", {"prompt": "1+1=", "chosen": "2", "rejected": "3"}), {}).chosen
    '2'
    """
    try:
        return _pair(row, columns)
    except RowError as error:
        return row.bad(*error.report)


def response_text(pair: Pair, side: Side, columns: Mapping[str, str]) -> ResponseText | None:
    """A response as the pair's row holds it; None for several messages. `columns` is as for `to_pair`."""
    if isinstance(pair, TextPair):
        text = cast("str", pair.source.fields[columns.get(side, side)])
        return ResponseText(text, len(text) - len(getattr(pair, side)))
    messages = cast("Messages", getattr(pair, side))
    return ResponseText(messages[0]["content"], 0) if len(messages) == 1 else None


def common_length(first: Sequence[object], *others: Sequence[object]) -> int:
    """The length of the sequences' common prefix."""
    for position, (item, *rest) in enumerate(zip(first, *others, strict=False)):
        if rest.count(item) < len(rest):
            return position
    return min(map(len, (first, *others)))


def _pair(row: SourceRow, columns: Mapping[str, str]) -> Pair:
    prompt_field, chosen_field, rejected_field = (columns.get(field, field) for field in FIELDS)
    chosen = _read(row, "chosen", chosen_field)
    rejected = _read(row, "rejected", rejected_field)
    # A prompt column that the user names must exist; without a name it is optional.
    has_prompt = prompt_field in row.fields or "prompt" in columns
    prompt = _read(row, "prompt", prompt_field) if has_prompt else None

    _require_text(chosen_field, chosen)
    _require_text(rejected_field, rejected)
    if chosen == rejected:
        raise RowError(
            rejected_field,
            f"found the same response as in '{chosen_field}'",
            "remove the row: two equal responses say nothing about what is preferred",
        )
    if isinstance(chosen, str) and isinstance(rejected, str) and (prompt is None or isinstance(prompt, str)):
        if prompt is None:
            prompt = _common_text(chosen, rejected)
            chosen, rejected = chosen[len(prompt) :], rejected[len(prompt) :]
        pair: Pair = TextPair(prompt, chosen, rejected, row)
    elif isinstance(chosen, tuple) and isinstance(rejected, tuple):
        common = chosen[: common_length(chosen, rejected)]
        if prompt is None or _repeats(common, prompt):
            prompt, chosen, rejected = common, chosen[len(common) :], rejected[len(common) :]
        if isinstance(prompt, str):
            raise _mixed(prompt_field, prompt, chosen_field, chosen)
        pair = ChatPair(prompt, chosen, rejected, row)
        if not prompt:
            raise RowError(
                prompt_field if has_prompt else chosen_field,
                f"found no prompt: '{chosen_field}' and '{rejected_field}' have no first message in common",
                "add a prompt of at least one message",
            )
    elif type(chosen) is not type(rejected):
        raise _mixed(rejected_field, rejected, chosen_field, chosen)
    else:
        raise _mixed(prompt_field, prompt, chosen_field, chosen)

    for field, response in ((chosen_field, pair.chosen), (rejected_field, pair.rejected)):
        _require_text(field, response)
        if isinstance(response, tuple) and response[0]["role"] in ("user", "system"):
            raise RowError(
                field,
                f"found a response that begins with a message of the {response[0]['role']}",
                "let both responses answer the same conversation, and put what they answer into the prompt",
            )
    return pair


def _read(row: SourceRow, role: str, field: str) -> str | Messages:
    match value := row.value(role, field):
        case str():
            return _text(field, value)
        case Mapping():
            return (_message(field, "the message", value),)
        case list() | tuple():
            return tuple(_message(field, f"message {number}", item) for number, item in enumerate(value, start=1))
        case _:
            raise RowError(field, f"found {describe(value)}", "give text or a list of messages")


def _text(field: str, text: str) -> str:
    if not text.isascii():
        # JSON can spell half of a UTF-16 pair, as in "\ud83d", which no tokenizer takes.
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise RowError(
                field, f"found a broken character at position {error.start}", "remove it, or write the file as UTF-8"
            ) from error
    return text


def _message(field: str, name: str, message: object) -> Message:
    if not isinstance(message, Mapping):
        raise RowError(field, f"found {describe(message)} as {name}", "give messages as objects with role and content")
    # Arrow and Parquet fill absent keys with null, so null means absent.
    present = {key: value for key, value in message.items() if value is not None}
    if present.get("tool_calls"):
        raise RowError(field, f"found tool calls in {name}", "write them into the content: only text is trained on")
    sharegpt = "from" in present or "value" in present
    role_key, content_key = ("from", "value") if sharegpt else ("role", "content")
    for key in (role_key, content_key):
        if key not in present:
            keys = ", ".join(sorted(map(str, present))) or "none"
            remedy = "give every message a role and a content (or from and value)"
            raise RowError(field, f"found no '{key}' in {name}, whose keys are: {keys}", remedy)
        if not isinstance(present[key], str):
            raise RowError(field, f"found {describe(present[key])} as '{key}' of {name}", "give text")
    role, content = present[role_key], _text(field, present[content_key])
    if sharegpt:
        if role not in _SHAREGPT_ROLES:
            raise RowError(field, f"found '{role}' as the 'from' of {name}", f"use one of {', '.join(_SHAREGPT_ROLES)}")
        role = _SHAREGPT_ROLES[role]
    return {"role": role, "content": content}


def _require_text(field: str, response: str | Messages) -> None:
    contents = [response] if isinstance(response, str) else [message["content"] for message in response]
    if not contents or not all(content.strip() for content in contents):
        raise RowError(field, "found an empty response", "write one, or remove the row")


def _mixed(field: str, value: str | Messages | None, other: str, other_value: str | Messages) -> RowError:
    form, other_form = ("text" if isinstance(content, str) else "messages" for content in (value, other_value))
    return RowError(
        field,
        f"found {form} although '{other}' is {other_form}",
        "give the prompt and both responses as text, or all three as messages",
    )


def _common_text(chosen: str, rejected: str) -> str:
    common = chosen[: common_length(chosen, rejected)]
    marker = common.rfind(_TRANSCRIPT_MARKER)
    if marker >= 0:
        return common[: marker + len(_TRANSCRIPT_MARKER)]
    # The whitespace belongs to the response, as tokenizers join a space to the word after it.
    if common[-1:].isspace():
        return common.rstrip()
    words = common.rsplit(maxsplit=1)
    return words[0] if len(words) == 2 else ""


def _repeats(common: Messages, prompt: str | Messages) -> bool:
    """Whether the responses are whole conversations that begin with the prompt."""
    if isinstance(prompt, str):
        return any(message["content"] == prompt for message in common)
    return common[: len(prompt)] == prompt
