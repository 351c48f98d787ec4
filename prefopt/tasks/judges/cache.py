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

__all__ = ["Answers", "default_answers"]


def default_answers() -> Path:
    """The file in the user's cache, `$XDG_CACHE_HOME/prefopt/answers.sqlite`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "prefopt" / "answers.sqlite"


@final
class Answers:
    """Question -> answer, each written when it is added. Processes may share the file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(self._open()) as database, database:
            database.execute("create table if not exists answers (question text primary key, answer text not null)")

    def get(self, question: Mapping[str, object]) -> str | None:
        """The answer to the question; None where there is none yet."""
        with closing(self._open()) as database:
            row = database.execute("select answer from answers where question = ?", (_digest(question),)).fetchone()
        return None if row is None else str(row[0])

    def add(self, question: Mapping[str, object], answer: str) -> None:
        with closing(self._open()) as database, database:
            database.execute("insert or replace into answers values (?, ?)", (_digest(question), answer))

    def _open(self) -> sqlite3.Connection:
        # A connection for each use, as threads may not share one; it waits while another one writes.
        return sqlite3.connect(self.path, timeout=60)


def _digest(question: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()
