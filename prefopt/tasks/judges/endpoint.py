"""A judge behind an OpenAI-compatible endpoint: its prompt, its calls, and its answers on disk."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Self, final

from pydantic import Field, model_validator

from prefopt.progress import tracked
from prefopt.tasks.judges.base import Judge
from prefopt.tasks.optional import needed
from prefopt.tasks.preference_data.texts import template_slots

TEMPLATE = """\
Which of two responses to a prompt is better? Consider what the prompt asks for, whether the response is right and \
complete, and how well it is written. Their order and their length say nothing of their quality.

[Prompt]
{prompt}

[Response A]
{first}

[Response B]
{second}

Answer with one word: A, B, or tie if they are equally good."""

SLOTS = ("prompt", "first", "second")
"""What a template has to have in braces."""

_VERDICT = re.compile(r"(?:[\w ]+:)?[\W_]*(A|B|tie)[\W_]*", re.IGNORECASE)
"""A line that is a verdict, alone or after a label such as `Answer:`, with marks around it."""

_SHARE = {"a": 1.0, "tie": 0.5, "b": 0.0}

_CHARACTERS_A_TOKEN = 4  # of English, roughly; for the log line alone

logger = logging.getLogger(__name__)


@final
class JudgeError(RuntimeError):
    """The endpoint gave no answer; the message has its reply, without the key."""


@final
class EndpointJudge(Judge):
    """A model decides which of two responses is better, once in each order, at temperature 0. A win is 1, a tie 0.5;
    the mean over both orders is 0.5 for a model that always prefers the first response.

    endpoint     base URL of the service, such as https://api.openai.com/v1
    model        the name of the model there
    key          the environment variable that holds the API key, which is written nowhere; null: there is no key
    template     the prompt: `{prompt}`, `{first}` and `{second}` stand for the texts. The last line of the answer has
                 to be A, B or tie
    max_tokens   of an answer
    retries      of a call that failed for want of connection, by rate limits (429) or in the server (5xx), at growing
                 intervals
    timeout      seconds to wait for an answer
    at_once      calls at a time
    answers      the file that keeps answers for later calls; null: one in the user's cache

    Two equal responses are a tie, without a call. An answer that cannot be read counts as a tie, and a log line counts
    these.
    """

    endpoint: str
    model: str
    key: str | None = "OPENAI_API_KEY"
    template: str = TEMPLATE
    max_tokens: int = Field(default=16, ge=1)
    retries: int = Field(default=5, ge=0)
    timeout: float = Field(default=60.0, gt=0)
    at_once: int = Field(default=4, ge=1)
    answers: str | None = None

    @model_validator(mode="after")
    def _can_ask(self) -> Self:
        template_slots(self.template, SLOTS, required=SLOTS)
        return self

    def check(self) -> None:
        with self._client():
            pass

    def win_rates(self, prompts: Sequence[str], ours: Sequence[str], theirs: Sequence[str]) -> list[float]:
        both_orders = [
            None
            if our.strip() == their.strip()
            else (question(self.template, prompt, our, their), question(self.template, prompt, their, our))
            for prompt, our, their in zip(prompts, ours, theirs, strict=True)
        ]
        answers = self._answers(list(dict.fromkeys(text for orders in both_orders if orders for text in orders)))
        verdicts = {text: verdict(answer) for text, answer in answers.items()}
        if unread := [answers[text] for text, share in verdicts.items() if share is None]:
            counts = f"{len(unread)} of {len(answers)} answers could not be read and count as ties"
            logger.warning(f"judge {self.model}: {counts}, such as {unread[0][:80]!r}")
        shares = {text: 0.5 if share is None else share for text, share in verdicts.items()}
        return [0.5 if orders is None else (shares[orders[0]] + 1 - shares[orders[1]]) / 2 for orders in both_orders]

    def _answers(self, questions: Sequence[str]) -> dict[str, str]:
        """Question -> answer. A log line counts the calls before the first one."""
        cache = Answers(default_answers() if self.answers is None else Path(self.answers))
        answers = {text: answer for text in questions if (answer := cache.get(self._key(text))) is not None}
        missing = [text for text in questions if text not in answers]
        if not missing:
            return answers
        calls = f"{len(missing):,} calls to {self.endpoint} ({len(answers):,} answered before)"
        tokens = f"{sum(map(len, missing)) / _CHARACTERS_A_TOKEN:,.0f} tokens to read"
        written = f"at most {len(missing) * self.max_tokens:,} to write"
        logger.warning(f"judge {self.model}: {calls}, about {tokens} and {written}")
        with self._client() as client, ThreadPoolExecutor(self.at_once) as pool:

            def ask(text: str) -> str:
                reply = client.chat.completions.create(**self._call(text))
                if not getattr(reply, "choices", None):
                    raise JudgeError(
                        f"judge {self.model}: {self.endpoint} sent what is no chat completion ({str(reply)[:80]!r}); "
                        "is that the base URL of an OpenAI-compatible service?"
                    )
                answer = str(reply.choices[0].message.content or "")
                cache.add(self._key(text), answer)
                return answer

            tasks = [pool.submit(ask, text) for text in missing]
            try:
                for text, task in zip(missing, tracked(tasks, "asking the judge"), strict=True):
                    answers[text] = task.result()
            finally:
                pool.shutdown(cancel_futures=True)  # after a failure, calls that have not begun are not paid for
        return answers

    def _call(self, text: str) -> dict[str, Any]:
        messages = [{"role": "user", "content": text}]
        return {"model": self.model, "messages": messages, "temperature": 0, "max_tokens": self.max_tokens}

    def _key(self, text: str) -> dict[str, Any]:
        return {"endpoint": self.endpoint, **self._call(text)}

    @contextmanager
    def _client(self) -> Iterator[Any]:
        """The client, with errors of the service told without the key. Raises JudgeError and ImportError."""
        with needed("a judge with an endpoint", "openai", "judges"):
            import openai
        key = "none" if self.key is None else os.environ.get(self.key)
        if not key:
            raise JudgeError(
                f"judge {self.model}: the environment variable {self.key}, which is to hold the API key of "
                f"{self.endpoint}, is not set; set it, or name another with `key`, or set `key` to null where none is "
                "needed"
            )
        try:
            with openai.OpenAI(
                base_url=self.endpoint, api_key=key, max_retries=self.retries, timeout=self.timeout
            ) as client:
                yield client
        except openai.OpenAIError as error:
            # The cause is not kept: it holds the request, and with it the key.
            raise JudgeError(
                f"judge {self.model} at {self.endpoint}: {type(error).__name__}: {str(error).replace(key, '***')}; "
                "answers so far are kept for the next call"
            ) from None


def question(template: str, prompt: str, first: str, second: str) -> str:
    """The template with prompt and responses in it; braces in these are text."""
    return template.format(prompt=prompt, first=first.strip(), second=second.strip())


def verdict(answer: str) -> float | None:
    """1 where the answer's last line is A, 0 where it is B, 0.5 where it is tie; None where it is something else."""
    lines = [line for line in answer.splitlines() if line.strip()]
    match = _VERDICT.fullmatch(lines[-1].strip()) if lines else None
    return None if match is None else _SHARE[match[1].lower()]


def default_answers() -> Path:
    """The file in the user's cache, `$XDG_CACHE_HOME/prefopt/answers.sqlite`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "prefopt" / "answers.sqlite"


@final
class Answers:
    """Question -> answer, each written when it is added. Processes and threads may share the file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._execute("create table if not exists answers (question text primary key, answer text not null)")

    def get(self, question: Mapping[str, object]) -> str | None:
        """The answer to the question; None where there is none yet."""
        rows = self._execute("select answer from answers where question = ?", _digest(question))
        return str(rows[0][0]) if rows else None

    def add(self, question: Mapping[str, object], answer: str) -> None:
        self._execute("insert or replace into answers values (?, ?)", _digest(question), answer)

    def _execute(self, statement: str, *values: str) -> list[tuple[object, ...]]:
        with closing(sqlite3.connect(self.path, timeout=60)) as database, database:
            return database.execute(statement, values).fetchall()


def _digest(question: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()
