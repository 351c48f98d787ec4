"""What a comparison needs, prepared and proven once before its first run: paths, material, models, rows and columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from transformers import AutoConfig, AutoTokenizer

from prefopt.comparison.execute import reject_absent_columns, reject_full_disk
from prefopt.comparison.paths import missing_paths
from prefopt.comparison.run import MATERIAL, Run
from prefopt.comparison.suite import SuiteError
from prefopt.data import read_rows
from prefopt.data.quiet import quiet
from prefopt.tasks.base import Material


def reject_unusable(runs: Iterable[Run], folder: Path) -> None:
    """Prepare the material of every seed of the runs, and read its rows, its model and the columns that objectives
    need. Raises SuiteError with a line for each mistake, OSError where a disk is full."""
    pending = {run.key: run for run in runs}.values()
    missing: dict[str, str] = {}
    for run in pending:
        missing |= missing_paths(run.task.model_dump(mode="json"))
    mistakes = dict.fromkeys(missing.values())
    materials: dict[Path, Material | None] = {}
    for run in pending:
        where = run.material(folder)
        if where not in materials:
            materials[where] = None
            try:
                with quiet():
                    materials[where] = run.task.prepare(folder / MATERIAL, run.seed)
            except Exception as error:  # of tasks that plugins bring too; each is a line of what is raised below
                reject_full_disk(error, run, folder)
                mistakes |= dict.fromkeys(_lines("task", error, missing))
    read = {str(material.train): material for material in materials.values() if material is not None}
    for material in read.values():
        for line in _unusable(material, missing):
            mistakes[line] = None
    objectives = {run.key: run for run in pending if run.objective is not None}
    for run in objectives.values():
        if (of_run := materials[run.material(folder)]) is not None:
            assert run.objective is not None
            columns: Mapping[str, str] = run.arguments(folder).columns or {}
            try:
                reject_absent_columns(run.objective, columns, of_run, run.task.name)
            except ValueError as error:
                mistakes |= dict.fromkeys(_lines(f"objectives.{run.name}", error, missing))
    if mistakes:
        raise SuiteError("\n".join(mistakes))


def _unusable(material: Material, missing: Mapping[str, str]) -> Iterator[str]:
    """What is wrong with the model and the rows of a material, as lines."""
    if material.model not in missing:
        try:
            with quiet():
                AutoConfig.from_pretrained(material.model)
                AutoTokenizer.from_pretrained(material.model)
        except Exception as error:  # transformers raises what its files make it stumble over
            yield from _lines(f"model {material.model}", error, missing)
    try:
        for file in (material.train, material.held_out):
            if next(iter(read_rows(file)), None) is None:
                yield f"task: {file.name} has no rows"
    except (OSError, ValueError) as error:
        yield from _lines("task", error, missing)


def _lines(what: str, error: Exception, missing: Mapping[str, str]) -> Iterator[str]:
    """The lines of an error; none where it is about a path that is named already."""
    text = str(error) or type(error).__name__
    if not any(path in text for path in missing):
        first, *others = text.splitlines()
        yield f"{what}: {first.strip()}"
        yield from (line for line in others if line.strip())
