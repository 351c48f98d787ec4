"""The prompt of a judge, and how its answer is read."""

from __future__ import annotations

import re

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


def question(template: str, prompt: str, first: str, second: str) -> str:
    """The template with prompt and responses in it; braces in these are text."""
    return template.format(prompt=prompt, first=first.strip(), second=second.strip())


def verdict(answer: str) -> float | None:
    """1 where the answer's last line is A, 0 where it is B, 0.5 where it is tie; None where it is something else."""
    lines = [line for line in answer.splitlines() if line.strip()]
    match = _VERDICT.fullmatch(lines[-1].strip()) if lines else None
    return None if match is None else _SHARE[match[1].lower()]
