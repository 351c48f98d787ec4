"""The page of what was tried to break runs, and what they survived, from the figures of the tests of reliability.

PREFOPT_RELIABILITY_OUT=FOLDER make test-slow; python -m benchmarks.reliability FOLDER [OUT.md]

FOLDER holds files of JSON lines: {"section": "kills", "name": "one process: training", "tried": 50, "survived": 50}.
"""

from __future__ import annotations

import datetime
import json
import sys
from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from benchmarks.machine import hardware, versions
from benchmarks.markdown import row, table

SECTIONS = {
    "bad inputs": "Inputs that cannot be used, made by `tests/reliability/bad_inputs.py`: arguments of another "
    "type, out of range or unknown; files that are cut, empty, damaged, of another shape or "
    "encoding; folders that cannot be written to. Clean: exit code 2, a line for each problem that "
    "says what and where, before a step is made, and no file is changed.",
    "fuzz": "Inputs that hypothesis spoils, one to three changes in each: a value, a key, a cut, a bit. "
    "Each is used as it is, or refused in lines that name the file; nothing else is raised, what is "
    "read is written and read again the same, and no changed byte of a checkpoint or of a "
    "comparison's log is taken for what was written. What failed has been mended since, and is an example of "
    "`make test`.",
    "rows": "Preparing data: bytes that no file backs, over those before. Up to 64 MiB of token ids are "
    "held in memory, and more are in a mapped file.",
    "soak": "One process that trains on: bytes that no file backs, sampled every 100 steps, and their slope "
    "by least squares after the first 2,000 steps.",
    "kills": "Runs that are killed (`kill -9`) at random moments, and go on. Survived: what has its name is whole, and "
    "the resumed run's weights, mask, optimizer, schedule, random states and log are, bit by bit, those of a run that "
    "was never killed; a comparison's figures and a reference cache's entries too, and no finished run is repeated.",
    "disks filled": "Commands that write to a file system in memory with too little room, or under a limit of files "
    "(`ulimit -f`), both at bytes that are drawn. Intact: the command ends with one line, path and bytes, and exit "
    "code 2; checkpoints that have their name are whole, and the policy is kept where there is room; with room, the "
    "same command comes to what it would have come to.",
}
"""A section's name -> what was tried, and what it is to survive that. Others are shown without."""

_SUMMED = {"tried", "survived", "intact", "clean", "examples", "failed"}
"""Figures that have a sum."""


def records(folder: Path) -> list[dict[str, Any]]:
    """All lines of the folder's files, in the order of their sections and else as they were written; of lines of one
    name, the last."""
    latest: dict[tuple[str, str], dict[str, Any]] = {}
    for file in sorted(folder.glob("*.jsonl")):
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            figures = json.loads(line)
            if not {"section", "name"} <= figures.keys():
                raise ValueError(f"{file}:{number}: a line has a section and a name")
            latest[figures["section"], figures["name"]] = figures
    if not latest:
        raise ValueError(f"{folder}: no figures there; run the tests with PREFOPT_RELIABILITY_OUT={folder}")
    return sorted(latest.values(), key=lambda figures: str(figures["section"]))


def section_lines(section: str, figures: list[Mapping[str, Any]]) -> Iterator[str]:
    """A section's heading and table, with a column for each figure that a line has, and their sums."""
    yield from ("", f"## {section.capitalize()}", "")
    if section in SECTIONS:
        yield from (SECTIONS[section], "")
    columns = list(dict.fromkeys(key for line in figures for key in line if key not in {"section", "name"}))
    yield from table(
        ["", *columns], ([line["name"], *(_cell(line.get(key, "")) for key in columns)] for line in figures)
    )
    counts = [key for key in columns if key in _SUMMED]
    if counts and len(figures) > 1:
        sums = {key: sum(line.get(key, 0) for line in figures) for key in counts}
        yield row(["all", *(_cell(sums.get(key, "")) for key in columns)])


def _cell(value: object) -> object:
    return f"{value:,}" if isinstance(value, int) else value


def page(folder: Path) -> str:
    """The page, in Markdown."""
    installed = ", ".join(f"{name} {version}" for name, version in versions().items() if version != "not installed")
    made = f"{datetime.date.today()}. {hardware()}. {installed}. `make test-slow`, `python -m benchmarks.reliability`"
    lines = ["# Reliability", "", made]
    for section, figures in groupby(records(folder), key=lambda figures: str(figures["section"])):
        lines += section_lines(section, list(figures))
    return "\n".join(lines) + "\n"


def main(folder: str, out: str | None = None) -> None:
    text = page(Path(folder))
    print(text)
    if out is not None:
        Path(out).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
