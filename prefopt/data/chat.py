"""Conversations as text: the chat template's rendering, and what of a conversation it leaves out."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, cast
from weakref import WeakKeyDictionary

from jinja2 import TemplateError, TemplateSyntaxError
from transformers import PreTrainedTokenizerBase

from prefopt.data.fields import holds
from prefopt.data.messages import Message, Messages, content_text, texts
from prefopt.data.pairs import ChatPair, Side
from prefopt.data.rows import DataError, RowError
from prefopt.data.tool_calls import readable_calls
from prefopt.data.transcripts import common_length

MARKER = "\ue000"
"""A private-use character, which no text of the data is expected to have."""

_SHOWN = 40
"""Characters of a text in a notice."""

_REFUSALS = (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError)
"""What templates raise for conversations that they do not take."""

_PLAIN = ({"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."})
"""A conversation that every template takes."""

_Turn = tuple[tuple[str, str], ...]
"""A message without its texts: its role, and the type under each key."""

_UNREAD: WeakKeyDictionary[PreTrainedTokenizerBase, dict[tuple[str, tuple[_Turn, ...]], frozenset[tuple[int, str]]]]
_UNREAD = WeakKeyDictionary()


def apply_template(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Mapping[str, Any]],
    options: Mapping[str, Any],
    *,
    add_generation_prompt: bool = False,
) -> str:
    """The conversation as the tokenizer's chat template writes it. Parts of a content are joined to text for a template
    that would leave them out, or print them as a list; arguments of tool calls are in the form that it reads.

    options  further arguments of `apply_chat_template`, such as tools and enable_thinking
    """
    arguments = {**options, "tokenize": False, "add_generation_prompt": add_generation_prompt}
    conversation = [dict(message) for message in messages]
    if any(message.get("tool_calls") for message in conversation):
        conversation = readable_calls(conversation, lambda other: _rendered(tokenizer, other, arguments))
    if any(isinstance(message.get("content"), list) for message in messages):
        conversation = _in_readable_parts(tokenizer, conversation, arguments)
    return cast("str", tokenizer.apply_chat_template(conversation, **arguments))


def _rendered(
    tokenizer: PreTrainedTokenizerBase, conversation: list[Message], arguments: Mapping[str, Any]
) -> str | None:
    """The conversation as text; None where the template does not take it."""
    try:
        return str(tokenizer.apply_chat_template(conversation, **arguments))
    except _REFUSALS:
        return None


def _in_readable_parts(
    tokenizer: PreTrainedTokenizerBase, conversation: list[Message], arguments: Mapping[str, Any]
) -> list[Message]:
    """The conversation as it is where the template writes the text of every part, else with its parts joined."""
    marked = [m | {"content": _marked(m["content"])} if "content" in m else m for m in conversation]
    contents = [message["content"] for message in marked if "content" in message]
    marks = sum(1 if isinstance(content, str) else len(content) for content in contents)
    printed = [str(content) for content in contents if not isinstance(content, str)]
    # A template may not take parts; where it refuses something else, the caller's attempt shows it.
    text = _rendered(tokenizer, marked, arguments)
    if text is not None and text.count(MARKER) == marks and not any(parts in text for parts in printed):
        return conversation
    return [m | {"content": content_text(m)} if "content" in m else m for m in conversation]


class ChatRenderer:
    """The chat template of a tokenizer with the options of a row and the run. Raises DataError where there is none."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, pair: ChatPair, options: Mapping[str, Any]) -> None:
        self.tokenizer, self.pair, self.options = tokenizer, pair, {**options, **pair.template}
        if tokenizer.chat_template is None and "chat_template" not in self.options:
            raise DataError(
                f"{pair.source.where}: found messages, but the tokenizer {tokenizer.name_or_path!r} has no chat "
                "template; set tokenizer.chat_template, take a chat model's tokenizer (model.tokenizer of a run "
                "file), or give prompt and responses as text"
            )

    def render(self, messages: Messages, *, add_generation_prompt: bool = False) -> str:
        """The conversation as text. Raises RowError where the template does not take it, and DataError where it takes
        none."""
        try:
            return apply_template(self.tokenizer, messages, self.options, add_generation_prompt=add_generation_prompt)
        except _REFUSALS as error:
            self._reject_template(error)
            problem = f"the tokenizer's chat template refuses the conversation ({error})"
            raise RowError("", problem, "change the messages or the template") from error

    def _reject_template(self, refusal: Exception) -> None:
        """Raise DataError where the template refuses a plain question and answer in the same words: the row is not what
        is wrong."""
        try:
            apply_template(self.tokenizer, _PLAIN, self.options)
        except _REFUSALS as error:
            if isinstance(refusal, TemplateSyntaxError) or str(error) == str(refusal):
                raise DataError(
                    f"{self.pair.source.where}: the chat template of the tokenizer {self.tokenizer.name_or_path!r} "
                    f"refuses every conversation ({type(error).__name__}: {error}); mend the template, or take another "
                    "tokenizer"
                ) from refusal

    def left_out(self, side: Side, text: str) -> Iterator[str]:
        """In words, what is not in the text of prompt and response although the row has it.

        Raises RowError where it is the whole content of a message.
        """
        response: Messages = getattr(self.pair, side)
        messages = (*self.pair.prompt, *response)
        unread = self._unread(messages, text)
        for index, message in enumerate(messages):
            keys = {key for key, value in message.items() if key not in ("role", "content") and texts(value)}
            if (index, "content") in unread and all((index, key) in unread for key in keys):
                number = index + 1 if index < len(self.pair.prompt) else index + 1 - len(self.pair.prompt)
                raise RowError(
                    "prompt" if index < len(self.pair.prompt) else side,
                    f"found message {number}, of the role '{message['role']}', whose content the tokenizer's chat "
                    "template leaves out",
                    "use the roles that the template has, and text as content, or take another template",
                )
            for key in message.keys() - {"role"}:
                if (index, key) in unread:
                    yield f"the key {key!r} of messages, which the chat template does not read there"
            content = message.get("content", "")
            parts = [content] if isinstance(content, str) else [part["text"] for part in content]
            if (index, "content") not in unread and not all(part.strip() in text for part in parts):
                yield "a part of messages' content, which the chat template changes"
        for name in ("tools", "documents"):
            if self.options.get(name) and self._without(name, messages) == text:
                yield f"{name!r}, which the chat template does not read"
        template = str(self.tokenizer.get_chat_template(self.options.get("chat_template"), self.options.get("tools")))
        for name in sorted(self.options.keys() - {"tools", "documents", "chat_template"}):
            if not re.search(rf"\b{re.escape(name)}\b", template):
                yield f"{name!r} of chat_template_kwargs, which the chat template does not read"

    def guesses(self, prompt: str, responses: Mapping[Side, str]) -> Iterator[str]:
        """In words, what is in the texts of the prompt, and of prompt and response, that the row does not say."""
        end = prompt[common_length(prompt, *responses.values()) :]
        if end:
            short = f"{end[:_SHOWN]}..." if len(end) > _SHOWN else end
            yield f"{short!r}, which the chat template writes before an answer is sampled, not before these responses"
        template = str(self.tokenizer.get_chat_template(self.options.get("chat_template"), self.options.get("tools")))
        for side, text in responses.items():
            messages = (*self.pair.prompt, *getattr(self.pair, side))
            if self._has_converted_calls(messages):
                yield "arguments of tool calls put into the form that the chat template reads"
            # A template that calls None is refused.
            if "strftime_now" in template and self._attempt(messages, self.options | {"strftime_now": None}) != text:
                yield "today's date, which the chat template writes: other tokens tomorrow, in no reference cache"

    def other_turns(self, side: Side, text: str) -> Iterator[tuple[int, int]]:
        """The characters [start, end) of the text of prompt and response that are turns of others within the response.

        Raises RowError where the template writes turns in another way once more of them follow.
        """
        prompt, response = self.pair.prompt, cast("Messages", getattr(self.pair, side))
        role, start = response[0]["role"], 0
        for others, turns in groupby(response, key=lambda message: bool(message["role"] != role)):
            end = start + len(list(turns))
            if others:
                before, after = (self._beginning(prompt + response[:turn], text) for turn in (start, end))
                if not text.startswith(before) or not text.startswith(after):
                    raise RowError(
                        side,
                        "found several turns, which the tokenizer's chat template writes in another way once more "
                        "follow, so that those of the user cannot be told from the response",
                        "make a row of each turn, with the turns before it in the prompt",
                    )
                if end < len(response):
                    opened = self.render(prompt + response[:end], add_generation_prompt=True)
                    yield len(before), max(len(after), common_length(opened, text))
                else:
                    yield len(before), len(text)
            start = end

    def content_begins(self, side: Side, text: str) -> int:
        """The first character of the response's content in the text of prompt and response."""
        response: Messages = getattr(self.pair, side)
        # A conversation need not begin with the prompt rendered by add_generation_prompt, so another one is compared.
        other = self.render((*self.pair.prompt, response[0] | {"content": MARKER}, *response[1:]))
        return common_length(other, text)

    def _beginning(self, messages: Messages, text: str) -> str:
        """The first turns of a text, without the EOS that some templates write after the last turn."""
        rendered = self.render(messages)
        return rendered if text.startswith(rendered) else rendered.removesuffix(str(self.tokenizer.eos_token))

    def _has_converted_calls(self, messages: Messages) -> bool:
        arguments = {**self.options, "tokenize": False}
        calls = [message for message in messages if message.get("tool_calls")]
        return bool(calls) and readable_calls(
            messages, lambda other: _rendered(self.tokenizer, other, arguments)
        ) != list(messages)

    def _attempt(self, messages: Messages, options: Mapping[str, Any]) -> str | None:
        """The rendering with other messages or options; None where the template does not take it."""
        try:
            return apply_template(self.tokenizer, messages, options)
        except _REFUSALS:
            return None

    def _without(self, name: str, messages: Messages) -> str | None:
        return self._attempt(messages, {key: value for key, value in self.options.items() if key != name})

    def _unread(self, messages: Messages, text: str) -> frozenset[tuple[int, str]]:
        """(message, key) of all that can change without a change of the rendering: tried once for every sequence of
        roles and keys."""
        options = [(k, v if isinstance(v, bool | int | str) else None) for k, v in sorted(self.options.items())]
        template = f"{options} {self.tokenizer.chat_template}"
        turns = tuple(
            tuple((k, v if k == "role" else type(v).__name__) for k, v in m.items() if holds(v)) for m in messages
        )
        results = _UNREAD.setdefault(self.tokenizer, {})
        if (template, turns) not in results:
            results[template, turns] = frozenset(
                (index, key)
                for index, message in enumerate(messages)
                for key, value in message.items()
                if key != "role" and holds(value) and self._with(messages, index, _changed(message, key)) == text
            )
        return results[template, turns]

    def _with(self, messages: Messages, index: int, message: Message) -> str | None:
        """The rendering with another message; None where the template does not take it, and so has read it."""
        return self._attempt((*messages[:index], message, *messages[index + 1 :]), self.options)


def _changed(message: Message, key: str) -> Message:
    """The message with another value under the key: other texts, or none where there is no text to change."""
    value = _marked(message[key])
    return message | {key: value} if value != message[key] else {k: v for k, v in message.items() if k != key}


def _marked(value: Any) -> Any:
    match value:
        case str():
            return value + MARKER
        case Mapping():
            return {key: item if key == "type" else _marked(item) for key, item in value.items()}
        case list():
            return [_marked(item) for item in value]
    return value
