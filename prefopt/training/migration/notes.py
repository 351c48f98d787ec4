"""What became of each setting of another trainer's configuration."""

from __future__ import annotations

from collections.abc import Mapping
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
    """Notes as they are made, one a setting: of two outcomes the one that leaves less of it stands.

    names     a setting -> its name in the configuration, where that is another trainer's
    defaults  a setting that the configuration leaves out -> whose default it is that the run file has
    """

    def __init__(self, names: dict[str, str] | None = None) -> None:
        super().__init__()
        self.names = names or {}
        self.defaults: dict[str, str] = {}

    def carried_over(self, setting: str, path: str) -> None:
        """The setting is `path` in the run file."""
        self._add(Outcome.CARRIED_OVER, setting, path)

    def changed(self, setting: str, text: str) -> None:
        """The setting has another value or meaning in the run file."""
        self._add(Outcome.CHANGED, setting, text)

    def no_counterpart(self, setting: str, text: str) -> None:
        """The run file has nothing for the setting."""
        self._add(Outcome.NO_COUNTERPART, setting, text)

    def named(self, setting: str) -> bool:
        """Whether there is a note on the setting."""
        return any(note.setting == self.names.get(setting, setting) for note in self)

    def _add(self, outcome: Outcome, setting: str, text: str) -> None:
        name = self.names.get(setting, setting)
        if setting in self.defaults:
            text = f"{text}: {self.defaults[setting]}"
        index = next((index for index, note in enumerate(self) if note.setting == name), None)
        if index is None:
            self.append(Note(outcome, name, text))
            return
        former = self[index]
        order = list(Outcome)
        if order.index(outcome) > order.index(former.outcome):
            self[index] = Note(outcome, name, text)
        elif outcome is former.outcome and text not in former.text:
            self[index] = Note(outcome, name, f"{former.text}; {text}")


Settings = dict[str, Any]
"""Settings of a trainer by name."""


def with_defaults(
    settings: Settings, defaults: Settings, whose: str, notes: Notes, names: Mapping[str, str]
) -> Settings:
    """The settings with another trainer's defaults for those that are left out, which notes tell.

    names  that trainer's name of a setting -> the one in `settings`
    """
    left_out = {name: value for name, value in defaults.items() if name not in settings}
    notes.defaults |= {name: f"{value}, {whose}" for name, value in left_out.items()}
    notes.names = {ours: theirs for theirs, ours in names.items() if ours in left_out} | notes.names
    return settings | left_out
