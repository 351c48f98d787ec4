"""The blocks of code of the documentation's pages, with what a page says of them to its tests."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import docs_hooks

__all__ = ["PAGES", "ROOT", "Block", "blocks", "commands", "generated_pages"]

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("**/*.md")])

_FENCE = re.compile(r"(`{3,})(\w*)$")
_NOTE = re.compile(r"<!-- (not run|exit code): (.+) -->$")
_LABEL = re.compile(r"\*\*`(.+)`\*\*$")
_LIST = re.compile(r" *([-*]|\d+\.) ")


@dataclass(frozen=True)
class Block:
    """A fenced block, or an indented one, whose language is "".

    not_run, exit_code  what a comment says in front of it
    label               the name of the file that it is, in bold in front of it
    follows             whether the block before it, if any, is all that is in front of it
    """

    page: Path
    line: int
    language: str
    text: str
    not_run: str = ""
    exit_code: int = 0
    label: str = ""
    follows: bool = False

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"

    @property
    def code(self) -> str:
        """With as many blank lines before it as bring errors to the page's lines."""
        return "\n" * self.line + self.text


def blocks(page: Path) -> list[Block]:
    """The blocks of a page, in their order."""
    lines = page.read_text(encoding="utf-8").splitlines()
    result: list[Block] = []
    index, before = 0, [""]  # the lines with words since the last block
    while index < len(lines):
        if opening := _FENCE.match(lines[index]):
            end = next(number for number in range(index + 1, len(lines)) if lines[number] == opening[1])
            body, language, first = lines[index + 1 : end], opening[2], index + 1
        elif lines[index].startswith("    ") and not lines[index - 1].strip() and not _in_list(before):
            end = index
            while end + 1 < len(lines) and lines[end + 1].startswith("    "):
                end += 1
            body, language, first = lines[index : end + 1], "", index
        else:
            before += [lines[index]] if lines[index].strip() else []
            index += 1
            continue
        note = _NOTE.match(before[-1]) if before else None
        fields = {note[1]: note[2]} if note else {}
        label = _LABEL.match(before[-1]) if before else None
        result.append(
            Block(
                page,
                first,
                language,
                "".join(f"{line}\n" for line in body),
                not_run=fields.get("not run", ""),
                exit_code=int(fields.get("exit code", 0)),
                label=label[1] if label else "",
                follows=not before,
            )
        )
        index, before = end + 1, []
    return result


@cache
def generated_pages() -> Mapping[str, str]:
    """The pages that are made of the code, by address."""
    return docs_hooks.pages()


def _in_list(before: list[str]) -> bool:
    """Whether an indented line belongs to a list."""
    starts = [line for line in before if not line.startswith("  ")]
    return bool(starts) and _LIST.match(starts[-1]) is not None


def commands(text: str) -> list[list[str]]:
    """The words of each command of a shell block, without comments and where its output goes."""
    lines = text.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line.partition(" > ")[0], comments=True))]
