"""What became of each setting of another trainer's configuration."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, NamedTuple, final


@final
class Outcome(StrEnum):
    """What became of a setting."""

    CARRIED_OVER = "carried over"
    CHANGED = "changed"
    NO_COUNTERPART = "no counterpart"


class Note(NamedTuple):
    """A setting, what became of it, and where it is now or why it is not.

    >>> print(Note(Outcome.CARRIED_OVER, "learning_rate", "training.learning_rate"))
    carried over: learning_rate: training.learning_rate
    """

    outcome: Outcome
    setting: str
    text: str

    def __str__(self) -> str:
        return f"{self.outcome}: {self.setting}: {self.text}"


@final
class Notes(list[Note]):
    """Notes as they are made.

    names  a setting -> its name in the configuration, where that is another trainer's
    """

    def __init__(self, names: dict[str, str] | None = None) -> None:
        super().__init__()
        self.names = names or {}

    def carried_over(self, setting: str, path: str) -> None:
        """The setting is `path` in the run file."""
        self._add(Outcome.CARRIED_OVER, setting, path)

    def changed(self, setting: str, text: str) -> None:
        """The setting has another value or meaning in the run file."""
        self._add(Outcome.CHANGED, setting, text)

    def no_counterpart(self, setting: str, text: str) -> None:
        """The run file has nothing for the setting."""
        self._add(Outcome.NO_COUNTERPART, setting, text)

    def _add(self, outcome: Outcome, setting: str, text: str) -> None:
        self.append(Note(outcome, self.names.get(setting, setting), text))


Settings = dict[str, Any]
"""Settings of a trainer by name."""
