"""A judge behind an OpenAI-compatible endpoint."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, final

from pydantic import Field, model_validator

from prefopt.tasks.judges.base import Judge
from prefopt.tasks.judges.cache import Answers, default_answers
from prefopt.tasks.judges.prompt import TEMPLATE, fault, question, verdict
from prefopt.tasks.optional import needed

__all__ = ["EndpointJudge", "JudgeError"]

_CHARACTERS_A_TOKEN = 4  # of English, roughly; for the estimate alone

logger = logging.getLogger(__name__)


@final
class JudgeError(RuntimeError):
    """The endpoint gave no answer; the message says what it said, without the key."""


@final
class EndpointJudge(Judge):
    """A model is asked which of two responses is better, once in each order, at temperature 0; a win is 1, a tie 0.5,
    and the two orders are averaged, so that a model which always prefers the first response makes 0.5 of everything.

    endpoint     base URL of the service, such as https://api.openai.com/v1
    model        the name of the model there
    key          the environment variable that holds the API key, which is written nowhere; null: there is no key
    template     what is asked: `{prompt}`, `{first}` and `{second}` stand for the texts. The last line of the answer
                 has to be A, B or tie
    max_tokens   of an answer
    retries      of a call that failed for want of connection, by rate limits (429) or in the server (5xx), at growing
                 intervals
    timeout      seconds to wait for an answer
    at_once      calls at a time
    input_price, output_price   of a million tokens, in any currency, for the estimate before the first call
    answers      the file that keeps answers, which are not asked for again; null: one in the user's cache

    Two equal responses are a tie and are not asked about. An answer that cannot be read counts as a tie; how many there
    were is said.
    """

    endpoint: str
    model: str
    key: str | None = "OPENAI_API_KEY"
    template: str = TEMPLATE
    max_tokens: int = Field(default=16, ge=1)
    retries: int = Field(default=5, ge=0)
    timeout: float = Field(default=60.0, gt=0)
    at_once: int = Field(default=4, ge=1)
    input_price: float | None = Field(default=None, ge=0)
    output_price: float | None = Field(default=None, ge=0)
    answers: str | None = None

    @model_validator(mode="after")
    def _can_ask(self) -> Self:
        if wrong := fault(self.template):
            raise ValueError(f"`template`: {wrong}")
        return self

    def check(self) -> None:
        with self._client():
            pass

    def win_rates(self, prompts: Sequence[str], ours: Sequence[str], theirs: Sequence[str]) -> list[float]:
        asked: list[tuple[str, str] | None] = [
            None
            if our.strip() == their.strip()
            else (self._question(prompt, our, their), self._question(prompt, their, our))
            for prompt, our, their in zip(prompts, ours, theirs, strict=True)
        ]
        found = self._answers(list(dict.fromkeys(text for both in asked if both for text in both)))
        verdicts = {text: verdict(answer) for text, answer in found.items()}
        if unread := [found[text] for text, share in verdicts.items() if share is None]:
            logger.warning(
                "judge %s: %d of %d answers could not be read and count as ties, such as %r",
                self.model,
                len(unread),
                len(found),
                unread[0][:80],
            )
        shares = {text: 0.5 if share is None else share for text, share in verdicts.items()}
        return [0.5 if both is None else (shares[both[0]] + 1 - shares[both[1]]) / 2 for both in asked]

    def _question(self, prompt: str, first: str, second: str) -> str:
        return question(self.template, prompt, first, second)

    def _answers(self, questions: Sequence[str]) -> dict[str, str]:
        """Question -> answer. Those that were not answered before are asked now, after it is told what that takes."""
        kept = Answers(default_answers() if self.answers is None else Path(self.answers))
        found = {text: answer for text in questions if (answer := kept.get(self._key(text))) is not None}
        missing = [text for text in questions if text not in found]
        if not missing:
            return found
        logger.warning("judge %s: %s", self.model, self._estimate(missing, len(found)))
        with self._client() as client, ThreadPoolExecutor(self.at_once) as pool:

            def ask(text: str) -> str:
                reply = client.chat.completions.create(**self._call(text))
                if not getattr(reply, "choices", None):
                    raise JudgeError(
                        f"judge {self.model}: {self.endpoint} sent what is no chat completion ({str(reply)[:80]!r}); "
                        "is that the base URL of an OpenAI-compatible service?"
                    )
                answer = str(reply.choices[0].message.content or "")
                kept.add(self._key(text), answer)
                return answer

            tasks = [pool.submit(ask, text) for text in missing]
            try:
                for text, task in zip(missing, tasks, strict=True):
                    found[text] = task.result()
            finally:
                pool.shutdown(cancel_futures=True)  # after a failure, what has not begun is not paid for
        return found

    def _call(self, text: str) -> dict[str, Any]:
        return {
            "model": self.model,
            "messages": [{"role": "user", "content": text}],
            "temperature": 0,
            "max_tokens": self.max_tokens,
        }

    def _key(self, text: str) -> dict[str, Any]:
        return {"endpoint": self.endpoint, **self._call(text)}

    def _estimate(self, missing: Sequence[str], answered: int) -> str:
        read = sum(map(len, missing)) / _CHARACTERS_A_TOKEN
        written = len(missing) * self.max_tokens
        said = f"{len(missing):,} calls to {self.endpoint} ({answered:,} answered before), "
        said += f"about {read:,.0f} tokens to read and at most {written:,} to write"
        if self.input_price is None or self.output_price is None:
            return said
        return said + f", at most about {(read * self.input_price + written * self.output_price) / 1e6:,.2f} in cost"

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
                "answers so far are kept and not asked for again"
            ) from None
