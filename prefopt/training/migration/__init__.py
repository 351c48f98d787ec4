"""Configurations of other trainers as run files: TRL and the alignment-handbook, axolotl, LLaMA-Factory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

from pydantic import ValidationError

from prefopt.training.migration import axolotl, llama_factory
from prefopt.training.migration.notes import Note, Notes, Outcome
from prefopt.training.migration.trl import note_defaults, run_file
from prefopt.training.run_file import RunFile
from prefopt.validation import MistakesError, explain

__all__ = ["Migration", "Note", "Outcome", "migrate"]

_DIALECTS = {"base_model": axolotl.translate, "stage": llama_factory.translate}
"""A setting that only one other trainer has -> the function that puts its settings into TRL's names."""


@final
@dataclass(frozen=True)
class Migration:
    """The run file as a mapping, and a note on each setting: what became of it."""

    run: dict[str, Any]
    notes: tuple[Note, ...]


def migrate(settings: Mapping[str, Any], *, method: str | None = None, source: str = "") -> Migration:
    """A trainer's settings (of script, model and training in one mapping) as a run file.

    method  dpo, orpo, cpo or simpo; None: what the settings, or names in them, tell
    source  the name of the file that they are from, which may tell the method

    Raises ValueError, a line for each problem, where a loss has no equivalent or the run file would not be valid.
    """
    notes = Notes()
    settings = {name: _bool_of_text(value) for name, value in settings.items()}
    for mark, translate in _DIALECTS.items():
        if mark in settings:
            settings = translate({name: value for name, value in settings.items() if value is not None}, notes)
            method = method or settings.pop("method", None)
            break
    else:
        note_defaults(settings, notes)
    settings.pop("method", None)
    run = run_file(settings, notes, method=method, source=source)
    try:
        RunFile.model_validate(run)
    except ValidationError as error:
        raise MistakesError(explain(error, RunFile)) from error
    return Migration(run, tuple(notes))


def _bool_of_text(value: Any) -> Any:
    """Text that says true or false, as YAML in quotes does: no setting has that for a name."""
    return {"true": True, "false": False}.get(value.lower(), value) if isinstance(value, str) else value
