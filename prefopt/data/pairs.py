"""Validation: a row in any of the common forms as one canonical pair, or the reason why it is none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, cast

from prefopt.data.fields import TEMPLATE_FIELDS, RowReader, Usage
from prefopt.data.messages import OTHERS, Messages, is_empty, messages_in_text
from prefopt.data.rows import BadRow, RowError, SourceRow, renaming
from prefopt.data.transcripts import common_length, common_prompt

Side = Literal["chosen", "rejected"]

SIDES: tuple[Side, Side] = ("chosen", "rejected")


@dataclass(frozen=True)
class TextPair:
    """A prompt and two responses as text; prompt + response is the whole text."""

    prompt: str
    chosen: str
    rejected: str
    source: SourceRow
    usage: Usage = field(default_factory=Usage, compare=False, repr=False)


@dataclass(frozen=True)
class ChatPair:
    """A prompt and two responses as messages; prompt + response is the whole conversation.

    template  the row's arguments of the chat template: tools, documents and those of chat_template_kwargs
    """

    prompt: Messages
    chosen: Messages
    rejected: Messages
    source: SourceRow
    template: Mapping[str, Any] = field(default_factory=dict)
    usage: Usage = field(default_factory=Usage, compare=False, repr=False)

    @property
    def template_fields(self) -> dict[str, Any]:
        """`template` as the fields of a row."""
        fields = {name: value for name, value in self.template.items() if name in TEMPLATE_FIELDS}
        kwargs = {name: value for name, value in self.template.items() if name not in fields}
        return fields | ({"chat_template_kwargs": kwargs} if kwargs else {})


Pair = TextPair | ChatPair
"""A validated preference pair, of text or of messages."""


class ResponseText(NamedTuple):
    """The row's text of a response, in whose characters spans are counted, and the response's first character in it: 0
    unless the text holds the prompt too."""

    text: str
    begins: int


def to_pair(row: SourceRow, columns: Mapping[str, str]) -> Pair | BadRow:
    """The pair of a row; `columns` maps fields to the row's names for them, such as {"prompt": "conversations"}.

    Responses are text, a message, or a list of messages; messages have "role" and "content", or "from" and "value"
    (sharegpt). The responses of a row without a prompt, and those that repeat it as their first messages, are split
    where they diverge: messages after the last common one; text after the prompt of several words that both repeat,
    after the last common "Assistant:" turn, else before the last common whitespace. The text of `system` goes before
    the prompt, that of `input` after an `instruction`. An `output` of two texts is the chosen and the rejected one.

    >>> to_pair(SourceRow("row 0", {"prompt": "1+1=", "chosen": "2", "rejected": "3"}), {}).chosen
    '2'
    """
    try:
        return _PairReader(row, columns).pair()
    except RowError as error:
        return row.bad(*error.report)


def response_text(pair: Pair, side: Side, columns: Mapping[str, str]) -> ResponseText | None:
    """A response as the pair's row holds it; None for several messages, and for one in parts. `columns` is as for
    `to_pair`."""
    if isinstance(pair, TextPair):
        text = cast("str", pair.source.fields[columns.get(side, side)])
        return ResponseText(text, len(text) - len(getattr(pair, side)))
    messages = cast("Messages", getattr(pair, side))
    content = messages[0].get("content")
    return ResponseText(content, 0) if len(messages) == 1 and isinstance(content, str) else None


class _PairReader(RowReader):
    """Makes a pair of a row's fields."""

    def pair(self) -> Pair:
        self.reject_media()
        names = self.name("chosen"), self.name("rejected")
        texts = [(name, self.row.fields.get(name)) for name in names]
        decode = all(isinstance(text, str) and messages_in_text(name, text) is not None for name, text in texts)
        chosen, rejected = (self.content(side, decode=decode) for side in ("chosen", "rejected"))
        prompt = self._prompt(decode=isinstance(chosen, tuple))
        if chosen == rejected:
            raise RowError(
                self.name("rejected"),
                f"found the same response as in '{self.name('chosen')}'",
                "remove the row: two equal responses say nothing about what is preferred",
            )
        if isinstance(chosen, str) and isinstance(rejected, str) and isinstance(prompt, str | None):
            return self._text_pair(prompt, chosen, rejected)
        if isinstance(chosen, tuple) and isinstance(rejected, tuple):
            return self._chat_pair(prompt, chosen, rejected)
        if type(chosen) is not type(rejected):
            raise _mixed(self.name("rejected"), rejected, self.name("chosen"), chosen)
        raise _mixed(self.name("prompt"), prompt, self.name("chosen"), chosen)

    def _prompt(self, *, decode: bool) -> str | Messages | None:
        """The prompt, or alpaca's instruction with its input; None where it is no field of its own."""
        if "instruction" not in self.columns and self.has("prompt"):
            prompt = self.content("prompt", decode=decode)
        elif self.has_text("instruction"):
            prompt = self.text("instruction")
            self.usage.guessed.add(f"prompts read from '{self.name('instruction')}'")
        else:
            return None
        if isinstance(prompt, str) and ("input" in self.columns or self.name("instruction") in self.usage.fields):
            prompt = "\n".join(filter(None, (prompt, self.text("input"))))
        return prompt

    def _text_pair(self, prompt: str | None, chosen: str, rejected: str) -> TextPair:
        self._require_text(chosen, rejected)
        if prompt is None:
            prompt = common_prompt(self.name("chosen"), self.name("rejected"), chosen, rejected)
            if not prompt:
                raise self._no_prompt()
            chosen, rejected = chosen[len(prompt) :], rejected[len(prompt) :]
            self.usage.guessed.add("prompts taken from what both responses begin with")
            self._require_text(chosen, rejected)
        elif len(prompt.split()) > 1 and chosen.startswith(prompt) and rejected.startswith(prompt):
            chosen, rejected = chosen[len(prompt) :], rejected[len(prompt) :]
            self.usage.guessed.add("prompts that both responses repeat, read once")
            self._require_text(chosen, rejected)
        elif len(prompt.split()) > 2 and prompt in chosen[: common_length(chosen, rejected)]:
            self.usage.guessed.add("prompts that both responses hold once more, as whole conversations do, read twice")
        if system := self.text("system"):
            self.usage.guessed.add(f"'{self.name('system')}' put before the prompt")
            prompt = f"{system}\n\n{prompt}"
        return TextPair(prompt, chosen, rejected, self.row, self.usage)

    def _chat_pair(self, prompt: str | Messages | None, chosen: Messages, rejected: Messages) -> ChatPair:
        for side, response in (("chosen", chosen), ("rejected", rejected)):
            if not response:
                raise _empty(self.name(side))
        whole = prompt is None
        common = chosen[: common_length(chosen, rejected)]
        if prompt is None or _repeats(common, prompt):
            prompt, chosen, rejected = common, chosen[len(common) :], rejected[len(common) :]
            self.usage.guessed.update({"prompts taken from what both responses begin with"} if whole else ())
        if isinstance(prompt, str):
            raise _mixed(self.name("prompt"), prompt, self.name("chosen"), chosen)
        if not prompt:
            raise RowError(
                self.name("chosen" if whole else "prompt"),
                f"found no prompt: '{self.name('chosen')}' and '{self.name('rejected')}' have no first message in "
                "common",
                f"add a prompt of at least one message{self._maybe_prompt()}",
            )
        self._check_responses(chosen, rejected)
        if all(map(is_empty, prompt)):
            self.usage.guessed.add("prompts of messages without text")
        if prompt[-1]["role"] == chosen[0]["role"]:
            self.usage.guessed.add(
                f"prompts that end in a turn of the {chosen[0]['role']}, after which the response is another turn"
            )
        if system := self.text("system"):
            self.usage.guessed.add(f"'{self.name('system')}' put before the prompt")
            message = {"role": "system", "content": system}
            if prompt[0]["role"] == "system" and prompt[0] != message:
                raise RowError(self.name("system"), "found a second system message", "keep one of the two")
            prompt = prompt if prompt[0] == message else (message, *prompt)
        return ChatPair(prompt, chosen, rejected, self.row, self.template_options(), self.usage)

    def _check_responses(self, chosen: Messages, rejected: Messages) -> None:
        names = self.name("chosen"), self.name("rejected")
        if not chosen or not rejected:
            name, longer = reversed(names) if chosen else names
            problem = f"found a conversation that is the beginning of {longer!r}, without a response of its own"
            raise RowError(name, problem, "let both end in a response to the same conversation, or remove the row")
        for name, response in zip(names, (chosen, rejected), strict=True):
            if any(message["role"] not in OTHERS and is_empty(message) for message in response):
                raise _empty(name)
            if response[0]["role"] in OTHERS:
                raise RowError(
                    name,
                    f"found a response that begins with a message of the {response[0]['role']}",
                    "let both responses answer the same conversation, and put what they answer into the prompt",
                )
        turns = common_length(chosen, rejected)
        if turns < min(len(chosen), len(rejected)) and {chosen[turns]["role"], rejected[turns]["role"]} <= OTHERS:
            raise RowError(
                names[1],
                f"found another message of the {rejected[turns]['role']} than in '{names[0]}', after the same turns",
                "let both responses answer the same conversation",
            )

    def _require_text(self, chosen: str, rejected: str) -> None:
        for side, response in (("chosen", chosen), ("rejected", rejected)):
            if not response.strip():
                raise _empty(self.name(side))

    def _maybe_prompt(self) -> str:
        """The remedy for a prompt in a column of another name, where the row may have one."""
        lists = (name for name, value in self.row.fields.items() if name not in self.usage.fields and value)
        name = next((name for name in lists if isinstance(self.row.fields[name], list | tuple)), None)
        return f", or say which column holds it with {renaming({'prompt': name})}" if name else ""

    def _no_prompt(self) -> RowError:
        responses = {self.name(side) for side in SIDES}
        others = [n for n, value in self.row.fields.items() if n not in responses and isinstance(value, str) and value]
        unread = f", while nobody reads {', '.join(map(repr, others))}" if others else ""
        which = others[-1] if others else "NAME"
        return RowError(
            self.name("chosen"),
            f"found no prompt: no field '{self.name('prompt')}', and no words that both responses begin with{unread}",
            f"say which column is the prompt with {renaming({'prompt': which})}, or give it as '' if there is none",
        )


def _empty(field: str) -> RowError:
    return RowError(field, "found an empty response", "write one, or remove the row")


def _mixed(field: str, value: str | Messages | None, other: str, other_value: str | Messages) -> RowError:
    form, other_form = ("text" if isinstance(content, str) else "messages" for content in (value, other_value))
    return RowError(
        field,
        f"found {form} although {other!r} is {other_form}",
        "give the prompt and both responses as text, or all three as messages",
    )


def _repeats(common: Messages, prompt: str | Messages) -> bool:
    """Whether the responses are whole conversations that begin with the prompt."""
    if isinstance(prompt, str):
        return any(message.get("content") == prompt for message in common)
    return common[: len(prompt)] == prompt
