"""Answers of a judge, kept on disk."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import final


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
