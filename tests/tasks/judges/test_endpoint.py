"""A judge behind an endpoint: an OpenAI-compatible server on loopback, which can be made to fail."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from prefopt.tasks.judges import EndpointJudge, JudgeError, resolve_judge
from prefopt.tasks.judges.endpoint import TEMPLATE, default_answers, question, verdict

KEY = "sk-not-to-be-seen"


class Service:
    """Answers by `answer(question)`, after the statuses in `failures`; keeps the requests."""

    def __init__(self) -> None:
        self.answer: Callable[[str], Any] = lambda text: "tie"
        self.failures: list[int] = []
        self.requests: list[dict[str, Any]] = []
        self.keys: set[str] = set()
        self.lock = threading.Lock()
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with service.lock:
                    service.keys.add(self.headers["Authorization"])
                    failure = service.failures.pop(0) if service.failures else None
                    if failure is None:
                        service.requests.append(body)
                if failure is not None:
                    return self.reply(failure, {"error": {"message": f"no, {self.headers['Authorization']}"}})
                answer = service.answer(body["messages"][0]["content"])
                if isinstance(answer, dict):
                    return self.reply(200, answer)
                message = {"role": "assistant", "content": answer}
                return self.reply(200, {"choices": [{"index": 0, "finish_reason": "stop", "message": message}]})

            def reply(self, status: int, content: dict[str, Any]) -> None:
                data = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.send_header("retry-after-ms", "1")
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    pytest.importorskip("openai")
    monkeypatch.setenv("A_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    running = Service()
    thread = threading.Thread(target=running.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield running
    running.server.shutdown()
    running.server.server_close()
    thread.join()


@pytest.fixture
def judge(service: Service, tmp_path: Path) -> EndpointJudge:
    return EndpointJudge(
        endpoint=service.url, model="wise", key="A_KEY", retries=2, answers=str(tmp_path / "kept" / "answers.sqlite")
    )


def better(text: str) -> str:
    """Prefers the longer response."""
    first, second = (text.split(f"[Response {side}]\n")[1].split("\n\n")[0] for side in "AB")
    return "A" if len(first) > len(second) else "B"


PROMPTS, OURS, THEIRS = ["p", "{q}", "r"], ["long one", "{x}", "same"], ["short", "{longer} one", "same "]


@pytest.mark.slow
def test_both_orders_are_asked_and_equal_responses_are_not(service: Service, judge: EndpointJudge) -> None:
    service.answer = better
    judge.check()
    assert service.requests == []
    assert judge.win_rates(PROMPTS, OURS, THEIRS) == [1, 0, 0.5]
    texts = {body["messages"][0]["content"] for body in service.requests}
    assert texts == {
        question(TEMPLATE, prompt, *both)
        for prompt, our, their in zip(PROMPTS[:2], OURS[:2], THEIRS[:2], strict=True)
        for both in ((our, their), (their, our))
    }
    assert {(body["model"], body["temperature"], body["max_tokens"]) for body in service.requests} == {("wise", 0, 16)}
    assert service.keys == {f"Bearer {KEY}"}


def test_one_that_prefers_the_first_makes_a_half_of_everything(service: Service, judge: EndpointJudge) -> None:
    service.answer = lambda text: "A"
    assert judge.win_rates(PROMPTS, OURS, THEIRS) == [0.5, 0.5, 0.5]
    assert len(service.requests) == 4


def test_ties_and_wins_are_averaged_over_the_orders(service: Service, judge: EndpointJudge) -> None:
    service.answer = lambda text: "A" if "[Response A]\nlong" in text else "tie"
    assert judge.win_rates(PROMPTS[:1], OURS[:1], THEIRS[:1]) == [0.75]


def test_answers_are_kept_and_calls_are_counted_before(
    service: Service, judge: EndpointJudge, caplog: pytest.LogCaptureFixture
) -> None:
    service.answer = better
    with caplog.at_level(logging.WARNING):
        first = judge.win_rates(PROMPTS, OURS, THEIRS)
    letters = sum(len(body["messages"][0]["content"]) for body in service.requests)
    assert f"4 calls to {service.url} (0 answered before), about {letters / 4:,.0f} tokens to read" in caplog.text
    assert "at most 64 to write" in caplog.text
    caplog.clear()
    assert judge.win_rates(PROMPTS, OURS, THEIRS) == first
    assert len(service.requests) == 4
    assert caplog.text == ""
    judge.model_copy(
        update={"template": "{prompt}? {first} [Response A]\n{first}\n\n[Response B]\n{second}\n\n"}
    ).win_rates(PROMPTS, OURS, THEIRS)
    assert len(service.requests) == 8


@pytest.mark.parametrize("failures", [[500, 429], [503, 500]])
def test_a_service_that_fails_is_asked_again(service: Service, judge: EndpointJudge, failures: list[int]) -> None:
    service.answer, service.failures = better, failures
    assert judge.model_copy(update={"at_once": 1}).win_rates(PROMPTS, OURS, THEIRS) == [1, 0, 0.5]
    assert len(service.requests) == 4


def test_a_service_that_fails_for_good_says_so_without_the_key_and_is_not_paid_twice(
    service: Service, judge: EndpointJudge
) -> None:
    one = judge.model_copy(update={"at_once": 1})
    service.answer = better
    answered = []

    def failing(text: str) -> str:
        answered.append(text)
        service.failures = [429] * 3 if len(answered) == 2 else []
        return better(text)

    service.answer = failing
    with pytest.raises(JudgeError, match=r"judge wise at http.*RateLimitError.*no, Bearer \*\*\*") as caught:
        one.win_rates(PROMPTS, OURS, THEIRS)
    assert caught.value.__suppress_context__
    assert caught.value.__cause__ is None
    assert len(answered) >= 2
    service.answer = better
    assert one.win_rates(PROMPTS, OURS, THEIRS) == [1, 0, 0.5]
    assert len(service.requests) == 4


def test_a_wrong_key_is_no_reason_to_ask_again(service: Service, judge: EndpointJudge) -> None:
    service.failures = [401]
    with pytest.raises(JudgeError, match="AuthenticationError"):
        judge.model_copy(update={"at_once": 1}).win_rates(PROMPTS[:1], OURS[:1], THEIRS[:1])


def test_answers_that_cannot_be_read_are_ties_and_are_counted(
    service: Service, judge: EndpointJudge, caplog: pytest.LogCaptureFixture
) -> None:
    service.answer = lambda text: None if "[Response A]\nlong" in text else "I cannot say."
    assert judge.win_rates(PROMPTS[:1], OURS[:1], THEIRS[:1]) == [0.5]
    assert "2 of 2 answers could not be read and count as ties, such as" in caplog.text


def test_what_is_no_chat_completion_is_an_error(service: Service, judge: EndpointJudge) -> None:
    service.answer = lambda text: {"found": "a page"}
    with pytest.raises(JudgeError, match="no chat completion"):
        judge.win_rates(PROMPTS[:1], OURS[:1], THEIRS[:1])


@pytest.mark.parametrize(
    ("answer", "share"),
    [
        ("A", 1.0),
        (" b.\n", 0.0),
        ("**tie**", 0.5),
        ("[[A]]", 1.0),
        ("A is shorter, but B is right.\n\nAnswer: B", 0.0),
        ("Tie", 0.5),
        ("Both A and B", None),
        ("A or B", None),
        ("Neither", None),
        ("AB", None),
        ("", None),
    ],
)
def test_verdicts(answer: str, share: float | None) -> None:
    assert verdict(answer) == share


def test_the_key_is_written_nowhere(judge: EndpointJudge, monkeypatch: pytest.MonkeyPatch) -> None:
    assert KEY not in judge.model_dump_json()
    assert resolve_judge(judge.model_dump(mode="json")) == judge
    monkeypatch.delenv("A_KEY")
    with pytest.raises(JudgeError, match=r"the environment variable A_KEY.* is not set"):
        judge.check()
    judge.model_copy(update={"key": None}).check()


def test_a_template_that_asks_nothing_is_refused() -> None:
    for template, message in (
        ("{prompt} {first}", "it has no slot {second}"),
        ("{prompt} {first} {second} {third}", "no slot is named 'third'; slots are prompt, first, second"),
        ("{prompt", "expected '}'"),
    ):
        with pytest.raises(ValueError, match=message):
            resolve_judge({"endpoint": "http://x", "model": "y", "template": template})


def test_answers_are_kept_in_the_cache_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_answers() == tmp_path / "prefopt" / "answers.sqlite"
